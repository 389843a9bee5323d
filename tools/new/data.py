"""What ``trainwright new`` knows about the data of the user: samples, classes and splits, whatever their format."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASKS = ("classification", "multilabel", "detection", "instance_segmentation", "pose", "segmentation", "video")
SPLITS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
VAL_SHARE = 0.2


@dataclass
class Sample:
    """A sample of the data.

    Args:
        path: the image or video.
        labels: names of its classes; several or none are possible, depending on the task.
        entry: its entry in a list of samples, if that is not ``path``.
    """

    path: str
    labels: tuple[str, ...] = ()
    entry: str = ""


@dataclass
class Found:
    """Data in a known format.

    Args:
        format: name of the format, for messages.
        tasks: the tasks that the data is good for, the likeliest first.
        splits: the samples of each split: ``train``, ``val``, ``test``, or only ``all`` if the data has no splits.
        classes: names of the classes, in the order of their numbers.
        dataset: arguments of the dataset that are the same for all splits.
        split_args: further arguments of the dataset for each split, as the data has them.
        write_list: writes samples to a list, given its path without suffix, and returns the arguments that refer to it.
        problems: bad samples and annotations, which a dataset refuses.
        left_out: valid samples that are not used, with the reason.
        notes: anything else to report.
        counts: number of instances of each class; of samples if None.
        box_sizes: width and height of each box as fractions of its image.
        keypoints: names of the keypoints.
        flip_indices: for each keypoint, its index in a mirrored image.
        metainfo: further entries of ``metainfo``.
    """

    format: str
    tasks: tuple[str, ...]
    splits: dict[str, list[Sample]]
    classes: list[str]
    dataset: dict[str, Any]
    split_args: dict[str, dict[str, Any]]
    write_list: Callable[[Path, Sequence[Sample]], dict[str, Any]]
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] | None = None
    box_sizes: list[tuple[float, float]] = field(default_factory=list)
    keypoints: list[str] = field(default_factory=list)
    flip_indices: list[int] | None = None
    metainfo: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> list[Sample]:
        """All samples."""
        return [sample for samples in self.splits.values() for sample in samples]

    def labels_of(self, split: str) -> Counter[str]:
        """Return the number of samples of each class in a split."""
        return Counter(label for sample in self.splits.get(split, ()) for label in sample.labels)


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for, such as ``val`` for ``instances_val2017``."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((split for split, names in SPLITS.items() if any(word in names for word in words)), None)


def make_split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into a training and a validation part, a fifth of each class.

    The same files always end up in the same part, on every machine: they are ordered by a hash of their names.
    """
    numbers = Counter(label for sample in samples for label in sample.labels)
    strata: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        rarest = min(sample.labels, key=lambda label: (numbers[label], label), default="")
        strata.setdefault(rarest, []).append(index)
    chosen: set[int] = set()
    for indices in strata.values():
        indices.sort(key=lambda index: (_hash(samples[index].path), index))
        number = max(round(VAL_SHARE * len(indices)), 1 if len(indices) > 1 else 0)
        chosen.update(indices[:number])
    if not chosen and len(samples) > 1:
        chosen = {min(range(len(samples)), key=lambda index: _hash(samples[index].path))}
    train = [sample for index, sample in enumerate(samples) if index not in chosen]
    return train, [sample for index, sample in enumerate(samples) if index in chosen]


def write_table(path: Path, samples: Sequence[Sample], classes: Sequence[str], multilabel: bool) -> str:
    """Write a table of paths and labels, with a column for each class if there are several per sample."""
    file = path.with_suffix(".csv")
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", *classes] if multilabel else ["path", "label"])
        for sample in samples:
            flags = [int(name in sample.labels) for name in classes] if multilabel else sample.labels[:1]
            writer.writerow([sample.path, *flags])
    return file.as_posix()


def write_lines(path: Path, samples: Sequence[Sample]) -> str:
    """Write the entries of samples, one per line."""
    file = path.with_suffix(".txt")
    file.write_text("".join(f"{sample.entry or sample.path}\n" for sample in samples), encoding="utf-8")
    return file.as_posix()


def count_labels(found: Found) -> Mapping[str, int]:
    """Return the number of instances of each class, or of samples if there are no instances; 0 for unused classes."""
    counts = found.counts if found.counts is not None else Counter(one for s in found.samples for one in s.labels)
    return {name: counts.get(name, 0) for name in found.classes}


def _hash(path: str) -> str:
    return hashlib.sha1(Path(path).name.encode()).hexdigest()
