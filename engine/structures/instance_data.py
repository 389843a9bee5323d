"""Data elements with one entry for each instance of an image."""

import itertools
from collections.abc import Sized
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.elements import FIELD_SETS, BaseDataElement

E = TypeVar("E", bound="InstanceData")


class InstanceData(BaseDataElement):
    """What belongs to the instances of an image (boxes, labels, scores): all data have the same length.

    An element is indexed like a tensor along its first dimension, by an int, slice, list, array or tensor (of
    indices or of booleans), and gives an element again; by a string it gives that field.

    Example:
        >>> instances = InstanceData(bboxes=torch.rand(3, 4), scores=torch.tensor([0.9, 0.2, 0.7]))
        >>> len(instances[instances.scores > 0.5])
        2
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELD_SETS:
            if not isinstance(value, Sized):
                raise TypeError(f"{name} must have a length, a {type(value)} has none")
            length = len(self)
            if length not in (0, len(value)):
                raise ValueError(f"{name} has length {len(value)}, the other fields have {length}")
        super().__setattr__(name, value)

    __setitem__ = __setattr__

    def __len__(self) -> int:
        names = self.keys()
        return len(getattr(self, names[0])) if names else 0

    def __getitem__(self, item: Any) -> Any:
        """Returns the field of this name, or the instances that ``item`` selects.

        Raises:
            IndexError: an int out of range.
            TypeError: an index that is neither an int nor a slice, list, array or tensor.
            ValueError: an index of more than one dimension; booleans of another length.
        """
        if isinstance(item, str):
            return getattr(self, item)
        if isinstance(item, list | np.ndarray):
            array = np.asarray(item)
            item = torch.from_numpy(array.astype(np.int64) if array.size == 0 or array.dtype.kind in "iu" else array)
        if isinstance(item, int | np.integer):
            if not -len(self) <= item < len(self):
                raise IndexError(f"no instance {item}: there are {len(self)}")
            item = slice(int(item), None, len(self))
        if not isinstance(item, slice | Tensor):
            raise TypeError(f"instances cannot be indexed by a {type(item)}")
        selected = type(self)(metainfo=self.metainfo)
        if isinstance(item, slice):
            selected.set_data({name: value[item] for name, value in self.items()})
            return selected
        if item.dim() != 1:
            raise ValueError(f"an index has one dimension, not {item.dim()}")
        if item.dtype in (torch.bool, torch.uint8):
            if len(item) != len(self):
                raise ValueError(f"{len(item)} booleans cannot select among {len(self)} instances")
            item = item.bool()
        for name, value in self.items():
            selected[name] = _select(value, item, name)
        return selected

    @staticmethod
    def cat(instances_list: "list[E]") -> "E":
        """Returns the instances of all elements together; the first one's meta information is kept.

        Raises:
            ValueError: the list is empty, its elements have different names, or a field is of a type that cannot be
                concatenated.
        """
        if not instances_list or not all(isinstance(element, InstanceData) for element in instances_list):
            raise ValueError("a list of InstanceData is expected, with at least one")
        first = instances_list[0]
        if len(instances_list) == 1:
            return first
        if any(set(element.all_keys()) != set(first.all_keys()) for element in instances_list):
            names = "; ".join(str(element.all_keys()) for element in instances_list)
            raise ValueError(f"the elements have different names: {names}")
        joined = type(first)(metainfo=first.metainfo)
        for name, _ in first.items():
            joined[name] = _concatenate([element[name] for element in instances_list], name)
        return joined


def _select(value: Any, index: Tensor, name: str) -> Any:
    """Returns the items of one field that a tensor of indices or booleans selects."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, np.ndarray):
        return value[index.cpu().numpy()]
    if not isinstance(value, str | list | tuple) and not (hasattr(value, "__getitem__") and hasattr(value, "cat")):
        raise ValueError(f"{name} is a {type(value)}: only what has 'cat' can be selected by a tensor")
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
    raise ValueError(f"{name} is a {type(first)}, which has no 'cat'")
