"""Handling of samples that raise an error."""

import bisect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset, Subset, get_worker_info

from trainwright.engine.data.proxy import Proxy
from trainwright.engine.errors import TrainingError
from trainwright.engine.records.logger import OF_RANK, get_logger
from trainwright.engine.records.message_hub import MessageHub

_PATH_KEYS = ("img_path", "filename", "video_path", "path", "file_name")
_LISTS_OF_PATHS = ("samples", "imgs")
_TEXT_LENGTH = 500


def innermost(dataset: Any, index: int) -> tuple[Any, int, int]:
    """Find the innermost dataset of a sample, inside of datasets that repeat, subset or concatenate others.

    Args:
        dataset: a map-style dataset. Supported wrappers are PyTorch's ``Subset`` and ``ConcatDataset``, and those with
            MMEngine's method ``_get_ori_dataset_idx``.
        index: index of the sample in it.

    Returns:
        The innermost dataset, the index of the sample in it, and a number that identifies the sample: the same index,
        offset by the lengths of preceding datasets if several are concatenated.
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
        if find is None:
            return innermost(dataset.dataset, dataset.indices[index])
        # A wrapper around a part of a dataset may find the index in the whole, as mmpretrain's folds do.
        is_part = len(dataset) == len(dataset.dataset)
        return innermost(dataset.dataset, index if is_part else find(index))
    return dataset, index, index


def describe_sample(dataset: Any, index: int) -> str:
    """Return ``sample 17 (path/to/17.png) of MyDataset``, with the path or identifier only if known.

    A custom dataset may have a method ``describe_sample(index) -> str`` that returns the path or another readable
    identifier. If datasets are nested, the innermost one is named.
    """
    place = place_of(dataset, index)
    with suppress(Exception):
        dataset, index, _ = innermost(dataset, index)
    return f"sample {index}{f' ({place})' if place else ''} of {type(dataset).__name__}"


def place_of(dataset: Any, index: int) -> str | None:
    """Return the path of a sample, or another identifier that its dataset provides; None if unknown."""
    with suppress(Exception):  # the sample is broken, so its description may fail as well
        dataset, index, _ = innermost(dataset, index)
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


def note_mixed_sample(error: Exception, dataset: Any, index: int, requested: int) -> None:
    """Note on an error that it is due to another sample than the requested one, which combines several samples.

    Args:
        error: the error.
        dataset: the dataset that contains both samples.
        index: index of the sample that raised the error.
        requested: index of the sample being loaded.
    """
    error.add_note(f"while combining it with {describe_sample(dataset, index)}")
    error.mixed_sample = (dataset, index, requested)  # type: ignore[attr-defined]


def failed_sample(error: Exception, dataset: Any, index: int) -> tuple[str, int]:
    """Return the description of the sample that raised an error, and the number that identifies it.

    This is the sample that was being loaded, unless :func:`note_mixed_sample` names another one.
    """
    number = innermost(dataset, index)[2]
    if (mixed := getattr(error, "mixed_sample", None)) is None:
        return describe_sample(dataset, index), number
    owner, other, requested = mixed
    offset = innermost(owner, other)[2] - innermost(owner, requested)[2]
    return describe_sample(owner, other), number + offset


class BatchWithReports(NamedTuple):
    """A batch, and the number and error text of each sample that was skipped while loading it."""

    content: Any
    reports: list[tuple[int, str]]


class BadSamples:
    """A counter of samples that were skipped because loading them raised an error.

    Reports are passed along with their batch, also from data workers. Skipped samples are recorded in the message hub
    and therefore in checkpoints: the limit applies to the whole run, and a sample counts once even if dataset wrappers
    repeat it.

    Args:
        limit: maximum number of distinct samples to skip in a run.
        key: name of the message hub's list of sample numbers; see :func:`innermost`.
    """

    def __init__(self, limit: int, key: str = "skipped_samples") -> None:
        self.limit = limit
        self.key = key
        self._reports: list[tuple[int, str]] = []
        self._texts: dict[int, str] = {}

    def add(self, number: int, text: str) -> None:
        """Report a skipped sample."""
        self._reports.append((number, text[:_TEXT_LENGTH]))

    def take_reports(self) -> list[tuple[int, str]]:
        """Return the reports of this process since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def collect(self, reports: Sequence[tuple[int, str]]) -> None:
        """Log and count reported samples.

        Raises:
            TrainingError: the limit is exceeded.
        """
        if not reports:
            return
        hub = MessageHub.get_current_instance()
        known = set(hub.get_info(self.key) or ())
        for number, text in reports:
            if number not in known:
                get_logger().warning("Skipped %s", text, extra=OF_RANK)
            known.add(number)
            self._texts[number] = text
        hub.update_info(self.key, sorted(known))
        if len(known) > self.limit:
            texts = [self._texts.get(number, f"sample {number}, see the log") for number in sorted(known)]
            lines = "\n".join(f"  {text}" for text in texts)
            raise TrainingError(f"more than skip_bad_samples={self.limit} samples could not be loaded:\n{lines}")


class CollateWithReports:
    """A collate function that attaches the reports of skipped samples to their batch."""

    def __init__(self, bad_samples: BadSamples, collate: Callable[[Any], Any] | None) -> None:
        self._bad_samples = bad_samples
        self._collate = collate

    def __call__(self, samples: Any) -> BatchWithReports:
        info = get_worker_info()
        dataset: Any = info and info.dataset
        bad_samples: BadSamples = self._bad_samples if info is None else dataset._bad_samples  # that worker's copy
        content = samples if self._collate is None else self._collate(samples)
        return BatchWithReports(content, bad_samples.take_reports())
