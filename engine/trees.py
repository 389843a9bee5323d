"""Nested containers."""

from collections.abc import Callable, Mapping
from typing import Any


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return nested containers with ``function(leaf)`` in place of each leaf.

    Mappings become dictionaries; lists and tuples, named ones too, keep their class.
    """
    if isinstance(value, Mapping):
        return {key: map_leaves(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)
