"""Handling of data workers that die, and stopping them."""

import os
import re
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_start_method
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from trainwright.engine.errors import DataError, TrainingError
from trainwright.engine.records.logger import OF_RANK, get_logger

MAX_RESTARTS = 3
START_TIMEOUTS = 10, 30, 90
"""Seconds within which forked data workers have to start, at the first and each further attempt."""
_RAISED_BY_WORKER = re.compile(r"^Caught .* in DataLoader worker process")
_DATA_ERROR = re.compile(r"(?ms)^Caught (?:Data|\w+File)Error in .*^trainwright\.engine\.\w+: (.*)")
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)|DataLoader timed out")
_ADVICE = {  # by the name of the signal
    "SIGSEGV": "a library crashed, usually at a damaged file or an invalid annotation: `trainwright browse-dataset` "
    "finds these, and with num_workers=0 and PYTHONFAULTHANDLER=1 the traceback shows where it crashes",
    "SIGBUS": "usually the shared memory is full: lower num_workers or prefetch_factor, or increase the shared memory "
    "of the container (/dev/shm)",
}


class WorkerDied(TrainingError):
    """A data worker died, or sent nothing for the ``timeout`` of its loader."""


class Restarts:
    """Restart dead data workers, at most ``MAX_RESTARTS`` times."""

    def __init__(self) -> None:
        self._number = 0

    def iterate(self, start: Callable[[int, bool], Iterator[Any]]) -> Iterator[Any]:
        """Yield batches from data workers; if one dies, continue with new workers at the next batch.

        Args:
            start: called as ``start(done, restart)``; returns an iterator positioned after ``done`` batches, with new
                workers if ``restart`` is true, that raises :class:`WorkerDied`.

        Raises:
            TrainingError: workers died too often.
        """
        done, restart = 0, False
        while True:
            batches: Iterator[Any] | None = None
            try:
                batches = start(done, restart)
                for batch in batches:
                    done += 1
                    yield batch
                return
            except WorkerDied as error:
                self._count(error)
            restart = True
            del batches

    def _count(self, error: WorkerDied) -> None:
        self._number += 1
        if self._number > MAX_RESTARTS:
            raise TrainingError(f"data workers died {self._number} times, most recently: {error}") from error
        message = "%s. Restarting the data workers at the same batch (restart %d of at most %d)."
        get_logger().warning(message, error, self._number, MAX_RESTARTS, extra=OF_RANK)


def start_workers(dataloader: Any, iterate: Callable[[], Any]) -> Any:
    """Return a new iterator over a loader; if it has forked data workers, all of them have started.

    A forked process waits forever for a lock that another thread held at the fork. CPython 3.11 needs such a lock
    before it runs any code in the new process, and the threads of gloo take it after each collective. Workers that do
    not start are replaced here, before any batch is taken.

    Args:
        dataloader: a ``torch.utils.data.DataLoader``.
        iterate: returns PyTorch's iterator over the loader; called again if workers do not start.

    Raises:
        TrainingError: workers did not start within any of the ``START_TIMEOUTS``.
    """
    context = dataloader.multiprocessing_context
    method = get_start_method() if context is None else context.get_start_method()
    if not dataloader.num_workers or method != "fork" or getattr(dataloader, "_iterator", None) is not None:
        return iterate()
    for attempt, timeout in enumerate(START_TIMEOUTS, 1):
        batches, late = _start_workers(dataloader, iterate, timeout)
        if not late:
            return batches
        message = "%d of %d data workers did not start within %d s: a lock was held when their process was forked"
        arguments = late, dataloader.num_workers, timeout
        if attempt == len(START_TIMEOUTS):
            hint = "set multiprocessing_context='forkserver' in the data loader"
            raise TrainingError(f"{message % arguments}, {attempt} times in a row: {hint}")
        get_logger().warning(f"{message}. Starting them again.", *arguments, extra=OF_RANK)
        dataloader._iterator = None


