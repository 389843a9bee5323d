"""Schedules of values in parameter groups: the base class.

A rule is recursive: it computes the next value from the current one, so that schedulers of one value chain,
and a value set from outside is scheduled on. Where the current value must be computed anew, because settings
were changed between a checkpoint and its resume, the schedulers are replayed (``resume_param_schedulers``).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch.optim import Optimizer

from trainwright.engine.errors import did_you_mean
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import get_logger

INF = int(1e9)


class _ParamScheduler:
    """Sets a value of each parameter group, step by step.

    A step is an epoch or an iteration; the first is taken when the scheduler is made. The rule is applied at
    the steps ``begin <= step < end``; outside, the value is left alone.

    A subclass overrides :meth:`_get_value`.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups, such as ``lr``.
        begin: first step of the schedule.
        end: step after the last one.
        last_step: index of the last step taken; -1 to start anew.
        by_epoch: whether a step is an epoch, not an iteration.
        verbose: whether to log each change.

    Raises:
        ValueError: ``end`` is not after ``begin``, a group has no such value, or ``last_step`` does not fit.
    """

    counters: ClassVar[tuple[str, ...]] = ("last_step", "_global_step")
    counted_in_steps: ClassVar[tuple[str, ...]] = ()
    last_step: int
    base_values: list[float]

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self._attach(optimizer, param_name, begin, end, last_step, by_epoch, verbose)
        self._global_step = -1
        self.step()

    def step(self) -> None:
        """Takes a step: sets the value of each group."""
        self._global_step = step = self._global_step + 1
        groups = self.optimizer.param_groups
        name = self.param_name
        if self.begin <= step < self.end:
            self.last_step += 1
            self._set_values(groups, self._get_value())
        self._last_value = [group[name] for group in groups]

    def get_last_value(self) -> list[float]:
        """Returns the values after the last step, one for each group."""
        return self._last_value

    def print_value(self, is_verbose: bool, group: int, value: float) -> None:
        """Logs a new value.

        Args:
            is_verbose: whether to log it.
            group: index of the parameter group.
            value: the value.
        """
        if is_verbose:
            unit = "epoch" if self.by_epoch else "iteration"
            get_logger().info("%s of group %d: %.4e in %s %d", self.param_name, group, value, unit, self.last_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and under ``settings`` and ``class_name`` what they were counted with, to notice
        what changed since.
        """
        counters = {name: getattr(self, name) for name in self.counters}
        return {**counters, "settings": self._settings(), "class_name": type(self).__name__}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the counters of a state, one of MMEngine's too; the settings stay those of this scheduler.

        The optimizer's state, which holds the values themselves, must have been loaded before.
        """
        for name in self.counters:
            if name in state_dict:
                setattr(self, name, state_dict[name])
        self._read_base_values()
        self._last_value = self._current()

    def changed_settings(self, state_dict: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from those of a state, as ``{name: (then, now)}``.

        A state of MMEngine, which has no ``settings``, holds the attributes of the scheduler, more than these.
        """
        then = state_dict.get("settings", state_dict)
        now = self._settings()
        names = now.keys() | then.keys() if "settings" in state_dict else now.keys()
        changed = {
            name: (_plain(then.get(name, "(not saved)")), now.get(name, "(not set)"))
            for name in sorted(names)
            if name not in then or name not in now or _plain(then[name]) != now[name]
        }
        own_class = type(self).__name__
        if (saved_class := state_dict.get("class_name", own_class)) != own_class:
            changed["class_name"] = (saved_class, own_class)
        return changed

    def rewind(self) -> None:
        """Goes back to the start: the initial values, no step taken."""
        self._read_base_values()
        for group, value in zip(self.optimizer.param_groups, self.base_values):
            group[self.param_name] = value
        self.last_step = self._global_step = -1

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes a scheduler that steps with each iteration from settings in epochs.

        Args:
            *args: positional arguments of the class, which are no numbers of epochs.
            begin: first epoch.
            end: epoch after the last one.
            by_epoch: must be True: the settings are in epochs.
            epoch_length: iterations in an epoch.
            **kwargs: further arguments of the class.

        Raises:
            ValueError: the settings are not in epochs, or ``epoch_length`` is no positive number.
        """
        if not by_epoch:
            raise ValueError("convert_to_iter_based needs settings in epochs: by_epoch=True")
        if epoch_length is None or epoch_length <= 0:
            raise ValueError(f"convert_to_iter_based needs epoch_length, a positive integer, not {epoch_length!r}")
        for name in cls.counted_in_steps:
            if kwargs.get(name) is not None:
                kwargs[name] = _times(kwargs[name], epoch_length)
        if end != INF:
            end = int(end * epoch_length)
        kwargs.update(begin=int(begin * epoch_length), end=end, by_epoch=False)
        return cls(*args, **kwargs)

    def _attach(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        begin: int,
        end: int,
        last_step: int,
        by_epoch: bool,
        verbose: bool,
    ) -> None:
        if not isinstance(optimizer, OptimWrapper | Optimizer):
            raise TypeError(f"a scheduler needs an optimizer or its wrapper, not {type(optimizer).__name__}")
        if end <= begin:
            raise ValueError(f"end must be after begin, not begin={begin}, end={end}")
        if not isinstance(last_step, int) or last_step < -1:
            raise ValueError(f"last_step must be an integer of at least -1, not {last_step!r}")
        self.optimizer = optimizer
        self.param_name = param_name
        self.begin = begin
        self.end = end
        self.last_step = last_step
        self.by_epoch = by_epoch
        self.verbose = verbose
        initial = f"initial_{param_name}"
        for index, group in enumerate(optimizer.param_groups):
            if param_name not in group:
                hint = did_you_mean(param_name, group) or f"it has {', '.join(key for key in group if key != 'params')}"
                raise ValueError(f"parameter group {index} has no {param_name!r} to schedule: {hint}")
            if last_step == -1:
                group.setdefault(initial, group[param_name])
            elif initial not in group:
                raise ValueError(f"parameter group {index} has no {initial!r}, which last_step={last_step} needs")
        self.base_values = [group[initial] for group in optimizer.param_groups]

    def _read_base_values(self) -> None:
        """Takes the initial values from the groups; a loaded state need not have had this schedule."""
        initial = f"initial_{self.param_name}"
        groups = self.optimizer.param_groups
        self.base_values = [group.setdefault(initial, group[self.param_name]) for group in groups]

    def _current(self) -> list[float]:
        return [group[self.param_name] for group in self.optimizer.param_groups]

    def _set_values(self, groups: Sequence[dict[str, Any]], values: Sequence[float]) -> None:
        name = self.param_name
        for group, value in zip(groups, values):
            group[name] = value
        if self.verbose:
            for index, value in enumerate(values):
                self.print_value(True, index, value)

    def _settings(self) -> dict[str, Any]:
        not_settings = {*self.counters, "base_values", "verbose"}
        return {
            name: _plain(value)
            for name, value in vars(self).items()
            if name not in not_settings and not name.startswith("_") and _is_plain(value)
        }

    def _get_value(self) -> list[float]:
        """Returns the next value of each group, computed from the current one."""
        raise NotImplementedError


def _times(value: Any, factor: int) -> Any:
    return [item * factor for item in value] if isinstance(value, Sequence) else value * factor


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Returns a setting as it may stand in a checkpoint: no subclasses, no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
