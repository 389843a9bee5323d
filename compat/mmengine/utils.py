"""Names of ``mmengine.utils``: small helpers for types, paths, versions and packages."""

import functools
import importlib.metadata
import importlib.util
import inspect
import itertools
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.version import parse

from trainwright.compat.mmengine.managers import ManagerMeta, ManagerMixin, T, _accquire_lock, _lock, _release_lock
from trainwright.compat.mmengine.timing import (
    ProgressBar,
    Timer,
    TimerError,
    _g_timers,
    check_time,
    init_pool,
    track_iter_progress,
    track_parallel_progress,
    track_progress,
    track_progress_rich,
)
from trainwright.engine import print_log

# Types and sequences


def to_ntuple(n: int) -> Callable[[Any], Any]:
    """Return a function that repeats a value ``n`` times, and returns an iterable unchanged."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, Iterable) else (x,) * n

    return parse


_ntuple = to_ntuple
to_1tuple, to_2tuple, to_3tuple, to_4tuple = map(to_ntuple, (1, 2, 3, 4))


def is_str(x: Any) -> bool:
    """Return whether a value is a string."""
    return isinstance(x, str)


def iter_cast(inputs: Iterable[Any], dst_type: type, return_type: type | None = None) -> Any:
    """Return the items converted to a type: as a map, or as a container of ``return_type``."""
    if not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be iterable, got {type(inputs)}")
    if not isinstance(dst_type, type):
        raise TypeError(f"dst_type must be a type, got {dst_type!r}")
    converted = map(dst_type, inputs)
    return converted if return_type is None else return_type(converted)


def list_cast(inputs: Iterable[Any], dst_type: type) -> list[Any]:
    """Return a list of the items converted to a type."""
    return iter_cast(inputs, dst_type, return_type=list)  # type: ignore[no-any-return]


def tuple_cast(inputs: Iterable[Any], dst_type: type) -> tuple[Any, ...]:
    """Return a tuple of the items converted to a type."""
    return iter_cast(inputs, dst_type, return_type=tuple)  # type: ignore[no-any-return]


def is_seq_of(seq: Any, expected_type: Any, seq_type: type | None = None) -> bool:
    """Return whether a value is a sequence, of ``seq_type`` if given, whose items all have a type."""
    assert seq_type is None or isinstance(seq_type, type)
    kind: Any = seq_type or Sequence
    return isinstance(seq, kind) and all(isinstance(item, expected_type) for item in seq)


def is_list_of(seq: Any, expected_type: Any) -> bool:
    """Return whether a value is a list whose items all have a type."""
    return is_seq_of(seq, expected_type, seq_type=list)


def is_tuple_of(seq: Any, expected_type: Any) -> bool:
    """Return whether a value is a tuple whose items all have a type."""
    return is_seq_of(seq, expected_type, seq_type=tuple)


def slice_list(in_list: list[Any], lens: Any) -> list[list[Any]]:
    """Split a list into parts.

    Args:
        in_list: the list.
        lens: the length of each part, or one length for all of them.
    """
    if isinstance(lens, int):
        assert len(in_list) % lens == 0
        lens = [lens] * (len(in_list) // lens)
    if not isinstance(lens, list):
        raise TypeError(f"lens must be an integer or a list of integers, got {lens!r}")
    if sum(lens) != len(in_list):
        raise ValueError(f"the lengths add up to {sum(lens)}, but the list has {len(in_list)} items")
    items = iter(in_list)
    return [list(itertools.islice(items, length)) for length in lens]


def concat_list(in_list: list[Any]) -> list[Any]:
    """Join lists to one."""
    return list(itertools.chain(*in_list))


def apply_to(data: Any, expr: Callable[[Any], Any], apply_func: Callable[[Any], Any]) -> Any:
    """Apply a function to those items in nested dictionaries, lists and tuples for which ``expr`` is true."""
    if isinstance(data, dict):
        result: Any = type(data)()
        for key, value in data.items():
            result[key] = apply_to(value, expr, apply_func)
        return result
    if isinstance(data, tuple | list):
        items: list[Any] = [apply_to(item, expr, apply_func) for item in data]
        return type(data)(*items) if hasattr(data, "_fields") else type(data)(items)
    return apply_func(data) if expr(data) else data


# Functions, classes and modules


def import_modules_from_strings(imports: Any, allow_failed_imports: bool = False) -> Any:
    """Import modules by name.

    Args:
        imports: a name, or a list of them.
        allow_failed_imports: warn of a module that cannot be imported, and return None in its place.
    """
    if not imports:
        return None
    if isinstance(imports, str):
        return import_modules_from_strings([imports], allow_failed_imports)[0]
    if not is_list_of(imports, str):
        raise TypeError(f"expected the name of a module or a list of names, got {imports!r}")
    imported: list[ModuleType | None] = []
    for name in imports:
        try:
            imported.append(import_module(name))
        except ImportError as error:
            if not allow_failed_imports:
                raise ImportError(f"cannot import {name}: {error}") from error
            warnings.warn(f"ignored {name}, which cannot be imported: {error}", UserWarning, stacklevel=2)
            imported.append(None)
    return imported


def check_prerequisites(
    prerequisites: Any,
    checker: Callable[[str], bool],
    msg_tmpl: str = 'Install "{}" first, which "{}" needs.',
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that raises a RuntimeError in each call of a function if something is missing.

    Args:
        prerequisites: a name, or several.
        checker: returns whether something with a name is there.
        msg_tmpl: the message, with the missing names and the name of the function.
    """

    def wrap(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapped_func(*args: Any, **kwargs: Any) -> Any:
            names = [prerequisites] if isinstance(prerequisites, str) else prerequisites
            if missing := [name for name in names if not checker(name)]:
                message = msg_tmpl.format(", ".join(missing), func.__name__)
                print(message)
                raise RuntimeError(message)
            return func(*args, **kwargs)

        return wrapped_func

    return wrap


def _check_py_package(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True


def _check_executable(cmd: str) -> bool:
    return shutil.which(cmd) is not None


def requires_package(prerequisites: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for functions that need Python packages."""
    return check_prerequisites(prerequisites, checker=_check_py_package)


def requires_executable(prerequisites: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for functions that need programs."""
    return check_prerequisites(prerequisites, checker=_check_executable)


def deprecated_api_warning(
    name_dict: dict[str, str], cls_name: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that accepts old names of arguments, with a warning.

    Args:
        name_dict: the new name for each old one.
        cls_name: name of the class in the warning.
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        shown = f"{cls_name}.{func.__name__}" if cls_name else func.__name__

        @functools.wraps(func)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            for old, new in name_dict.items():
                positional = inspect.getfullargspec(func).args[: len(args)]
                if old not in kwargs and old not in positional:
                    continue
                warnings.warn(f"{shown}: '{old}' is now called '{new}'", DeprecationWarning, stacklevel=2)
                if old in kwargs:
                    assert new not in kwargs, f"{shown} got both '{old}' and '{new}', two names of one argument"
                    kwargs[new] = kwargs.pop(old)
            return func(*args, **kwargs)

        return renamed

    return decorate


def deprecated_function(
    since: str, removed_in: str, instructions: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that warns in each call of a function, and in its documentation, that it is deprecated.

    Args:
        since: version that deprecated it.
        removed_in: version that will no longer have it.
        instructions: what to do instead, such as "use X".
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def warned(*args: Any, **kwargs: Any) -> Any:
            name = f"{func.__module__}.{func.__name__}"
            note = f"'{name}' is deprecated since version {since} and will be removed in version {removed_in}: "
            print_log(note + f"please {instructions}", logger="current", level=logging.WARNING)
            return func(*args, **kwargs)

        note = f".. deprecated:: {since}\n    Will be removed in version {removed_in}: please {instructions}."
        warned.__doc__ = f"{note}\n\n{inspect.getdoc(func) or ''}"
        return warned

    return decorate


def is_method_overridden(method: str, base_class: type, derived_class: Any) -> bool:
    """Return whether a class, or that of an object, has another method of this name than its base class."""
    assert isinstance(base_class, type), f"base_class must be a class, got {base_class!r}"
    derived = derived_class if isinstance(derived_class, type) else type(derived_class)
    return bool(getattr(derived, method) != getattr(base_class, method))


def has_method(obj: object, method: str) -> bool:
    """Return whether an object has a method of this name."""
    return callable(getattr(obj, method, None))


def get_object_from_string(obj_name: str) -> Any:
    """Return a module, class or other object by its full dotted name; None if it does not exist."""
    parts = obj_name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
            return functools.reduce(getattr, parts[end:], found)
        except (ImportError, AttributeError):
            continue
    return None


# Paths


def is_filepath(x: Any) -> bool:
    """Return whether a value is a string or path."""
    return isinstance(x, str | Path)


def fopen(filepath: Any, *args: Any, **kwargs: Any) -> Any:
    """Open a file."""
    if not is_filepath(filepath):
        raise ValueError(f"expected a path, got {filepath!r}")
    return Path(filepath).open(*args, **kwargs)


def check_file_exist(filename: Any, msg_tmpl: str = 'file "{}" does not exist') -> None:
    """Raise a FileNotFoundError if there is no file at a path."""
    if not os.path.isfile(filename):
        raise FileNotFoundError(msg_tmpl.format(filename))


def mkdir_or_exist(dir_name: Any, mode: int = 0o777) -> None:
    """Create a folder and its parents, if they do not exist."""
    if dir_name != "":
        Path(dir_name).expanduser().mkdir(mode, parents=True, exist_ok=True)


def symlink(src: Any, dst: Any, overwrite: bool = True, **kwargs: Any) -> None:
    """Create the symbolic link ``dst`` to ``src``, by default in place of an existing file."""
    if overwrite and os.path.lexists(dst):
        Path(dst).unlink()
    Path(dst).symlink_to(src, **kwargs)


def scandir(dir_path: Any, suffix: Any = None, recursive: bool = False, case_sensitive: bool = True) -> Iterator[str]:
    """Return an iterator over the files in a folder, relative to it, except those whose name begins with a dot.

    Args:
        dir_path: the folder.
        suffix: the end of the names to yield, or a tuple of several.
        recursive: descend into other folders.
        case_sensitive: distinguish upper from lower case in the suffix.
    """
    if not is_filepath(dir_path):
        raise TypeError(f"dir_path must be a path, got {dir_path!r}")
    if suffix is not None and not isinstance(suffix, str | tuple):
        raise TypeError(f"suffix must be a string or a tuple of strings, got {suffix!r}")
    ends = (suffix,) if isinstance(suffix, str) else suffix
    if ends is not None and not case_sensitive:
        ends = tuple(end.lower() for end in ends)
    return (
        path
        for path, is_file in walk(str(dir_path), recursive)
        if is_file and (ends is None or (path if case_sensitive else path.lower()).endswith(ends))
    )


def walk(root: str, recursive: bool) -> Iterator[tuple[str, bool]]:
    """Yield the path relative to ``root`` of each file that is not hidden and each folder, and whether it is a file."""

    def visit(folder: str) -> Iterator[tuple[str, bool]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = os.path.relpath(entry.path, root)
                if entry.is_dir():
                    yield path, False
                    if recursive:
                        yield from visit(entry.path)
                elif entry.is_file() and not entry.name.startswith("."):
                    yield path, True

    return visit(root)


def find_vcs_root(path: Any, markers: Sequence[str] = (".git",)) -> str | None:
    """Return the nearest folder, of a file or folder and its parents, with one of the markers; None without any."""
    start = Path(path).expanduser().absolute()
    for folder in (start.parent if start.is_file() else start, *start.parents):
        if any((folder / marker).exists() for marker in markers):
            return str(folder)
    return None


def is_abs(path: str) -> bool:
    """Return whether a path is absolute, or a URL."""
    return Path(path).is_absolute() or path.startswith(("http://", "https://", "s3://"))


# Versions and packages


def digit_version(version_str: str, length: int = 4) -> tuple[int, ...]:
    """Return a version as a tuple for comparison: ``length`` numbers, and two for its kind and number.

    The kind is -4 for a development release, -3, -2 and -1 for alpha, beta and release candidates, 0 for a release, and
    1 for a post-release.
    """
    version = parse(version_str)
    release = (version.release + (0,) * length)[:length]
    if version.pre is not None:
        return (*release, {"a": -3, "b": -2, "rc": -1}[version.pre[0]], version.pre[1])
    if version.is_prerelease:
        return (*release, -4, 0)
    return (*release, 0, 0) if version.post is None else (*release, 1, version.post)


def _minimal_ext_cmd(cmd: Sequence[str]) -> bytes:
    """Return the output of a command, run in a plain environment."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "PATH", "HOME") if name in os.environ}
    environment = {**kept, "LANGUAGE": "C", "LANG": "C", "LC_ALL": "C"}
    return subprocess.run(cmd, capture_output=True, env=environment).stdout


def get_git_hash(fallback: str = "unknown", digits: int | None = None) -> str:
    """Return the commit that Git has checked out in the current folder.

    Args:
        fallback: what to return without Git.
        digits: number of digits; all if None.
    """
    if digits is not None and not isinstance(digits, int):
        raise TypeError(f"digits must be None or an integer, got {digits!r}")
    try:
        return _minimal_ext_cmd(["git", "rev-parse", "HEAD"]).strip().decode("ascii")[:digits]
    except OSError:
        return fallback


def is_installed(package: str) -> bool:
    """Return whether a distribution, such as ``mmcv-full``, or a package, such as ``mmcv``, is installed."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        spec = _find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """Return the folder of a package, given its name or that of its distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
        RuntimeError: it is a namespace package, which may have several folders.
    """
    spec = _find_spec(package) or _find_spec(package2module(package))
    if spec is None:
        raise importlib.metadata.PackageNotFoundError(package)
    if spec.origin is None:
        raise RuntimeError(f"{package} is a namespace package, which may have several folders")
    return str(Path(spec.origin).parent)


def _find_spec(package: str) -> Any:
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None


def package2module(package: str) -> str:
    """Return the name under which a distribution is imported.

    Raises:
        ValueError: its metadata do not have it.
    """
    names = (importlib.metadata.distribution(package).read_text("top_level.txt") or "").split()
    if not names:
        raise ValueError(f"the metadata of {package} do not have the name of its module")
    return names[0]


def call_command(cmd: list[str]) -> None:
    """Run a command; raise a CalledProcessError if it fails."""
    subprocess.check_call(cmd)


def install_package(package: str) -> None:
    """Install a package with pip, if it is missing."""
    if not is_installed(package):
        call_command([sys.executable, "-m", "pip", "install", package])