def _start_workers(dataloader: Any, iterate: Callable[[], Any], timeout: float) -> tuple[Any, int]:
    """Return an iterator over a loader, and how many of its workers have not started and were killed."""
    before, (reader, writer) = dataloader.worker_init_fn, os.pipe()
    try:
        dataloader.worker_init_fn = partial(_report_start, writer, before)
        try:
            batches = iterate()
            _remove_child_signal_handler()
        finally:
            dataloader.worker_init_fn = before
            os.close(writer)
        waiting = {worker.pid: worker for worker in getattr(batches, "_workers", [])}
        deadline = time.monotonic() + timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            ready = wait([reader, *(worker.sentinel for worker in waiting.values())], left)
            started = os.read(reader, 4 * len(waiting)) if reader in ready else b""
            for pid in memoryview(started).cast("i"):
                waiting.pop(pid, None)
            if ready and not started:  # a worker has died, which is found when its batch is due
                return batches, 0
    finally:
        os.close(reader)
    for worker in waiting.values():
        worker.kill()  # it would not react to being terminated
    if waiting:
        batches._shutdown_workers()
    return batches, len(waiting)


def _report_start(writer: int, user_function: Callable[[int], None] | None, worker_id: int) -> None:
    with suppress(BrokenPipeError):
        os.write(writer, os.getpid().to_bytes(4, sys.byteorder))
    os.close(writer)
    if user_function is not None:
        user_function(worker_id)


def batches_from_workers(batches: Any) -> Iterator[Any]:
    """Return an iterator over the batches of PyTorch's iterator with workers, for which the death of one is an error.

    PyTorch has two problems here. Its signal handler raises at any point, even in the middle of a training step. And if
    a worker is killed while it sends a batch, or holds a lock, the main process waits forever.

    Raises:
        WorkerDied: a worker died; raised while waiting for a batch.
    """
    _remove_child_signal_handler()
    if not isinstance(batches._workers_done_event, _EndOfWorkers):  # persistent workers keep their iterator
        batches._first_dead, batches._oom_kills = None, num_oom_kills()
        batches._workers_done_event = _EndOfWorkers(batches._workers_done_event)
        if sys.platform != "win32":
            pipe = os.dup(batches._worker_result_queue._writer.fileno())
            arguments = weakref.ref(batches), list(batches._workers), pipe
            threading.Thread(target=_end_wait_for_dead_worker, args=arguments, daemon=True, name="data workers").start()
    return _with_clear_errors(batches)


