"""The message hub: where the parts of a run leave numbers and facts for each other."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.records.current import CurrentMixin
from trainwright.engine.records.history import HistoryBuffer, Number, Series, read_history
from trainwright.engine.records.logger import get_logger


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

    Attributes:
        runtime_info: the facts by name. A hook that changes one in every step may write it here; one that was never
            passed to :meth:`update_info` is not part of checkpoints.
    """

    _PENDING_LIMIT = 1024
    """Of each scalar; tensors that wait hold memory on the device, 512 bytes each."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._series: dict[str, Series] = {}
        self.runtime_info: dict[str, Any] = {}
        self._resumed_infos: dict[str, bool] = {}

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        """The history of each scalar."""
        self.flush()
        return {key: series.history for key, series in self._series.items() if series.history.total_length}

    @property
    def has_pending(self) -> bool:
        """Whether values have come since the last reading; if not, reading waits for nothing."""
        return any(series.pending for series in self._series.values())

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
            series = self._series[key] = Series(resumed)
        elif series.resumed is not resumed:
            raise _resumed_changed(key, resumed)
        if count != 1:
            series.counts += [1] * (len(series.pending) - len(series.counts))
            series.counts.append(count)
        series.add(value)
        if len(series.pending) >= self._PENDING_LIMIT:
            self.flush()

    def series(self, key: str) -> Series:
        """Return the handle of a scalar, for parts that append to it in every step.

        Nothing limits the number of pending values of such a part: call :meth:`flush` from time to time.

        Args:
            key: name of the scalar, which is listed from its first value on.
        """
        if key not in self._series:
            self._series[key] = Series()
        return self._series[key]

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
        self.runtime_info[key] = value

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Sets several facts."""
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Removes a fact and returns it, or ``default``."""
        return self.runtime_info.pop(key, default)

    def get_info(self, key: str, default: Any = None) -> Any:
        """Returns a fact, or ``default``."""
        return self.runtime_info.get(key, default)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Returns the history of a scalar. Waits until the values that are being computed have come.

        Raises:
            KeyError: no scalar has this name.
        """
        known = self.log_scalars
        if key not in known:
            hint = did_you_mean(key, known) or f"there are {', '.join(known) or 'none yet'}"
            raise KeyError(f"no scalar {key!r} in the message hub {self.instance_name!r}: {hint}")
        return known[key]

    def state_dict(self) -> dict[str, Any]:
        """Returns what is part of checkpoints; it can be loaded with ``torch.load(weights_only=True)``."""
        scalars = self.log_scalars
        infos: dict[str, Any] = {}
        for key, value in self.runtime_info.items():
            if self._resumed_infos.get(key):
                try:
                    infos[key] = storable(value)
                except TypeError as error:
                    get_logger().warning(f"the fact {key!r} is not part of checkpoints: {error}")
        histories = {key: history.state_dict() for key, history in scalars.items() if self._series[key].resumed}
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
            history = read_history(stored)
            if history is None:
                get_logger().warning(f"the history {key!r} of the checkpoint cannot be read and is left out")
            else:
                series = self.series(key)
                series.history, series.resumed = history, True
        for key, value in state["runtime_info"].items():
            self.runtime_info[key] = value
            self._resumed_infos[key] = True

    def flush(self) -> None:
        """Turns the values that wait into numbers, as reading does."""
        waiting = [series for series in self._series.values() if series.pending]
        mixed = [series for series in waiting if set(map(type, series.pending)) != {float}]
        tensors = [value for series in mixed for value in series.pending if isinstance(value, Tensor)]
        numbers = iter(_to_numbers(tensors))
        for series in mixed:
            series.pending[:] = [next(numbers) if isinstance(value, Tensor) else value for value in series.pending]
        for series in waiting:
            series.read()


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
    """Return the values of tensors of one element each, in one transfer per accelerator."""
    numbers: list[Any] = [0] * len(tensors)
    elsewhere: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for index, tensor in enumerate(tensors):
        scalar = tensor.reshape(()) if tensor.ndim else tensor
        if scalar.is_cpu:
            numbers[index] = scalar.tolist()  # half the time of item()
        else:
            elsewhere.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(index)
    for device, by_dtype in elsewhere.items():
        stacks = [torch.stack([tensors[i].reshape(()) for i in indices]) for indices in by_dtype.values()]
        if len(stacks) > 1:
            exact = torch.float32 if device.type == "mps" else torch.float64
            stacks = [torch.cat([stack.to(exact) for stack in stacks])]
        order = [index for indices in by_dtype.values() for index in indices]
        for index, value in zip(order, stacks[0].tolist()):
            numbers[index] = value
    return numbers


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
