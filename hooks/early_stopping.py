"""Stops a training that no longer improves."""

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
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Stops the training when metrics have not improved for some validations.

    That is an end of the training, not an interruption. Best scores and counts are part of the checkpoint: a
    stopped run that is resumed stays stopped, unless the settings of this hook were changed so that it would
    not have stopped. A metric whose ``rule`` was changed is watched from scratch.

    Cost per step: none.

    Args:
        monitor: the metric to watch, such as ``accuracy/top1``, or several.
        rule: ``"greater"`` or ``"less"`` for all of them, or one for each; by default, what the metric says of
            itself (``higher_is_better``), else the words in its name.
        min_delta: a score counts as an improvement if it is better by more than this.
        strict: raise if the results lack a metric; otherwise warn.
        check_finite: stop at a score that is NaN or infinite.
        patience: number of validations without improvement after which to stop.
        stopping_threshold: stop as soon as a metric is better than this; one for all of them, or one for
            each.
        stop_when: with several metrics, stop when ``"all"`` of them, or ``"any"``, have not improved, or have
            reached their threshold.

    Raises:
        ConfigError: settings that are impossible; before the first step, a rule that cannot be inferred.
    """

    priority = "LOWEST"
    monitor_argument = "monitor"  # of which `check` finds out which scores are better

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
    ) -> None:
        if stop_when not in ("all", "any"):
            raise ConfigError("EarlyStoppingHook.stop_when", f"is 'all' or 'any', not {stop_when!r}")
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

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores, the number of validations since each, and the newest scores."""
        return {
            "best_scores": dict(self.best_scores),
            "wait_counts": dict(self.wait_counts),
            "last_scores": dict(self.last_scores),
            "rules": {monitor.metric: monitor.rule for monitor in self.monitors},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of those metrics that are still watched; :meth:`before_train` drops it if a rule changed."""
        for own, saved in (
            (self.best_scores, state["best_scores"]),
            (self.wait_counts, state["wait_counts"]),
            (self.last_scores, state.get("last_scores", {})),
        ):
            own.update({metric: value for metric, value in saved.items() if metric in self._names})
        self._saved_rules = dict(state.get("rules", {}))

    def before_train(self, runner: "Runner") -> None:
        """Find out which scores are better, and keep a run stopped that was stopped before."""
        metrics = metrics_of(runner)
        self.monitors = make_monitors(self._names, self._rules, owner="EarlyStoppingHook", evaluated_by=metrics)
        for monitor in self.monitors:
            if self._saved_rules.get(monitor.metric, monitor.rule) != monitor.rule:
                self._forget(monitor.metric)
        self._saved_rules = {}
        if (reason := self._reason_to_stop()) is not None:
            runner.logger.info(
                f"The training was stopped early at iteration {runner.iter}: nothing left to do. To train further, "
                "change the settings of EarlyStoppingHook, or remove it."
            )
            runner.request_stop(reason, complete=True)

    def _forget(self, metric: str) -> None:
        self.best_scores.pop(metric, None)
        self.last_scores.pop(metric, None)
        self.wait_counts[metric] = 0

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Asks the run to stop if it is time."""
        if not self.monitors:
            return  # a validation without a training
        metrics = metrics or {}
        for monitor in self.monitors:
            metric = monitor.metric
            score = self._score(runner, metrics, metric)
            if score is None:
                continue
            self.last_scores[metric] = score
            if monitor.is_better(score, self.best_scores.get(metric, monitor.worst), self.min_delta):
                self.best_scores[metric] = score
                self.wait_counts[metric] = 0
            else:
                self.wait_counts[metric] += 1
        if (reason := self._reason_to_stop()) is not None:
            runner.request_stop(reason, complete=True)

    def _score(self, runner: "Runner", metrics: dict[str, Any], metric: str) -> float | None:
        if metric in metrics:
            return score_of(metrics, metric, owner="EarlyStoppingHook.monitor")
        hint = missing_hint(metrics, metric).replace("\n", "; ")
        if self.strict:
            raise TrainingError(f"EarlyStoppingHook watches {metric!r}, which the results do not have: {hint}")
        runner.logger.warning(f"EarlyStoppingHook watches {metric!r}, which the results do not have: {hint}")
        return None

    def _reason_to_stop(self) -> str | None:
        """Return why the scores so far end the training, or None."""
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
                reasons.append(f"{metric} did not improve in the last {count} validations (best: {best:.4f})")
        enough = 1 if self.stop_when == "any" else len(self.monitors)
        return "; ".join(reasons) if len(reasons) >= enough else None


def _thresholds(names: list[str], value: float | Sequence[float] | None) -> dict[str, float | None]:
    if value is None or isinstance(value, int | float):
        return dict.fromkeys(names, value)
    if len(value) != len(names):
        raise ConfigError(
            "EarlyStoppingHook.stopping_threshold",
            f"{len(value)} thresholds for {len(names)} metrics",
            "one for each",
        )
    return dict(zip(names, value))
