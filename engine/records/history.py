"""Histories of scalars with bounded memory."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import add
from typing import Any, ClassVar

import numpy as np
import torch

from trainwright.engine.errors import did_you_mean

Number = int | float


class HistoryBuffer:
    """The history of a scalar: its newest values, and totals over all values.

    Appending takes constant time, and memory is bounded.

    Example:
        >>> history = HistoryBuffer()
        >>> for loss in (3.0, 2.0, 1.0):
        ...     history.update(loss)
        >>> history.mean(window_size=2)
        1.5

    Args:
        log_history: initial values, oldest first.
        count_history: number of items that each value is a sum over, of the same length; a mean is the sum of the
            values divided by the sum of the counts.
        max_length: number of newest values to keep, at least 1.

    Raises:
        ValueError: the two histories differ in length, or ``max_length`` is below 1.
    """

    _statistics: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self, log_history: Iterable[Number] = (), count_history: Iterable[int] = (), max_length: int = 10_000
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        values, counts = list(log_history), list(count_history)
        if len(values) != len(counts):
            raise ValueError(f"expected one count per value, got {len(values)} values and {len(counts)} counts")
        self._values: deque[Number] = deque(maxlen=max_length)
        self._counts: deque[int] = deque(maxlen=max_length)
        self._length = 0
        self._sum: Number = 0
        self._count = 0
        self._min: Number = math.inf
        self._max: Number = -math.inf
        self.extend(values, counts)

    def __len__(self) -> int:
        """Return the number of kept values."""
        return len(self._values)

    @property
    def max_length(self) -> int:
        """Number of newest values to keep."""
        assert self._values.maxlen is not None
        return self._values.maxlen

    @property
    def total_length(self) -> int:
        """Number of all values, including those no longer kept."""
        return self._length

    @property
    def data(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The kept values and their counts, oldest first."""
        return np.array(self._values), np.array(self._counts)

    @property
    def _log_history(self) -> np.ndarray[Any, Any]:
        """The kept values, under the name that statistics registered for MMEngine use."""
        return self.data[0]

    @property
    def _count_history(self) -> np.ndarray[Any, Any]:
        """The counts of the kept values, under the name that statistics registered for MMEngine use."""
        return self.data[1]

    def update(self, log_val: Number, count: int = 1) -> None:
        """Append a value that is a sum over ``count`` items."""
        self.extend([log_val], [count])

    def extend(self, values: Sequence[Number], counts: Sequence[int]) -> None:
        """Append values with their counts, oldest first."""
        if not values:
            return
        self._values.extend(values)
        self._counts.extend(counts)
        self._length += len(values)
        self._sum = reduce(add, values, self._sum)  # in order, so the result does not depend on the batching
        self._count += sum(counts)
        if math.isnan(self._sum) and any(map(math.isnan, values)):
            self._min = self._max = math.nan  # NaN compares false, so propagate it explicitly
        elif not math.isnan(self._min):
            self._min = min(self._min, *values)
            self._max = max(self._max, *values)

    def reserve(self, length: int) -> None:
        """Keep at least the ``length`` newest values from now on."""
        if length > self.max_length:
            self._values = deque(self._values, maxlen=length)
            self._counts = deque(self._counts, maxlen=length)

    def current(self) -> Number:
        """Return the newest value.

        Raises:
            ValueError: the history is empty.
        """
        self._require_values()
        return self._values[-1]

    def mean(self, window_size: int | None = None) -> float:
        """Return the mean: the sum of the values divided by the sum of their counts, or NaN if that is 0.

        Args:
            window_size: number of newest values, at least 1; the whole run if None.

        Raises:
            ValueError: the history is empty, or the window is below 1.
        """
        self._require_values()
        if window_size is None:
            total, count = self._sum, self._count
        else:
            total, count = sum(_last(self._values, window_size)), sum(islice(reversed(self._counts), window_size))
        return float(total / count) if count else math.nan

    def min(self, window_size: int | None = None) -> Number:
        """Return the smallest value, or NaN if any value is NaN. The argument is that of :meth:`mean`."""
        self._require_values()
        return self._min if window_size is None else np.min(_last(self._values, window_size)).item()

    def max(self, window_size: int | None = None) -> Number:
        """Return the largest value, or NaN if any value is NaN. The argument is that of :meth:`mean`."""
        self._require_values()
        return self._max if window_size is None else np.max(_last(self._values, window_size)).item()

    @classmethod
    def register_statistics(cls, method: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function of a history as a statistic, for example for ``custom_cfg`` of a log processor.

        It is called with the history, and with ``window_size`` if it has that argument.

        Raises:
            KeyError: a statistic with this name exists.
        """
        if method.__name__ in cls._statistics:
            raise KeyError(f"statistic {method.__name__!r} already exists: rename the new one")
        cls._statistics[method.__name__] = method
        return method

    @classmethod
    def get_statistics(cls, method_name: str) -> Callable[..., Any]:
        """Return the function of a statistic: ``mean``, ``min``, ``max``, ``current``, or a registered one.

        Raises:
            KeyError: no statistic has this name.
        """
        if method_name not in cls._statistics:
            hint = did_you_mean(method_name, cls._statistics) or f"available are {', '.join(cls._statistics)}"
            raise KeyError(f"unknown statistic {method_name!r}: {hint}")
        return cls._statistics[method_name]

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a statistic, see :meth:`get_statistics`."""
        return self.get_statistics(method_name)(self, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return the kept values and the totals."""
        return {
            "values": torch.tensor(list(self._values), dtype=torch.float64),
            "counts": torch.tensor(list(self._counts), dtype=torch.int64),
            "max_length": self.max_length,
            "length": self._length,
            "sum": self._sum,
            "count": self._count,
            "min": self._min,
            "max": self._max,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "HistoryBuffer":
        """Create a history from the result of :meth:`state_dict`."""
        history = cls(state["values"].tolist(), state["counts"].tolist(), state["max_length"])
        history._length, history._sum, history._count = state["length"], state["sum"], state["count"]
        history._min, history._max = state["min"], state["max"]
        return history

    def _require_values(self) -> None:
        if not self._values:
            raise ValueError("this history is empty: call update() first")


HistoryBuffer._statistics.update(
    mean=HistoryBuffer.mean, min=HistoryBuffer.min, max=HistoryBuffer.max, current=HistoryBuffer.current
)


def _last(values: "deque[Any]", window_size: int) -> list[Any]:
    """Return the newest values, oldest first."""
    if window_size < 1:
        raise ValueError(f"window_size must be at least 1, got {window_size}")
    return list(islice(reversed(values), window_size))[::-1]


class Series:
    """One scalar of a message hub: its history, and pending values.

    It stays valid as long as the hub exists, even after loading a checkpoint.

    Attributes:
        resumed: whether the history is part of checkpoints.
        add: appends a value without checking it: a float, or a detached tensor of one element, which is read later.
        history: the values that have been read.
    """

    __slots__ = ("add", "counts", "history", "pending", "resumed")

    def __init__(self, resumed: bool = True) -> None:
        self.resumed = resumed
        self.history = HistoryBuffer()
        self.pending: list[Any] = []
        self.counts: list[int] = []  # of the first pending values; the counts of the others are 1
        self.add: Callable[[Any], None] = self.pending.append  # called several times per step: avoid a Python method

    def read(self) -> None:
        """Move the pending values, which must be numbers, to the history."""
        self.history.extend(self.pending, self.counts + [1] * (len(self.pending) - len(self.counts)))
        self.pending.clear()
        self.counts.clear()


def read_history(stored: Any) -> HistoryBuffer | None:
    """Return a history from a state of ours, or from an object of MMEngine or its attributes; None if unreadable."""
    if isinstance(stored, HistoryBuffer):
        return HistoryBuffer.from_state_dict(stored.state_dict())
    if isinstance(stored, Mapping) and "values" in stored:
        return HistoryBuffer.from_state_dict(stored)
    attributes = stored if isinstance(stored, Mapping) else getattr(stored, "__dict__", {})
    if "_log_history" not in attributes or "_count_history" not in attributes:
        return None
    values, counts = np.asarray(attributes["_log_history"]), np.asarray(attributes["_count_history"])
    return HistoryBuffer(values.tolist(), counts.astype(np.int64).tolist())
