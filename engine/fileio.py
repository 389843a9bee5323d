"""Load and dump objects as JSON, YAML or pickle, according to the file extension."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
import yaml

from trainwright.engine.errors import DamagedFileError, MissingFileError, did_you_mean

_FORMATS = {"json": "json", "yaml": "yaml", "yml": "yaml", "pkl": "pickle", "pickle": "pickle"}
_SAFE_BUILTINS = {"set", "frozenset", "slice", "range", "complex", "bytearray"}
_SAFE_GLOBALS = {
    "builtins": _SAFE_BUILTINS,
    "__builtin__": {*_SAFE_BUILTINS, "xrange"},  # its name in pickles of protocol 2 and below
    "_codecs": {"encode"},  # for bytes in these
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
    """Load an object from a file. Text is in UTF-8, or begins with a byte order mark.

    Args:
        file: a path or an open file.
        file_format: ``json``, ``yaml``, ``yml``, ``pkl`` or ``pickle``; if None, the extension of the path.
        trusted: allow a pickle to contain any class, and thus to run any code. Otherwise it may only contain numbers,
            strings, containers, arrays and tensors.
        **kwargs: passed to ``json.load`` or the unpickler.

    Raises:
        TypeError: the format is unknown.
        MissingFileError: there is no file at the path.
        DamagedFileError: the file at the path is not in this format.
        pickle.UnpicklingError: an untrusted pickle contains anything else.
    """
    kind = _kind(file, file_format)
    if not isinstance(file, str | Path):
        return _load(file, kind, trusted, kwargs)
    with _open(file) as stream:
        try:
            return _load(stream, kind, trusted, kwargs)
        except (ValueError, EOFError, LookupError, yaml.YAMLError) as error:
            reason = "it is empty" if not Path(file).stat().st_size else str(error) or type(error).__name__
            raise DamagedFileError(file, reason) from error


def read_text(file: str | Path, encoding: str = "utf-8") -> str:
    """Return the text in a file.

    Args:
        file: the path.
        encoding: the encoding, unless a byte order mark at the beginning states another.

    Raises:
        MissingFileError: there is no such file.
        DamagedFileError: it is not text in this encoding.
    """
    with _open(file) as stream:
        content = stream.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DamagedFileError(file, f"{error}: save it as text in {encoding.upper()}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _open(file: str | Path) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except FileNotFoundError as error:
        raise MissingFileError.of(file) from error


def dump(obj: Any, file: str | Path | IO[Any] | None = None, file_format: str | None = None, **kwargs: Any) -> Any:
    """Dump an object to a file, or return it as text.

    In JSON, sets, ranges, arrays and tensors become lists; see :func:`to_json`.

    Args:
        obj: the object.
        file: a path, whose folder is created, or an open file. If None, the text (or bytes, for a pickle) is returned.
        file_format: as in :func:`load`; required without a path.
        **kwargs: passed to ``json.dumps``, ``yaml.dump`` or ``pickle.dumps``.

    Raises:
        TypeError: the format is unknown.
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
    """Return an object as standard JSON, in which NaN and infinities are null.

    Args:
        obj: the object.
        default: converts values that JSON does not support; if None, arrays, tensors, sets and ranges become lists.
        **kwargs: passed to ``json.dumps``; ``allow_nan=True`` writes ``NaN`` and ``Infinity`` as Python does.

    Raises:
        TypeError: a value cannot be converted.
    """
    default = to_plain if default is None else default
    try:
        return json.dumps(obj, **{"default": default, "allow_nan": False, **kwargs})
    except ValueError:
        known = json.dumps(obj, **{"default": default, **kwargs, "allow_nan": True, "indent": None})
        return json.dumps(json.loads(known, parse_constant=lambda name: None), **{**kwargs, "allow_nan": False})


def list_from_file(
    filename: str | Path, prefix: str = "", offset: int = 0, max_num: int = 0, encoding: str = "utf-8"
) -> list[str]:
    """Return the lines of a text file.

    Args:
        filename: the path.
        prefix: prepended to each line.
        offset: number of lines to skip at the beginning.
        max_num: maximum number of lines; all if 0.
        encoding: the encoding of the file.
    """
    text = read_text(filename, encoding).removesuffix("\n")
    lines = [prefix + line for line in text.split("\n")] if text else []
    return lines[offset : offset + max_num] if max_num > 0 else lines[offset:]


