"""Random transforms that process a whole batch of images at once, drawn independently per image."""

import torch
from torch import Tensor

from trainwright.engine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class BatchRandomHorizontalFlip:
    """Flip each image of a batch horizontally with a given probability.

    Args:
        prob: probability of flipping an image, in [0, 1].

    Raises:
        ValueError: ``prob`` is out of range.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be in [0, 1], not {prob}")
        self.prob = prob

    def __call__(self, images: Tensor) -> Tensor:
        """Transform images of shape (N, C, H, W) and any dtype."""
        flipped = (torch.rand(len(images)) < self.prob).nonzero().squeeze(1)
        return images.index_copy(0, flipped, images.index_select(0, flipped).flip(-1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob})"


@TRANSFORMS.register_module()
class BatchRandomCrop:
    """Pad each image of a batch on all sides, then crop it to its original size at a random position.

    Args:
        padding: width of the border in pixels, at least 1.
        fill: value of the border.

    Raises:
        ValueError: ``padding`` is below 1.
    """

    def __init__(self, padding: int, fill: float = 0) -> None:
        if padding < 1:
            raise ValueError(f"padding must be at least 1, not {padding}")
        self.padding = padding
        self.fill = fill

    def __call__(self, images: Tensor) -> Tensor:
        """Transform images of shape (N, C, H, W) and any dtype."""
        number, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (self.padding,) * 4, value=self.fill)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(0, 2 * self.padding + 1, (2, number))
        return windows[torch.arange(number), :, top, left]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(padding={self.padding}, fill={self.fill})"
