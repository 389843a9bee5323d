"""Schedules of values in parameter groups: the ten rules."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch.optim import Optimizer

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.optim.param_scheduler import INF, _ParamScheduler
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class StepParamScheduler(_ParamScheduler):
    """Multiplies the value by ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        step_size: number of steps between changes.
        gamma: the factor.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.
    """

    counted_in_steps = ("step_size",)

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        step_size: int,
        gamma: float = 0.1,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0 or self.last_step % self.step_size != 0:
            return self._current()
        return [value * self.gamma for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class MultiStepParamScheduler(_ParamScheduler):
    """Multiplies the value by ``gamma`` at each milestone.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        milestones: steps, counted from ``begin``. One that is named twice counts twice.
        gamma: the factor.
        last_step, begin, end, by_epoch, verbose: as for every scheduler.
    """

    counted_in_steps = ("milestones",)

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        milestones: Sequence[int],
        gamma: float = 0.1,
        last_step: int = -1,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step not in self.milestones:
            return self._current()
        factor = self.gamma ** self.milestones[self.last_step]
        return [value * factor for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class ConstantParamScheduler(_ParamScheduler):
    """Multiplies the value by ``factor`` from ``begin`` on, and takes that back at the last step before
    ``end``.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        factor: the factor, in [0, 1].
        begin, end, last_step, by_epoch, verbose: as for every scheduler.

    Raises:
        ValueError: ``factor`` is out of range.
    """

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        factor: float = 1.0 / 3,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        _check_fraction("factor", factor)
        self.factor = factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.factor for value in self._current()]
        if self.last_step == self.total_iters:
            back = 1.0 / self.factor if self.factor else 0.0
            return [value * back for value in self._current()] if back else list(self.base_values)
        return self._current()


@PARAM_SCHEDULERS.register_module()
class ExponentialParamScheduler(_ParamScheduler):
    """Multiplies the value by ``gamma`` at every step.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        gamma: the factor.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.
    """

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        gamma: float,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.gamma = gamma
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current()
        return [value * self.gamma for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingParamScheduler(_ParamScheduler):
    """Takes the value to ``eta_min`` along half a cosine: ``eta_min + (v0 - eta_min) (1 + cos(pi t / T_max))
    / 2``.

    From SGDR (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983), without its restarts.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        T_max: number of steps to the minimum; ``end - begin`` if None.
        eta_min: the minimum; 0 if neither this nor the next is given.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.
        eta_min_ratio: the minimum as a fraction of the group's initial value, instead of ``eta_min``.

    Raises:
        ValueError: both minima are given.
    """

    counted_in_steps = ("T_max",)

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        T_max: int | None = None,
        eta_min: float | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        eta_min_ratio: float | None = None,
    ) -> None:
        if eta_min is None and eta_min_ratio is None:
            eta_min = 0.0
        _check_one_minimum(eta_min, eta_min_ratio)
        self.T_max = T_max or (end - begin)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        step, period = self.last_step, self.T_max
        if step == 0:
            return self._current()
        minima = _minima(self.base_values, self.eta_min, self.eta_min_ratio)
        if (step - 1 - period) % (2 * period) == 0:  # the step before was the minimum, where the ratio below is 0 / 0
            rise = 1 - math.cos(math.pi / period)
            return [
                value + (base - minimum) * rise / 2
                for value, base, minimum in zip(self._current(), self.base_values, minima)
            ]
        ratio = (1 + math.cos(math.pi * step / period)) / (1 + math.cos(math.pi * (step - 1) / period))
        return [ratio * (value - minimum) + minimum for value, minimum in zip(self._current(), minima)]


@PARAM_SCHEDULERS.register_module()
class LinearParamScheduler(_ParamScheduler):
    """Multiplies the value by a factor that goes in equal steps from ``start_factor`` at ``begin`` to
    ``end_factor`` at the last step before ``end``.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        start_factor: first factor, in (0, 1].
        end_factor: last factor, in [0, 1].
        begin, end, last_step, by_epoch, verbose: as for every scheduler.

    Raises:
        ValueError: a factor is out of range.
    """

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        _check_fraction("start_factor", start_factor)
        if start_factor == 0:
            raise ValueError("start_factor must be above 0: each value is a multiple of the one before")
        _check_fraction("end_factor", end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [value * self.start_factor for value in self._current()]
        rise = self.end_factor - self.start_factor
        factor = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_step - 1) * rise)
        return [value * factor for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class PolyParamScheduler(_ParamScheduler):
    """Takes the value to ``eta_min``, which it reaches at the last step before ``end``, along a power of what
    is left.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        eta_min: the last value.
        power: the power; 1 for a straight line.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.
    """

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        eta_min: float = 0,
        power: float = 1.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        self.eta_min = eta_min
        self.power = power
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return self._current()
        factor: float = (1 - 1 / (self.total_iters - self.last_step + 1)) ** self.power
        return [(value - self.eta_min) * factor + self.eta_min for value in self._current()]


@PARAM_SCHEDULERS.register_module()
class OneCycleParamScheduler(_ParamScheduler):
    """Takes the learning rate from ``eta_max / div_factor`` up to ``eta_max`` and down to ``eta_max /
    div_factor / final_div_factor``. It sets the rate, whatever it was: it does not chain.

    From "Super-Convergence" (Smith and Topin, https://arxiv.org/abs/1708.07120), with two phases as in
    fastai.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: must be ``lr``.
        eta_max: highest rate, or one for each parameter group.
        total_steps: number of steps in the cycle; ``end - begin`` if None.
        pct_start: fraction of the steps in which the rate rises.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: highest by first rate.
        final_div_factor: first by last rate.
        three_phase: fall as fast as it rose, then from the first rate to the last, as in the paper.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.

    Raises:
        ValueError: a setting is out of range, or training goes on beyond ``total_steps``.
    """

    counted_in_steps = ("total_steps",)

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        eta_max: float | Sequence[float] = 0,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if param_name != "lr":
            raise ValueError(f"OneCycle schedules the learning rate, not {param_name!r}")
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps <= 0):
            raise ValueError(f"total_steps must be a positive integer, not {total_steps!r}")
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be a float in [0, 1], not {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
        self.eta_max = eta_max
        self.total_steps = total_steps if total_steps is not None else end - begin
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase
        self.anneal_func: Callable[[float, float, float], float] = (
            self._annealing_cos if anneal_strategy == "cos" else self._annealing_linear
        )
        self._phases = self._phases_of_cycle()
        self._bounds = [
            {"initial": peak / div_factor, "max": peak, "min": peak / div_factor / final_div_factor}
            for peak in self._peak_of_each_group(optimizer)
        ]
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    def _phases_of_cycle(self) -> list[tuple[float, str, str]]:
        """Return the last step of each phase, and the names of the bounds between which it goes."""
        peak = float(self.pct_start * self.total_steps) - 1
        last = self.total_steps - 1
        if not self.three_phase:
            return [(peak, "initial", "max"), (last, "max", "min")]
        fall = float(2 * self.pct_start * self.total_steps) - 2
        return [(peak, "initial", "max"), (fall, "max", "initial"), (last, "initial", "min")]

    def _peak_of_each_group(self, optimizer: OptimWrapper | Optimizer) -> list[float]:
        count = len(optimizer.param_groups)
        peaks = list(self.eta_max) if isinstance(self.eta_max, Sequence) else [self.eta_max] * count
        if len(peaks) != count:
            raise ValueError(f"eta_max has {len(peaks)} values, the optimizer {count} parameter groups")
        return peaks

    @staticmethod
    def _annealing_cos(start: float, end: float, pct: float) -> float:
        return end + (start - end) / 2.0 * (math.cos(math.pi * pct) + 1)

    @staticmethod
    def _annealing_linear(start: float, end: float, pct: float) -> float:
        return (end - start) * pct + start

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step > self.total_steps:
            raise ValueError(f"this is step {step} of a cycle of total_steps={self.total_steps}")
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
class CosineRestartParamScheduler(_ParamScheduler):
    """Takes the value to a minimum along half a cosine, again and again (SGDR,
    https://arxiv.org/abs/1608.03983).

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        periods: number of steps of each period.
        restart_weights: factor of the initial value at the start of each period.
        eta_min: the minimum.
        eta_min_ratio: the minimum as a fraction of the group's initial value; one of the two must be given.
        begin, end, last_step, by_epoch, verbose: as for every scheduler.

    Raises:
        ValueError: both minima or none is given, or there are not as many weights as periods.
    """

    counted_in_steps = ("periods",)

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        _check_one_minimum(eta_min, eta_min_ratio)
        if len(periods) != len(restart_weights):
            raise ValueError(f"there are {len(periods)} periods and {len(restart_weights)} restart_weights")
        self.periods = list(periods)
        self.restart_weights = list(restart_weights)
        self.eta_min = eta_min
        self.eta_min_ratio = eta_min_ratio
        self.cumulative_periods = [sum(self.periods[: index + 1]) for index in range(len(self.periods))]
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @staticmethod
    def get_position_from_periods(iteration: int, cumulative_periods: Sequence[int]) -> int | None:
        """Returns the index of the period that a step is in, or None after the last one.

        Args:
            iteration: the step.
            cumulative_periods: the step after the last one of each period.
        """
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
class ReduceOnPlateauParamScheduler(_ParamScheduler):
    """Multiplies the value by ``factor`` when a metric has not improved for more than ``patience``
    validations.

    Args:
        optimizer: the optimizer or its wrapper.
        param_name: key of the value in the parameter groups.
        monitor: name of the metric.
        rule: ``"less"`` or ``"greater"``: what is better.
        factor: the factor, below 1.
        patience: validations without improvement that are borne.
        threshold: what counts as improvement, at least 0.
        threshold_rule: whether ``threshold`` is a fraction of the best metric (``"rel"``) or a difference
            (``"abs"``).
        cooldown: validations after a change that do not count.
        min_value: lowest value, or one for each parameter group.
        eps: a change below this is not made.
        begin, end, last_step, by_epoch, verbose: as for every scheduler; steps are epochs.

    Raises:
        ValueError: a setting is out of range.
    """

    counters = ("last_step", "_global_step", "best", "num_bad_epochs", "cooldown_counter")
    need_val_args = True

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
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
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not by_epoch:
            raise ValueError("ReduceOnPlateau counts validations of epochs: by_epoch must be True")
        if factor >= 1.0:
            raise ValueError(f"factor must be below 1, not {factor}")
        self._attach(optimizer, param_name, begin, end, last_step, by_epoch, verbose)
        self._global_step = 0
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.min_values = self._minimum_of_each_group(min_value)
        self.best: float = 0.0
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self._init_is_better(rule, threshold, threshold_rule)
        self._reset()
        self._last_value = self._current()

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Counts an epoch, or takes account of a validation.

        Args:
            metrics: results of the validation; None after a training epoch.

        Raises:
            ConfigError: the monitored metric is not among them.
        """
        if metrics is None:
            self._global_step += 1
            return
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must be a dict, not {type(metrics).__name__}")
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            if self.monitor not in metrics:
                hint = did_you_mean(self.monitor, metrics) or f"there are {', '.join(metrics) or 'none'}"
                raise ConfigError("param_scheduler.monitor", f"the validation has no metric {self.monitor!r}", hint)
            self._take(float(metrics[self.monitor]))
        self._last_value = self._current()

    def _take(self, metric: float) -> None:
        if self._is_better(metric, self.best):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self._in_cooldown():
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            values = [new if old - new > self.eps else old for old, new in zip(self._current(), self._get_value())]
            self._set_values(self.optimizer.param_groups, values)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _minimum_of_each_group(self, min_value: float | Sequence[float]) -> list[float]:
        count = len(self.optimizer.param_groups)
        if not isinstance(min_value, Sequence):
            return [min_value] * count
        minima = list(min_value)
        if isinstance(self.optimizer, OptimWrapper) and self.optimizer.base_param_settings is not None:
            minima.append(minima[-1])
        if len(minima) != count:
            raise ValueError(f"min_value has {len(min_value)} values: the parameter groups are fewer or more")
        return minima

    def _get_value(self) -> list[float]:
        return [max(value * self.factor, minimum) for value, minimum in zip(self._current(), self.min_values)]

    def _in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        sign = 1 if self.rule == "greater" else -1
        if self.threshold_rule == "rel":
            return sign * a > sign * best * (1.0 + sign * self.threshold)
        return sign * a > sign * best + self.threshold

    def _init_is_better(self, rule: str, threshold: float, threshold_rule: str) -> None:
        if threshold < 0:
            raise ValueError(f"threshold must be at least 0, not {threshold}")
        if rule not in ("less", "greater"):
            raise ValueError(f"rule must be 'less' or 'greater', not {rule!r}")
        if threshold_rule not in ("rel", "abs"):
            raise ValueError(f"threshold_rule must be 'rel' or 'abs', not {threshold_rule!r}")
        self.rule = rule
        self.threshold = threshold
        self.threshold_rule = threshold_rule
        self.rule_worse = INF if rule == "less" else -INF

    def _reset(self) -> None:
        self.best = self.rule_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0


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
        raise ValueError(f"give either eta_min or eta_min_ratio, not eta_min={eta_min}, eta_min_ratio={eta_min_ratio}")
