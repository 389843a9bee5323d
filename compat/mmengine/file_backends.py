"""Storage backends of MMEngine: where the functions of ``mmengine.fileio`` read and write files."""

import logging
import os
import re
import shutil
import sys
import tempfile
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from trainwright.compat.mmengine.utils import is_filepath, mkdir_or_exist, walk
from trainwright.engine import print_log
from trainwright.engine.fileio import LocalFiles


class BaseStorageBackend(metaclass=ABCMeta):
    """Base class of storage backends, which read bytes and text from a path or URL."""

    _allow_symlink = False

    @property
    def allow_symlink(self) -> bool:
        """Whether the backend can create symbolic links."""
        return self._allow_symlink

    @property
    def name(self) -> str:
        """Name of the class."""
        return type(self).__name__

    @abstractmethod
    def get(self, filepath: Any) -> Any:
        """Return the content of a file as bytes."""

    @abstractmethod
    def get_text(self, filepath: Any) -> Any:
        """Return the content of a file as text."""


class LocalBackend(LocalFiles, BaseStorageBackend):
    """Files on a disk."""

    _allow_symlink = True

    def copy_if_symlink_fails(self, src: Any, dst: Any) -> bool:
        """Create a symbolic link, or else a copy; return whether it is a link."""
        try:
            Path(dst).symlink_to(src)
        except OSError:
            (self.copyfile if self.isfile(src) else self.copytree)(src, dst)
            return False
        return True

    def list_dir_or_file(
        self, dir_path: Any, list_dir: bool = True, list_file: bool = True, suffix: Any = None, recursive: bool = False
    ) -> Iterator[str]:
        """Return an iterator over folders and files that are not hidden, relative to a folder.

        Args:
            dir_path: the folder.
            list_dir: yield folders.
            list_file: yield files.
            suffix: the end of the names of files to yield, or a tuple of several; requires ``list_dir=False``.
            recursive: descend into folders.
        """
        _check_suffix(suffix, list_dir)
        return (
            path
            for path, is_file in walk(str(dir_path), recursive)
            if (list_file and (suffix is None or path.endswith(suffix)) if is_file else list_dir)
        )


class HardDiskBackend(LocalBackend):
    """The old name of :class:`LocalBackend`."""


class HTTPBackend(BaseStorageBackend):
    """Files on a web server, for reading only."""

    def get(self, filepath: str) -> bytes:
        """Download a file."""
        with urlopen(filepath) as response:
            return response.read()  # type: ignore[no-any-return]

    def get_text(self, filepath: str, encoding: str = "utf-8") -> str:
        """Download a file and return its text."""
        return self.get(filepath).decode(encoding)

    @contextmanager
    def get_local_path(self, filepath: str) -> Iterator[str]:
        """Yield the path of a copy, which is removed at the end of the ``with`` block."""
        with _temporary_file(self.get(filepath)) as path:
            yield path


class LmdbBackend(BaseStorageBackend):
    """An LMDB database, whose keys are the paths; for reading only. It needs the package ``lmdb``.

    Args:
        db_path: folder or file of the database.
        readonly: open it for reading only.
        lock: lock it; see :func:`lmdb.open`, also for the others.
        readahead: let the operating system read ahead.
        **kwargs: further arguments of :func:`lmdb.open`.
    """

    def __init__(
        self, db_path: Any, readonly: bool = True, lock: bool = False, readahead: bool = False, **kwargs: Any
    ) -> None:
        self._open = _required("lmdb", "LmdbBackend", "pip install lmdb").open
        self.db_path = str(db_path)
        self.readonly, self.lock, self.readahead = readonly, lock, readahead
        self.kwargs = kwargs
        self._client: Any = None

    def get(self, filepath: Any) -> Any:
        """Return the value of a key as bytes, or None if it does not exist."""
        if self._client is None:
            options = {"readonly": self.readonly, "lock": self.lock, "readahead": self.readahead, **self.kwargs}
            self._client = self._open(self.db_path, **options)
        with self._client.begin(write=False) as transaction:
            return transaction.get(str(filepath).encode("ascii"))

    def get_text(self, filepath: Any, encoding: Any = None) -> str:
        """Raise a NotImplementedError, as in MMEngine."""
        raise NotImplementedError("LmdbBackend reads bytes only: use get()")

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self._client.close()


