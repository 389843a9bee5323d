"""What happens when a rank fails: it is named first, with its traceback, and all others end soon.

A rank that fails leaves a message for the others before it closes its connections. The others get errors of lost
connections, look for that message and add one line. A thread of each rank waits for the message, too, and ends a rank
that is still waiting for a peer, with its stack.
"""

import atexit
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from trainwright.engine.errors import USER_ERRORS

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_FIRST, _NUMBER = "first", "number"
_POLL = 0.5
_PATIENCE = 2.0
"""Seconds in which a rank with a lost connection waits for the message of the one that failed."""
_GRACE = 10.0
"""Seconds that a rank has to end by itself after another one has failed, a third of it if a rank hangs."""
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
        saves: the rank saves the run before it ends.
    """

    rank: int
    text: str
    hang: bool = False
    saves: bool = False


def watch(store: "Store", rank: int, processes: Sequence[str], hosts_store: bool) -> None:
    """Start to watch for failures of the ranks; see :class:`Watch`."""
    global _watch
    unwatch()
    _watch = Watch(store, rank, processes, hosts_store)


def this_process() -> str:
    """Return a name for this process by which others on the same machine can tell whether it is running."""
    return f"{os.getpid()} {_machine()}"


def unwatch() -> None:
    """Stop watching, because the run is over."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None


# A script that never leaves its process group: a thread that is inside the store when Python ends aborts the process.
atexit.register(unwatch)


def report(error: BaseException, saves: bool = False) -> bool:
    """Report an error that ends this rank, unless it is already reported.

    Errors in the config, the data or a checkpoint are printed without a traceback.

    Args:
        error: the error.
        saves: whether this rank will save the run before it ends.

    Returns:
        Whether it is reported; False in a single process, where the caller prints it as usual.
    """
    if _watch is None:
        return False
    _watch.report(error, saves)
    return True


def is_ending() -> bool:
    """Return whether this rank has reported an error that ends it."""
    return _watch is not None and _watch.is_ending


def first_failure(error: BaseException) -> Failure | None:
    """Return the failure of another rank that caused an error of this one, or None if the error is its own."""
    return None if _watch is None or not is_lost_connection(error) else _watch.cause_of(error)


def has_lost(rank: int) -> bool:
    """Return whether a rank cannot save the run, because it has ended or failed."""
    return _watch is not None and _watch.has_lost(rank)


