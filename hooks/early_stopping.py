"""Stop the training when metrics no longer improve."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.evaluation.monitor import (
    Monitor,
    check_rules,
    make_monitors,
    metrics_of,
    missing_hint,
    score_of,
)
from trainwright.engine.evaluation.training_scalar import (
    TrainingScalar,
    is_training_scalar,
    reading_mistakes,
    without_validation,
)
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.state import StopRequest

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Stop the training when metrics have not improved for a number of validations.

    A scalar of the training, such as ``train/loss``, is read every ``interval`` iterations instead, as its mean over
    the ranks and the last ``window`` iterations. ``patience`` then counts these readings.

    An early stop completes the training; it is not an interruption. The best scores and the counts are saved
    in the checkpoint: resuming a stopped run does not continue the training unless the settings of this hook
    have changed such that it would not have stopped. A metric whose ``rule`` has changed is monitored from
    scratch.

    Cost per step: none; 1 µs with a scalar of the training. Reading that synchronizes once.

    Example:
        >>> dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=10)
        >>> dict(type="EarlyStoppingHook", monitor="train/loss", interval=500, patience=4, min_delta=0.01)

    Args:
        monitor: one or several metrics to monitor, such as ``accuracy/top1``, or scalars of the training:
            ``train/`` and the name of an output of ``train_step``.
        rule: ``"greater"`` or ``"less"`` for all metrics, or one rule per metric; by default, inferred from the
            ``higher_is_better`` attribute of the metric, or else from its name.
        min_delta: a score counts as an improvement if it is better than the best one by more than this.
        strict: raise an error if a metric is missing in the results; otherwise log a warning.
        check_finite: stop if a score is NaN or infinite.
        patience: number of validations without improvement after which to stop.
        stopping_threshold: stop once a metric is better than this; one value for all metrics, or one per
            metric.
        stop_when: with several metrics, stop when ``"all"`` or ``"any"`` of them have not improved or have
            reached their threshold.
        interval: for scalars of the training, the number of iterations between readings; 50 if None.
        window: for scalars of the training, the number of iterations to average over; ``interval`` if None.

    Raises:
        ConfigError: a setting is invalid; before the first step, a rule cannot be inferred; or at the first reading,
            there is no such scalar of the training.
    """

    priority = "LOWEST"
    monitor_argument = "monitor"  # names the metrics whose rules `check` tries to infer
    reads_training_scalars = True

    def __init__(
        self,
        monitor: str | Sequence[str],
        rule: str | Sequence[str | None] | None = None,
        min_delta: float = 0.0,
        strict: bool = False,
        check_finite: bool = True,
        patience: int = 5,
        stopping_threshold: float | Sequence[float] | None = None,
        stop_when: str = "all",
        interval: int | None = None,
        window: int | None = None,
    ) -> None:
        if stop_when not in ("all", "any"):
            raise ConfigError("EarlyStoppingHook.stop_when", f"must be 'all' or 'any', not {stop_when!r}")
        if patience < 1:
            raise ConfigError("EarlyStoppingHook.patience", f"must be at least 1, but is {patience}")
        if min_delta < 0:
            raise ConfigError("EarlyStoppingHook.min_delta", f"must not be negative, but is {min_delta}")
        names = [monitor] if isinstance(monitor, str) else list(monitor)
        self._names = names
        self._rules = check_rules(names, rule, owner="EarlyStoppingHook")
        self.monitors: list[Monitor] = []
        self.min_delta = min_delta
        self.strict = strict
        self.check_finite = check_finite
        self.patience = patience
        self.stop_when = stop_when
        self.best_scores: dict[str, float] = {}
        self.wait_counts = dict.fromkeys(names, 0)
        self.last_scores: dict[str, float] = {}
        self._saved_rules: dict[str, str] = {}
        self._thresholds = _thresholds(names, stopping_threshold)
        for mistake in reading_mistakes(names, {"interval": interval, "window": window}, "EarlyStoppingHook"):
            raise mistake
        self._scalars = {
            name: TrainingScalar(name, interval, window, owner="EarlyStoppingHook.monitor")
            for name in names
            if is_training_scalar(name)
        }

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points that the monitors need."""
        unused = set() if self._scalars else {"after_train_iter", "before_snapshot"}
        if len(self._scalars) == len(self._names):
            unused.add("after_val_epoch")
        return [stage for stage in super().get_triggered_stages() if stage not in unused]

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores, the number of validations since each, the latest scores and the rules."""
        return {
            "best_scores": dict(self.best_scores),
            "wait_counts": dict(self.wait_counts),
            "last_scores": dict(self.last_scores),
            "rules": {monitor.metric: monitor.rule for monitor in self.monitors},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of the monitored metrics; :meth:`before_train` discards it if the rule has changed."""
        for own, saved in (
            (self.best_scores, state["best_scores"]),
            (self.wait_counts, state["wait_counts"]),
            (self.last_scores, state.get("last_scores", {})),
        ):
            own.update({metric: value for metric, value in saved.items() if metric in self._names})
        self._saved_rules = dict(state.get("rules", {}))

    def before_train(self, runner: "Runner") -> None:
        """Infer the rules, and stop immediately if the resumed run had already stopped early."""
        without_validation(runner, self._names, "EarlyStoppingHook")
        metrics = metrics_of(runner)
        self.monitors = make_monitors(self._names, self._rules, owner="EarlyStoppingHook", evaluated_by=metrics)
        for monitor in self.monitors:
            if self._saved_rules.get(monitor.metric, monitor.rule) != monitor.rule:
                self.best_scores.pop(monitor.metric, None)
                self.last_scores.pop(monitor.metric, None)
                self.wait_counts[monitor.metric] = 0
        self._saved_rules = {}
        if (reason := self._reason_to_stop()) is not None:
            runner.logger.info(
                f"The training was already stopped early at iteration {runner.iter}. To continue it, change the "
                "settings of EarlyStoppingHook or remove the hook."
            )
            runner.request_stop(reason, complete=True)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Update the scores, and request a stop if a condition is met."""
        if not self.monitors:
            return  # validation without training
        metrics = metrics or {}
        for monitor in self.monitors:
            if monitor.metric not in self._scalars:
                self._update(monitor, self._score(runner, metrics, monitor.metric))
        if (reason := self._reason_to_stop()) is not None:
            runner.request_stop(reason, complete=True)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Update the scores of scalars of the training that are due, and stop if a condition is met."""
        self.before_snapshot(runner)

    def before_snapshot(self, runner: "Runner") -> None:
        """Do the same as :meth:`after_train_iter`, before the checkpoint."""
        values = {name: value for name, scalar in self._scalars.items() if (value := scalar.read(runner)) is not None}
        if not values:
            return
        for monitor in self.monitors:
            if monitor.metric in values:
                self._update(monitor, values[monitor.metric])
        state = runner.state
        if (reason := self._reason_to_stop()) is not None and state.stop_reason is None:
            state.decide(StopRequest(reason, complete=True))  # at this iteration on all ranks, which agree already

    def _update(self, monitor: Monitor, score: float | None) -> None:
        metric = monitor.metric
        if score is None:
            return
        self.last_scores[metric] = score
        if monitor.is_better(score, self.best_scores.get(metric, monitor.worst), self.min_delta):
            self.best_scores[metric] = score
            self.wait_counts[metric] = 0
        else:
            self.wait_counts[metric] += 1

    def _score(self, runner: "Runner", metrics: dict[str, Any], metric: str) -> float | None:
        if metric in metrics:
            return score_of(metrics, metric, owner="EarlyStoppingHook.monitor")
        hint = missing_hint(metrics, metric).replace("\n", "; ")
        message = f"EarlyStoppingHook monitors {metric!r}, which is missing in the results: {hint}"
        if self.strict:
            raise TrainingError(message)
        runner.logger.warning(message)
        return None

    def _reason_to_stop(self) -> str | None:
        """Return the reason to stop the training, or None."""
        reasons = []
        for monitor in self.monitors:
            metric, threshold = monitor.metric, self._thresholds[monitor.metric]
            best = self.best_scores.get(metric, monitor.worst)
            score, count = self.last_scores.get(metric), self.wait_counts[metric]
            if score is not None and self.check_finite and not math.isfinite(score):
                return f"{metric} is {score}, which is not finite (its best was {best:.4f})"
            if score is not None and threshold is not None and monitor.is_better(score, threshold):
                reasons.append(f"{metric} is {score:.4f}, {monitor.rule} than the threshold {threshold}")
            elif count >= self.patience:
                checks = "readings" if metric in self._scalars else "validations"
                reasons.append(f"{metric} did not improve in the last {count} {checks} (best: {best:.4f})")
        required = 1 if self.stop_when == "any" else len(self.monitors)
        return "; ".join(reasons) if len(reasons) >= required else None


def _thresholds(names: list[str], value: float | Sequence[float] | None) -> dict[str, float | None]:
    if value is None or isinstance(value, int | float):
        return dict.fromkeys(names, value)
    if len(value) != len(names):
        raise ConfigError(
            "EarlyStoppingHook.stopping_threshold",
            f"got {len(value)} thresholds for {len(names)} metrics",
            "pass one per metric",
        )
    return dict(zip(names, value))