class MemcachedBackend(BaseStorageBackend):
    """Files cached by Memcached servers, for reading only. It needs the package ``mc``.

    Args:
        server_list_cfg: configuration file of the servers.
        client_cfg: configuration file of the client.
        sys_path: folder of the package ``mc``.
    """

    def __init__(self, server_list_cfg: str, client_cfg: str, sys_path: str | None = None) -> None:
        if sys_path is not None:
            sys.path.append(sys_path)
        self._package = _required("mc", "MemcachedBackend", "use backend='local' for files on a disk")
        self.server_list_cfg, self.client_cfg = server_list_cfg, client_cfg
        self._client = self._package.MemcachedClient.GetInstance(server_list_cfg, client_cfg)
        self._mc_buffer = self._package.pyvector()

    def get(self, filepath: Any) -> Any:
        """Return the content of a file."""
        self._client.Get(str(filepath), self._mc_buffer)
        return self._package.ConvertBuffer(self._mc_buffer)

    def get_text(self, filepath: Any, encoding: Any = None) -> str:
        """Raise a NotImplementedError, as in MMEngine."""
        raise NotImplementedError("MemcachedBackend reads bytes only: use get()")


class PetrelBackend(BaseStorageBackend):
    """Files on S3 or Ceph (``s3://…``, ``petrel://…``). It needs the package ``petrel_client``.

    Args:
        path_mapping: what to replace in each path, once, by what.
        enable_mc: cache files in memory.
        conf_path: configuration file of the client.
    """

    def __init__(
        self, path_mapping: Mapping[str, str] | None = None, enable_mc: bool = True, conf_path: str | None = None
    ) -> None:
        hint = "mount the storage and use paths on this machine, or register your own backend for the prefix"
        client = _required("petrel_client.client", "PetrelBackend", hint)
        self._client = client.Client(conf_path=conf_path, enable_mc=enable_mc)
        assert isinstance(path_mapping, dict) or path_mapping is None
        self.path_mapping = path_mapping

    def _map_path(self, filepath: Any) -> str:
        path = str(filepath)
        for old, new in (self.path_mapping or {}).items():
            path = path.replace(old, new, 1)
        return path

    def _format_path(self, filepath: str) -> str:
        return re.sub(r"\\+", "/", filepath)

    def _replace_prefix(self, filepath: Any) -> str:
        return str(filepath).replace("petrel://", "s3://")

    def _url(self, filepath: Any) -> str:
        return self._replace_prefix(self._format_path(self._map_path(filepath)))

    def _method(self, name: str) -> Callable[..., Any]:
        if not callable(getattr(self._client, name, None)):
            raise NotImplementedError(f"this version of petrel_client has no {name}(): update it")
        return getattr(self._client, name)  # type: ignore[no-any-return]

    def get(self, filepath: Any) -> Any:
        """Return the content of a file as bytes."""
        return self._client.Get(self._url(filepath))

    def get_text(self, filepath: Any, encoding: str = "utf-8") -> str:
        """Return the content of a file as text."""
        return str(self.get(filepath), encoding=encoding)

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write bytes to a file."""
        self._client.put(self._url(filepath), obj)

    def put_text(self, obj: str, filepath: Any, encoding: str = "utf-8") -> None:
        """Write text to a file."""
        self.put(obj.encode(encoding), filepath)

    def exists(self, filepath: Any) -> bool:
        """Return whether there is a file or folder."""
        return self.isfile(filepath) or self.isdir(filepath)

    def isdir(self, filepath: Any) -> bool:
        """Return whether there is a folder."""
        return bool(self._method("isdir")(self._url(filepath)))

    def isfile(self, filepath: Any) -> bool:
        """Return whether there is a file."""
        return bool(self._method("contains")(self._url(filepath)))

    def join_path(self, filepath: Any, *filepaths: Any) -> str:
        """Join parts of a path with slashes."""
        first, *others = (self._format_path(self._map_path(path)) for path in (filepath, *filepaths))
        return "/".join([first.removesuffix("/"), *(path.lstrip("/") for path in others)])

    @contextmanager
    def get_local_path(self, filepath: Any) -> Iterator[str]:
        """Yield the path of a copy, which is removed at the end of the ``with`` block."""
        assert self.isfile(filepath), f"{filepath} does not exist"
        with _temporary_file(self.get(filepath)) as path:
            yield path

    def copyfile(self, src: Any, dst: Any) -> str:
        """Copy a file to a file or into a folder, both on this storage; return the path of the copy."""
        source, target = self._format_path(self._map_path(src)), self._format_path(self._map_path(dst))
        if self.isdir(target):
            target = self.join_path(target, source.split("/")[-1])
        if source == target:
            raise shutil.SameFileError(f"{source} cannot be copied to itself")
        self.put(self.get(source), target)
        return target

    def copytree(self, src: Any, dst: Any) -> str:
        """Copy a folder to one that does not exist yet, both on this storage."""
        target = self._new_folder(dst)
        for path in self.list_dir_or_file(src, list_dir=False, recursive=True):
            self.put(self.get(self.join_path(src, path)), self.join_path(target, path))
        return target

    def copyfile_from_local(self, src: Any, dst: Any) -> str:
        """Upload a file to a file or into a folder; return its path there."""
        target = self._format_path(self._map_path(dst))
        if self.isdir(target):
            target = self.join_path(target, Path(src).name)
        self.put(Path(src).read_bytes(), target)
        return target

    def copytree_from_local(self, src: Any, dst: Any) -> str:
        """Upload a folder to one that does not exist yet."""
        target = self._new_folder(dst)
        for path in filter(Path.is_file, Path(src).rglob("*")):
            self.put(path.read_bytes(), self.join_path(target, path.relative_to(src).as_posix()))
        return target

    def copyfile_to_local(self, src: Any, dst: Any) -> Any:
        """Download a file to a file or into a folder; return the path of the copy."""
        if Path(dst).is_dir():
            dst = type(dst)(Path(dst) / Path(src).name)
        Path(dst).write_bytes(self.get(src))
        return dst

    def copytree_to_local(self, src: Any, dst: Any) -> Any:
        """Download a folder."""
        for path in self.list_dir_or_file(src, list_dir=False, recursive=True):
            file = Path(dst) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.get(self.join_path(src, path)))
        return dst

    def remove(self, filepath: Any) -> None:
        """Remove a file."""
        delete = self._method("delete")
        if not self.exists(filepath):
            raise FileNotFoundError(f"{filepath} does not exist")
        if self.isdir(filepath):
            raise IsADirectoryError(f"{filepath} is a folder: use rmtree")
        delete(self._url(filepath))

    def rmtree(self, dir_path: Any) -> None:
        """Remove all files in a folder."""
        for path in self.list_dir_or_file(dir_path, list_dir=False, recursive=True):
            self.remove(self.join_path(dir_path, path))

    def copy_if_symlink_fails(self, src: Any, dst: Any) -> bool:
        """Create a copy, since there are no links on this storage; return False."""
        (self.copyfile if self.isfile(src) else self.copytree)(src, dst)
        return False

    def list_dir_or_file(
        self, dir_path: Any, list_dir: bool = True, list_file: bool = True, suffix: Any = None, recursive: bool = False
    ) -> Iterator[str]:
        """Return an iterator over folders and files; see :meth:`LocalBackend.list_dir_or_file`."""
        entries = self._method("list")
        _check_suffix(suffix, list_dir)
        root = self._url(dir_path).removesuffix("/") + "/"

        def visit(folder: str) -> Iterator[str]:
            for entry in entries(folder):
                path = self.join_path(folder, entry)
                relative = path[len(root) :].removesuffix("/")
                if not entry.endswith("/"):
                    if list_file and (suffix is None or relative.endswith(suffix)):
                        yield relative
                    continue
                if list_dir:
                    yield relative
                if recursive:
                    yield from visit(path)

        return visit(root)

    def generate_presigned_url(self, url: str, client_method: str = "get_object", expires_in: int = 3600) -> str:
        """Return a URL that gives access to a file for some time, in seconds."""
        return self._client.generate_presigned_url(url, client_method, expires_in)  # type: ignore[no-any-return]

    def _new_folder(self, folder: Any) -> str:
        path = self._format_path(self._map_path(folder))
        if self.exists(path):
            raise FileExistsError(f"{path} exists already")
        return path


def _required(module: str, backend: str, hint: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{backend} needs the package {module.partition('.')[0]}, not installed: {hint}") from error


def _check_suffix(suffix: Any, list_dir: bool) -> None:
    if suffix is not None and list_dir:
        raise TypeError("suffix selects files: set list_dir=False")
    if suffix is not None and not isinstance(suffix, str | tuple):
        raise TypeError(f"suffix must be a string or a tuple of strings, got {suffix!r}")


@contextmanager
def _temporary_file(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_bytes(content)
        yield str(file)


# The backends by name and by the prefix of a URL

backends: dict[str, type[BaseStorageBackend]] = {
    "local": LocalBackend,
    "memcached": MemcachedBackend,
    "lmdb": LmdbBackend,
    "petrel": PetrelBackend,
    "http": HTTPBackend,
}
prefix_to_backends: dict[str, type[BaseStorageBackend]] = {
    "": LocalBackend,
    "petrel": PetrelBackend,
    "s3": PetrelBackend,
    "http": HTTPBackend,
    "https": HTTPBackend,
}


def _register_backend(
    name: str,
    backend: Any,
    force: bool = False,
    prefixes: Any = None,
    *,
    by_name: dict[str, type[BaseStorageBackend]] = backends,
    by_prefix: dict[str, type[BaseStorageBackend]] = prefix_to_backends,
    error: type[Exception] = ValueError,
) -> None:
    """Register a backend; see :func:`register_backend`."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a backend must be a string, got {name!r}")
    if not isinstance(backend, type) or not issubclass(backend, BaseStorageBackend):
        raise TypeError(f"a backend must be a subclass of BaseStorageBackend, got {backend!r}")
    prefixes = [prefixes] if isinstance(prefixes, str) else prefixes or []
    assert isinstance(prefixes, list | tuple)
    taken = [name] if name in by_name else [prefix for prefix in prefixes if prefix in by_prefix]
    if taken and not force:
        raise error(f"{taken[0]!r} is already registered as a backend: use force=True to replace it")
    by_name[name] = backend
    by_prefix.update(dict.fromkeys(prefixes, backend))