def say(text: str) -> None:
    """Print a line about this rank, even if it does not log to the console."""
    if _watch is not None:
        _watch.say(text)


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
        store: reached by all ranks; keys are written without a prefix.
        rank: rank of this process.
        processes: the names of all processes, by rank; see :func:`this_process`.
        hosts_store: whether the store is in this process, and ends with it.
    """

    def __init__(self, store: "Store", rank: int, processes: Sequence[str], hosts_store: bool) -> None:
        self._store, self._rank, self._processes, self._hosts_store = store, rank, processes, hosts_store
        self._known: Failure | None = None
        self._reported: list[BaseException] = []
        self.lock, self.tasks = threading.Lock(), 0
        self.signaled_at: float | None = None
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

    def report(self, error: BaseException, saves: bool) -> None:
        """Print an error: in full if it is the first of all ranks, or else in one line."""
        if any(error is reported for reported in self._reported):
            return
        self._reported.append(error)
        own = Failure(self._rank, _summary(error), saves=saves)
        lost = is_lost_connection(error)
        first = self.cause_of(error) if lost else self._declare(own)
        if first.rank != self._rank and lost:
            self._print(f"{self._name(self._rank)} ended, because {self._name(first.rank)} failed: {first.text}")
        elif first.rank != self._rank:
            self.say("the same" if first.text == own.text else own.text)
        else:
            self._print_in_full(error, first)
        if self._hosts_store:
            time.sleep(2 * _POLL)  # the others still have to read it

    def cause_of(self, error: BaseException) -> Failure:
        """Return the first failure, after an error of communication of this rank."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if (first := self._first()) is not None:
                return first
            for rank in self.vanished():
                text = "its process has ended without an error, probably killed (out of memory, or by a user)"
                return self._declare(Failure(rank, text), announce=True)
            time.sleep(0.05)
        if _TIMEOUT.search(str(error)):
            text = "it has waited in vain for another rank, which may hang; the stacks of all ranks follow"
            return self._declare(Failure(self._rank, text, hang=True))
        return self._declare(Failure(self._rank, _summary(error)))

    def vanished(self) -> list[int]:
        """Return the ranks on this machine whose processes have ended."""
        machine = _machine()
        found = []
        for rank, process in enumerate(self._processes):
            pid, _, place = process.partition(" ")
            if rank != self._rank and place == machine and not _is_running(int(pid)):
                found.append(rank)
        return found

    def has_lost(self, rank: int) -> bool:
        """Return whether a rank cannot save the run, because it has ended or failed."""
        first = self._first()
        return rank in self.vanished() or (first is not None and first.rank == rank and not first.saves)

    @property
    def is_ending(self) -> bool:
        """Whether this rank has reported an error."""
        return bool(self._reported)

    def say(self, text: str) -> None:
        """Print a line about this rank."""
        self._print(f"{self._name(self._rank)}: {text}")

    def _first(self) -> Failure | None:
        """Return the first failure, if there is one."""
        if self._known is None:
            with suppress(RuntimeError):  # the store was in a process that has ended
                if self._store.check([_FIRST]):
                    self._known = Failure(**json.loads(self._store.get(_FIRST)))
        return self._known

    def _declare(self, failure: Failure, announce: bool = False) -> Failure:
        """Make a failure the first one, unless there is one already, and return the first."""
        try:
            if self._store.add(_NUMBER, 1) > 1:
                failure = Failure(**json.loads(self._store.get(_FIRST)))
                announce = False
            else:
                self._store.set(_FIRST, json.dumps(asdict(failure)))
        except RuntimeError:  # the store was in a process that has ended
            announce = announce and len(self.vanished()) == self._rank  # once, if it was that of rank 0
            failure = self._known or failure
        if announce:
            self._print(f"{self._name(failure.rank)} failed: {failure.text}")
        self._known = failure
        return failure

    def _print_in_full(self, error: BaseException, failure: Failure) -> None:
        if isinstance(error, USER_ERRORS):
            notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
            self._print(f"{self._name(self._rank)} failed: {error}{notes}")
        else:
            trace = "".join(traceback.format_exception(error))
            self._print(f"{self._name(self._rank)} failed: {failure.text}\n{trace}", end="")
        with suppress(Exception):  # for the summary of torchrun
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)

    def _wait_for_failures(self) -> None:
        first: Failure | None = None
        ends_at = 0.0
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
            if first is None:
                first = self._first()
                if first is not None:
                    ends_at = now + (_GRACE / 3 if first.hang else _GRACE)
                    if first.hang and first.rank != self._rank:
                        self._print_stack("is here")
            elif now > ends_at and not self.tasks:
                if not first.hang:
                    self._print_stack(f"is still running {_GRACE:.0f} s after the failure, and is ended here")
                os._exit(1)

    def _print_stack(self, what: str) -> None:
        main = threading.main_thread().ident
        frames = sys._current_frames()
        stack = "".join(traceback.format_stack(frames[main])) if main in frames else ""
        self._print(f"{self._name(self._rank)} {what}:\n{stack}", end="")

    def _print_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if isinstance(error, Exception):
            self.report(error, saves=False)
        else:
            self._outer_hook(kind, error, trace)

    def _name(self, rank: int) -> str:
        return f"Rank {rank} of {len(self._processes)}"

    def _print(self, text: str, end: str = "\n") -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + end)  # in one call, so that lines of different ranks do not mix
            sys.stderr.flush()


def _summary(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _machine() -> str:
    """Return a name for this machine and, in a container, its process numbers."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace.readlink() if namespace.exists() else ''}".rstrip()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
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
