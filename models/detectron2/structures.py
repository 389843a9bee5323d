"""The structures in the inputs and outputs of Detectron2's models, for models in its style without that library.

They have the names and the behavior of those in ``detectron2.structures``, as far as the inputs and outputs of models
need it.
"""

from typing import Any, Self

import torch
from torch import Tensor


class _Rows:
    """A tensor with one row per instance."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the rows on another device; the arguments are those of :meth:`torch.Tensor.to`."""
        return type(self)(self.tensor.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: Any) -> Self:
        """Return the selected rows, by an int, a slice or a tensor."""
        return type(self)(self.tensor[[item]] if isinstance(item, int) else self.tensor[item])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensor})"


class Boxes(_Rows):
    """Boxes (N, 4), as left, top, right, bottom in pixels.

    Args:
        tensor: float, of shape (N, 4).
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(torch.as_tensor(tensor, dtype=torch.float32).reshape(-1, 4))


class BitMasks(_Rows):
    """Masks (N, H, W).

    Args:
        tensor: bool or uint8, of shape (N, H, W).
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(torch.as_tensor(tensor, dtype=torch.bool))


class Keypoints(_Rows):
    """Keypoints (N, K, 3), as x, y and visibility.

    Args:
        tensor: float, of shape (N, K, 3).
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(torch.as_tensor(tensor, dtype=torch.float32))


class Instances:
    """Fields of the instances in an image, all of the same length.

    Example:
        >>> found = Instances((480, 640), pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
        >>> found[found.scores > 0.5].pred_boxes.tensor

    Args:
        image_size: height and width of the image.
        **fields: the fields: tensors, lists, and the structures here.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        """Set a field.

        Raises:
            ValueError: the other fields have another length.
        """
        if self._fields and len(value) != len(self):
            raise ValueError(f"{name} has the length {len(value)}, but there are {len(self)} instances")
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """Return a field."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        """Return whether there is a field with this name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field."""
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return all fields by name."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return the instances on another device; the arguments are those of :meth:`torch.Tensor.to`."""
        moved = {
            name: value.to(*args, **kwargs) if hasattr(value, "to") else value for name, value in self._fields.items()
        }
        return Instances(self._image_size, **moved)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"the instances have no field {name!r}")
        return self._fields[name]

    def __len__(self) -> int:
        return len(next(iter(self._fields.values()))) if self._fields else 0

    def __getitem__(self, item: Any) -> "Instances":
        """Return the selected instances, by an int, a slice or a tensor."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(item, None, len(self))
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __repr__(self) -> str:
        return f"Instances({len(self)} in an image of size {self._image_size}, fields: {', '.join(self._fields)})"
