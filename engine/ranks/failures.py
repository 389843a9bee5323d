"""What happens when a rank fails: it is named first, with its traceback, and all others end soon.

A rank that fails leaves a message for the others before it closes its connections. The others get errors of lost
connections, look for that message and add one line. A thread of each rank waits for the message, too, and ends a rank
that is still waiting for a peer, with its stack.
"""

import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch.distributed as dist

from trainwright.engine.errors import USER_ERRORS

_FIRST, _NUMBER = "first", "number"
_POLL = 0.5
_PATIENCE = 2.0
"""Seconds in which a rank with a lost connection waits for the message of the one that failed."""
_GRACE = 10.0
"""Seconds that a rank has to end by itself after another one has failed."""
_SLOW_STOP = 15.0
"""Seconds after SIGTERM or SIGINT at which a rank that has not stopped prints its stack; torchrun kills it after 30."""
_LOST = re.compile(
    r"gloo/|NCCL|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|Socket Timeout|failed to recv",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
_watch: "Watch | None" = None


@dataclass(frozen=True)
class Failure:
    """The first failure in a group of processes.

    Args:
        rank: the rank that failed, or that waited in vain for another one.
        text: what happened, in one line.
        hang: a rank waited in vain for another one, which is still running.
    """

    rank: int
    text: str
    hang: bool = False


def watch(store: "dist.Store", rank: int, world_size: int) -> None:
    """Start to watch for failures of the ranks.

    Args:
        store: reached by all ranks; keys are written without a prefix.
        rank: rank of this process.
        world_size: number of processes.
    """
    global _watch
    unwatch()
    _watch = Watch(store, rank, world_size)


def unwatch() -> None:
    """Stop watching, because the run is over."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None


def report(error: BaseException) -> bool:
    """Report an error that ends this rank, unless it is already reported.

    Errors in the config, the data or a checkpoint are printed without a traceback.

    Returns:
        Whether it is reported; False in a single process, where the caller prints it as usual.
    """
    if _watch is None:
        return False
    _watch.report(error)
    return True


def first_failure(error: BaseException) -> Failure | None:
    """Return the failure of another rank that caused an error of this one, or None if the error is its own."""
    return None if _watch is None or not is_lost_connection(error) else _watch.cause_of(error)


def is_gone(rank: int) -> bool:
    """Return whether a rank of this machine has ended."""
    return _watch is not None and rank in _watch.vanished()


@contextmanager
def busy() -> Iterator[None]:
    """Context manager in which this rank is not ended because of the failure of another one, such as to save."""
    watch = _watch
    if watch is None:
        yield
        return
    with watch.lock:
        watch.tasks += 1
    try:
        yield
    finally:
        with watch.lock:
            watch.tasks -= 1


@contextmanager
def noticing_signals() -> Iterator[None]:
    """Context manager in which a rank prints its stack if it does not stop within a time after a signal to stop.

    The handlers of Python's signals run between two instructions of the main thread, so not in a call that hangs.
    """
    if _watch is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.set_wakeup_fd(_watch.wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        _watch.signaled_at = None


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error is one of communication, which a failure of another rank may have caused."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError):
        return True
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


class Watch:
    """The part of one rank in reporting failures, with the thread that waits for those of others.

    Args:
        store: reached by all ranks.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, store: "dist.Store", rank: int, world_size: int) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._reported: list[BaseException] = []
        self._neighbors: dict[int, int] | None = None
        self.lock, self.tasks = threading.Lock(), 0
        self.signaled_at: float | None = None
        store.set(f"process/{rank}", f"{os.getpid()} {_machine()}")
        self._end, self.wakeup = socket.socketpair()
        for end in (self._end, self.wakeup):
            end.setblocking(False)
        self._outer_hook = sys.excepthook
        sys.excepthook = self._print_exception
        self._closed = False
        self._thread = threading.Thread(target=self._wait_for_failures, name="failures of ranks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and print exceptions as before."""
        self._closed = True
        with suppress(OSError):
            self.wakeup.send(b"\0")
        if self._thread is not threading.current_thread():
            self._thread.join()
        sys.excepthook = self._outer_hook

    def report(self, error: BaseException) -> None:
        """Print an error: in full if it is the first of all ranks, or else in one line."""
        if any(error is reported for reported in self._reported):
            return
        self._reported.append(error)
        own = Failure(self._rank, _summary(error))
        first = self.cause_of(error) if is_lost_connection(error) else self._declare(own)
        if first.rank != self._rank:
            if is_lost_connection(error):
                self._print(f"{self._name(self._rank)} ended, because {self._name(first.rank)} failed: {first.text}")
            else:
                self._print(f"{self._name(self._rank)}: {'the same' if first.text == own.text else own.text}")
            return
        if isinstance(error, USER_ERRORS):
            notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
            self._print(f"{self._name(self._rank)} failed: {error}{notes}")
        else:
            trace = "".join(traceback.format_exception(error))
            self._print(f"{self._name(self._rank)} failed: {first.text}\n{trace}", end="")
        with suppress(Exception):  # for the summary of torchrun
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)

    def cause_of(self, error: BaseException) -> Failure:
        """Return the first failure, after an error of communication of this rank."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if (first := self._first()) is not None:
                    return first
                for rank in self.vanished():
                    text = "its process has ended without an error, probably killed (out of memory, or by a user)"
                    return self._declare(Failure(rank, text), announce=True)
            except RuntimeError:  # the store was in a process that has ended
                return Failure(0, "its process, which connects the others, has ended")
            time.sleep(0.05)
        if _TIMEOUT.search(str(error)):
            text = "it has waited in vain for another rank, which may hang; the stacks of all ranks follow"
            return self._declare(Failure(self._rank, text, hang=True))
        return self._declare(Failure(self._rank, _summary(error)))

    def vanished(self) -> list[int]:
        """Return the ranks on this machine whose processes have ended."""
        if self._neighbors is None:
            self._neighbors = {}
            machine = _machine()
            for rank in range(self._world_size):
                key = f"process/{rank}"
                if rank != self._rank and self._store.check([key]):
                    pid, _, place = self._store.get(key).decode().partition(" ")
                    if place == machine:
                        self._neighbors[rank] = int(pid)
        return [rank for rank, pid in self._neighbors.items() if not _is_running(pid)]

    def _first(self) -> Failure | None:
        if not self._store.check([_FIRST]):
            return None
        return Failure(**json.loads(self._store.get(_FIRST)))

    def _declare(self, failure: Failure, announce: bool = False) -> Failure:
        """Make a failure the first one, unless there is one already, and return the first."""
        try:
            if self._store.add(_NUMBER, 1) == 1:
                self._store.set(_FIRST, json.dumps(asdict(failure)))
                if announce:
                    self._print(f"{self._name(failure.rank)} failed: {failure.text}")
                return failure
            return Failure(**json.loads(self._store.get(_FIRST)))
        except RuntimeError:  # the store was in a process that has ended
            return failure

    def _wait_for_failures(self) -> None:
        ends_at = None
        while not self._closed:
            with suppress(OSError, ValueError):
                if select.select([self._end], [], [], _POLL)[0]:
                    numbers = self._end.recv(4096)
                    if self.signaled_at is None and {signal.SIGTERM, signal.SIGINT} & set(numbers):
                        self.signaled_at = time.monotonic()
            if self._closed:
                return
            now = time.monotonic()
            if self.signaled_at is not None and now > self.signaled_at + _SLOW_STOP and not self.tasks:
                self.signaled_at = None
                self._print_stack(f"has not stopped {_SLOW_STOP:.0f} s after a signal; it is here")
            if ends_at is None:
                try:
                    first = self._first()
                except RuntimeError:
                    first = Failure(0, "its process, which connects the others, has ended")
                if first is not None:
                    ends_at = now + _GRACE
                    if first.hang and first.rank != self._rank:
                        self._print_stack("is here")
            elif now > ends_at and not self.tasks:
                self._print_stack(f"is still running {_GRACE:.0f} s after the failure, and is ended here")
                os._exit(1)

    def _print_stack(self, what: str) -> None:
        main = threading.main_thread().ident
        frames = sys._current_frames()
        stack = "".join(traceback.format_stack(frames[main])) if main in frames else ""
        self._print(f"{self._name(self._rank)} {what}:\n{stack}", end="")

    def _print_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if isinstance(error, Exception):
            self.report(error)
        else:
            self._outer_hook(kind, error, trace)

    def _name(self, rank: int) -> str:
        return f"Rank {rank} of {self._world_size}"

    def _print(self, text: str, end: str = "\n") -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + end)  # in one call, so that lines of different ranks do not mix
            sys.stderr.flush()


def _summary(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _machine() -> str:
    """Return a name for this machine and, in a container, its process numbers."""
    namespace = "/proc/self/ns/pid"
    return f"{socket.gethostname()} {os.readlink(namespace) if os.path.exists(namespace) else ''}".rstrip()


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return False
    except OSError:
        return True
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
