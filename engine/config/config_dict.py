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

reading: ContextVar[str | None] = ContextVar("reading", default=None)
"""The config file whose code is running. Meanwhile keys remember its lines, and lazy objects stay lazy."""

_MISSING = object()


class OriginDict(dict[Any, Any]):
    """A dictionary that remembers where each key was set; in all else a plain one.

    It is what ``dict(...)`` and ``{...}`` give while a config file runs.
    """

    __slots__ = ("_origins",)
    _origins: dict[Any, Origin]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "_origins", {})
        return self

    def __init__(self, mapping: Mapping[Any, Any] | Iterable[Any] = (), /, **kwargs: Any) -> None:
        super().__init__(mapping, **kwargs)
        if isinstance(mapping, OriginDict):
            self._origins.update(mapping._origins)

    def origin(self, key: Any) -> Origin | None:
        """Returns where ``key`` was set, or None if it is absent or was set by code outside of a config."""
        return self._origins.get(key) if key in self else None

    def set_origin(self, key: Any, origin: Origin | None) -> None:
        """Says where ``key`` was set; None forgets it."""
        if origin is None:
            self._origins.pop(key, None)
        else:
            self._origins[key] = origin

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Returns ``self[key]``, which is set to ``default`` first if it is absent."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets the keys of a mapping or of key-value pairs."""
        self |= self._empty().__class__(*args, **kwargs)

    def copy(self) -> Self:
        """Returns a shallow copy."""
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
        """Sets a key and leaves its origin alone."""
        super().__setitem__(key, value)

    def _empty(self) -> Self:
        return self.__class__()


