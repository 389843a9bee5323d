"""The message hub: where the parts of a run leave numbers and facts for each other."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import add
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.records.current import CurrentMixin
from trainwright.engine.records.logger import get_logger

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
        """Appends values with their counts, oldest first."""
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
            total, count = sum(_last(self._values, window_size)), sum(_last(self._counts, window_size))
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
    """Returns the newest values, oldest first."""
    if window_size < 1:
        raise ValueError(f"a window holds at least one value, not {window_size}")
    return list(islice(reversed(values), window_size))[::-1]


class _Series:
    """A history, and the values that wait to enter it.

    Args:
        resumed: whether it is part of checkpoints.
        history: the values that have entered; none by default.

    ``counts`` may be shorter than ``values``: those that are not there are 1.
    """

    __slots__ = ("counts", "history", "resumed", "values")

    def __init__(self, resumed: bool, history: HistoryBuffer | None = None) -> None:
        self.resumed = resumed
        self.history = HistoryBuffer() if history is None else history
        self.values: list[Any] = []
        self.counts: list[int] = []


class MessageHub(CurrentMixin):
    """Collects the scalars and the facts of a run.

    Tensors are kept as they are when they come in. They become numbers when somebody reads, all of them in
    one transfer per device, so that a training step never waits for the accelerator. Do not change a tensor
    in place after handing it over.

    Example:
        >>> hub = MessageHub.get_current_instance()
        >>> hub.update_scalar("train/loss", loss)
        >>> hub.get_scalar("train/loss").mean(window_size=10)

    Args:
        name: name of the instance.
    """

    _PENDING_LIMIT = 1024
    """Of each scalar; tensors that wait hold memory on the device, 512 bytes each."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._series: dict[str, _Series] = {}
        self._runtime_info: dict[str, Any] = {}
        self._resumed_infos: dict[str, bool] = {}

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        """The history of each scalar."""
        self.flush()
        return {key: series.history for key, series in self._series.items()}

    @property
    def runtime_info(self) -> dict[str, Any]:
        """The facts by name."""
        return self._runtime_info

    @property
    def has_pending(self) -> bool:
        """Whether values have come since the last reading; if not, reading waits for nothing."""
        return any(series.values for series in self._series.values())

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True) -> None:
        """Appends a value to the history of a scalar, without waiting for the device that computes it.

        Args:
            key: its name, such as ``train/loss``.
            value: a number, or a tensor or array of one element; a tensor is kept detached.
            count: how many things the value is a sum over.
            resumed: whether the history is part of checkpoints; the same in every call.

        Raises:
            ValueError: the value has several elements, or ``resumed`` changes.
            TypeError: the value is no number.
        """
        if type(value) is not float:
            value = _checked(key, value)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(resumed)
        elif series.resumed is not resumed:
            raise _resumed_changed(key, resumed)
        if count != 1:
            series.counts += [1] * (len(series.values) - len(series.counts))
            series.counts.append(count)
        series.values.append(value)
        if len(series.values) >= self._PENDING_LIMIT:
            self.flush()

    def appender(self, key: str) -> Callable[[Any], None]:
        """Returns a function that appends values to a scalar with nothing checked, for hooks that do so in every step.

        It takes floats and detached tensors of one element, each with count 1. Call :meth:`flush` now and then, if
        nobody reads. After :meth:`load_state_dict` ask for another one.

        Args:
            key: name of the scalar.
        """
        return self._series.setdefault(key, _Series(True)).values.append

    def update_scalars(self, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Appends to several scalars.

        Args:
            log_dict: for each name a value, or a dictionary with ``value`` and optionally ``count``.
            resumed: as for :meth:`update_scalar`.

        Raises:
            ValueError: an entry is a dictionary without ``value``.
        """
        for key, entry in log_dict.items():
            if not isinstance(entry, Mapping):
                self.update_scalar(key, entry, resumed=resumed)
            elif "value" in entry:
                self.update_scalar(key, entry["value"], int(entry.get("count", 1)), resumed)
            else:
                raise ValueError(f"{key} has no 'value': write dict(value=…, count=…), or the number itself")

    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Sets a fact.

        Args:
            key: its name.
            value: anything; only tensors, numbers, strings and containers of these are part of checkpoints.
            resumed: whether it is part of checkpoints; the same in every call.

        Raises:
            ValueError: ``resumed`` changes.
        """
        if self._resumed_infos.setdefault(key, resumed) is not resumed:
            raise _resumed_changed(key, resumed)
        self._runtime_info[key] = value

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Sets several facts."""
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Removes a fact and returns it, or ``default``."""
        return self._runtime_info.pop(key, default)

    def get_info(self, key: str, default: Any = None) -> Any:
        """Returns a fact, or ``default``."""
        return self._runtime_info.get(key, default)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Returns the history of a scalar. Waits until the values that are being computed have come.

        Raises:
            KeyError: no scalar has this name.
        """
        self.flush()
        if key not in self._series:
            hint = did_you_mean(key, self._series) or f"there are {', '.join(self._series) or 'none yet'}"
            raise KeyError(f"no scalar {key!r} in the message hub {self.instance_name!r}: {hint}")
        return self._series[key].history

    def state_dict(self) -> dict[str, Any]:
        """Returns what is part of checkpoints; it can be loaded with ``torch.load(weights_only=True)``."""
        self.flush()
        infos: dict[str, Any] = {}
        for key, value in self._runtime_info.items():
            if self._resumed_infos.get(key):
                try:
                    infos[key] = storable(value)
                except TypeError as error:
                    get_logger().warning(f"the fact {key!r} is not part of checkpoints: {error}")
        histories = {key: one.history.state_dict() for key, one in self._series.items() if one.resumed}
        return {
            "log_scalars": histories,
            "runtime_info": infos,
            "resumed_keys": dict.fromkeys([*histories, *infos], True),
        }

    def load_state_dict(self, state_dict: "Mapping[str, Any] | MessageHub") -> None:
        """Restores what :meth:`state_dict` returned; also reads the hub in a checkpoint of MMEngine.

        Args:
            state_dict: a state, or another hub whose state is taken.

        Raises:
            ValueError: this is not the state of a hub.
        """
        state = state_dict.state_dict() if isinstance(state_dict, MessageHub) else state_dict
        missing = [key for key in ("log_scalars", "runtime_info", "resumed_keys") if key not in state]
        if missing:
            raise ValueError(f"this is not the state of a message hub: {', '.join(missing)} missing")
        self.flush()
        for key, stored in state["log_scalars"].items():
            history = _read_history(stored)
            if history is None:
                get_logger().warning(f"the history {key!r} of the checkpoint cannot be read and is left out")
            else:
                self._series[key] = _Series(True, history)
        for key, value in state["runtime_info"].items():
            self._runtime_info[key] = value
            self._resumed_infos[key] = True

    def flush(self) -> None:
        """Turns the values that wait into numbers, as reading does."""
        waiting = [series for series in self._series.values() if series.values]
        tensors = [value for series in waiting for value in series.values if isinstance(value, Tensor)]
        numbers = iter(_to_numbers(tensors))
        for series in waiting:
            values = [next(numbers) if isinstance(value, Tensor) else value for value in series.values]
            series.history.extend(values, series.counts + [1] * (len(values) - len(series.counts)))
            series.values.clear()
            series.counts.clear()


def _resumed_changed(key: str, resumed: bool) -> ValueError:
    return ValueError(f"{key} was updated with resumed={not resumed} before: say the same in every call")


def _checked(key: str, value: Any) -> Any:
    """Returns a value in the form in which it may wait: a detached tensor or a number."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{key} has the shape {tuple(value.shape)}, a scalar has one element: reduce it first")
        return value.detach() if value.requires_grad else value
    if isinstance(value, int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        if value.size != 1:
            raise ValueError(f"{key} has the shape {value.shape}, a scalar has one element: reduce it first")
        return value.item()
    raise TypeError(f"{key} is a {type(value).__name__}, not a number: use update_info for facts")


def _to_numbers(tensors: list[Tensor]) -> list[Number]:
    """Returns the values of tensors of one element each, in one transfer per device."""
    if len({(tensor.device, tensor.dtype) for tensor in tensors}) == 1:
        return torch.stack([_as_0_dim(tensor) for tensor in tensors]).tolist()
    numbers: list[Number] = [0] * len(tensors)
    by_device: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(index)
    for device, by_dtype in by_device.items():
        stacks = [torch.stack([_as_0_dim(tensors[i]) for i in indices]) for indices in by_dtype.values()]
        if len(stacks) > 1:
            exact = torch.float32 if device.type == "mps" else torch.float64
            stacks = [stack.to(exact) for stack in stacks]
        values = torch.cat(stacks).tolist()
        order = [index for indices in by_dtype.values() for index in indices]
        for index, value in zip(order, values):
            numbers[index] = value
    return numbers


def _as_0_dim(tensor: Tensor) -> Tensor:
    return tensor.reshape(()) if tensor.dim() else tensor


def storable(value: Any) -> Any:
    """Returns a copy of a fact made of tensors, numbers, strings and containers only.

    Raises:
        TypeError: it cannot be expressed so.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | set | frozenset):
        return [storable(item) for item in value]
    if isinstance(value, tuple):
        return tuple(storable(item) for item in value)
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, int | float):
        return value.real
    raise TypeError(f"a {type(value).__name__} would need unsafe loading")


def _read_history(stored: Any) -> HistoryBuffer | None:
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
