"""The ten scheduling rules for values in parameter groups.

Arguments shared by all schedulers are documented in :class:`ParamScheduler`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

from trainwright.engine.evaluation.monitor import RULES, Monitor, score_of
from trainwright.engine.evaluation.training_scalar import TrainingScalar, is_training_scalar, reading_mistakes
from trainwright.engine.optim.param_scheduler import INF, AnyOptimizer, ParamScheduler, Schedule
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class StepParamScheduler(ParamScheduler):
    """Multiply the value by ``gamma`` every ``step_size`` steps.

    Args:
        step_size: number of steps between changes.
        gamma: the factor.
        **schedule: see :class:`ParamScheduler`.
    """

    counted_in_steps = ("step_size",)

    def __init__(
        self, optimizer: AnyOptimizer, param_name: str, step_size: int, gamma: float = 0.1, **schedule: Unpack[Schedule]
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step == 0 or self.last_step % self.step_size != 0:
            return self._current()
        return [value * self.gamma for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class MultiStepParamScheduler(ParamScheduler):
    """Multiply the value by ``gamma`` at each milestone.

    Args:
        milestones: steps, counted from ``begin``. A step listed twice multiplies twice.
        gamma: the factor.
        **schedule: see :class:`ParamScheduler`.
    """

    counted_in_steps = ("milestones",)

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        milestones: Sequence[int],
        gamma: float = 0.1,
        **schedule: Unpack[Schedule],
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step not in self.milestones:
            return self._current()
        factor = self.gamma ** self.milestones[self.last_step]
        return [value * factor for value in self._current()]


class _OverWholeSchedule(ParamScheduler):
    def _start(self) -> None:
        self.total_iters = self.end - self.begin - 1
        super()._start()


@PARAM_SCHEDULERS.register_module()
class ConstantParamScheduler(_OverWholeSchedule):
    """Multiply the value by ``factor`` from ``begin`` until the last step before ``end``, which restores it.

    Args:
        factor: the factor, in [0, 1].
        **schedule: see :class:`ParamScheduler`.

    Raises:
        ValueError: ``factor`` is out of range.
    """

    def __init__(
        self, optimizer: AnyOptimizer, param_name: str, factor: float = 1.0 / 3, **schedule: Unpack[Schedule]
    ) -> None:
        _check_fraction("factor", factor)
        self.factor = factor
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.factor for value in self._current()]
        if self.last_step == self.total_iters:
            if self.factor == 0:  # the current value is lost
                return list(self.base_values)
            return [value * (1.0 / self.factor) for value in self._current()]
        return self._current()


@PARAM_SCHEDULERS.register_module()
class ExponentialParamScheduler(ParamScheduler):
    """Multiply the value by ``gamma`` at every step.

    Args:
        gamma: the factor.
        **schedule: see :class:`ParamScheduler`.
    """

    def __init__(self, optimizer: AnyOptimizer, param_name: str, gamma: float, **schedule: Unpack[Schedule]) -> None:
        self.gamma = gamma
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current()
        return [value * self.gamma for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingParamScheduler(ParamScheduler):
    """Anneal the value to a minimum along half a cosine: ``eta_min + (v0 - eta_min) (1 + cos(pi t / T_max)) / 2``.

    From SGDR (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983), without restarts.

    Args:
        T_max: number of steps to the minimum; ``end - begin`` if None.
        eta_min: the minimum; 0 if ``eta_min_ratio`` is None, too.
        eta_min_ratio: the minimum as a fraction of the group's initial value, instead of ``eta_min``.
        **schedule: see :class:`ParamScheduler`.

    Raises:
        ValueError: both minima are given.
    """

    counted_in_steps = ("T_max",)

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        T_max: int | None = None,
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        **schedule: Unpack[Schedule],
    ) -> None:
        if eta_min is None and eta_min_ratio is None:
            eta_min = 0.0
        _check_one_minimum(eta_min, eta_min_ratio)
        self.T_max = T_max or 0
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        super().__init__(optimizer, param_name, **schedule)

    def _start(self) -> None:
        self.T_max = self.T_max or self.end - self.begin
        super()._start()

    def _get_value(self) -> list[float]:
        step, period = self.last_step, self.T_max
        if step == 0:
            return self._current()
        minima = _minima(self.base_values, self.eta_min, self.eta_min_ratio)
        if (step - 1 - period) % (2 * period) == 0:  # the last step was the minimum: the ratio below is 0 / 0
            rise = 1 - math.cos(math.pi / period)
            return [
                value + (base - minimum) * rise / 2
                for value, base, minimum in zip(self._current(), self.base_values, minima)
            ]
        ratio = (1 + math.cos(math.pi * step / period)) / (1 + math.cos(math.pi * (step - 1) / period))
        return [ratio * (value - minimum) + minimum for value, minimum in zip(self._current(), minima)]


@PARAM_SCHEDULERS.register_module()
class LinearParamScheduler(_OverWholeSchedule):
    """Multiply the value by a factor that changes linearly, for instance for warm-up.

    Args:
        start_factor: factor at ``begin``, in (0, 1].
        end_factor: factor at the last step before ``end``, in [0, 1].
        **schedule: see :class:`ParamScheduler`.

    Raises:
        ValueError: a factor is out of range.
    """

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        **schedule: Unpack[Schedule],
    ) -> None:
        _check_fraction("start_factor", start_factor)
        if start_factor == 0:
            raise ValueError("start_factor must be above 0, since each value is a multiple of the previous one")
        _check_fraction("end_factor", end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.start_factor for value in self._current()]
        rise = self.end_factor - self.start_factor
        factor = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_step - 1) * rise)
        return [value * factor for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class PolyParamScheduler(_OverWholeSchedule):
    """Decay the value polynomially to ``eta_min``, which is reached at the last step before ``end``.

    Args:
        eta_min: the final value.
        power: degree of the polynomial; 1 for linear decay.
        **schedule: see :class:`ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        eta_min: float = 0,
        power: float = 1.0,
        **schedule: Unpack[Schedule],
    ) -> None:
        self.eta_min = eta_min
        self.power = power
        super().__init__(optimizer, param_name, **schedule)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current()
        factor: float = (1 - 1 / (self.total_iters - self.last_step + 1)) ** self.power
        return [(value - self.eta_min) * factor + self.eta_min for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class OneCycleParamScheduler(ParamScheduler):
    """Raise the learning rate from ``eta_max / div_factor`` to ``eta_max``, then decay it below its initial value.

    From "Super-Convergence" (Smith and Topin, https://arxiv.org/abs/1708.07120), with two phases as in fastai. The
    final rate is ``eta_max / div_factor / final_div_factor``. This rule overrides the current rate, so it cannot be
    chained with others.

    Args:
        eta_max: maximum rate, or one for each parameter group.
        total_steps: number of steps in the cycle; ``end - begin`` if None.
        pct_start: fraction of the steps in which the rate rises.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: ratio of the maximum to the initial rate.
        final_div_factor: ratio of the initial to the final rate.
        three_phase: whether to return to the initial rate as fast as it rose before the final decay, as in the paper.
        **schedule: see :class:`ParamScheduler`; only ``lr`` can be scheduled.

    Raises:
        ValueError: a setting is out of range, or training continues beyond ``total_steps``.
    """

    counted_in_steps = ("total_steps",)

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        eta_max: float | Sequence[float] = 0,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        **schedule: Unpack[Schedule],
    ) -> None:
        if param_name != "lr":
            raise ValueError(f"OneCycle can only schedule the learning rate, not {param_name!r}")
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps <= 0):
            raise ValueError(f"total_steps must be a positive integer, not {total_steps!r}")
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be a float in [0, 1], not {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
        self.eta_max = eta_max
        self.total_steps = total_steps or 0
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase
        self.anneal_func: Callable[[float, float, float], float] = _cosine if anneal_strategy == "cos" else _linear
        super().__init__(optimizer, param_name, **schedule)

    def _start(self) -> None:
        self.total_steps = self.total_steps or self.end - self.begin
        self._phases = self._phases_of_cycle()
        self._bounds = [
            {"initial": peak / self.div_factor, "max": peak, "min": peak / self.div_factor / self.final_div_factor}
            for peak in _for_each_group("eta_max", self.eta_max, len(self.base_values))
        ]
        super()._start()

    def _phases_of_cycle(self) -> list[tuple[float, str, str]]:
        """Return the last step of each phase, and the names of the bounds at its start and end."""
        peak = float(self.pct_start * self.total_steps) - 1
        last = self.total_steps - 1
        if not self.three_phase:
            return [(peak, "initial", "max"), (last, "max", "min")]
        fall = float(2 * self.pct_start * self.total_steps) - 2
        return [(peak, "initial", "max"), (fall, "max", "initial"), (last, "initial", "min")]

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step > self.total_steps:
            raise ValueError(f"step {step} is beyond the end of a cycle of total_steps={self.total_steps}")
        start_step: float = 0
        end_step, start, stop = self._phases[-1]
        for phase in self._phases[:-1]:
            if step <= phase[0]:
                end_step, start, stop = phase
                break
            start_step = phase[0]
        pct = (step - start_step) / (end_step - start_step) if end_step != start_step else 1.0
        return [self.anneal_func(bounds[start], bounds[stop], pct) for bounds in self._bounds]


@PARAM_SCHEDULERS.register_module()
class CosineRestartParamScheduler(ParamScheduler):
    """Anneal the value to a minimum along half a cosine, with restarts (SGDR, https://arxiv.org/abs/1608.03983).

    Args:
        periods: number of steps in each period.
        restart_weights: factor of the initial value at the start of each period.
        eta_min: the minimum.
        eta_min_ratio: the minimum as a fraction of the group's initial value. Exactly one of the two must be given.
        **schedule: see :class:`ParamScheduler`.

    Raises:
        ValueError: both or neither of the minima are given, or the numbers of weights and periods differ.
    """

    counted_in_steps = ("periods",)

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        **schedule: Unpack[Schedule],
    ) -> None:
        _check_one_minimum(eta_min, eta_min_ratio)
        if len(periods) != len(restart_weights):
            raise ValueError(f"there are {len(periods)} periods but {len(restart_weights)} restart_weights")
        self.periods = list(periods)
        self.restart_weights = list(restart_weights)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        self.cumulative_periods = [sum(self.periods[: index + 1]) for index in range(len(self.periods))]
        super().__init__(optimizer, param_name, **schedule)

    @staticmethod
    def get_position_from_periods(iteration: int, cumulative_periods: Sequence[int]) -> int | None:
        """Return the index of the period of a step, given the (exclusive) end of each period; None after the last."""
        return next((index for index, end in enumerate(cumulative_periods) if iteration < end), None)

    def _get_value(self) -> list[float]:
        index = self.get_position_from_periods(self.last_step, self.cumulative_periods)
        if index is None:
            return self._current()
        period = self.periods[index]
        step = self.last_step - (self.cumulative_periods[index - 1] if index else 0)
        if step == 0:
            return [base * self.restart_weights[index] for base in self.base_values]
        minima = _minima(self.base_values, self.eta_min, self.eta_min_ratio)
        ratio = (1 + math.cos(math.pi * step / period)) / (1 + math.cos(math.pi * (step - 1) / period))
        return [ratio * (value - minimum) + minimum for value, minimum in zip(self._current(), minima)]


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauParamScheduler(ParamScheduler):
    """Multiply the value by ``factor`` when a metric has not improved for more than ``patience`` validations.

    A scalar of the training, such as ``train/loss``, is read every ``interval`` iterations instead, as its mean over
    the ranks and the last ``window`` iterations. ``patience`` and ``cooldown`` then count these readings.

    Args:
        monitor: name of the metric, or of a scalar of the training: ``train/`` and an output of ``train_step``.
        rule: ``"less"`` if lower scores are better, ``"greater"`` if higher ones are.
        factor: the factor, below 1.
        patience: number of validations without improvement to tolerate.
        threshold: minimum improvement, at least 0.
        threshold_rule: whether ``threshold`` is a fraction of the best score (``"rel"``) or a difference (``"abs"``).
        cooldown: number of validations to ignore after a change.
        min_value: lower bound of the value, or one for each parameter group.
        eps: minimum change of the value; smaller changes are skipped.
        interval: for a scalar of the training, the number of iterations between readings; 50 if None.
        window: for a scalar of the training, the number of iterations to average over; ``interval`` if None.
        **schedule: see :class:`ParamScheduler`; steps are epochs.

    Raises:
        ValueError: a setting is out of range.
    """

    counters = ("last_step", "_global_step", "best", "num_bad_epochs", "cooldown_counter")
    need_val_args = True

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        monitor: str = "loss",
        rule: str = "less",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        interval: int | None = None,
        window: int | None = None,
        **schedule: Unpack[Schedule],
    ) -> None:
        for mistake in reading_mistakes([monitor], {"interval": interval, "window": window}, "param_scheduler"):
            raise mistake
        self._scalar: TrainingScalar | None = None
        if is_training_scalar(monitor):
            self._scalar = TrainingScalar(monitor, interval, window, owner="param_scheduler.monitor")
            self.interval, self.window = self._scalar.interval, self._scalar.window  # settings, compared on resume
        if factor >= 1.0:
            raise ValueError(f"factor must be below 1, not {factor}")
        if threshold < 0:
            raise ValueError(f"threshold must be at least 0, not {threshold}")
        if rule not in RULES:
            raise ValueError(f"rule must be 'less' or 'greater', not {rule!r}")
        if threshold_rule not in ("rel", "abs"):
            raise ValueError(f"threshold_rule must be 'rel' or 'abs', not {threshold_rule!r}")
        self.monitor = monitor
        self.rule = rule
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_rule = threshold_rule
        self.cooldown = cooldown
        self.eps = eps
        self._monitor = Monitor(monitor, rule)
        self.best: float = -INF if rule == "greater" else INF
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        super().__init__(optimizer, param_name, **schedule)
        if not self.by_epoch:
            raise ValueError("ReduceOnPlateau counts epochs: by_epoch must be True")
        has_base = isinstance(optimizer, OptimWrapper) and optimizer.base_param_settings is not None
        minima = _for_each_group("min_value", min_value, len(self.base_values) - has_base)
        self.min_values = [*minima, *minima[-1:] * has_base]

    @property
    def scalar(self) -> TrainingScalar | None:
        """The monitored scalar of the training; None for a result of the validation."""
        return self._scalar

    def _start(self) -> None:
        """Do not take a step before the first validation."""
        self._global_step = 0
        self._last_value = self._current()

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count an epoch, or process the results of a validation or the scalar of the training.

        Args:
            metrics: results of the validation, or the scalar by its name; None after a training epoch.

        Raises:
            ConfigError: the monitored metric is missing.
        """
        if metrics is None:
            self._global_step += 1
            return
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must be a dict, not {type(metrics).__name__}")
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            score = score_of(metrics, self.monitor, owner="param_scheduler.monitor")
            self._count(math.nan if score is None else score)
        self._last_value = self._current()

    def _count(self, score: float) -> None:
        if self._improves(score):
            self.best = score
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._set_values(
                [new if old - new > self.eps else old for old, new in zip(self._current(), self._get_value())]
            )
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _improves(self, score: float) -> bool:
        margin = self.threshold if self.rule == "greater" else -self.threshold
        bar = self.best * (1.0 + margin) if self.threshold_rule == "rel" else self.best + margin
        return self._monitor.is_better(score, than=bar)

    def _get_value(self) -> list[float]:
        return [max(value * self.factor, minimum) for value, minimum in zip(self._current(), self.min_values)]


def _cosine(start: float, end: float, pct: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * pct) + 1)


def _linear(start: float, end: float, pct: float) -> float:
    return (end - start) * pct + start


def _for_each_group(name: str, value: float | Sequence[float], count: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values, but the optimizer has {count} parameter groups")
    return values


def _minima(bases: Sequence[float], eta_min: float | None, eta_min_ratio: float | None) -> list[float]:
    if eta_min_ratio is None:
        assert eta_min is not None
        return [eta_min] * len(bases)
    return [base * eta_min_ratio for base in bases]


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], not {value}")


def _check_one_minimum(eta_min: float | None, eta_min_ratio: float | None) -> None:
    if (eta_min is None) == (eta_min_ratio is None):
        raise ValueError(f"set either eta_min or eta_min_ratio, not eta_min={eta_min}, eta_min_ratio={eta_min_ratio}")
