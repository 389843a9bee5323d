"""Heads for pose estimation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg
from trainwright.models.pose.codec import MSRAHeatmap
from trainwright.models.pose.instances import add_pose_predictions, gather_keypoints

_DEFAULT_INIT_CFG = [
    {"type": "Normal", "layer": ["Conv2d", "ConvTranspose2d"], "std": 0.001},
    {"type": "Constant", "layer": "BatchNorm2d", "val": 1},
]


class HeatmapDecoder(BaseModule):
    """The end of a pose network whose output is heat maps: their loss, and their conversion to keypoints.

    Args:
        num_keypoints: number of keypoints.
        codec: module or config that converts between keypoints and heat maps, such as
            ``dict(type='MSRAHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2)``.
        loss: module or config of the loss on the heat maps; ``dict(type='KeypointMSELoss')`` if None.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_keypoints: int,
        codec: Mapping[str, Any] | nn.Module,
        loss: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_keypoints = num_keypoints
        self.codec: MSRAHeatmap = MODELS.build(codec)
        self.loss_module: nn.Module = MODELS.build({"type": "KeypointMSELoss"} if loss is None else loss)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return heat maps of shape (N, num_keypoints, H, W): the features themselves.

        Args:
            features: the heat maps.
        """
        assert isinstance(features, Tensor)
        return features

    def loss(self, features: Tensor | Sequence[Tensor], data_samples: Any) -> dict[str, Tensor]:
        """Return the loss of a batch.

        Args:
            features: see :meth:`forward`.
            data_samples: a list of data samples with one instance each in ``gt_instances``.

        Raises:
            ValueError: the heat maps of the network and of the codec differ in shape.
        """
        heatmaps = self(features)
        target, weights = self.codec.encode(*gather_keypoints(data_samples, heatmaps.shape[1], heatmaps.device))
        if heatmaps.shape != target.shape:
            raise ValueError(
                f"the network's heat maps have the size {tuple(heatmaps.shape[-2:])}, the codec's "
                f"{tuple(target.shape[-2:])} (height, width): change heatmap_size or the number of transposed "
                "convolutions"
            )
        return {"loss_kpt": self.loss_module(heatmaps, target, weights)}

    def predict(self, features: Tensor | Sequence[Tensor], data_samples: Any = None) -> Any:
        """Return the data samples of a batch with ``pred_instances`` in coordinates of the original images."""
        return self.predict_heatmaps(self(features), data_samples)

    def predict_heatmaps(self, heatmaps: Tensor, data_samples: Any = None) -> Any:
        """Return the same as :meth:`predict`, given heat maps of shape (N, K, H, W)."""
        keypoints, scores = self.codec.decode(heatmaps.detach())
        return add_pose_predictions(keypoints, scores, data_samples)


@MODELS.register_module()
class HeatmapHead(HeatmapDecoder):
    """A heat map head: transposed convolutions that upsample a feature map, and a convolution to the heat maps.

    This is the head of the simple baseline of Xiao et al. (2018), https://arxiv.org/abs/1804.06208.

    Args:
        in_channels: channels of the feature map.
        out_channels: number of keypoints.
        codec: module or config that converts between keypoints and heat maps, such as
            ``dict(type='MSRAHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2)``.
        deconv_out_channels: output channels of each transposed convolution, which doubles the height and width.
        deconv_kernel_sizes: kernel size of each transposed convolution: 2, 3 or 4.
        loss: module or config of the loss on the heat maps; ``dict(type='KeypointMSELoss')`` if None.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``deconv_out_channels`` and ``deconv_kernel_sizes`` differ in length, or a kernel size is not
            supported.
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
        super().__init__(out_channels, codec, loss, _DEFAULT_INIT_CFG if init_cfg is None else init_cfg)
        if len(deconv_out_channels) != len(deconv_kernel_sizes):
            raise ConfigError(
                "deconv_kernel_sizes",
                f"expected one size per item of deconv_out_channels: {len(deconv_out_channels)}, not "
                f"{len(deconv_kernel_sizes)}",
            )
        layers: list[nn.Module] = []
        channels = in_channels
        for width, kernel in zip(deconv_out_channels, deconv_kernel_sizes):
            layers += [_upsampling_layer(channels, width, kernel), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return heat maps of shape (N, out_channels, H, W).

        Args:
            features: shape (N, in_channels, h, w), or a sequence of feature maps whose last one is used.
        """
        last = features if isinstance(features, Tensor) else features[-1]
        heatmaps: Tensor = self.final_layer(self.deconv_layers(last))
        return heatmaps


def flip_heatmaps(heatmaps: Tensor, flip_indices: Sequence[int]) -> Tensor:
    """Convert the heat maps of a horizontally flipped input to those of the original input.

    Args:
        heatmaps: shape (N, K, H, W).
        flip_indices: index of the keypoint that each keypoint is swapped with when flipped.
    """
    return heatmaps[:, list(flip_indices)].flip(-1)


def _upsampling_layer(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose2d:
    if kernel not in (2, 3, 4):
        raise ConfigError("deconv_kernel_sizes", f"must be 2, 3 or 4, not {kernel}")
    padding, output_padding = {4: (1, 0), 3: (1, 1), 2: (0, 0)}[kernel]
    return nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, padding, output_padding, bias=False)
