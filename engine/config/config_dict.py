"""Dictionaries with attribute access that remember where each key was set."""

import copy
import sys
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from contextvars import ContextVar
from typing import Any, Self

from trainwright.engine.config.lazy_object import LazyObject, resolve
from trainwright.engine.errors import ConfigError, Origin

DELETE_KEY = "_delete_"

running_file: ContextVar[str | None] = ContextVar("running_file", default=None)
"""The config file being executed, if any. During that time, keys record its lines and lazy objects stay lazy."""

_MISSING = object()


class OriginDict(dict[Any, Any]):
    """A dictionary that remembers where each key was set: ``dict(...)`` and ``{...}`` in a config file."""

    __slots__ = ("_origins",)
    _origins: dict[Any, Origin]

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "_origins", {})
        return self

    def __init__(self, mapping: Mapping[Any, Any] | Iterable[Any] = (), /, **kwargs: Any) -> None:
        super().__init__(mapping, **kwargs)
        if isinstance(mapping, OriginDict):
            self._origins.update(mapping._origins)

    def origin(self, key: Any) -> Origin | None:
        """Return where ``key`` was set, or None if it is missing or was set by code outside of a config."""
        return self._origins.get(key) if key in self else None

    def set_origin(self, key: Any, origin: Origin | None) -> None:
        """Record where ``key`` was set; None removes the record."""
        if origin is None:
            self._origins.pop(key, None)
        else:
            self._origins[key] = origin

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return ``self[key]``, after setting it to ``default`` if it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set the keys of a mapping or of key-value pairs."""
        self |= self._empty().__class__(*args, **kwargs)

    def copy(self) -> Self:
        """Return a shallow copy."""
        other = self._empty()
        other |= self
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self._empty()
        memo[id(self)] = other
        for key, value in dict.items(self):
            other._put(copy.deepcopy(key, memo), copy.deepcopy(value, memo))
        other._origins.update(self._origins)
        return other

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self._empty().__class__, (), self._origins, None, iter(dict.items(self))

    def __setstate__(self, origins: dict[Any, Origin]) -> None:
        self._origins.update(origins)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._put(key, value)
        self.set_origin(key, _running_line())

    def __or__(self, other: Any) -> Self:
        return self.copy().__ior__(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Self:
        return self._empty().__ior__(other).__ior__(self) if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        other = other if isinstance(other, OriginDict) else OriginDict(other)
        for key, value in dict.items(other):
            self._put(key, value)
            self.set_origin(key, other.origin(key) or _running_line())
        return self

    def _put(self, key: Any, value: Any) -> None:
        """Set a key without changing its origin."""
        super().__setitem__(key, value)

    def _empty(self) -> Self:
        return self.__class__()


class ConfigDict(OriginDict):
    """A dictionary with attribute access that remembers the file and line where each key was set.

    Nested dictionaries, also in lists and tuples, become ``ConfigDict``. The imports of a pure-Python config are
    resolved on first access. Reading a key is as fast as in a ``dict``.

    Example:
        >>> cfg = ConfigDict(model=dict(type="ResNet", depth=18))
        >>> cfg.model.depth
        18

    Args:
        mapping: a mapping or key-value pairs.
        **kwargs: additional keys.
    """

    __slots__ = ()

    def __init__(self, mapping: Mapping[Any, Any] | Iterable[Any] | None = None, /, **kwargs: Any) -> None:
        super().__init__()
        for source in (mapping or (), kwargs):
            self |= source

    def merge(self, other: Mapping[Any, Any]) -> None:
        """Merge another mapping into this one recursively; a dict with ``_delete_=True`` replaces the old value."""
        merge_into(self, other)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merge mappings or key-value pairs into this one recursively, like :meth:`merge`.

        Raises:
            TypeError: more than one positional argument.
        """
        if len(args) > 1:
            raise TypeError(f"update expected at most 1 positional argument, got {len(args)}")
        for source in (*args, kwargs):
            merge_into(self, source if isinstance(source, dict) else dict(source))

    def to_dict(self) -> dict[Any, Any]:
        """Return plain dictionaries, lists and tuples; lazy objects become their full dotted names."""
        return {key: _to_plain(value) for key, value in dict.items(self)}

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"'ConfigDict' object has no attribute {name!r}", name=name, obj=self) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(ConfigDict, name):
            raise AttributeError(f"{name!r} is an attribute of ConfigDict itself: write cfg[{name!r}] = ...")
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"'ConfigDict' object has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self if isinstance(key, str))]

    def _put(self, key: Any, value: Any) -> None:
        value = _convert(value)
        if self.__class__ is ConfigDict and _is_lazy(value):
            object.__setattr__(self, "__class__", _LazyConfigDict)
        super()._put(key, value)


class _LazyConfigDict(ConfigDict):
    """The class that a ConfigDict changes to when it holds lazy objects, which it resolves on access.

    It is separate so that all other dictionaries keep the speed of ``dict``.
    """

    __slots__ = ()

    def _empty(self) -> Any:
        return ConfigDict()

    def __getitem__(self, key: Any) -> Any:
        return _resolved(super().__getitem__(key))

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()  # **cfg calls __getitem__ only if the class overrides __iter__

    def get(self, key: Any, default: Any = None) -> Any:
        return _resolved(super().get(key, default))

    def pop(self, key: Any, *default: Any) -> Any:
        return _resolved(super().pop(key, *default))

    def popitem(self) -> tuple[Any, Any]:
        key, value = super().popitem()
        return key, _resolved(value)

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]  # a view that uses __getitem__
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # the same
        return ValuesView(self)


