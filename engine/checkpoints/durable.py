"""Durable changes on disk: files and folders are written to temporary ones, flushed and renamed."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_temporary_numbers = count()
_REPLACED = "replaced_"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; its file or folder replaces ``target`` if no error occurs."""
    temporary = temporary_path(target)
    try:
        yield temporary
        replace(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def replace(temporary: Path, target: Path) -> None:
    """Rename a file or folder to ``target``, of which either the old or the new content exists at any time.

    No system call replaces a folder by another: the old one is kept under another name until the new one is in place.
    """
    replaced = target.with_name(_REPLACED + target.name)
    is_folder = target.is_dir()
    if is_folder:
        remove(replaced)
        target.replace(replaced)
    temporary.replace(target)
    sync_folder(target.parent)
    if is_folder:
        remove(replaced)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its files, if it exists; there is never a part of a folder under its name."""
    if path.is_dir() and not path.is_symlink():
        if not path.name.startswith("."):
            path = path.replace(temporary_path(path))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary_path(target: Path) -> Path:
    """Return a path next to ``target`` that no other writer uses."""
    return target.with_name(f".{target.name}.{next(_temporary_numbers)}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> list[str]:
    """Remove temporary files and folders that killed processes left beside checkpoints, and return their names.

    A folder that was being replaced by another one of the same name gets its name back. Call it before this process
    saves anything there: files with its own process id are assumed to be left over too, since in a container a program
    gets the same id each time.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found and (int(found.group(1)) == os.getpid() or not _is_alive(int(found.group(1)))):
            with suppress(OSError):  # harmless if left behind
                remove(path)
                removed.append(path.name)
    for path in folder.glob(f"{_REPLACED}*.dist"):
        target = path.with_name(path.name.removeprefix(_REPLACED))
        with suppress(OSError):
            if target.exists():
                remove(path)
                removed.append(path.name)
            else:
                path.replace(target)
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return True


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush the entries of a folder to disk; a no-op on systems other than POSIX."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_checkpoint(source: Path, target: Path) -> None:
    """Atomically give a checkpoint a second name; falls back to a copy if the disk does not support hard links.

    A folder gets a second one with links to its files.
    """
    with replacing(target) as temporary:
        if source.is_dir():
            temporary.mkdir()
            for file in source.iterdir():
                _link(file, temporary / file.name)
            sync_folder(temporary)
        else:
            _link(source, temporary)
    remove(temporary)  # left by the rename if the target was already a link to the source


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise the ``OSError`` that PyTorch's writer hides behind a ``RuntimeError``."""
    outer = sys.exc_info()[1]
    try:
        yield
    except RuntimeError as error:
        cause = error.__context__
        if isinstance(cause, OSError) and cause is not outer:
            raise cause from error
        if "write" in str(error):
            raise OSError(f"cannot write {path}: {error}") from error
        raise
