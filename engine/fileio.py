"""Reading and writing objects as JSON, YAML or pickle, by the extension of the file."""

import io
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml

from trainwright.engine.errors import did_you_mean

_FORMATS = {"json": "json", "yaml": "yaml", "yml": "yaml", "pkl": "pickle", "pickle": "pickle"}
_SAFE_GLOBALS = {
    "builtins": {"set", "frozenset", "slice", "range", "complex", "bytearray"},
    "collections": {"OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "torch": {"Size", "device"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
}


def load(file: str | Path | IO[Any], file_format: str | None = None, *, trusted: bool = False, **kwargs: Any) -> Any:
    """Reads an object from a file.

    Args:
        file: path, or an open file.
        file_format: ``json``, ``yaml``, ``yml``, ``pkl`` or ``pickle``; by the extension of the path if None.
        trusted: let a pickle bring any class, and so run any code. Otherwise it may hold numbers, strings,
            containers, arrays and tensors.
        **kwargs: for ``json.load`` or the unpickler.

    Raises:
        TypeError: no such format.
        pickle.UnpicklingError: a pickle that is not trusted holds something else.
    """
    kind = _kind(file, file_format)
    if isinstance(file, str | Path):
        with Path(file).open("rb") as stream:
            return _load(stream, kind, trusted, kwargs)
    return _load(file, kind, trusted, kwargs)


def dump(obj: Any, file: str | Path | IO[Any] | None = None, file_format: str | None = None, **kwargs: Any) -> Any:
    """Writes an object to a file, or returns it as text.

    JSON takes sets and ranges, arrays and tensors as lists; see :func:`to_json`.

    Args:
        obj: the object.
        file: path, whose folder is made, or an open file; None to return the text (bytes of a pickle).
        file_format: as in :func:`load`; needed without a path.
        **kwargs: for ``json.dumps``, ``yaml.dump`` or ``pickle.dumps``.

    Raises:
        TypeError: no such format.
    """
    content = _DUMPERS[_kind(file, file_format)](obj, kwargs)
    if file is None:
        return content
    if isinstance(file, str | Path):
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        file.write(content)
    return None


def to_json(obj: Any, *, default: Callable[[Any], Any] | None = None, **kwargs: Any) -> str:
    """Returns an object as JSON that every reader takes: NaN and infinities, which JSON does not have, as null.

    Args:
        obj: the object.
        default: returns what to write in place of a value that JSON does not know; arrays, tensors, sets and ranges
            as lists if None.
        **kwargs: for ``json.dumps``; ``allow_nan=True`` writes ``NaN`` and ``Infinity`` as Python does.

    Raises:
        TypeError: something in it cannot be written.
    """
    default = _plain if default is None else default
    try:
        return json.dumps(obj, **{"default": default, "allow_nan": False, **kwargs})
    except ValueError:
        known = json.dumps(obj, **{"default": default, **kwargs, "allow_nan": True, "indent": None})
        return json.dumps(json.loads(known, parse_constant=lambda name: None), **{**kwargs, "allow_nan": False})


def list_from_file(
    filename: str | Path, prefix: str = "", offset: int = 0, max_num: int = 0, encoding: str = "utf-8"
) -> list[str]:
    """Returns the lines of a text file.

    Args:
        filename: path.
        prefix: goes before each line.
        offset: lines to leave out at the beginning.
        max_num: at most so many lines; all if 0.
        encoding: of the file.
    """
    with Path(filename).open(encoding=encoding) as stream:
        lines = [prefix + line.rstrip("\r\n") for line in stream]
    return lines[offset : offset + max_num] if max_num > 0 else lines[offset:]


def dict_from_file(
    filename: str | Path, key_type: Callable[[str], Any] = str, encoding: str = "utf-8"
) -> dict[Any, str | list[str]]:
    """Returns the lines of a text file by their first word.

    Args:
        filename: path; each line has a key and one or more values, with white space between them.
        key_type: what to make of the key.
        encoding: of the file.

    Returns:
        The value by key, or the list of values where there are several.

    Raises:
        ValueError: a line has no value.
    """
    mapping: dict[Any, str | list[str]] = {}
    for number, line in enumerate(list_from_file(filename, encoding=encoding), 1):
        key, *values = line.split()
        if not values:
            raise ValueError(f"{filename}:{number}: {line!r} has a key but no value")
        mapping[key_type(key)] = values[0] if len(values) == 1 else values
    return mapping


def _kind(file: Any, file_format: str | None) -> str:
    if file_format is None:
        if not isinstance(file, str | Path):
            raise TypeError(f"without a path the format must be given: file_format={' | '.join(_FORMATS)}")
        file_format = Path(file).suffix.removeprefix(".")
    if file_format not in _FORMATS:
        hint = did_you_mean(file_format, _FORMATS) or f"these can be read and written: {', '.join(_FORMATS)}"
        raise TypeError(f"unsupported format {file_format!r}: {hint}")
    return _FORMATS[file_format]


def _load(stream: IO[Any], kind: str, trusted: bool, kwargs: Mapping[str, Any]) -> Any:
    if kind == "json":
        return json.load(stream, **kwargs)
    if kind == "yaml":
        return yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return (pickle.Unpickler if trusted else _SafeUnpickler)(stream, **kwargs).load()


class _SafeUnpickler(pickle.Unpickler):
    """Reads plain data, arrays and tensors; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if name in _SAFE_GLOBALS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"this pickle holds {module}.{name}, which could run code; "
            "if you trust whoever made it, load it with trusted=True"
        )


def _plain(value: Any) -> Any:
    """Returns what JSON can write in place of what it cannot."""
    if isinstance(value, set | range):
        return list(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


_DUMPERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "json": lambda obj, kwargs: to_json(obj, **{"default": _plain, **kwargs}),
    "yaml": lambda obj, kwargs: yaml.dump(obj, **{"sort_keys": False, "allow_unicode": True, **kwargs}),
    "pickle": lambda obj, kwargs: pickle.dumps(obj, **kwargs),
}
