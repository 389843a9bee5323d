"""The base class of all schedulers of values in parameter groups.

Schedulers of one value can be chained, since each computes the next value from the current one; for the same reason,
they continue from a value that was set manually. If settings changed since a checkpoint, all steps are replayed on
resume (see :mod:`trainwright.engine.optim.scheduler_resume`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypedDict

from torch.optim import Optimizer

from trainwright.engine.errors import did_you_mean
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import get_logger

INF = int(1e9)
AnyOptimizer = OptimWrapper | Optimizer


class Schedule(TypedDict, total=False):
    """Arguments shared by all schedulers, for ``**schedule: Unpack[Schedule]``; see :class:`ParamScheduler`."""

    begin: int
    end: int
    last_step: int
    by_epoch: bool
    verbose: bool


class ParamScheduler:
    """Base class of schedulers, which update a value of each parameter group at every step.

    A step is an epoch or an iteration; the first is taken on construction. The rule applies at steps
    ``begin <= step < end``; at other steps, the value does not change.

    A subclass assigns its settings, calls ``super().__init__``, and overrides one of:

    - :meth:`_get_factor`: closed form, the value as a multiple of the initial one;
    - :meth:`_get_value`: recursive form, the next values from the current ones.

    To keep schedulers chainable and runs resumable:

    - Compute the next value from the current one. ``base_value * f(step)`` would discard the effect of all other
      schedulers of that value (:meth:`_get_factor` does not have this problem).
    - List every attribute that changes from step to step in :attr:`counters`: no other attribute is restored. (A
      warning is logged if a setting has changed when a checkpoint is saved.)
    - Keep settings in public attributes: they are saved with the counters, and if one differs on resume, the value is
      recomputed from the start. Derive settings from ``begin`` and ``end`` in :meth:`_start`.

    Example:
        >>> @PARAM_SCHEDULERS.register_module()
        ... class InverseSqrtLR(ParamScheduler):
        ...     def __init__(self, optimizer, scale: float, **schedule: Unpack[Schedule]) -> None:
        ...         self.scale = scale
        ...         super().__init__(optimizer, "lr", **schedule)
        ...
        ...     def _get_factor(self, step: int) -> float:
        ...         return (1 + step / self.scale) ** -0.5

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups, such as ``lr``.
        begin: first step of the schedule.
        end: first step after the schedule. The Runner sets it to the end of the run by default.
        last_step: index of the last step taken, counted from ``begin``; -1 to start from the beginning.
        by_epoch: whether a step is an epoch rather than an iteration.
        verbose: whether to log each change.

    Raises:
        ValueError: ``end`` is not after ``begin``, a group does not have the value, or ``last_step`` is invalid.
    """

    counters: ClassVar[tuple[str, ...]] = ("last_step", "_global_step")
    """Attributes that change from step to step."""

    counted_in_steps: ClassVar[tuple[str, ...]] = ()
    """Arguments that are numbers of steps, for :meth:`build_iter_from_epoch`."""

    need_val_args: ClassVar[bool] = False
    """Whether :meth:`step` is also called with the results of validations."""

    base_values: list[float]
    """The initial value of each group."""

    _settings_when_made: Mapping[str, Any] = {}  # never modified in place

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not isinstance(optimizer, AnyOptimizer):
            raise TypeError(f"expected an optimizer or its wrapper, not {type(optimizer).__name__}")
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
        for index, group in enumerate(optimizer.param_groups):
            if param_name not in group:
                hint = did_you_mean(param_name, group) or f"it has {', '.join(key for key in group if key != 'params')}"
                raise ValueError(f"parameter group {index} has no {param_name!r} to schedule: {hint}")
            if last_step != -1 and (initial := f"initial_{param_name}") not in group:
                raise ValueError(f"parameter group {index} has no {initial!r}, which last_step={last_step} needs")
        self._read_base_values()
        self._global_step = -1
        self._start()
        self._settings_when_made = self._settings()

    def step(self) -> None:
        """Take a step: set the value of each group."""
        self._global_step = step = self._global_step + 1
        if self.begin <= step < self.end:
            self.last_step += 1
            self._set_values(self._get_value())
        self._last_value = self._current()

    def get_last_value(self) -> list[float]:
        """Return the value of each group after the last step."""
        return self._last_value

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and ``settings`` and ``class_name`` to detect changes on resume."""
        settings = self._settings()
        changed = [name for name, value in self._settings_when_made.items() if settings.get(name) != value]
        if changed:
            get_logger().warning(
                "%s changed its %s during the run: on resume, only attributes listed in `counters` are restored",
                type(self).__name__,
                ", ".join(changed),
            )
            self._settings_when_made = {}  # warn once
        counters = {name: getattr(self, name) for name in self.counters}
        return {**counters, "settings": settings, "class_name": type(self).__name__}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counters, but not the settings, of a state. Load the optimizer, which holds the values, first."""
        for name in self.counters:
            if name in state_dict:
                setattr(self, name, state_dict[name])
        self._read_base_values()
        self._last_value = self._current()

    def changed_settings(self, state_dict: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from those of a state, as ``{name: (then, now)}``.

        Other entries of the state are ignored: attributes from MMEngine, or settings of an older version of the class.
        """
        then = state_dict.get("settings", state_dict)
        return {
            name: (_plain(then.get(name, "(not saved)")), value)
            for name, value in sorted(self._settings().items())
            if name not in then or _plain(then[name]) != value
        }

    def rewind(self) -> None:
        """Reset the values and counters to before the first step."""
        self._read_base_values()
        for group, value in zip(self.optimizer.param_groups, self.base_values):
            group[self.param_name] = value
        self.last_step = self._global_step = -1

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: float = 0,
        end: float = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build a scheduler that steps at each iteration from settings in epochs.

        Args:
            *args: positional arguments of the class, none of them in epochs.
            begin: first epoch; with a fraction, it is in the middle of one.
            end: first epoch after the schedule, likewise.
            by_epoch: must be True.
            epoch_length: iterations per epoch.
            **kwargs: further arguments of the class.

        Raises:
            ValueError: the settings are not in epochs, or ``epoch_length`` is not positive.
        """
        if not by_epoch:
            raise ValueError("convert_to_iter_based needs settings in epochs: by_epoch=True")
        if epoch_length is None or epoch_length <= 0:
            raise ValueError(f"convert_to_iter_based needs epoch_length, a positive integer, not {epoch_length!r}")
        for name in cls.counted_in_steps:
            value = kwargs.get(name)
            if isinstance(value, Sequence):
                kwargs[name] = [_iterations(item, epoch_length) for item in value]
            elif value is not None:
                kwargs[name] = _iterations(value, epoch_length)
        end = end if end == INF else int(end * epoch_length)
        kwargs.update(begin=int(begin * epoch_length), end=end, by_epoch=False)
        return cls(*args, **kwargs)

    def _start(self) -> None:
        """Take the first step. Override to derive settings from ``begin`` and ``end`` before it."""
        self.step()

    def _get_factor(self, step: int) -> float:
        """Return the value at a step, counted from ``begin``, as a multiple of the initial one."""
        raise NotImplementedError(f"{type(self).__name__} must override _get_factor or _get_value")

    def _get_value(self) -> list[float]:
        """Return the next value of each group, computed from the current one."""
        factor = self._get_factor(self.last_step)
        before = self._get_factor(self.last_step - 1) if self.last_step else 1.0
        if before == 0:  # the current value is lost
            return [base * factor for base in self.base_values]
        return [value * (factor / before) for value in self._current()]

    def _read_base_values(self) -> None:
        """Read the initial values from the groups, or set them if a loaded state does not have them."""
        initial = f"initial_{self.param_name}"
        groups = self.optimizer.param_groups
        self.base_values = [group.setdefault(initial, group[self.param_name]) for group in groups]

    def _current(self) -> list[float]:
        return [group[self.param_name] for group in self.optimizer.param_groups]

    def _set_values(self, values: Sequence[float]) -> None:
        groups = self.optimizer.param_groups
        if len(values) != len(groups):
            raise ValueError(f"{type(self).__name__} computed {len(values)} values for {len(groups)} parameter groups")
        for index, (group, value) in enumerate(zip(groups, values)):
            group[self.param_name] = value
            if self.verbose:
                unit = "epoch" if self.by_epoch else "iteration"
                get_logger().info("%s of group %d: %.4e in %s %d", self.param_name, index, value, unit, self.last_step)

    def _settings(self) -> dict[str, Any]:
        not_settings = {*self.counters, "base_values", "verbose"}
        return {
            name: _plain(value)
            for name, value in vars(self).items()
            if name not in not_settings and not name.startswith("_") and _is_plain(value)
        }


_ParamScheduler = ParamScheduler  # MMEngine's name


def _iterations(epochs: float, epoch_length: int) -> int:
    """Return a number of epochs in iterations, rounded down, but not to 0."""
    return max(int(epochs * epoch_length), int(epochs > 0))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Convert a setting to plain dicts and lists, as stored in checkpoints."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
