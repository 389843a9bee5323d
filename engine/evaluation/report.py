"""Contents of a report on a test: what a metric knows beyond its results, as tables, matrices, curves and samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """A table, such as the results of each class.

    Args:
        title: heading; sections with the same title and contents, from two metrics, appear once.
        columns: names of the columns.
        rows: a cell for each column; a NaN is shown as a dash.
        note: what the numbers mean, in one sentence.
        digits: decimal places of floats.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    digits: int = 2


@dataclass(frozen=True)
class Matrix:
    """A matrix of counts, such as a confusion matrix.

    Args:
        title: see :class:`Table`.
        counts: integers, with an entry per column in each row.
        rows: names of the rows.
        columns: names of the columns.
        axes: what the rows and the columns are.
        note: see :class:`Table`.
    """

    title: str
    counts: Sequence[Sequence[int]]
    rows: Sequence[str]
    columns: Sequence[str]
    axes: tuple[str, str] = ("true class", "predicted class")
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """Curves in one chart, such as precision over recall.

    Args:
        title: see :class:`Table`.
        curves: x and y of each curve by name, as sequences or arrays; the first one is emphasized.
        axes: what x and y are.
        limits: range of x; that of the data if None.
        note: see :class:`Table`.
    """

    title: str
    curves: Mapping[str, tuple[Any, Any]]
    axes: tuple[str, str]
    limits: tuple[float, float] | None = (0, 1)
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Samples to draw with their predictions, such as the worst ones.

    Args:
        title: see :class:`Table`.
        indices: indices in the dataset, that is, in the items that ``compute_metrics`` receives.
        captions: a text for each sample, of one or several lines.
        note: see :class:`Table`.
    """

    title: str
    indices: Sequence[int]
    captions: Sequence[str]
    note: str = ""


Section = Table | Matrix | Curves | Samples


def class_names(dataset_meta: Mapping[str, Any] | None, number: int, key: str = "classes") -> list[str]:
    """Return the names of ``number`` classes in the metadata of a dataset, or else their indices."""
    names = list((dataset_meta or {}).get(key) or ())
    return [str(name) for name in (names if len(names) == number else range(number))]
