"""Tracing the disk operations of a save, and injecting faults into each of them.

These functions patch the calling process, so call them in a process that was forked for the purpose.
"""

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainwright.engine.checkpoints.files import LAST
from trainwright.engine.checkpoints.folder_reader import FILES

HALF = 20_000
"""About half the size of the checkpoints of :mod:`fault_runs`, in bytes."""


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a separate disk of ``size`` bytes on a folder, or skip the test if mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path, room: int = 0) -> None:
    """Fill a disk with a file until at most ``room`` bytes are free."""
    with file.open("wb", buffering=0) as opened:
        try:
            while True:
                opened.write(b"x" * 1024)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.truncate(file, file.stat().st_size - room)


def watch(act: Callable[[str], Any]) -> None:
    """Call ``act`` before each disk operation of a save, with its name: ``"fsync iter_8.pth"``.

    The operations are ``open`` (after opening), ``half`` (halfway through writing), ``fsync``, ``replace``, ``link`` and ``unlink``, of
    checkpoints, of the files of sharded ones and of ``last_checkpoint``, and ``fsync folder``. A temporary file is
    reported under its final name.
    """

    def watched(function: Callable[..., Any], operation: str, which: int = 0) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name := _name_of(arguments[which]):
                act(f"{operation} {name}")
            return function(*arguments, **options)

        return call

    os.fsync = watched(os.fsync, "fsync")  # type: ignore[assignment]
    os.replace = watched(os.replace, "replace", 1)
    os.link = watched(os.link, "link", 1)
    os.unlink = watched(os.unlink, "unlink")
    open_file = Path.open

    def watched_open(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        name = _name_of(path)
        if not name or "w" not in mode:
            return open_file(path, mode, *arguments, **options)
        file = _File(open_file(path, mode, *arguments, **options), lambda: act(f"half {name}"))
        act(f"open {name}")
        return file

    Path.open = watched_open  # type: ignore[method-assign,assignment]


class _File:
    """A file that reports when about half of it is written and flushed."""

    def __init__(self, file: Any, report: Callable[[], None]) -> None:
        self._file = file
        self._report = report
        self._number = 0

    def write(self, data: Any) -> int:
        room = HALF - self._number
        if 0 <= room < len(data):
            self._file.write(data[:room])
            self._file.flush()
            self._report()
            self._file.write(data[room:])
        else:
            self._file.write(data)
        self._number += len(data)
        return len(data)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def trace(file: Path) -> None:
    """Write the name of every operation to a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    watch(lambda operation: os.write(descriptor, f"{operation}\n".encode()))


def kill_at(operation: str, number: int = 1) -> None:
    """Kill the process with SIGKILL just before the n-th occurrence of an operation."""
    send_at(operation, number, signal.SIGKILL)


def send_at(operation: str, number: int, what: int) -> None:
    """Send the process a signal just before the n-th occurrence of an operation."""
    seen = []

    def act(name: str) -> None:
        seen.append(name)
        if name == operation and seen.count(name) == number:
            os.kill(os.getpid(), what)

    watch(act)


def fail_at(pattern: str, first: int, last: int, error: int = errno.EIO) -> None:
    """Make operations fail.

    Args:
        pattern: regular expression for the names of the operations.
        first: number of the first occurrence that fails, counted from 1.
        last: number of the last one.
        error: the system error to raise.
    """
    seen = []

    def act(name: str) -> None:
        if re.fullmatch(pattern, name):
            seen.append(name)
            if first <= len(seen) <= last:
                raise OSError(error, os.strerror(error), name)

    watch(act)


def _name_of(what: Any) -> str | None:
    """Return the name of a checkpoint (the final name of a temporary file), ``folder``, or None for other paths."""
    if isinstance(what, int):
        what = os.readlink(f"/proc/self/fd/{what}")  # noqa: PTH115
        if os.path.isdir(what):  # noqa: PTH112
            return "folder"
    name = re.sub(r"^\.(.+?)\.\d+\.\d+\.tmp$", r"\1", os.path.basename(what))  # noqa: PTH119
    return name if name.endswith((".pth", ".dist", ".distcp")) or name in (LAST, FILES, ".metadata.tmp") else None
