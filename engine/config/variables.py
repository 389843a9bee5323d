"""Variables in config files: ``{{ fileDirname }}``, ``{{ $NAME:default }}``, ``{{ _base_.a.b }}``."""

import os
import re
from pathlib import Path
from typing import Any

from trainwright.engine.config.config_dict import ConfigDict, copy_containers
from trainwright.engine.errors import ConfigFileError, Origin, did_you_mean

BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_PREDEFINED = re.compile(r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}")
_ENVIRONMENT = re.compile(r"\{\{\s*(['\"]?)\s*\$(\w+)\s*(?::\s*([^}]*?)\s*)?\1\s*\}\}")
_MARK = "\ue000"  # private use area: replaces {{ and }}, and is valid in every format
_MARKED = re.compile(f"{_MARK}([\\w.]+){_MARK}")


def substitute_predefined(text: str, file: Path) -> str:
    """Replace ``{{ fileDirname }}``, ``fileBasename``, ``fileBasenameNoExtension`` and ``fileExtname``."""
    values = {
        "fileDirname": file.parent.as_posix(),
        "fileBasename": file.name,
        "fileBasenameNoExtension": file.stem,
        "fileExtname": file.suffix,
    }
    return _PREDEFINED.sub(lambda match: values[match[1]], text)


def substitute_environment(text: str, file: str) -> tuple[str, dict[str, str]]:
    """Replace ``{{ $NAME:default }}``, and return the new text and the environment variables used.

    Quotes inside the braces, ``{{'$NAME:8'}}``, are removed; they keep the file valid Python.

    Raises:
        ConfigFileError: a variable is not set and has no default.
    """
    used: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        name, default = match[2], match[3]
        if name in os.environ:
            return used.setdefault(name, os.environ[name])
        if not default:
            line = text.count("\n", 0, match.start()) + 1
            hint = f"set it, or write a default: {{{{ ${name}:default }}}}"
            raise ConfigFileError("", f"the environment variable {name} is not set", hint, Origin(file, line))
        return default

    return _ENVIRONMENT.sub(value, text), used


def mark_base_variables(text: str, *, quoted: bool) -> str:
    """Replace ``{{ _base_.a.b }}`` with marks that a parser reads as text, for :func:`resolve_marks`.

    With ``quoted``, marks outside of strings get double quotes (JSON).
    """

    def mark(match: re.Match[str]) -> str:
        marked = f"{_MARK}{match[1]}{_MARK}"
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        inside_string = before.replace('\\"', "").count('"') % 2 == 1
        return f'"{marked}"' if quoted and not inside_string else marked

    return BASE_VARIABLE.sub(mark, text)


def resolve_marks(value: Any, base: ConfigDict, origin: Origin | None = None) -> Any:
    """Return ``value`` with marks replaced by the values of the base.

    A mark that is the whole string is replaced by the value itself, in a longer string by ``str(value)``.

    Raises:
        ConfigFileError: the base has no such key.
    """
    if isinstance(value, ConfigDict):
        for key, item in dict.items(value):
            place = value.origin(key)
            value[key] = resolve_marks(item, base, place)
            value.set_origin(key, place)
    elif isinstance(value, list | tuple):
        return value.__class__(resolve_marks(item, base, origin) for item in value)
    elif isinstance(value, str) and _MARK in value:
        if whole := _MARKED.fullmatch(value):
            return copy_containers(base_value(base, whole[1], origin))
        return _MARKED.sub(lambda match: str(base_value(base, match[1], origin)), value)
    return value


def base_value(base: ConfigDict, path: str, origin: Origin | None = None) -> Any:
    """Return the value at a dotted path of the base config; digits are list indices.

    Raises:
        ConfigFileError: the base has no such key.
    """
    if not base:
        raise ConfigFileError("", f"{{{{ _base_.{path} }}}} is used in a config without `_base_`", "", origin)
    found: Any = base
    for part in path.split("."):
        try:
            found = found[int(part)] if isinstance(found, list | tuple) else found[part]
        except (LookupError, TypeError, ValueError):
            keys = [key for key in found if isinstance(key, str)] if isinstance(found, dict) else []
            message = f"the base config has no {path!r}: {part!r} is missing"
            raise ConfigFileError("", message, did_you_mean(part, keys), origin) from None
    return found
