"""Augmentations that mix the images and labels of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.registry import MODELS


class _MixAugment(nn.Module):
    """A torchvision transform of a batch of images and labels.

    Args:
        transform: name of the transform in ``torchvision.transforms.v2``.
        alpha: both parameters of the Beta distribution that the mixing ratio is drawn from; positive.
        num_classes: number of classes.
    """

    def __init__(self, transform: str, alpha: float, num_classes: int | None) -> None:
        super().__init__()
        from torchvision.transforms import v2

        if num_classes is None:
            raise ValueError(f"{type(self).__name__} needs num_classes: set it for the classifier or preprocessor")
        self.transform: nn.Module = getattr(v2, transform)(alpha=alpha, num_classes=num_classes)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed images, and the mixed labels as probabilities of shape (N, C).

        Args:
            images: float, shape (N, C, H, W).
            labels: int64 of shape (N,), or probabilities of shape (N, C).
        """
        mixed: tuple[Tensor, Tensor] = self.transform(images, labels)
        return mixed


@MODELS.register_module()
class Mixup(_MixAugment):
    """Blend each image with the previous one in the batch (Zhang et al. 2017), https://arxiv.org/abs/1710.09412.

    Args:
        alpha: both parameters of the Beta distribution of the mixing ratio, positive.
        num_classes: number of classes.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        super().__init__("MixUp", alpha, num_classes)


@MODELS.register_module()
class CutMix(_MixAugment):
    """Paste a box from the previous image in the batch (Yun et al. 2019), https://arxiv.org/abs/1905.04899.

    Args:
        alpha: both parameters of the Beta distribution of the box area, positive.
        num_classes: number of classes.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        super().__init__("CutMix", alpha, num_classes)


def build_batch_augment(
    batch_augments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, num_classes: int | None
) -> nn.Module | None:
    """Build a batch augmentation from one config or a list of configs; return None for None.

    Args:
        batch_augments: config, or a list of configs, one of which is drawn for each batch.
        num_classes: number of classes.
    """
    if batch_augments is None:
        return None
    if isinstance(batch_augments, list | tuple):
        batch_augments = {"type": "RandomBatchAugment", "augments": batch_augments}
    module: nn.Module = MODELS.build(batch_augments, num_classes=num_classes)
    return module


@MODELS.register_module()
class RandomBatchAugment(nn.Module):
    """Apply one of several augmentations, drawn at random for each batch, or none.

    Args:
        augments: modules or configs.
        probs: probability of each augmentation; if they sum to less than 1, the rest is the probability of no
            augmentation. Uniform, with sum 1, if None.
        num_classes: number of classes, for augmentations whose config does not set it.

    Raises:
        ValueError: the number of probabilities differs from that of the augmentations, a probability is negative, or
            they sum to more than 1.
    """

    def __init__(
        self,
        augments: Mapping[str, Any] | Sequence[Mapping[str, Any] | nn.Module],
        probs: float | Sequence[float] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        configs = [augments] if isinstance(augments, Mapping) else list(augments)
        self.num_classes = num_classes
        self.augments = nn.ModuleList(MODELS.build(config, num_classes=num_classes) for config in configs)
        if probs is None:
            probs = [1 / len(configs)] * len(configs)
        shares = [probs] if isinstance(probs, int | float) else list(probs)
        if len(shares) != len(configs) or min(shares) < 0 or sum(shares) > 1 + 1e-6:
            raise ValueError(f"probs must be {len(configs)} probabilities with a sum of at most 1, not {shares}")
        self._edges = torch.tensor(shares).cumsum(0).tolist()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels after the selected augmentation.

        Args:
            images: float, shape (N, C, H, W).
            labels: int64 of shape (N,), or probabilities of shape (N, C).
        """
        # Drawn on the CPU to avoid a device synchronization.
        draw = torch.rand(()).item()
        for edge, augment in zip(self._edges, self.augments):
            if draw < edge:
                mixed: tuple[Tensor, Tensor] = augment(images, labels)
                return mixed
        return images, labels