class ConfigDict(OriginDict):
    """A dictionary whose keys are attributes too, and remember the file and line that set them.

    Dictionaries inside it, also in lists and tuples, become ``ConfigDict``. A class that a pure-Python config
    imported is imported really when it is accessed. Reading a key costs what it costs in a ``dict``.

    Example:
        >>> cfg = ConfigDict(model=dict(type="ResNet", depth=18))
        >>> cfg.model.depth
        18

    Args:
        mapping: a mapping or key-value pairs.
        **kwargs: further keys.
    """

    __slots__ = ()

    def __init__(self, mapping: Mapping[Any, Any] | Iterable[Any] | None = None, /, **kwargs: Any) -> None:
        super().__init__()
        for source in (mapping or (), kwargs):
            self |= source

    def merge(self, other: Mapping[Any, Any]) -> None:
        """Merges another mapping into this one, recursively; one with ``_delete_=True`` replaces the old."""
        merge_into(self, other)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merges mappings or key-value pairs into this one, recursively, as :meth:`merge` does.

        Raises:
            TypeError: more than one positional argument.
        """
        if len(args) > 1:
            raise TypeError(f"update takes at most 1 positional argument, not {len(args)}")
        for source in (*args, kwargs):
            merge_into(self, source if isinstance(source, dict) else dict(source))

    def to_dict(self) -> dict[Any, Any]:
        """Returns plain dictionaries, lists and tuples; lazy objects become their full dotted names."""
        return {key: _to_plain(value) for key, value in dict.items(self)}

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            message = f"'ConfigDict' object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(ConfigDict, name):
            raise AttributeError(f"{name!r} is an attribute of ConfigDict itself; write cfg[{name!r}] = ...")
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
    """What a ConfigDict becomes that holds lazy objects: it hands out the real ones.

    A class of its own, so that all other dictionaries keep the speed of ``dict``.
    """

    __slots__ = ()

    def _empty(self) -> Any:
        return ConfigDict()

    def __getitem__(self, key: Any) -> Any:
        return _real(super().__getitem__(key))

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()  # a dict with an __iter__ of its own is unpacked (**cfg) through __getitem__

    def get(self, key: Any, default: Any = None) -> Any:
        return _real(super().get(key, default))

    def pop(self, key: Any, *default: Any) -> Any:
        return _real(super().pop(key, *default))

    def popitem(self) -> tuple[Any, Any]:
        key, value = super().popitem()
        return key, _real(value)

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]  # the view of a mapping, not of a dict
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # likewise
        return ValuesView(self)


def own(value: Any, origin: Origin | None = None, *, keep_delete: bool = True) -> Any:
    """Returns a copy of the structure (dictionaries, lists, tuples) that shares no part with any other.

    Args:
        value: anything; what is no such container is not copied.
        origin: where keys were set that do not know it themselves.
        keep_delete: keep ``_delete_`` keys, which a merge still needs.
    """
    kind = value.__class__
    if isinstance(value, OriginDict) or kind is dict or kind is OrderedDict:
        known = value._origins if isinstance(value, OriginDict) else {}
        copied = ConfigDict()
        for key, item in dict.items(value):
            if keep_delete or key != DELETE_KEY:
                place = known.get(key, origin)
                copied._put(key, own(item, place, keep_delete=keep_delete))
                copied.set_origin(key, place)
        return copied
    if kind is list or kind is tuple:
        return kind(own(item, origin, keep_delete=keep_delete) for item in value)
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
    """Merges ``source`` into ``target`` in place.

    Dictionaries are merged key by key; anything else replaces what was there. A dictionary with
    ``_delete_=True`` replaces too. ``source`` is not changed, and no part of it becomes part of ``target``.

    Args:
        target: is changed.
        source: its keys win.
        strict: a dictionary in place of something else is an error, unless it says ``_delete_=True``.
        list_keys: ``{"0": ...}`` merges into the first element of a list or tuple.
        origin: where keys of ``source`` were set that do not know it themselves.
        path: dotted path of ``target``, for messages.

    Raises:
        ConfigError: ``strict`` is violated, or a list has no such element.
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
    """Returns ``value`` merged into ``old``: ``old`` itself where it was changed in place."""
    if not isinstance(value, dict) or old is _MISSING or dict.get(value, DELETE_KEY):
        return own(value, origin, keep_delete=False)
    if isinstance(old, ConfigDict):
        merge_into(old, value, strict=strict, list_keys=list_keys, origin=origin, path=path)
        return old
    if list_keys and isinstance(old, list | tuple):
        return _merge_items(old, value, strict=strict, origin=origin, path=path)
    if strict:
        raise ConfigError(
            path,
            f"a dict cannot be merged into {old!r:.60}",
            "a dict with `_delete_=True` replaces what it inherits",
            origin,
        )
    return own(value, origin, keep_delete=False)


def _merge_items(
    old: list[Any] | tuple[Any, ...],
    changes: dict[Any, Any],
    *,
    strict: bool,
    origin: Origin | None,
    path: str,
) -> list[Any] | tuple[Any, ...]:
    items = list(old)
    for key, value in dict.items(changes):
        here = f"{path}.{key}"
        try:
            element = items[int(key)]
        except ValueError:
            raise ConfigError(here, f"{path} is a list: an element is named by its index", "", origin) from None
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


def _real(value: Any) -> Any:
    """Returns the object that a lazy one stands for. Elements of a list are replaced in it."""
    if reading.get() is not None or not _is_lazy(value):
        return value
    if isinstance(value, LazyObject):
        return resolve(value)
    if isinstance(value, tuple):
        return tuple(map(_real, value))
    value[:] = map(_real, value)
    return value


def _to_plain(value: Any) -> Any:
    kind = value.__class__
    if kind is LazyObject:
        return str(value)
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in dict.items(value)}
    return kind(map(_to_plain, value)) if kind is list or kind is tuple else value


def _running_line() -> Origin | None:
    """Returns the line of the config file that is running, or None if none is."""
    file = reading.get()
    if file is None:
        return None
    frame = sys._getframe(1)
    while frame.f_code.co_filename != file:
        if frame.f_back is None:
            return Origin(file)
        frame = frame.f_back
    return Origin(file, frame.f_lineno)
