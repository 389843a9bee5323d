"""Data elements with labels, and conversion between indices and one-hot tensors."""

from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement


class LabelData(BaseDataElement):
    """Labels of an image or its parts."""

    @staticmethod
    def onehot_to_label(onehot: Tensor) -> Tensor:
        """Return the indices of the ones in a tensor of shape (num_classes,), as int64 of shape (number of ones,).

        Raises:
            TypeError: ``onehot`` is not a tensor.
            ValueError: it has another shape, or values below 0 or above 1.
        """
        if not isinstance(onehot, Tensor):
            raise TypeError(f"onehot must be a tensor, got a {type(onehot)}")
        if onehot.ndim != 1 or (len(onehot) and not 0 <= onehot.min().item() <= onehot.max().item() <= 1):
            raise ValueError(f"onehot must be one-dimensional with zeros and ones, got {onehot}")
        return onehot.nonzero().squeeze(-1)

    @staticmethod
    def label_to_onehot(label: Tensor, num_classes: int) -> Tensor:
        """Return a tensor of shape (num_classes,) with ones at the labels.

        The labels are int64 indices below ``num_classes``, of shape (number of labels,) or ().

        Raises:
            TypeError: ``label`` is not a tensor.
            ValueError: an index is not below ``num_classes``.
        """
        if not isinstance(label, Tensor):
            raise TypeError(f"label must be a tensor, got a {type(label)}")
        onehot = label.new_zeros(num_classes)
        if label.numel() and label.max().item() >= num_classes:
            raise ValueError(f"label {label} is out of range for {num_classes} classes")
        onehot[label] = 1
        return onehot