def register_backend(name: str, backend: Any = None, force: bool = False, prefixes: Any = None) -> Any:
    """Register a backend; can be used as a decorator.

    Args:
        name: its name, for ``backend_args=dict(backend=name)``.
        backend: a subclass of :class:`BaseStorageBackend`; if None, a decorator is returned.
        force: replace a backend of the same name or prefix.
        prefixes: the prefix of its URLs, or a list of several.

    Raises:
        ValueError: the name or prefix is taken.
        TypeError: ``backend`` is not a backend.
    """
    if backend is not None:
        return _register_backend(name, backend, force, prefixes)

    def register(backend_class: Any) -> Any:
        _register_backend(name, backend_class, force, prefixes)
        return backend_class

    return register


class FileClient:
    """The older way to choose a backend; it has the methods of the backend.

    Args:
        backend: name of the backend: ``"disk"`` for files on a disk, or a name as in :func:`register_backend`.
        prefix: prefix of a URL, instead of the name.
        **kwargs: arguments of the backend.

    Attributes:
        client: the backend.
    """

    _backends: dict[str, type[BaseStorageBackend]] = {"disk": HardDiskBackend, **backends}  # noqa: RUF012
    _prefix_to_backends: dict[str, type[BaseStorageBackend]] = dict(prefix_to_backends)  # noqa: RUF012
    _instances: dict[str, "FileClient"] = {}  # noqa: RUF012
    client: Any

    def __new__(cls, backend: str | None = None, prefix: str | None = None, **kwargs: Any) -> "FileClient":
        if backend is None and prefix is None:
            backend = "disk"
        chosen, known = (prefix, cls._prefix_to_backends) if backend is None else (backend, cls._backends)
        if chosen not in known:
            raise ValueError(f"no backend {chosen!r}: choose from {', '.join(filter(None, known))}")
        key = f"{backend}:{prefix}:{kwargs}"
        client = cls._instances.get(key)
        if client is None or type(client.client) is not known[chosen]:
            client = cls._instances[key] = super().__new__(cls)
            client.client = known[chosen](**kwargs)
        return client

    def __getattr__(self, name: str) -> Any:
        if name == "client":
            raise AttributeError(name)
        return getattr(self.client, name)

    @staticmethod
    def parse_uri_prefix(uri: Any) -> str | None:
        """Return the prefix of a URL, or None for a path."""
        return parse_prefix(uri) or None

    @classmethod
    def infer_client(cls, file_client_args: Mapping[str, Any] | None = None, uri: Any = None) -> "FileClient":
        """Return the client for some arguments, or else that for a path or URL."""
        assert file_client_args is not None or uri is not None
        return cls(prefix=cls.parse_uri_prefix(uri)) if file_client_args is None else cls(**file_client_args)

    @classmethod
    def register_backend(cls, name: str, backend: Any = None, force: bool = False, prefixes: Any = None) -> Any:
        """Register a backend for this class alone; see :func:`register_backend`."""

        def register(backend_class: Any) -> Any:
            by_name, by_prefix = cls._backends, cls._prefix_to_backends
            _register_backend(
                name, backend_class, force, prefixes, by_name=by_name, by_prefix=by_prefix, error=KeyError
            )
            return backend_class

        return register if backend is None else register(backend) and None


def parse_prefix(uri: Any) -> str:
    """Return the prefix of a URL, without the name of a cluster in ``cluster:s3://…``; "" for a path."""
    assert is_filepath(uri), f"expected a path or URL, got {uri!r}"
    prefix, separator, _ = str(uri).partition("://")
    return prefix.rpartition(":")[2] if separator else ""
