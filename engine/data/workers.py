"""Handling of data workers that die, and stopping them."""

import os
import re
import select
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from trainwright.engine.errors import TrainingError
from trainwright.engine.records.logger import get_logger

MAX_RESTARTS = 3
_RAISED_BY_WORKER = re.compile(r"^Caught .* in DataLoader worker process")
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)|DataLoader timed out")
_ADVICE = (
    "The usual cause is lack of memory: lower num_workers or prefetch_factor, or increase the shared memory of the "
    "container (/dev/shm)"
)


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
        get_logger().warning(message, error, self._number, MAX_RESTARTS)


def batches_from_workers(batches: Any) -> Iterator[Any]:
    """Return an iterator over the batches of PyTorch's iterator with workers, for which the death of one is an error.

    PyTorch has two problems here. Its signal handler raises at any point, even in the middle of a training step. And if
    a worker is killed while it sends a batch, or holds a lock, the main process waits forever.

    Raises:
        WorkerDied: a worker died; raised while waiting for a batch.
    """
    _remove_child_signal_handler()
    if not isinstance(batches._workers_done_event, _EndOfWorkers):  # persistent workers keep their iterator
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
        if batches is None or _RAISED_BY_WORKER.search(text):
            raise
        # If a worker dies after announcing a batch, receiving the batch fails, possibly before the process has ended.
        if not (_DEAD_WORKER.search(text) or wait([worker.sentinel for worker in batches._workers], timeout=1)):
            raise
        problem = text.splitlines()[0].rstrip(".") if _DEAD_WORKER.search(text) else "a data worker died"
        raise WorkerDied(f"{problem}. {_ADVICE}") from error


class _EndOfWorkers:
    """The event that tells workers to end, for the main process: it never waits for a lock that a worker died with.

    Only the main process sets it, and workers do not wait for it, so no lock is needed.
    """

    def __init__(self, event: Any) -> None:
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
        _wait_for_death(find, {worker.sentinel: number for number, worker in enumerate(workers)})
        if not _is_used(find()):
            return
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


def _wait_for_death(find: Callable[[], Any], numbers: dict[Any, int]) -> None:
    """Return once a worker has exited too early, or all have exited, or the iterator is gone.

    A worker of an iterable dataset exits when its data ends, after the iterator has marked it as unavailable.

    Args:
        find: returns the iterator, or None.
        numbers: number of each worker, by its sentinel.
    """
    while numbers and _is_used(find()):
        for sentinel in wait(list(numbers)):
            number, batches = numbers.pop(sentinel), find()
            if not _is_used(batches) or batches._workers_status[number]:
                return


def _is_used(batches: Any) -> bool:
    return batches is not None and not batches._shutdown


def _remove_child_signal_handler() -> None:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if "SIGCHLD_handler" in getattr(handler, "__qualname__", ""):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