def _kind(file: Any, file_format: str | None) -> str:
    if file_format is None:
        if not isinstance(file, str | Path):
            raise TypeError(f"without a path, set file_format={' | '.join(_FORMATS)}")
        file_format = Path(file).suffix.removeprefix(".")
    if file_format not in _FORMATS:
        hint = did_you_mean(file_format, _FORMATS) or f"use one of {', '.join(_FORMATS)}"
        raise TypeError(f"unsupported format {file_format!r}: {hint}")
    return _FORMATS[file_format]


def _load(stream: IO[Any], kind: str, trusted: bool, kwargs: Mapping[str, Any]) -> Any:
    if kind == "json":
        return json.load(stream, **kwargs)
    if kind == "yaml":
        return yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return (pickle.Unpickler if trusted else SafeUnpickler)(stream, **kwargs).load()


class SafeUnpickler(pickle.Unpickler):
    """An unpickler for plain data, arrays and tensors, which rejects everything that could run code."""

    remedy = "load it with trusted=True"

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if name in _SAFE_GLOBALS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"this pickle contains {module}.{name}, which could run code; if you trust its source, {self.remedy}"
        )


def to_plain(value: Any) -> Any:
    """Convert a value that JSON does not support: arrays, tensors, sets and ranges become lists."""
    if isinstance(value, set | range):
        return list(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is not JSON serializable")


_DUMPERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "json": lambda obj, kwargs: to_json(obj, **{"default": to_plain, **kwargs}),
    "yaml": lambda obj, kwargs: yaml.dump(obj, **{"sort_keys": False, "allow_unicode": True, **kwargs}),
    "pickle": lambda obj, kwargs: pickle.dumps(obj, **kwargs),
}


class LocalFiles:
    """Files on a disk, by the names of MMEngine's storage backends."""

    def get(self, filepath: Any) -> bytes:
        """Return the content of a file as bytes."""
        return Path(filepath).read_bytes()

    def get_text(self, filepath: Any, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        return Path(filepath).read_text(encoding)

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write bytes to a file, whose folder is created."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        Path(filepath).write_bytes(obj)

    def put_text(self, obj: str, filepath: Any, encoding: str = "utf-8") -> None:
        """Write text to a file, whose folder is created."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        Path(filepath).write_text(obj, encoding)

    def exists(self, filepath: Any) -> bool:
        """Return whether there is a file or folder."""
        return os.path.exists(filepath)  # noqa: PTH110  # False for ""

    def isdir(self, filepath: Any) -> bool:
        """Return whether there is a folder."""
        return os.path.isdir(filepath)  # noqa: PTH112

    def isfile(self, filepath: Any) -> bool:
        """Return whether there is a file."""
        return os.path.isfile(filepath)  # noqa: PTH113

    def join_path(self, filepath: Any, *filepaths: Any) -> str:
        """Join parts of a path."""
        return str(os.path.join(filepath, *filepaths))  # noqa: PTH118  # which keeps a leading ./

    @contextmanager
    def get_local_path(self, filepath: Any) -> Iterator[Any]:
        """Yield the path itself."""
        yield filepath

    def copyfile(self, src: Any, dst: Any) -> Any:
        """Copy a file to a file or into a folder; return the path of the copy."""
        return shutil.copy(src, dst)

    def copytree(self, src: Any, dst: Any) -> Any:
        """Copy a folder to one that does not exist yet."""
        return shutil.copytree(src, dst)

    copyfile_from_local = copyfile_to_local = copyfile
    copytree_from_local = copytree_to_local = copytree

    def remove(self, filepath: Any) -> None:
        """Remove a file."""
        if self.isdir(filepath):
            raise IsADirectoryError(f"{filepath} is a folder: use rmtree")
        Path(filepath).unlink()

    def rmtree(self, dir_path: Any) -> None:
        """Remove a folder with all it contains."""
        shutil.rmtree(dir_path)
