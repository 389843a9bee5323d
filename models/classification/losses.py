"""Losses for classification."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Cross entropy between logits and labels or soft labels.

    Args:
        label_smoothing: probability mass spread uniformly over all classes, in [0, 1] (Szegedy et al. 2015),
            https://arxiv.org/abs/1512.00567.
        class_weight: weight of each class.
        ignore_index: label to ignore.
        reduction: ``mean``, ``sum`` or ``none``.
        loss_weight: weight of the loss.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], not {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.loss_weight = loss_weight
        register_class_weight(self, class_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: shape (N, C) or (N, C, ...).
            target: int64 labels of shape (N,) or (N, ...), or probabilities of the shape of the logits.
        """
        loss = F.cross_entropy(
            logits,
            target,
            self.class_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        return loss if self.loss_weight == 1 else loss * self.loss_weight


@MODELS.register_module()
class LabelSmoothLoss(CrossEntropyLoss):
    """Cross entropy with label smoothing, with the argument names of MMPretrain.

    Args:
        label_smooth_val: probability mass to redistribute, in [0, 1].
        mode: ``original`` spreads it uniformly over all classes; ``classy_vision`` adds it to the labels and divides
            them by ``1 + label_smooth_val``.
        reduction: ``mean``, ``sum`` or ``none``.
        loss_weight: weight of the loss.
    """

    def __init__(
        self,
        label_smooth_val: float,
        mode: str = "original",
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        if mode not in ("original", "classy_vision"):
            raise ValueError(f"mode must be 'original' or 'classy_vision', not {mode!r}")
        # (y + s / C) / (1 + s) equals (1 - t) y + t / C with t = s / (1 + s).
        share = label_smooth_val if mode == "original" else label_smooth_val / (1 + label_smooth_val)
        super().__init__(label_smoothing=share, reduction=reduction, loss_weight=loss_weight)


@MODELS.register_module()
class BinaryCrossEntropyLoss(nn.Module):
    """Binary cross entropy of each class, for multi-label classification.

    Args:
        class_weight: weight of each class.
        pos_weight: weight of positive examples: one value per class, or one for all.
        reduction: ``mean``, ``sum`` or ``none``.
        loss_weight: weight of the loss.
    """

    class_weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        pos_weight: float | Sequence[float] | None = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight
        register_class_weight(self, class_weight)
        weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: shape (N, C).
            target: probabilities of shape (N, C), negative where a class of a sample is ignored; or int64 labels of
                shape (N,).
        """
        if target.dim() < logits.dim():
            target = F.one_hot(target, logits.shape[1])
        counted = target >= 0
        loss = F.binary_cross_entropy_with_logits(
            logits,
            target.to(logits.dtype),
            counted.to(logits.dtype) if self.class_weight is None else counted * self.class_weight,
            reduction="none" if self.reduction == "none" else "sum",
            pos_weight=self.pos_weight,
        )
        if self.reduction == "mean":
            loss = loss / counted.sum().clamp(min=1)
        return loss if self.loss_weight == 1 else loss * self.loss_weight


def register_class_weight(loss: nn.Module, class_weight: Sequence[float] | None) -> None:
    """Register the weight of each class as a buffer ``class_weight`` that is not saved, or None."""
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
    loss.register_buffer("class_weight", weight, persistent=False)
