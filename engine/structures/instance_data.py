"""Data elements with one entry per instance in an image."""

import itertools
from collections.abc import Sized
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.elements import FIELD_SETS, BaseDataElement

E = TypeVar("E", bound="InstanceData")


class InstanceData(BaseDataElement):
    """Data of the instances in an image, such as boxes, labels and scores, all of the same length.

    Indexing works as for the first dimension of a tensor, with an int, slice, list, array or tensor (of indices or
    booleans), and returns an element; indexing with a string returns that field.

    Example:
        >>> instances = InstanceData(bboxes=torch.rand(3, 4), scores=torch.tensor([0.9, 0.2, 0.7]))
        >>> len(instances[instances.scores > 0.5])
        2
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELD_SETS:
            if not isinstance(value, Sized):
                raise TypeError(f"{name} must have a length, got a {type(value)}")
            length = len(self)
            if length not in (0, len(value)):
                raise ValueError(f"{name} must have length {length} like the other fields, got {len(value)}")
        super().__setattr__(name, value)

    __setitem__ = __setattr__

    def __len__(self) -> int:
        names = self.keys()
        return len(getattr(self, names[0])) if names else 0

    def __getitem__(self, item: Any) -> Any:
        """Return the field with a name, or the selected instances.

        Raises:
            IndexError: an int is out of range.
            TypeError: the index has another type.
            ValueError: the index is not one-dimensional, or booleans have another length.
        """
        if isinstance(item, str):
            return getattr(self, item)
        if isinstance(item, list | np.ndarray):
            array = np.asarray(item)
            item = torch.from_numpy(array.astype(np.int64) if array.size == 0 or array.dtype.kind in "iu" else array)
        if isinstance(item, int | np.integer):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(int(item), None, len(self))
        if not isinstance(item, slice | Tensor):
            raise TypeError(f"instances cannot be indexed with a {type(item)}")
        selected = type(self)(metainfo=self.metainfo)
        if isinstance(item, slice):
            selected.set_data({name: value[item] for name, value in self.items()})
            return selected
        if item.dim() != 1:
            raise ValueError(f"an index must have one dimension, got {item.dim()}")
        if item.dtype in (torch.bool, torch.uint8):
            if len(item) != len(self):
                raise ValueError(f"expected {len(self)} booleans, one per instance, got {len(item)}")
            item = item.bool()
        for name, value in self.items():
            selected[name] = _select(value, item, name)
        return selected

    @staticmethod
    def cat(instances_list: "list[E]") -> "E":
        """Concatenate the instances of several elements, with the meta information of the first one.

        Raises:
            ValueError: the list is empty, its elements have different fields, or a field has a type that cannot be
                concatenated.
        """
        if not instances_list or not all(isinstance(element, InstanceData) for element in instances_list):
            raise ValueError("expected a non-empty list of InstanceData")
        first = instances_list[0]
        if len(instances_list) == 1:
            return first
        if any(set(element.all_keys()) != set(first.all_keys()) for element in instances_list):
            names = "; ".join(str(element.all_keys()) for element in instances_list)
            raise ValueError(f"the elements have different fields: {names}")
        joined = type(first)(metainfo=first.metainfo)
        for name, _ in first.items():
            joined[name] = _concatenate([element[name] for element in instances_list], name)
        return joined


def _select(value: Any, index: Tensor, name: str) -> Any:
    """Index one field with a tensor of indices or booleans."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, np.ndarray):
        return value[index.cpu().numpy()]
    if not isinstance(value, str | list | tuple) and not (hasattr(value, "__getitem__") and hasattr(value, "cat")):
        raise ValueError(f"{name} cannot be indexed with a tensor: its type {type(value)} has no 'cat'")
    positions = (index.nonzero().view(-1) if index.dtype == torch.bool else index).tolist()
    pieces = [value[slice(position, None, len(value))] for position in positions]
    return _concatenate(pieces, name) if pieces else value[:0]


def _concatenate(values: list[Any], name: str) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, str):
        return "".join(values)
    if isinstance(first, list | tuple):
        return type(first)(itertools.chain.from_iterable(values))
    if hasattr(first, "cat"):
        return first.cat(values)
    raise ValueError(f"{name} cannot be concatenated: its type {type(first)} has no 'cat'")
