"""A small convolutional network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class LeNet(BaseModule):
    """Two convolutions and two linear layers, after LeCun et al. (1998), with ReLU and max pooling.

    Args:
        num_classes: number of classes; None to return features of size ``hidden_features`` instead of logits.
        in_channels: number of image channels; 1 for grayscale.
        image_size: height and width of the images, in pixels; a multiple of 4.
        channels: output channels of the first and second convolution.
        hidden_features: size of the hidden linear layer.
        dropout: dropout probability before each linear layer, in [0, 1).
        batch_norm: whether to add batch normalization after each convolution.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_classes: int | None = 10,
        in_channels: int = 1,
        image_size: int = 28,
        channels: Sequence[int] = (32, 64),
        hidden_features: int = 128,
        dropout: float = 0.0,
        batch_norm: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        if image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, not {image_size}")
        self.num_classes = num_classes
        first, second = channels
        self.features = nn.Sequential(
            *_convolution(in_channels, first, batch_norm), *_convolution(first, second, batch_norm)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(second * (image_size // 4) ** 2, hidden_features),
            nn.ReLU(inplace=True),
            *([] if num_classes is None else [nn.Dropout(dropout), nn.Linear(hidden_features, num_classes)]),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes), or features, for float images of shape (N, C, H, W)."""
        logits: Tensor = self.classifier(self.features(inputs))
        return logits


def _convolution(in_channels: int, out_channels: int, batch_norm: bool) -> list[nn.Module]:
    """Return a convolution, an activation, and a pooling that halves height and width."""
    norm: list[nn.Module] = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=not batch_norm)
    return [convolution, *norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
