"""Heads that find keypoints in feature maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg
from trainwright.models.pose.codec import MSRAHeatmap
from trainwright.models.pose.instances import add_pose_predictions, gather_keypoints

_INIT = [
    {"type": "Normal", "layer": ["Conv2d", "ConvTranspose2d"], "std": 0.001},
    {"type": "Constant", "layer": "BatchNorm2d", "val": 1},
]


@MODELS.register_module()
class HeatmapHead(BaseModule):
    """Transposed convolutions that enlarge a feature map, and a convolution to one heat map a keypoint.

    The head of the simple baseline of Xiao et al. (2018), https://arxiv.org/abs/1804.06208.

    Args:
        in_channels: channels of the feature map.
        out_channels: number of keypoints.
        codec: module or config that makes heat maps of keypoints and the reverse, such as
            ``dict(type='MSRAHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2)``.
        deconv_out_channels: channels after each transposed convolution, which doubles height and width.
        deconv_kernel_sizes: sizes of their kernels, 2, 3 or 4.
        loss: module or config of the loss of heat maps; ``dict(type='KeypointMSELoss')`` if None.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: the two lists differ in length, or a kernel has another size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        codec: Mapping[str, Any] | nn.Module,
        deconv_out_channels: Sequence[int] = (256, 256, 256),
        deconv_kernel_sizes: Sequence[int] = (4, 4, 4),
        loss: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(_INIT if init_cfg is None else init_cfg)
        if len(deconv_out_channels) != len(deconv_kernel_sizes):
            lengths = f"{len(deconv_out_channels)} channels, {len(deconv_kernel_sizes)} kernels"
            raise ConfigError("deconv_kernel_sizes", lengths, "give one size for each of deconv_out_channels")
        self.codec: MSRAHeatmap = MODELS.build(codec)
        layers: list[nn.Module] = []
        channels = in_channels
        for width, kernel in zip(deconv_out_channels, deconv_kernel_sizes):
            layers += [_upsampling_layer(channels, width, kernel), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, out_channels, 1)
        self.loss_module: nn.Module = MODELS.build({"type": "KeypointMSELoss"} if loss is None else loss)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return heat maps of shape (N, out_channels, H, W).

        Args:
            features: shape (N, in_channels, h, w), or several of them of which the last is taken.
        """
        last = features if isinstance(features, Tensor) else features[-1]
        heatmaps: Tensor = self.final_layer(self.deconv_layers(last))
        return heatmaps

    def loss(self, features: Tensor | Sequence[Tensor], data_samples: Any) -> dict[str, Tensor]:
        """Return the loss of a batch.

        Args:
            features: as for :meth:`forward`.
            data_samples: list of data samples with one instance each in ``gt_instances``.

        Raises:
            ValueError: the heat maps have another shape than those of the codec.
        """
        heatmaps = self(features)
        target, weights = self.codec.encode(*gather_keypoints(data_samples, heatmaps.shape[1], heatmaps.device))
        if heatmaps.shape != target.shape:
            raise ValueError(
                f"the network gives heat maps of {tuple(heatmaps.shape[-2:])}, its codec {tuple(target.shape[-2:])} "
                "(height, width): change heatmap_size, or the number of transposed convolutions"
            )
        return {"loss_kpt": self.loss_module(heatmaps, target, weights)}

    def predict(self, features: Tensor | Sequence[Tensor], data_samples: Any = None) -> Any:
        """Return the data samples of a batch with ``pred_instances`` in coordinates of the original images."""
        return self.predict_heatmaps(self(features), data_samples)

    def predict_heatmaps(self, heatmaps: Tensor, data_samples: Any = None) -> Any:
        """Return what :meth:`predict` does, for heat maps of shape (N, K, H, W)."""
        keypoints, scores = self.codec.decode(heatmaps.detach())
        return add_pose_predictions(keypoints, scores, data_samples)


def flip_heatmaps(heatmaps: Tensor, flip_indices: Sequence[int]) -> Tensor:
    """Return the heat maps of a mirrored input as those of the input itself.

    Args:
        heatmaps: shape (N, K, H, W).
        flip_indices: for each keypoint the one that takes its place in a mirror.
    """
    return heatmaps[:, list(flip_indices)].flip(-1)


def _upsampling_layer(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose2d:
    if kernel not in (2, 3, 4):
        raise ConfigError("deconv_kernel_sizes", f"a kernel of 2, 3 or 4 doubles the size, not {kernel}")
    padding, output_padding = {4: (1, 0), 3: (1, 1), 2: (0, 0)}[kernel]
    return nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, padding, output_padding, bias=False)
