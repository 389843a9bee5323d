"""What can go wrong while data are fetched: samples that raise, and data workers that die."""

import bisect
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset, Subset, get_worker_info

from trainwright.engine.data.proxy import Proxy
from trainwright.engine.errors import TrainingError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.records.message_hub import MessageHub

MAX_RESTARTS = 3
_PATH_KEYS = ("img_path", "filename", "video_path", "path", "file_name")
_LISTS_OF_PATHS = ("samples", "imgs")
_TEXT_LENGTH = 500
_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)|DataLoader timed out")


def innermost(dataset: Any, index: int) -> tuple[Any, int, int]:
    """Return which dataset, inside of those that repeat, choose from or join others, a sample is of.

    Args:
        dataset: a map-style dataset. Those that contain others are PyTorch's ``Subset`` and ``ConcatDataset``, and
            those with MMEngine's method ``_get_ori_dataset_idx``.
        index: position of the sample in it.

    Returns:
        The innermost dataset, the position of the sample in it, and a number for the sample: that position, counted
        on from dataset to dataset where several are joined.
    """
    while isinstance(dataset, Proxy):
        dataset = dataset._inner
    parts = getattr(dataset, "datasets", None)
    find = getattr(dataset, "_get_ori_dataset_idx", None)
    if parts is not None and (find is not None or isinstance(dataset, ConcatDataset)):
        if find is not None:
            part, position = find(index)
        else:
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            position = index - (dataset.cumulative_sizes[part - 1] if part else 0)
        part = next(place for place, other in enumerate(parts) if other is parts[part])
        owner, position, number = innermost(parts[part], position)
        return owner, position, number + sum(len(other) for other in parts[:part])
    if hasattr(dataset, "dataset") and (find is not None or isinstance(dataset, Subset)):
        return innermost(dataset.dataset, find(index) if find is not None else dataset.indices[index])
    return dataset, index, index


def describe_sample(dataset: Any, index: int) -> str:
    """Return ``sample 17 (path/to/17.png) of MyDataset``; without the path where nobody knows it.

    A dataset of the user's own may have a method ``describe_sample(index) -> str`` that returns the path, or
    whatever else tells people which sample that is.

    Args:
        dataset: a map-style dataset; of datasets made of others, the innermost one is named.
        index: position of the sample.
    """
    place = place_of(dataset, index)
    with suppress(Exception):  # the sample is broken, so its description may fail as well
        dataset, index, _ = innermost(dataset, index)
    return f"sample {index}{f' ({place})' if place else ''} of {type(dataset).__name__}"


def place_of(dataset: Any, index: int) -> str | None:
    """Return the path of a sample, or what else its dataset calls it; None where nobody knows."""
    with suppress(Exception):
        dataset, index, _ = innermost(dataset, index)
        return _place_of(dataset, index)
    return None


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


class BatchWithReports(NamedTuple):
    """What a data worker hands over: a batch, and the samples that raised while it was made."""

    content: Any
    reports: list[tuple[int, str]]


class BadSamples:
    """Counts the samples that raise and are skipped.

    Reports travel with the batch that they concern, also from data workers. Which samples are known is part of the
    message hub, and so of checkpoints: the limit is that of the whole run, and a sample counts once, however often
    other datasets repeat it.

    Args:
        limit: how many different samples may be skipped in a run.
        key: name under which the message hub has the numbers of those that were; see :func:`innermost`.
    """

    def __init__(self, limit: int, key: str = "skipped_samples") -> None:
        self.limit = limit
        self.key = key
        self._reports: list[tuple[int, str]] = []
        self._texts: dict[int, str] = {}

    def add(self, number: int, text: str) -> None:
        """Report a sample that raised."""
        self._reports.append((number, text[:_TEXT_LENGTH]))

    def take_reports(self) -> list[tuple[int, str]]:
        """Return what was reported in this process since the last time."""
        reports, self._reports = self._reports, []
        return reports

    def collect(self, reports: Sequence[tuple[int, str]]) -> None:
        """Log samples that were reported, and count them.

        Raises:
            TrainingError: more samples were skipped than the limit allows.
        """
        if not reports:
            return
        hub = MessageHub.get_current_instance()
        known = set(hub.get_info(self.key) or ())
        for number, text in reports:
            if number not in known:
                get_logger().warning("skipped %s", text)
            known.add(number)
            self._texts[number] = text
        hub.update_info(self.key, sorted(known))
        if len(known) > self.limit:
            lines = "\n".join(
                f"  {self._texts.get(number, f'sample {number}, see the log')}" for number in sorted(known)
            )
            raise TrainingError(f"more than skip_bad_samples={self.limit} samples could not be loaded:\n{lines}")


class CollateWithReports:
    """Adds to a batch the samples that raised while it was made.

    Args:
        bad_samples: where they are reported in this process.
        collate: makes a batch of samples.
    """

    def __init__(self, bad_samples: BadSamples, collate: Callable[[Any], Any] | None) -> None:
        self._bad_samples = bad_samples
        self._collate = collate

    def __call__(self, samples: Any) -> BatchWithReports:
        info = get_worker_info()
        dataset: Any = info and info.dataset
        bad_samples: BadSamples = self._bad_samples if info is None else dataset._bad_samples  # that worker's copy
        content = samples if self._collate is None else self._collate(samples)
        return BatchWithReports(content, bad_samples.take_reports())


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
