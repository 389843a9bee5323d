"""The message hub: shared scalars and information of a run."""

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
from trainwright.engine.strategy.shards import whole


class MessageHub(CurrentMixin):
    """A store for the scalars and other information of a run.

    Tensors are kept until they are read, and then all converted to numbers with one transfer per device, so that a
    training step never waits for the accelerator. Do not modify a tensor in place after passing it in.

    Example:
        >>> hub = MessageHub.get_current_instance()
        >>> hub.update_scalar("train/loss", loss)
        >>> hub.get_scalar("train/loss").mean(window_size=10)

    Args:
        name: name of the instance.
        log_scalars: histories to begin with.
        runtime_info: information to begin with.
        resumed_keys: which of these are part of checkpoints; those not named are.

    Attributes:
        runtime_info: information by name. A hook that changes an entry in every step may write to it directly; entries
            that were never passed to :meth:`update_info` are not part of checkpoints.
    """

    _PENDING_LIMIT = 1024  # per scalar; each pending tensor occupies 512 bytes on the device

    def __init__(
        self,
        name: str,
        log_scalars: Mapping[str, HistoryBuffer] | None = None,
        runtime_info: Mapping[str, Any] | None = None,
        resumed_keys: Mapping[str, bool] | None = None,
    ) -> None:
        super().__init__(name)
        resumed = resumed_keys or {}
        self._series: dict[str, Series] = {}
        for key, history in (log_scalars or {}).items():
            self._series[key] = Series(resumed.get(key, True))
            self._series[key].history = history
        self.runtime_info: dict[str, Any] = dict(runtime_info or {})
        self._resumed_infos = {key: resumed.get(key, True) for key in self.runtime_info}

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        """The history of each scalar."""
        self.flush()
        return {key: series.history for key, series in self._series.items() if series.history.total_length}

    @property
    def has_pending(self) -> bool:
        """Whether there are unread values; if not, reading does not wait for a device."""
        return any(series.pending for series in self._series.values())

    @property
    def scalar_names(self) -> list[str]:
        """The names of the scalars that have values, which are not read."""
        return [key for key, series in self._series.items() if series.pending or series.history.total_length]

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True) -> None:
        """Append a value to the history of a scalar without waiting for the device that computes it.

        Args:
            key: name of the scalar, such as ``train/loss``.
            value: a number, or a tensor or array of one element; a tensor is detached.
            count: number of items that the value is a sum over.
            resumed: whether the history is part of checkpoints; must be the same in every call.

        Raises:
            ValueError: the value does not have exactly one element, or ``resumed`` changes.
            TypeError: the value is not a number.
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
        """Return the series of a scalar, for parts that append to it in every step.

        The number of its pending values is not limited: call :meth:`flush` from time to time. The scalar is not listed
        until it has a value.
        """
        if key not in self._series:
            self._series[key] = Series()
        return self._series[key]

    def update_scalars(self, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Append values to several scalars.

        Each entry is a value, or a dictionary with ``value`` and optionally ``count``; see :meth:`update_scalar`.

        Raises:
            ValueError: an entry is a dictionary without ``value``.
        """
        for key, entry in log_dict.items():
            if not isinstance(entry, Mapping):
                self.update_scalar(key, entry, resumed=resumed)
            elif "value" in entry:
                self.update_scalar(key, entry["value"], int(entry.get("count", 1)), resumed)
            else:
                raise ValueError(f"{key} has no 'value': pass dict(value=…, count=…) or a number")

    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Set an entry of the information.

        Args:
            key: its name.
            value: any value; only tensors, numbers, strings and containers of these are part of checkpoints.
            resumed: whether it is part of checkpoints; must be the same in every call.

        Raises:
            ValueError: ``resumed`` changes.
        """
        if self._resumed_infos.setdefault(key, resumed) is not resumed:
            raise _resumed_changed(key, resumed)
        self.runtime_info[key] = value

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Set several entries of the information."""
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Remove an entry of the information and return it, or ``default``."""
        return self.runtime_info.pop(key, default)

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return an entry of the information, or ``default``."""
        return self.runtime_info.get(key, default)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Return the history of a scalar after waiting for pending computations of its values.

        Raises:
            KeyError: no scalar has this name.
        """
        known = self.log_scalars
        if key not in known:
            hint = did_you_mean(key, known) or f"available: {', '.join(known) or 'none yet'}"
            raise KeyError(f"no scalar {key!r} in the message hub {self.instance_name!r}: {hint}")
        return known[key]

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints; it can be loaded with ``torch.load(weights_only=True)``."""
        scalars = self.log_scalars
        infos: dict[str, Any] = {}
        for key, value in self.runtime_info.items():
            if self._resumed_infos.get(key):
                try:
                    infos[key] = storable(value)
                except TypeError as error:
                    get_logger().warning(f"runtime info {key!r} is not saved in checkpoints: {error}")
        histories = {key: history.state_dict() for key, history in scalars.items() if self._series[key].resumed}
        resumed_keys = dict.fromkeys([*histories, *infos], True)
        return {"log_scalars": histories, "runtime_info": infos, "resumed_keys": resumed_keys}

    def load_state_dict(self, state_dict: "Mapping[str, Any] | MessageHub") -> None:
        """Load the result of :meth:`state_dict`, or the message hub in a checkpoint of MMEngine.

        It also accepts another hub.

        Raises:
            ValueError: ``state_dict`` is not the state of a hub.
        """
        state = state_dict.state_dict() if isinstance(state_dict, MessageHub) else state_dict
        if missing := [key for key in ("log_scalars", "runtime_info", "resumed_keys") if key not in state]:
            raise ValueError(f"not the state of a message hub: {', '.join(missing)} missing")
        self.flush()
        for key, stored in state["log_scalars"].items():
            history = read_history(stored)
            if history is None:
                get_logger().warning(f"ignored history {key!r} of the checkpoint: it cannot be read")
            else:
                series = self.series(key)
                series.history, series.resumed = history, True
        self.runtime_info.update(state["runtime_info"])
        self._resumed_infos.update(dict.fromkeys(state["runtime_info"], True))

    def flush(self) -> None:
        """Convert pending values to numbers, as reading does."""
        pending = [series for series in self._series.values() if series.pending]
        mixed = [series for series in pending if set(map(type, series.pending)) != {float}]
        tensors = [value for series in mixed for value in series.pending if isinstance(value, Tensor)]
        numbers = iter(_to_numbers(tensors))
        for series in mixed:
            series.pending[:] = [next(numbers) if isinstance(value, Tensor) else value for value in series.pending]
        for series in pending:
            series.read()


