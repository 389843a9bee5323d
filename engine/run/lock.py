"""A lock that allows one training at a time in a work dir."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from trainwright.engine.errors import ConfigError
from trainwright.engine.records.logger import get_logger

LOCK = ".lock"
_locked: set[Path] = set()


@contextmanager
def locked(work_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Context manager in which no other training can run in a work dir, since it would overwrite checkpoints.

    The operating system releases the lock when the process ends in any way, and data workers do not inherit it. On a
    file system without locks, a warning is logged.

    Args:
        work_dir: the folder of the run.

    Raises:
        ConfigError: another run is training there.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    path = Path(work_dir).resolve() / LOCK
    if path in _locked:  # the system lock works between processes only
        raise _taken(path, "this process")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:  # a full disk does not end a run
        _warn(path, error)
        yield
        return
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise _taken(path, "a process that is about to exit")  # it has removed the file that we opened
        except (BlockingIOError, PermissionError) as error:
            owner = os.read(descriptor, 1000).decode(errors="replace").strip()
            raise _taken(path, owner or "another process") from error
        except OSError as error:
            _warn(path, error)
        _locked.add(path)
        with suppress(OSError):  # for information only
            os.ftruncate(descriptor, 0)
            now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {now}\n".encode())
        try:
            yield
        finally:
            _locked.discard(path)
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)


def _warn(path: Path, error: OSError) -> None:
    get_logger().warning("%s cannot be locked (%s): make sure that no other run trains in this folder", path, error)


def _taken(path: Path, owner: str) -> ConfigError:
    hint = "wait until it ends, or choose another --work-dir: they would overwrite each other's checkpoints"
    return ConfigError("work_dir", f"another run is training in {path.parent}: {owner}", hint)