def copy_containers(value: Any, origin: Origin | None = None, *, keep_delete: bool = True) -> Any:
    """Copy nested dictionaries (to ``ConfigDict``), lists and tuples; other values are shared.

    Args:
        value: any value.
        origin: the origin of keys without one.
        keep_delete: keep ``_delete_`` keys, which are needed for a later merge.
    """
    kind = value.__class__
    if isinstance(value, OriginDict) or kind is dict or kind is OrderedDict:
        known = value._origins if isinstance(value, OriginDict) else {}
        copied = ConfigDict()
        for key, item in dict.items(value):
            if keep_delete or key != DELETE_KEY:
                place = known.get(key, origin)
                copied._put(key, copy_containers(item, place, keep_delete=keep_delete))
                copied.set_origin(key, place)
        return copied
    if kind is list or kind is tuple:
        return kind(copy_containers(item, origin, keep_delete=keep_delete) for item in value)
    return value


def merge_into(
    target: ConfigDict,
    source: Mapping[Any, Any],
    *,
    strict: bool = False,
    list_keys: bool = False,
    origin: Origin | None = None,
    path: str = "",
) -> None:
    """Merge ``source`` into ``target`` in place.

    Dictionaries are merged key by key; any other value, and a dictionary with ``_delete_=True``, replaces the old
    value. ``source`` is not changed and shares no containers with ``target``.

    Args:
        target: the dictionary to change.
        source: its keys take precedence.
        strict: reject a dictionary that would replace a value of another type, unless it has ``_delete_=True``.
        list_keys: merge ``{"0": ...}`` into the first element of a list or tuple.
        origin: the origin of keys of ``source`` without one.
        path: dotted path of ``target``, for messages.

    Raises:
        ConfigError: ``strict`` is violated, or a list index is invalid.
    """
    origin = origin or _running_line()
    known = source._origins if isinstance(source, OriginDict) else {}
    if source.get(DELETE_KEY):
        target.clear()
    for key, value in dict.items(source) if isinstance(source, dict) else source.items():
        if key == DELETE_KEY:
            continue
        place = known.get(key, origin)
        old = dict.get(target, key, _MISSING)
        here = f"{path}.{key}" if path else str(key)
        merged = _merged(old, value, strict=strict, list_keys=list_keys, origin=place, path=here)
        merged_in_place = isinstance(value, dict) and merged is old
        if not merged_in_place:
            target._put(key, merged)
        if not merged_in_place or target.origin(key) is None:
            target.set_origin(key, place)


def _merged(old: Any, value: Any, *, strict: bool, list_keys: bool, origin: Origin | None, path: str) -> Any:
    """Return ``value`` merged into ``old``, which is ``old`` itself if it was changed in place."""
    if not isinstance(value, dict) or old is _MISSING or dict.get(value, DELETE_KEY):
        return copy_containers(value, origin, keep_delete=False)
    if isinstance(old, ConfigDict):
        merge_into(old, value, strict=strict, list_keys=list_keys, origin=origin, path=path)
        return old
    if list_keys and isinstance(old, list | tuple):
        return _merge_items(old, value, strict=strict, origin=origin, path=path)
    if strict:
        hint = "set `_delete_=True` in the dict to replace the inherited value"
        raise ConfigError(path, f"a dict cannot be merged into {old!r:.60}", hint, origin)
    return copy_containers(value, origin, keep_delete=False)


def _merge_items(old: Any, changes: dict[Any, Any], *, strict: bool, origin: Origin | None, path: str) -> Any:
    items = list(old)
    for key, value in dict.items(changes):
        here = f"{path}.{key}"
        try:
            element = items[int(key)]
        except ValueError:
            raise ConfigError(here, f"{path} is a list: {key!r} is not an index", "", origin) from None
        except IndexError:
            raise ConfigError(here, f"{path} has only {len(items)} elements", "", origin) from None
        items[int(key)] = _merged(element, value, strict=strict, list_keys=True, origin=origin, path=here)
    return old if all(new is was for new, was in zip(items, old)) else old.__class__(items)


def _convert(value: Any) -> Any:
    kind = value.__class__
    if kind is dict or kind is OriginDict or kind is OrderedDict:
        return ConfigDict(value)
    return kind(map(_convert, value)) if kind is list or kind is tuple else value


def _is_lazy(value: Any) -> bool:
    kind = value.__class__
    return kind is LazyObject or ((kind is list or kind is tuple) and any(map(_is_lazy, value)))


def _resolved(value: Any) -> Any:
    """Return a value with lazy objects resolved, in lists in place."""
    if running_file.get() is not None or not _is_lazy(value):
        return value
    if isinstance(value, LazyObject):
        return resolve(value)
    if isinstance(value, tuple):
        return tuple(map(_resolved, value))
    value[:] = map(_resolved, value)
    return value


def _to_plain(value: Any) -> Any:
    kind = value.__class__
    if kind is LazyObject:
        return str(value)
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in dict.items(value)}
    return kind(map(_to_plain, value)) if kind is list or kind is tuple else value


def _running_line() -> Origin | None:
    """Return the current line of the config file being executed, or None."""
    file = running_file.get()
    if file is None:
        return None
    frame = sys._getframe(1)
    while frame.f_code.co_filename != file:
        if frame.f_back is None:
            return Origin(file)
        frame = frame.f_back
    return Origin(file, frame.f_lineno)
