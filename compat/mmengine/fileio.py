"""Names of ``mmengine.fileio``: reading and writing files on any storage."""

import json
import pickle
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any

import yaml

from trainwright.compat.libraries import LIBRARIES
from trainwright.compat.mmengine.file_backends import (
    BaseStorageBackend,
    FileClient,
    HardDiskBackend,
    HTTPBackend,
    LmdbBackend,
    LocalBackend,
    MemcachedBackend,
    PetrelBackend,
    _register_backend,
    backends,
    prefix_to_backends,
    register_backend,
)
from trainwright.compat.mmengine.file_backends import parse_prefix as _parse_uri_prefix
from trainwright.compat.mmengine.utils import has_method, is_filepath, is_list_of, is_str
from trainwright.engine import BaseDataElement, ConfigDict, print_log
from trainwright.engine.fileio import SafeUnpickler
from trainwright.engine.fileio import to_plain as set_default

backend_instances: dict[str, BaseStorageBackend] = {}


def get_file_backend(
    uri: Any = None, *, backend_args: Mapping[str, Any] | None = None, enable_singleton: bool = False
) -> Any:
    """Return the backend for a path or URL.

    Args:
        uri: the path or URL, whose prefix decides.
        backend_args: arguments of the backend; ``backend``, its name, decides if present.
        enable_singleton: return the same object for the same arguments.

    Raises:
        ValueError: neither ``uri`` nor the name of the backend is given.
        KeyError: no backend has this name or prefix.
    """
    arguments = dict(backend_args or {})
    if uri is None and "backend" not in arguments:
        raise ValueError("set uri, or the name of the backend in backend_args=dict(backend=…)")
    prefix = "" if uri is None else _parse_uri_prefix(uri)
    if not enable_singleton:
        return _get_file_backend(prefix, arguments)
    key = f"{prefix}:{json.dumps(arguments)}"
    if key not in backend_instances:
        backend_instances[key] = _get_file_backend(prefix, arguments)
    return backend_instances[key]


def _get_file_backend(prefix: str, backend_args: Mapping[str, Any]) -> Any:
    arguments = dict(backend_args)
    name = arguments.pop("backend", None)
    chosen, known = (prefix, prefix_to_backends) if name is None else (name, backends)
    if chosen not in known:
        raise KeyError(f"no backend {chosen!r}: choose from {', '.join(filter(None, known))}, or register it")
    return known[chosen](**arguments)


def _shared(uri: Any, backend_args: Mapping[str, Any] | None) -> Any:
    return get_file_backend(uri, backend_args=backend_args, enable_singleton=True)


