"""Networks for video classification."""

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
    """Build a torchvision video classification network: R3D, MC3, R(2+1)D, S3D, MViT or Swin3D.

    Its input is clips of shape (N, 3, T, H, W), its output logits of shape (N, num_classes). MViT requires clips of 16
    frames of 224x224 pixels; the others accept any size.

    Args:
        name: name in torchvision: ``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d``, ``mvit_v1_b``, ``mvit_v2_s``,
            ``swin3d_t``, ``swin3d_s`` or ``swin3d_b``.
        num_classes: number of classes.
        weights: ``DEFAULT``, ``KINETICS400_V1`` or another name of torchvision weights, which are downloaded, or a
            checkpoint file. Layers that do not fit, such as the last one for a different number of classes, are skipped
            and logged.
        **kwargs: further arguments of the torchvision function.

    Raises:
        ConfigError: torchvision has no such network.
    """
    from torchvision import models

    known = models.list_models(module=models.video)
    if name not in known:
        hint = did_you_mean(name, known) or f"the networks are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no video network {name!r}", hint)
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    model.num_classes = num_classes  # type: ignore[assignment]  # not a tensor or module
    if weights is not None:
        fetch = find_torchvision_weights(name, weights)
        load_pretrained(model, lambda network: load_weights(network, fetch(), weights))
    return model


@MODELS.register_module()
class SmallC3D(BaseModule):
    """A few 3D convolutions for small experiments, similar to C3D (Tran et al. 2015).

    https://arxiv.org/abs/1412.0767, with batch normalization and global average pooling, so that clips may have any
    size. Every level halves the height and width; the last one also halves the number of frames.

    Args:
        num_classes: number of classes.
        in_channels: number of channels of the frames.
        base_channels: channels of the first level; doubled at every further level.
        depth: number of levels, at least 1.
        dropout: dropout probability of the features, in [0, 1).
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
        self.num_classes = num_classes
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
