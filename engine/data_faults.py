"""What can go wrong while data are fetched: samples that raise, and data workers that die."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import get_worker_info

from trainwright.engine.errors import TrainingError
from trainwright.engine.logging import get_logger
from trainwright.engine.message_hub import MessageHub

MAX_RESTARTS = 3
_PATH_KEYS = ("img_path", "filename", "video_path", "path", "file_name")
_LISTS_OF_PATHS = ("samples", "imgs")
_TEXT_LENGTH = 500
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)|DataLoader timed out")


def describe_sample(dataset: Any, index: int) -> str:
    """Returns ``sample 17 (path/to/17.png) of MyDataset``; without the path where nobody knows it.

    A dataset of the user's own may have a method ``describe_sample(index) -> str`` that returns the path, or
    whatever else tells people which sample that is.

    Args:
        dataset: a map-style dataset.
        index: position of the sample.
    """
    try:
        place = _place_of(dataset, index)
    except Exception:  # the sample is known to be broken: what describes it may be so too
        place = None
    return f"sample {index}{f' ({place})' if place else ''} of {type(dataset).__name__}"


def _place_of(dataset: Any, index: int) -> str | None:
    if callable(describe := getattr(dataset, "describe_sample", None)):
        return str(describe(index))
    if callable(get_info := getattr(dataset, "get_data_info", None)):
        info = get_info(index)
        found = [info[key] for key in _PATH_KEYS if isinstance(info, Mapping) and key in info]
        return os.fspath(found[0]) if found else None
    for name in _LISTS_OF_PATHS:  # torchvision's folders
        items = getattr(dataset, name, None)
        if isinstance(items, list):
            item = items[index]
            path = item[0] if isinstance(item, tuple) else item
            return path if isinstance(path, str) else None
    return None


class BadSamples:
    """Counts the samples that raise and are skipped, also those that data workers meet.

    Args:
        limit: how many different samples may be skipped in a run.
        context: what starts the workers, as for ``DataLoader``: None, a name or a context.
    """

    def __init__(self, limit: int, context: Any = None) -> None:
        self.limit = limit
        if context is None or isinstance(context, str):
            context = multiprocessing.get_context(context)
        self._queue = context.SimpleQueue()
        self._here: list[tuple[int, str]] = []
        self._known: dict[int, str] = {}

    def add(self, index: int, text: str) -> None:
        """Reports a sample, from a data worker or from the process that trains."""
        report = (index, text[:_TEXT_LENGTH])
        if get_worker_info() is None:
            self._here.append(report)
        else:
            self._queue.put(report)

    def collect(self) -> None:
        """Logs what was reported since the last time.

        Raises:
            TrainingError: more samples were skipped than the limit allows.
        """
        reports, self._here = self._here, []
        while not self._queue.empty():
            reports.append(self._queue.get())
        for index, text in reports:
            if index not in self._known:
                self._known[index] = text
                get_logger().warning("skipped %s", text)
                MessageHub.get_current_instance().update_info("skipped_samples", sorted(self._known))
        if len(self._known) > self.limit:
            lines = "\n".join(f"  {text}" for text in self._known.values())
            raise TrainingError(f"more than skip_bad_samples={self.limit} samples could not be loaded:\n{lines}")


class Restarts:
    """Starts dead data workers again, a few times.

    Args:
        limit: how often.
    """

    def __init__(self, limit: int = MAX_RESTARTS) -> None:
        self.limit = limit
        self.number = 0

    def iterate(self, start: Callable[[int, bool], Iterator[Any]]) -> Iterator[Any]:
        """Yields the batches of an iterator over data workers, of a new one where it left off if a worker dies.

        Args:
            start: returns an iterator that begins so many batches later than the first one, and is told whether that
                takes new workers.

        Raises:
            TrainingError: workers died too often.
        """
        done, again = 0, False
        while True:
            batches = start(done, again)
            try:
                for batch in batches:
                    done += 1
                    yield batch
                return
            except RuntimeError as error:
                if _DEAD_WORKER.search(str(error)) is None:
                    raise
                self._note(error)
            again = True
            del batches

    def _note(self, error: RuntimeError) -> None:
        what = str(error).splitlines()[0].rstrip(".")
        remedies = (
            "The usual cause is memory: lower num_workers or prefetch_factor, or give the container more shared memory "
            "(/dev/shm)"
        )
        if self.number >= self.limit:
            raise TrainingError(
                f"data workers died {self.number + 1} times, the last one thus: {what}. {remedies}"
            ) from error
        self.number += 1
        get_logger().warning(
            "%s. New workers go on with the same batch (%d of at most %d times). %s.",
            what,
            self.number,
            self.limit,
            remedies,
        )


def unhook_child_signal() -> None:
    """Removes PyTorch's handler of dead children: it raises wherever the training happens to be, even within a step.

    The loader itself notices a dead worker when it waits for a batch, at most some seconds later.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if "SIGCHLD_handler" in getattr(handler, "__qualname__", ""):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
