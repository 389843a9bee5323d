"""Losses for semantic segmentation, which ignore pixels with the label ``ignore_index``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS
from trainwright.models.classification.losses import register_class_weight


@MODELS.register_module()
class SegCrossEntropyLoss(nn.Module):
    """Pixel-wise cross entropy, which is 0 rather than NaN if all pixels are ignored.

    Args:
        class_weight: weight of each class; the loss is the weighted mean.
        ignore_index: label of ignored pixels.
        label_smoothing: probability mass spread uniformly over all classes, in [0, 1].
        loss_weight: weight of the loss.
        loss_name: name in the log; must contain ``loss``.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        ignore_index: int = 255,
        label_smoothing: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str = "loss_ce",
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        register_class_weight(self, class_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: shape (N, C, H, W).
            target: int64 classes, of shape (N, H, W).
        """
        total = F.cross_entropy(
            logits,
            target,
            self.class_weight,
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        valid = target != self.ignore_index
        weight = 1 if self.class_weight is None else self.class_weight[target.where(valid, 0)]
        count = (valid * weight).sum()
        return total / count.clamp(min=1e-12) * self.loss_weight


@MODELS.register_module()
class OhemCrossEntropyLoss(SegCrossEntropyLoss):
    """Cross entropy on hard pixels only (online hard example mining, Shrivastava et al. 2016).

    https://arxiv.org/abs/1604.03540. A pixel is hard if the predicted probability of its true class is at most
    ``thresh``. If there are too few hard pixels, the pixels with the smallest probabilities are used.

    Args:
        thresh: probability threshold of hard pixels, in (0, 1].
        min_kept: minimum number of pixels to use, per image on average, if there are that many.
        class_weight: weight of each class.
        ignore_index: label of ignored pixels.
        loss_weight: weight of the loss.
        loss_name: name in the log; must contain ``loss``.

    Raises:
        ValueError: ``thresh`` or ``min_kept`` is out of range.
    """

    def __init__(
        self,
        thresh: float = 0.7,
        min_kept: int = 100_000,
        class_weight: Sequence[float] | None = None,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str = "loss_ohem",
    ) -> None:
        if not 0 < thresh <= 1 or min_kept < 1:
            raise ValueError(f"thresh must be in (0, 1] and min_kept at least 1, not {thresh} and {min_kept}")
        super().__init__(class_weight, ignore_index, loss_weight=loss_weight, loss_name=loss_name)
        self.thresh = thresh
        self.min_kept = min_kept

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; see :meth:`SegCrossEntropyLoss.forward`."""
        kept = self.hard_pixels(logits.detach(), target)
        return super().forward(logits, target.where(kept, self.ignore_index))

    def hard_pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a mask of the pixels to use: bool, of shape (N, H, W)."""
        valid = target != self.ignore_index
        probability = logits.softmax(1).gather(1, target.where(valid, 0)[:, None])[:, 0]
        probability = probability.where(valid, 2.0)  # sort ignored pixels last
        rank = min(self.min_kept * len(target), target.numel())
        threshold = probability.flatten().sort().values[rank - 1].clamp(min=self.thresh)
        return valid & (probability <= threshold)


@MODELS.register_module()
class DiceLoss(nn.Module):
    """One minus the Dice coefficient, averaged over classes (Milletari et al. 2016).

    https://arxiv.org/abs/1606.04797. The coefficient is computed over all pixels of the batch that are not ignored.

    Args:
        smooth: constant added to the numerator and denominator; positive.
        class_weight: weight of each class; the loss is the weighted mean.
        ignore_index: label of ignored pixels.
        loss_weight: weight of the loss.
        loss_name: name in the log; must contain ``loss``.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        smooth: float = 1.0,
        class_weight: Sequence[float] | None = None,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str = "loss_dice",
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        register_class_weight(self, class_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: shape (N, C, H, W).
            target: int64 classes, of shape (N, H, W).
        """
        valid = (target != self.ignore_index)[:, None]
        predicted = logits.float().softmax(1) * valid
        labels = target[:, None].where(valid, 0)
        truth = torch.zeros_like(predicted).scatter_(1, labels, 1.0) * valid
        overlap = (predicted * truth).sum((0, 2, 3))
        total = predicted.square().sum((0, 2, 3)) + truth.sum((0, 2, 3))
        loss = 1 - (2 * overlap + self.smooth) / (total + self.smooth)
        if self.class_weight is None:
            return loss.mean() * self.loss_weight
        return (loss * self.class_weight).sum() / self.class_weight.sum() * self.loss_weight