def _resumed_changed(key: str, resumed: bool) -> ValueError:
    return ValueError(f"{key} was updated with resumed={not resumed} before: it must be the same in every call")


def _checked(key: str, value: Any) -> Any:
    """Return a value as a detached tensor or a number."""
    if isinstance(value, Tensor):
        if type(value) is not Tensor:
            value = whole(value)
        if value.numel() != 1:
            raise ValueError(f"{key} must have one element, got shape {tuple(value.shape)}: reduce it first")
        return value.detach() if value.requires_grad else value
    if isinstance(value, np.ndarray | np.generic):  # before the next: np.float64 is a float, but no plain data
        if value.size != 1:
            raise ValueError(f"{key} must have one element, got shape {value.shape}: reduce it first")
        return value.item()
    if isinstance(value, int | float):
        return value
    raise TypeError(f"{key} is a {type(value).__name__}, not a number: use update_info for other information")


def _to_numbers(tensors: list[Tensor]) -> list[Number]:
    """Return the values of tensors of one element each, with one transfer per accelerator."""
    numbers: list[Any] = [0] * len(tensors)
    on_accelerators: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for index, tensor in enumerate(tensors):
        scalar = tensor.reshape(()) if tensor.ndim else tensor
        if scalar.is_cpu:
            numbers[index] = scalar.tolist()  # twice as fast as item()
        else:
            on_accelerators.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(index)
    for device, by_dtype in on_accelerators.items():
        stacks = [torch.stack([tensors[i].reshape(()) for i in indices]) for indices in by_dtype.values()]
        if len(stacks) > 1:
            widest = torch.float32 if device.type == "mps" else torch.float64
            stacks = [torch.cat([stack.to(widest) for stack in stacks])]
        order = [index for indices in by_dtype.values() for index in indices]
        for index, value in zip(order, stacks[0].tolist()):
            numbers[index] = value
    return numbers


def storable(value: Any) -> Any:
    """Return a copy of a value that consists only of tensors, numbers, strings and containers.

    Raises:
        TypeError: a part of it has another type.
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
    raise TypeError(f"loading a {type(value).__name__} would be unsafe")
