"""Functions for nested containers: mappings, lists and tuples with leaves of any type."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

Place = tuple[Any, ...]
"""The keys and indices that lead to a leaf of nested containers."""


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return nested containers with each leaf replaced by ``function(leaf)``.

    Mappings become dictionaries; lists and tuples, including named ones, keep their class. State dicts keep the
    versions of their modules.
    """
    if isinstance(value, Mapping):
        return with_versions({key: map_leaves(item, function) for key, item in value.items()}, value)
    if isinstance(value, list | tuple):
        items = [map_leaves(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


def map_leaves_at(value: Any, function: Callable[[Any, Place], Any], place: Place = ()) -> Any:
    """Return nested containers like :func:`map_leaves`, for a function of each leaf and its place."""
    if isinstance(value, Mapping):
        return with_versions({key: map_leaves_at(item, function, (*place, key)) for key, item in value.items()}, value)
    if isinstance(value, list | tuple):
        items = [map_leaves_at(item, function, (*place, index)) for index, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value, place)


def with_versions(weights: Mapping[Any, Any], of: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy of weights with the versions of the modules in another state dict, if it has any.

    PyTorch keeps them in the attribute ``_metadata``. A module may rename or reshape weights of older versions of
    itself when it loads them, so without the version, it may take current weights for old ones.
    """
    if (versions := getattr(of, "_metadata", None)) is None:
        return dict(weights)
    copied = OrderedDict(weights)
    copied._metadata = versions  # type: ignore[attr-defined]
    return copied


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return nested containers with each tensor replaced by ``function(tensor)``, and other leaves unchanged."""
    return map_leaves(value, lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)
