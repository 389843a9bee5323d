"""Data elements with labels, and conversion between indices and one-hot vectors."""

from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement


class LabelData(BaseDataElement):
    """Labels of an image or of its parts."""

    @staticmethod
    def onehot_to_label(onehot: Tensor) -> Tensor:
        """Returns the indices of the ones.

        Args:
            onehot: shape (num_classes,), zeros and ones.

        Returns:
            int64 tensor of shape (number of ones,).

        Raises:
            ValueError: another shape, or values outside of 0 and 1.
        """
        if not isinstance(onehot, Tensor):
            raise TypeError(f"onehot must be a tensor, not a {type(onehot)}")
        if onehot.ndim != 1 or (len(onehot) and not 0 <= onehot.min().item() <= onehot.max().item() <= 1):
            raise ValueError(f"onehot must be one-dimensional with zeros and ones: {onehot}")
        return onehot.nonzero().squeeze(-1)

    @staticmethod
    def label_to_onehot(label: Tensor, num_classes: int) -> Tensor:
        """Returns a tensor of shape (num_classes,) with ones at the labels.

        Args:
            label: int64 indices below ``num_classes``, of shape (number of labels,) or ().
            num_classes: number of classes.
        """
        if not isinstance(label, Tensor):
            raise TypeError(f"label must be a tensor, not a {type(label)}")
        onehot = label.new_zeros(num_classes)
        if label.numel() and label.max().item() >= num_classes:
            raise ValueError(f"label {label} is beyond {num_classes} classes")
        onehot[label] = 1
        return onehot
