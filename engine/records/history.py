"""The values of one quantity over time, bounded in memory however long the run."""

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
    """The values of one quantity over time: the newest ones, and totals over all that ever came.

    Appending costs the same however long the run, and memory is bounded.

    Example:
        >>> history = HistoryBuffer()
        >>> for loss in (3.0, 2.0, 1.0):
        ...     history.update(loss)
        >>> history.mean(window_size=2)
        1.5

    Args:
        log_history: first values, oldest first.
        count_history: how many things each value stands for, of the same length; a mean is the sum of the
            values over the sum of the counts.
        max_length: how many of the newest values are kept, at least 1.

    Raises:
        ValueError: the two histories differ in length, or ``max_length`` is below 1.
    """

    _statistics: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self, log_history: Iterable[Number] = (), count_history: Iterable[int] = (), max_length: int = 10_000
    ) -> None:
        if max_length < 1:
            raise ValueError(f"a history keeps at least one value, not {max_length}")
        values, counts = list(log_history), list(count_history)
        if len(values) != len(counts):
            raise ValueError(f"each value needs its count: {len(values)} values, {len(counts)} counts")
        self._values: deque[Number] = deque(maxlen=max_length)
        self._counts: deque[int] = deque(maxlen=max_length)
        self._length = 0
        self._sum: Number = 0
        self._count = 0
        self._min: Number = math.inf
        self._max: Number = -math.inf
        self.extend(values, counts)

    def __len__(self) -> int:
        """Number of values that are kept."""
        return len(self._values)

    @property
    def max_length(self) -> int:
        """How many of the newest values are kept."""
        assert self._values.maxlen is not None
        return self._values.maxlen

    @property
    def total_length(self) -> int:
        """Number of values that ever came."""
        return self._length

    @property
    def data(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The kept values and their counts, oldest first."""
        return np.array(self._values), np.array(self._counts)

    def update(self, log_val: Number, count: int = 1) -> None:
        """Appends a value.

        Args:
            log_val: the value.
            count: how many things it stands for.
        """
        self.extend([log_val], [count])

    def extend(self, values: Sequence[Number], counts: Sequence[int]) -> None:
        """Append values with their counts, oldest first."""
        if not values:
            return
        self._values.extend(values)
        self._counts.extend(counts)
        self._length += len(values)
        self._sum = reduce(add, values, self._sum)  # one by one: however many come at once, the bits are the same
        self._count += sum(counts)
        if math.isnan(self._sum) and any(map(math.isnan, values)):
            self._min = self._max = math.nan  # must not hide, though it is neither smaller nor larger than others
        elif not math.isnan(self._min):
            self._min = min(self._min, *values)
            self._max = max(self._max, *values)

    def reserve(self, length: int) -> None:
        """Keeps at least ``length`` of the newest values from now on."""
        if length > self.max_length:
            self._values = deque(self._values, maxlen=length)
            self._counts = deque(self._counts, maxlen=length)

    def current(self) -> Number:
        """Returns the newest value.

        Raises:
            ValueError: there is none.
        """
        self._require_values()
        return self._values[-1]

    def mean(self, window_size: int | None = None) -> float:
        """Returns the mean.

        Args:
            window_size: over how many of the newest values, at least 1; over the whole run if None.

        Returns:
            The sum of the values over the sum of their counts; NaN where that is 0.

        Raises:
            ValueError: there are no values, or the window is empty.
        """
        self._require_values()
        if window_size is None:
            total, count = self._sum, self._count
        else:
            total, count = sum(_last(self._values, window_size)), sum(islice(reversed(self._counts), window_size))
        return float(total / count) if count else math.nan

    def min(self, window_size: int | None = None) -> Number:
        """Returns the smallest value, or NaN if one is among them; arguments as for :meth:`mean`."""
        self._require_values()
        return self._min if window_size is None else np.min(_last(self._values, window_size)).item()

    def max(self, window_size: int | None = None) -> Number:
        """Returns the largest value, or NaN if one is among them; arguments as for :meth:`mean`."""
        self._require_values()
        return self._max if window_size is None else np.max(_last(self._values, window_size)).item()

    @classmethod
    def register_statistics(cls, method: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function of a history usable by its name, for instance in ``custom_cfg`` of a log
        processor.

        Args:
            method: called with the history, and ``window_size`` if it has such an argument.

        Raises:
            KeyError: a statistic of this name exists.
        """
        if method.__name__ in cls._statistics:
            raise KeyError(f"there is a statistic {method.__name__!r} already; give the new one another name")
        cls._statistics[method.__name__] = method
        return method

    @classmethod
    def get_statistics(cls, method_name: str) -> Callable[..., Any]:
        """Returns the function of a history of this name: ``mean``, ``min``, ``max``, ``current``, or yours.

        Raises:
            KeyError: no statistic has this name.
        """
        if method_name not in cls._statistics:
            hint = did_you_mean(method_name, cls._statistics) or f"there are {', '.join(cls._statistics)}"
            raise KeyError(f"no statistic {method_name!r}: {hint}")
        return cls._statistics[method_name]

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Returns the value of a statistic, named as for :meth:`get_statistics`."""
        return self.get_statistics(method_name)(self, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Returns the kept values and the totals."""
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
        """Returns the history whose :meth:`state_dict` this is."""
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
        raise ValueError(f"a window holds at least one value, not {window_size}")
    newest = list(islice(reversed(values), window_size))
    newest.reverse()
    return newest


class Series:
    """One scalar of a message hub: its history, and the values that are still to enter it.

    The handle stays valid as long as the hub does, also when a checkpoint is loaded.

    Args:
        resumed: whether the history is part of checkpoints.

    Attributes:
        add: appends a value without checking it: a float, or a detached tensor of one element, which is read later.
        history: the values that have been read.
    """

    __slots__ = ("add", "counts", "history", "pending", "resumed")

    def __init__(self, resumed: bool = True) -> None:
        self.resumed = resumed
        self.history = HistoryBuffer()
        self.pending: list[Any] = []
        self.counts: list[int] = []  # of the first pending values; those of the others are 1
        self.add: Callable[[Any], None] = self.pending.append  # no method of ours: it is called several times a step

    def read(self) -> None:
        """Move the pending values, which are numbers by now, into the history."""
        self.history.extend(self.pending, self.counts + [1] * (len(self.pending) - len(self.counts)))
        self.pending.clear()
        self.counts.clear()


def read_history(stored: Any) -> HistoryBuffer | None:
    """Returns a history from our state, or from MMEngine's object or its attributes; None otherwise."""
    if isinstance(stored, HistoryBuffer):
        return HistoryBuffer.from_state_dict(stored.state_dict())
    if isinstance(stored, Mapping) and "values" in stored:
        return HistoryBuffer.from_state_dict(stored)
    attributes = stored if isinstance(stored, Mapping) else getattr(stored, "__dict__", {})
    if "_log_history" not in attributes or "_count_history" not in attributes:
        return None
    values, counts = np.asarray(attributes["_log_history"]), np.asarray(attributes["_count_history"])
    return HistoryBuffer(values.tolist(), counts.astype(np.int64).tolist())
