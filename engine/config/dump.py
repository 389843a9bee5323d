"""Writing configs as Python, YAML or JSON that loads to the same config."""

import json
import keyword
import math
import numbers
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from trainwright.engine.config.paths import JSON_SUFFIX, PYTHON_SUFFIX
from trainwright.engine.config.read import check_format

INDENT = 4
WIDTH = 100
_USED_BUILTINS = ("dict", "float", "frozenset", "globals", "set")  # keys of these names would shadow them


def dump_config(keys: Mapping[Any, Any], suffix: str, *, width: int | None = WIDTH) -> str:
    """Return the text of a config.

    Values that a format does not support are written as text: classes and functions as their full dotted names, other
    objects as ``str(object)``. In JSON, tuples become lists.

    Args:
        keys: plain dictionaries, lists, tuples and values.
        suffix: ``.py``, ``.yaml``, ``.yml`` or ``.json``.
        width: line length of Python text; None for one line per top-level key.

    Raises:
        ConfigFileError: the suffix is unknown.
    """
    check_format(suffix)
    if suffix == PYTHON_SUFFIX:
        return format_python(keys, width)
    if suffix == JSON_SUFFIX:
        text = json.dumps(_plain(keys, exact=False), indent=INDENT, ensure_ascii=False)
        return text.replace("{{", "{\\u007b") + "\n"
    return _dump_yaml(_plain(keys, exact=True))


def plain_data(keys: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a config as data for a checkpoint: numbers, strings, dictionaries, lists and tuples.

    Classes and functions become their full dotted names, other objects ``str(object)``.
    """
    return dict(_plain(keys, exact=True))


def format_python(keys: Mapping[Any, Any], width: int | None = WIDTH) -> str:
    """Return a config as Python assignments, sorted by key, in ``dict(...)`` style."""
    assigned = {key: value for key, value in sorted(keys.items(), key=_key_order) if _is_variable(key)}
    others = {key: value for key, value in keys.items() if not _is_variable(key)}
    lines = [f"{key} = {_format(value, 0, len(key) + 3, width)}\n" for key, value in assigned.items()]
    if others:
        lines.append(f"globals().update({_format(others, 0, len('globals().update('), width)})\n")
    return "".join(lines)


def _is_variable(key: Any) -> bool:
    return _is_argument(key) and key not in _USED_BUILTINS


def _is_argument(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _key_order(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _format(value: Any, indent: int, used: int, width: int | None) -> str:
    """Return the text of a value that begins after ``used`` characters of a line with this indentation."""
    flat = _flat(value)
    if width is None or used + len(flat) + 1 <= width or not value or not isinstance(value, dict | list | tuple):
        return flat
    opening, prefixed, closing = _parts(value)
    inner = indent + INDENT
    if isinstance(value, dict) or any(isinstance(item, dict | list | tuple) for item in value):
        texts = [prefix + _format(item, inner, inner + len(prefix), width) for prefix, item in prefixed]
        lines = [f"{' ' * inner}{text},\n" for text in texts]
    else:
        lines = _fill([f"{_flat(item)}," for item in value], inner, width)
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def _fill(texts: list[str], indent: int, width: int) -> list[str]:
    lines = [" " * indent + texts[0]]
    for text in texts[1:]:
        if len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(" " * indent + text)
    return [f"{line}\n" for line in lines]


def _flat(value: Any) -> str:
    """Return the text of a value in one line."""
    if not isinstance(value, dict | list | tuple):
        return _literal(value)
    opening, prefixed, closing = _parts(value)
    texts = [f"{prefix}{_flat(item)}" for prefix, item in prefixed]
    comma = "," if isinstance(value, tuple) and len(texts) == 1 else ""
    return f"{opening}{', '.join(texts)}{comma}{closing}"


def _parts(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> tuple[str, list[tuple[str, Any]], str]:
    """Return the opening bracket of a container, its items with the prefix of each, and the closing bracket."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=_key_order)
        if all(map(_is_argument, value)):
            return "dict(", [(f"{key}=", item) for key, item in items], ")"
        return "{", [(f"{_literal(key)}: ", item) for key, item in items], "}"
    opening, closing = "[]" if isinstance(value, list) else "()"
    return opening, [("", item) for item in value], closing


def _literal(value: Any) -> str:
    """Return the Python text of a value other than a dictionary, list or tuple."""
    value = _basic(value)
    if isinstance(value, str):
        return repr(value).replace("{{", "{\\x7b")  # not a variable when read
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, set | frozenset):
        elements = ", ".join(sorted(map(_literal, value)))
        return f"{type(value).__name__}([{elements}])" if elements else f"{type(value).__name__}()"
    return repr(value)


def _basic(value: Any) -> Any:
    """Return a value as a builtin type, or as text if there is none for it."""
    if value is None or value is Ellipsis or isinstance(value, bool | bytes | set | frozenset):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    text = str(value)
    if "\n" in text or " at 0x" in text:  # must not differ between processes
        return f"<{type(value).__module__}.{type(value).__qualname__}>"
    return text


def _plain(value: Any, *, exact: bool) -> Any:
    """Return a value as types that YAML supports, or without ``exact``, JSON: tuples and sets become lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item, exact=exact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, exact=exact) for item in value]
        return tuple(items) if exact and isinstance(value, tuple) else items
    if isinstance(value, set | frozenset):
        items = [_plain(item, exact=exact) for item in sorted(value, key=_literal)]
        return set(items) if exact else items
    basic = _basic(value)
    return basic if basic is None or isinstance(basic, bool | int | float | str) else str(basic)


def _dump_yaml(keys: dict[Any, Any]) -> str:
    import yaml

    from trainwright.engine.config.parse_data import TUPLE_TAG, yaml_resolvers

    class Dumper(yaml.SafeDumper):
        yaml_implicit_resolvers = yaml_resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

        def represent_tuple(self, value: tuple[Any, ...]) -> yaml.Node:
            return self.represent_sequence(TUPLE_TAG, value)

        def represent_text(self, value: str) -> yaml.Node:
            return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "{{" in value else None)

    Dumper.add_representer(tuple, Dumper.represent_tuple)
    Dumper.add_representer(str, Dumper.represent_text)
    text = str(yaml.dump(keys, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=WIDTH))
    return text.replace("{{", "{\\x7b")