def get(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of a file as bytes."""
    return _shared(filepath, backend_args).get(filepath)  # type: ignore[no-any-return]


def get_text(filepath: Any, encoding: str = "utf-8", backend_args: Mapping[str, Any] | None = None) -> str:
    """Return the content of a file as text."""
    return _shared(filepath, backend_args).get_text(filepath, encoding)  # type: ignore[no-any-return]


def put(obj: bytes, filepath: Any, backend_args: Mapping[str, Any] | None = None) -> None:
    """Write bytes to a file."""
    _shared(filepath, backend_args).put(obj, filepath)


def put_text(obj: str, filepath: Any, backend_args: Mapping[str, Any] | None = None) -> None:
    """Write text to a file."""
    _shared(filepath, backend_args).put_text(obj, filepath)


def exists(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> bool:
    """Return whether there is a file or folder."""
    return _shared(filepath, backend_args).exists(filepath)  # type: ignore[no-any-return]


def isdir(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> bool:
    """Return whether there is a folder."""
    return _shared(filepath, backend_args).isdir(filepath)  # type: ignore[no-any-return]


def isfile(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> bool:
    """Return whether there is a file."""
    return _shared(filepath, backend_args).isfile(filepath)  # type: ignore[no-any-return]


def join_path(filepath: Any, *filepaths: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Join parts of a path."""
    return _shared(filepath, backend_args).join_path(filepath, *filepaths)


@contextmanager
def get_local_path(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Yield a path on this machine: that of the file, or of a copy that lasts as long as the ``with`` block."""
    with _shared(filepath, backend_args).get_local_path(str(filepath)) as path:
        yield path


def copyfile(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a file within a storage; return the path of the copy."""
    return _shared(src, backend_args).copyfile(src, dst)


def copytree(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a folder within a storage; return the path of the copy."""
    return _shared(src, backend_args).copytree(src, dst)


def copyfile_from_local(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a file of this machine to a storage; return the path of the copy."""
    return _shared(dst, backend_args).copyfile_from_local(src, dst)


def copytree_from_local(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a folder of this machine to a storage; return the path of the copy."""
    return _shared(dst, backend_args).copytree_from_local(src, dst)


def copyfile_to_local(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a file of a storage to this machine; return the path of the copy."""
    return _shared(src, backend_args).copyfile_to_local(src, dst)


def copytree_to_local(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> Any:
    """Copy a folder of a storage to this machine; return the path of the copy."""
    return _shared(src, backend_args).copytree_to_local(src, dst)


def remove(filepath: Any, backend_args: Mapping[str, Any] | None = None) -> None:
    """Remove a file."""
    _shared(filepath, backend_args).remove(filepath)


def rmtree(dir_path: Any, backend_args: Mapping[str, Any] | None = None) -> None:
    """Remove a folder with all it contains."""
    _shared(dir_path, backend_args).rmtree(dir_path)


def copy_if_symlink_fails(src: Any, dst: Any, backend_args: Mapping[str, Any] | None = None) -> bool:
    """Create a symbolic link, or else a copy; return whether it is a link."""
    return _shared(src, backend_args).copy_if_symlink_fails(src, dst)  # type: ignore[no-any-return]


def list_dir_or_file(
    dir_path: Any,
    list_dir: bool = True,
    list_file: bool = True,
    suffix: Any = None,
    recursive: bool = False,
    backend_args: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Yield folders and files, relative to a folder; see :meth:`LocalBackend.list_dir_or_file`."""
    yield from _shared(dir_path, backend_args).list_dir_or_file(dir_path, list_dir, list_file, suffix, recursive)


def generate_presigned_url(
    url: str,
    client_method: str = "get_object",
    expires_in: int = 3600,
    backend_args: Mapping[str, Any] | None = None,
) -> str:
    """Return a URL that gives access to a file for some time, in seconds."""
    return _shared(url, backend_args).generate_presigned_url(url, client_method, expires_in)  # type: ignore[no-any-return]


# Objects in files


class BaseFileHandler(metaclass=ABCMeta):
    """Base class of file formats.

    Attributes:
        str_like: whether the format is text rather than bytes.
    """

    str_like = True

    @abstractmethod
    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return the object in an open file."""

    @abstractmethod
    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file."""

    @abstractmethod
    def dump_to_str(self, obj: Any, **kwargs: Any) -> Any:
        """Return an object as text or bytes."""

    def load_from_path(self, filepath: Any, mode: str = "r", **kwargs: Any) -> Any:
        """Return the object in a file."""
        with Path(filepath).open(mode) as file:
            return self.load_from_fileobj(file, **kwargs)

    def dump_to_path(self, obj: Any, filepath: Any, mode: str = "w", **kwargs: Any) -> None:
        """Write an object to a file."""
        with Path(filepath).open(mode) as file:
            self.dump_to_fileobj(obj, file, **kwargs)


class JsonHandler(BaseFileHandler):
    """JSON, in which sets, ranges, arrays and tensors become lists."""

    def load_from_fileobj(self, file: Any) -> Any:  # type: ignore[override]
        """Return the object in an open file."""
        return json.load(file)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file."""
        json.dump(obj, file, **{"default": set_default, **kwargs})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        """Return an object as text."""
        return json.dumps(obj, **{"default": set_default, **kwargs})


class YamlHandler(BaseFileHandler):
    """YAML. Tags that would run code are refused, unless ``Loader=yaml.UnsafeLoader``."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Return the object in an open file."""
        return yaml.load(file, **{"Loader": getattr(yaml, "CFullLoader", yaml.FullLoader), **kwargs})

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file."""
        yaml.dump(obj, file, **{"Dumper": getattr(yaml, "CDumper", yaml.Dumper), **kwargs})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> Any:
        """Return an object as text."""
        return yaml.dump(obj, **{"Dumper": getattr(yaml, "CDumper", yaml.Dumper), **kwargs})


class PickleHandler(BaseFileHandler):
    """Pickles of plain data, arrays, tensors, and the data elements, boxes and masks of OpenMMLab's libraries.

    Args:
        trusted: allow any class, and thus code to run. To let a library load such files from a source you trust::

            register_handler(["pkl", "pickle"], trusted=True)(PickleHandler)
    """

    str_like = False

    def __init__(self, trusted: bool = False) -> None:
        self.trusted = trusted

    def load_from_fileobj(self, file: Any, *, trusted: bool | None = None, **kwargs: Any) -> Any:
        """Return the object in an open file.

        Raises:
            pickle.UnpicklingError: the file is not trusted, and contains other classes.
        """
        is_trusted = self.trusted if trusted is None else trusted
        return (pickle.Unpickler if is_trusted else _Unpickler)(file, **kwargs).load()

    def load_from_path(self, filepath: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return the object in a file."""
        return super().load_from_path(filepath, mode="rb", **kwargs)

    def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
        """Write an object to an open file."""
        pickle.dump(obj, file, **{"protocol": 2, **kwargs})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> bytes:
        """Return an object as bytes."""
        return pickle.dumps(obj, **{"protocol": 2, **kwargs})

    def dump_to_path(self, obj: Any, filepath: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Write an object to a file."""
        super().dump_to_path(obj, filepath, mode="wb", **kwargs)


class _Unpickler(SafeUnpickler):
    """An unpickler that also allows the classes that hold data in OpenMMLab's libraries."""

    remedy = (
        "load it with trusted=True; if a library loads it, call "
        'mmengine.fileio.register_handler(["pkl", "pickle"], trusted=True)(mmengine.fileio.PickleHandler) before'
    )

    def find_class(self, module: str, name: str) -> Any:
        package, *folders = module.split(".")
        if (
            module == "trainwright.engine"
            or package == "mmengine"
            or (package in LIBRARIES and "structures" in folders)
        ):
            found = getattr(import_module(module), name, None)
            if isinstance(found, type) and _is_data(found):
                return found
        return super().find_class(module, name)


def _is_data(cls: type) -> bool:
    """Return whether objects of a class only hold data."""
    package, *folders = cls.__module__.split(".")
    return issubclass(cls, BaseDataElement | ConfigDict) or (package in LIBRARIES and "structures" in folders)


file_handlers: dict[str, BaseFileHandler] = {
    "json": JsonHandler(),
    "yaml": YamlHandler(),
    "yml": YamlHandler(),
    "pickle": PickleHandler(),
    "pkl": PickleHandler(),
}


def _register_handler(handler: Any, file_formats: Any) -> None:
    """Register a format for one extension or several."""
    if not isinstance(handler, BaseFileHandler):
        raise TypeError(f"a handler must be a BaseFileHandler, got {type(handler)}")
    extensions = [file_formats] if isinstance(file_formats, str) else file_formats
    if not is_list_of(extensions, str):
        raise TypeError(f"file_formats must be a string or a list of strings, got {file_formats!r}")
    file_handlers.update(dict.fromkeys(extensions, handler))


def register_handler(file_formats: Any, **kwargs: Any) -> Callable[[type], type]:
    """Return a decorator that registers a format, a subclass of :class:`BaseFileHandler`.

    Args:
        file_formats: the extension of its files, or a list of several.
        **kwargs: arguments of the class.
    """

    def register(cls: type) -> type:
        _register_handler(cls(**kwargs), file_formats)
        return cls

    return register


def load(
    file: Any,
    file_format: str | None = None,
    file_client_args: Mapping[str, Any] | None = None,
    backend_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Load an object from a JSON, YAML or pickle file, or one of a registered format.

    Args:
        file: a path, a URL or an open file.
        file_format: the format; if None, the extension of the path.
        file_client_args: the older form of ``backend_args``.
        backend_args: arguments of the storage backend, see :func:`get_file_backend`.
        **kwargs: passed to the handler of the format; ``trusted=True`` lets a pickle run code.

    Raises:
        TypeError: the format is unknown, or ``file`` is neither a path nor a file.
        pickle.UnpicklingError: a pickle that is not trusted contains unknown classes.
    """
    handler = _handler(file, file_format)
    storage = _storage(file, file_client_args, backend_args)
    if storage is not None:
        content = storage.get_text(str(file)) if handler.str_like else storage.get(str(file))
        file = StringIO(content) if handler.str_like else BytesIO(content)
    elif not hasattr(file, "read"):
        raise TypeError(f"expected a path or an open file, got {file!r}")
    return handler.load_from_fileobj(file, **kwargs)


def dump(
    obj: Any,
    file: Any = None,
    file_format: str | None = None,
    file_client_args: Mapping[str, Any] | None = None,
    backend_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Dump an object to a JSON, YAML or pickle file, or one of a registered format.

    Args:
        obj: the object.
        file: a path, a URL or an open file; if None, the text (or bytes, for a pickle) is returned.
        file_format: the format; if None, the extension of the path.
        file_client_args: the older form of ``backend_args``.
        backend_args: arguments of the storage backend, see :func:`get_file_backend`.
        **kwargs: passed to the handler of the format.

    Raises:
        ValueError: neither ``file`` nor ``file_format`` is given.
        TypeError: the format is unknown, or ``file`` is neither a path nor a file.
    """
    if file is None and file_format is None:
        raise ValueError(f"without a file, set file_format={' | '.join(file_handlers)}")
    handler = _handler(file, file_format)
    if file is None:
        return handler.dump_to_str(obj, **kwargs)
    storage = _storage(file, file_client_args, backend_args)
    if storage is None:
        if not hasattr(file, "write"):
            raise TypeError(f"expected a path or an open file, got {file!r}")
        return handler.dump_to_fileobj(obj, file, **kwargs)
    stream: Any = StringIO() if handler.str_like else BytesIO()
    handler.dump_to_fileobj(obj, stream, **kwargs)
    return (storage.put_text if handler.str_like else storage.put)(stream.getvalue(), str(file))


def _handler(file: Any, file_format: str | None) -> BaseFileHandler:
    if file_format is None and is_filepath(file):
        file_format = str(file).split(".")[-1]
    if file_format not in file_handlers:
        raise TypeError(f"unsupported format {file_format!r}: use one of {', '.join(file_handlers)}")
    return file_handlers[file_format]


def _storage(file: Any, file_client_args: Mapping[str, Any] | None, backend_args: Mapping[str, Any] | None) -> Any:
    """Return the backend or client for a path or URL; None for an open file."""
    if file_client_args is not None:
        warnings.warn("file_client_args is deprecated: use backend_args", DeprecationWarning, stacklevel=3)
        if backend_args is not None:
            raise ValueError("set either file_client_args or backend_args")
    if not is_filepath(file):
        return None
    if file_client_args is not None:
        return FileClient.infer_client(file_client_args, file)
    return get_file_backend(file, backend_args=backend_args)


def list_from_file(
    filename: Any,
    prefix: str = "",
    offset: int = 0,
    max_num: int = 0,
    encoding: str = "utf-8",
    file_client_args: Mapping[str, Any] | None = None,
    backend_args: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the lines of a text file.

    Args:
        filename: a path or URL.
        prefix: prepended to each line.
        offset: number of lines to skip at the beginning.
        max_num: maximum number of lines; all if 0.
        encoding: the encoding of the file.
        file_client_args: the older form of ``backend_args``.
        backend_args: arguments of the storage backend, see :func:`get_file_backend`.
    """
    text = _storage(filename, file_client_args, backend_args).get_text(filename, encoding)
    lines = [prefix + line.rstrip("\n\r") for line in StringIO(text)]
    return lines[offset : offset + max_num] if max_num > 0 else lines[offset:]


def dict_from_file(
    filename: Any,
    key_type: Callable[[str], Any] = str,
    encoding: str = "utf-8",
    file_client_args: Mapping[str, Any] | None = None,
    backend_args: Mapping[str, Any] | None = None,
) -> dict[Any, Any]:
    """Return the lines of a text file as a dictionary: the first word of each, and the second or a list of the others.

    Args:
        filename: a path or URL.
        key_type: converts the first words.
        encoding: the encoding of the file.
        file_client_args: the older form of ``backend_args``.
        backend_args: arguments of the storage backend, see :func:`get_file_backend`.
    """
    text = _storage(filename, file_client_args, backend_args).get_text(filename, encoding)
    mapping: dict[Any, Any] = {}
    for line in StringIO(text):
        key, *values = line.split()
        assert values, f"{filename} has a line with fewer than two words: {line!r}"
        mapping[key_type(key)] = values if len(values) > 1 else values[0]
    return mapping
