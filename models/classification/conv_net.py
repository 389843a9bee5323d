"""The convolutional network of the few-shot literature."""

from collections.abc import Sequence

from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class ConvNet(BaseModule):
    """Blocks of a 3×3 convolution, batch normalization, ReLU and 2×2 max pooling.

    With its four blocks of 64 channels, it is the Conv-4 of few-shot learning (Vinyals et al. 2016,
    https://arxiv.org/abs/1606.04080).

    Args:
        in_channels: number of image channels.
        channels: channels of the blocks.
        pools: return the average over all positions, so that the size of the features does not depend on that of the
            image; otherwise the features of all positions, as in few-shot learning.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 64, 64, 64),
        pools: bool = True,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__({"type": "Kaiming", "layer": "Conv2d"} if init_cfg is None else init_cfg)
        self.pools = pools
        self.num_features = channels[-1] if pools else None
        blocks: list[nn.Module] = []
        for width_in, width_out in zip((in_channels, *channels), channels):
            blocks += [
                nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return features of shape (N, C) for float images of shape (N, in_channels, H, W)."""
        features: Tensor = self.blocks(images)
        return features.mean((2, 3)) if self.pools else features.flatten(1)
