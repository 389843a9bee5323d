"""Networks that classify clips."""

from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.initializers import load_weights
from trainwright.models.module import BaseModule, InitCfg
from trainwright.models.pretrained import find_torchvision_weights


@MODELS.register_module()
def TorchvisionVideoModel(name: str, num_classes: int = 400, weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Return a network of torchvision for videos: R3D, MC3, R(2+1)D, S3D, MViT or Swin3D.

    It takes clips of shape (N, 3, T, H, W) and returns logits of shape (N, num_classes). MViT takes 16 frames of
    224x224, the others clips of any size.

    Args:
        name: its name in torchvision: ``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d``, ``mvit_v1_b``, ``mvit_v2_s``,
            ``swin3d_t``, ``swin3d_s`` or ``swin3d_b``.
        num_classes: number of classes.
        weights: ``DEFAULT``, ``KINETICS400_V1`` or another name of torchvision's weights, which are downloaded, or a
            checkpoint file. Layers that do not fit, such as the last one for another number of classes, are reported
            and left out.
        **kwargs: further arguments of torchvision's function.

    Raises:
        ConfigError: torchvision has no such network.
    """
    from torchvision import models

    known = models.list_models(module=models.video)
    if name not in known:
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no network {name!r} for videos", hint)
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    if weights is not None:
        fetch = find_torchvision_weights(name, weights)
        load_pretrained(model, lambda network: load_weights(network, fetch(), weights))
    return model


@MODELS.register_module()
class SmallC3D(BaseModule):
    """A few 3D convolutions, for small experiments: a short form of C3D (Tran et al. 2015).

    https://arxiv.org/abs/1412.0767, with batch normalization, and with a mean over all places in the end, so that
    clips may have any size. Every level halves height and width, and the last one the time as well.

    Args:
        num_classes: number of classes.
        in_channels: channels of the frames.
        base_channels: channels of the first level; every further one has twice as many.
        depth: number of levels, at least 1.
        dropout: share of the features that are dropped in training, in [0, 1).
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        base_channels: int = 16,
        depth: int = 3,
        dropout: float = 0.0,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__({"type": "Kaiming", "layer": "Conv3d"} if init_cfg is None else init_cfg)
        layers: list[nn.Module] = []
        channels = in_channels
        for level in range(depth):
            width = base_channels * 2**level
            stride = (2 if 0 < level == depth - 1 else 1, 2, 2)
            layers += [
                nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes).

        Args:
            clips: float, of shape (N, in_channels, T, H, W).
        """
        logits: Tensor = self.fc(self.dropout(self.features(clips).mean((2, 3, 4))))
        return logits