def stop_workers(dataloader: Any) -> None:
    """Stop persistent data workers until the loader is iterated over again.

    If they are left to the garbage collector, it closes their queues first and PyTorch waits five seconds for each.
    """
    iterator: Any = getattr(dataloader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        dataloader._iterator = None


def _with_clear_errors(batches: Any) -> Iterator[Any]:
    with clear_errors(batches):
        yield from batches


@contextmanager
def clear_errors(batches: Any) -> Iterator[None]:
    """Raise a :class:`WorkerDied` in place of an error that follows from the death of a worker.

    Args:
        batches: PyTorch's iterator with workers; None if they are not started yet.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if found := _DATA_ERROR.search(text):
            raise DataError(found[1].strip()) from None  # without the worker's traceback, as without workers
        if batches is None or _RAISED_BY_WORKER.search(text):
            raise
        # If a worker dies after announcing a batch, receiving the batch fails, possibly before the process has ended.
        if not (_DEAD_WORKER.search(text) or wait([worker.sentinel for worker in batches._workers], timeout=1)):
            raise
        raise WorkerDied(_describe_death(batches, text)) from error


def _describe_death(batches: Any, text: str) -> str:
    """Return why a worker died, given the message of PyTorch."""
    if "timed out" in text:
        return text.splitlines()[0].rstrip(".")
    deadline = time.monotonic() + 1
    while True:  # another thread may be just about to read the exit status
        dead = getattr(batches, "_first_dead", None) or next((one for one in batches._workers if one.exitcode), None)
        if (dead is not None and dead.exitcode is not None) or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if dead is None or not dead.exitcode:
        return "a data worker exited unexpectedly"
    if dead.exitcode > 0:
        return f"data worker {dead.pid} exited with status {dead.exitcode}"
    number = -dead.exitcode
    if number == signal.SIGKILL and (kills := num_oom_kills() - getattr(batches, "_oom_kills", sys.maxsize)) > 0:
        return (
            f"data worker {dead.pid} was killed (signal {number}); the kernel reports {kills} out-of-memory kills: "
            "lower num_workers or prefetch_factor"
        )
    known = {one.value: one.name for one in signal.Signals}
    advice = _ADVICE.get(known.get(number, ""))
    return f"data worker {dead.pid} was killed by signal {number}" + (f": {advice}" if advice else "")


def num_oom_kills() -> int:
    """Return how often the kernel has killed a process for lack of memory, in our cgroup if possible; 0 if unknown."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        folders = {
            ("memory" if controller else ""): path for _, controller, path in groups if controller in ("", "memory")
        }
    except (OSError, ValueError):
        folders = {}
    for kind, name in (("", "memory.events"), ("memory", "memory.oom_control")):  # version 2 and 1 of cgroups
        for folder in (folders.get(kind, "/"), "/"):  # a container may see its own as the root
            number = _counter(Path(f"/sys/fs/cgroup/{kind}/{folder}/{name}"))
            if number is not None:
                return number
    return _counter(Path("/proc/vmstat")) or 0


def _counter(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


class _EndOfWorkers:
    """The event that tells workers to end, for the main process: it never waits for a lock that a worker died with.

    Only the main process sets it, and workers do not wait for it, so no lock is needed.
    """

    def __init__(self, event: Any) -> None:
        self._event = event  # kept, since a spawned worker opens its locks later than this, by name
        self._flag = event._flag
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._flag.acquire(False)
        self._flag.release()


def _end_wait_for_dead_worker(find: Callable[[], Any], workers: list[Any], pipe: int) -> None:
    """Wait until a worker dies; then stop the others, and end the wait for the rest of a batch.

    It is ended by completing the batch with zeros. Reading it then fails, and PyTorch finds the dead workers. Closing
    the pipe instead would have no effect if other processes have inherited it.
    """
    try:
        dead = _wait_for_death(find, {worker.sentinel: number for number, worker in enumerate(workers)})
        batches = find()
        if dead is None or not _is_used(batches):
            return
        batches._first_dead = workers[dead]
        del batches
        for worker in workers:
            worker.kill()  # they would mix their data with the zeros
        for worker in workers:
            wait([worker.sentinel])
        while _is_used(find()):
            if select.select([], [pipe], [], 0.1)[1]:
                os.write(pipe, bytes(select.PIPE_BUF))  # no more than this, so that it never blocks
    except BrokenPipeError:  # the iterator is gone
        pass
    finally:
        os.close(pipe)


def _wait_for_death(find: Callable[[], Any], numbers: dict[Any, int]) -> int | None:
    """Wait until a worker exits too early, and return its number; None once all have exited or the iterator is gone.

    A worker of an iterable dataset exits when its data ends, after the iterator has marked it as unavailable.

    Args:
        find: returns the iterator, or None.
        numbers: number of each worker, by its sentinel.
    """
    while numbers and _is_used(find()):
        for sentinel in wait(list(numbers)):
            number = numbers.pop(sentinel)
            if _should_run(find(), number):
                return number
    return None


def _should_run(batches: Any, number: int) -> bool:
    return _is_used(batches) and batches._workers_status[number]


def _is_used(batches: Any) -> bool:
    return batches is not None and not batches._shutdown


def _remove_child_signal_handler() -> None:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if "SIGCHLD_handler" in getattr(handler, "__qualname__", ""):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
