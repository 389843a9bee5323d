"""Which of two scores is better, and which metric is meant: one place for all hooks that watch metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.direction import higher_is_better, unknown_direction

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

RULES = ("greater", "less")


@dataclass(frozen=True)
class Monitor:
    """One metric that is watched.

    Args:
        metric: its name among the results, such as ``accuracy/top1``.
        rule: ``"greater"`` or ``"less"``: which scores are better.
    """

    metric: str
    rule: str

    @property
    def worst(self) -> float:
        """The score that every other one beats."""
        return -math.inf if self.rule == "greater" else math.inf

    def is_better(self, score: float, than: float, min_delta: float = 0.0) -> bool:
        """Whether ``score`` beats ``than`` by more than ``min_delta``. A NaN beats nothing."""
        gain = score - than if self.rule == "greater" else than - score
        return gain > min_delta


def check_rules(
    metrics: Sequence[str], rule: str | Sequence[str | None] | None = None, *, owner: str
) -> list[str | None]:
    """Return a rule for each metric, None where it is to be inferred.

    Args:
        metrics: names of the metrics.
        rule: one rule for all, or one for each.
        owner: the hook that asks, for messages.

    Raises:
        ConfigError: an unknown rule, as many rules as no metrics, or a metric named twice.
    """
    if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        raise ConfigError(owner, f"a metric is named twice: {', '.join(repeated)}")
    rules = [rule] if rule is None or isinstance(rule, str) else list(rule)
    if len(rules) == 1:
        rules *= len(metrics)
    if len(rules) != len(metrics):
        raise ConfigError(
            f"{owner}.rule", f"{len(rules)} rules for {len(metrics)} metrics", "give one, or one for each"
        )
    for given in rules:
        if given is not None and given not in RULES:
            raise ConfigError(f"{owner}.rule", f"{given!r} is no rule", "'greater', 'less', or None to infer it")
    return rules


def make_monitors(
    metrics: Sequence[str],
    rule: str | Sequence[str | None] | None = None,
    greater_keys: Sequence[str] = (),
    less_keys: Sequence[str] = (),
    *,
    owner: str,
    evaluated_by: Iterable[Any] = (),
) -> list[Monitor]:
    """Return a monitor for each metric.

    Args:
        metrics: names of the metrics.
        rule: one rule for all, or one for each; where it is None, ``greater_keys`` and ``less_keys`` decide, else the
            metric itself (:attr:`BaseMetric.higher_is_better`), else the words in its name.
        greater_keys: names, or parts of names, of metrics whose greater scores are better. Case does not
            matter, and whole names go before parts.
        less_keys: the same for metrics whose lower scores are better.
        owner: the hook that asks, for messages.
        evaluated_by: the metrics of the validation, see :func:`metrics_of`.

    Raises:
        ConfigError: as :func:`check_rules`, or nothing tells the rule.
    """
    evaluated_by = list(evaluated_by)
    return [
        Monitor(metric, given or _rule_of(metric, greater_keys, less_keys, evaluated_by, owner))
        for metric, given in zip(metrics, check_rules(metrics, rule, owner=owner))
    ]


def metrics_of(runner: "Runner") -> list[Any]:
    """Return the metrics that a run validates with."""
    return list(getattr(runner.val_loop.evaluator, "metrics", ())) if runner.has_val else []


def score_of(metrics: Mapping[str, Any], metric: str, *, owner: str) -> float | None:
    """Return a metric of the results as a number, or None where the result itself is None.

    Raises:
        ConfigError: there is no such metric, with those that there are.
    """
    if metric not in metrics:
        raise ConfigError(owner, f"the results have no {metric!r}", missing_hint(metrics, metric))
    value = metrics[metric]
    return None if value is None else float(value)


def missing_hint(metrics: Mapping[str, Any], metric: str) -> str:
    """Return what to do about a metric that the results do not have."""
    available = f"available: {', '.join(map(str, metrics)) or 'none'}"
    guess = did_you_mean(metric, map(str, metrics))
    return f"{guess}\n{available}" if guess else available


def _rule_of(
    metric: str, greater_keys: Sequence[str], less_keys: Sequence[str], evaluated_by: list[Any], owner: str
) -> str:
    name = metric.lower()
    greater, less = ([key.lower() for key in keys] for keys in (greater_keys, less_keys))
    if name in greater:
        return "greater"
    if name in less:
        return "less"
    if any(key in name for key in greater):
        return "greater"
    if any(key in name for key in less):
        return "less"
    better = higher_is_better(metric, evaluated_by)
    if better is None:
        raise unknown_direction(metric, owner)
    return "greater" if better else "less"
