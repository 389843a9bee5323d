"""Monitored metrics and the comparison of their scores, shared by all hooks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.direction import higher_is_better, unknown_direction
from trainwright.engine.evaluation.evaluator import NamedEvaluators

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

RULES = ("greater", "less")


@dataclass(frozen=True)
class Monitor:
    """A monitored metric.

    Args:
        metric: name of the result, such as ``accuracy/top1``.
        rule: ``"greater"`` if higher scores are better, ``"less"`` if lower ones are.
    """

    metric: str
    rule: str

    @property
    def worst(self) -> float:
        """A score worse than any other."""
        return -math.inf if self.rule == "greater" else math.inf

    def is_better(self, score: float, than: float, min_delta: float = 0.0) -> bool:
        """Return whether ``score`` is better than ``than`` by more than ``min_delta``; NaN never is."""
        gain = score - than if self.rule == "greater" else than - score
        return gain > min_delta


def check_rules(
    metrics: Sequence[str], rule: str | Sequence[str | None] | None = None, *, owner: str
) -> list[str | None]:
    """Return the rule of each metric, or None to infer it, given one rule for all or one for each.

    Raises:
        ConfigError: an unknown rule, a wrong number of rules, or a duplicate metric.
    """
    if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        raise ConfigError(owner, f"duplicate metrics: {', '.join(repeated)}")
    rules = [rule] if rule is None or isinstance(rule, str) else list(rule)
    if len(rules) == 1:
        rules *= len(metrics)
    if len(rules) != len(metrics):
        raise ConfigError(
            f"{owner}.rule", f"{len(rules)} rules for {len(metrics)} metrics", "set one rule, or one for each"
        )
    for given in rules:
        if given is not None and given not in RULES:
            raise ConfigError(f"{owner}.rule", f"unknown rule {given!r}", "'greater', 'less', or None to infer it")
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
        rule: one rule for all, or one for each. If None, it is inferred from ``greater_keys`` and ``less_keys``, then
            from the metric itself (:attr:`BaseMetric.higher_is_better`), then from the words in its name.
        greater_keys: full or partial names of metrics for which higher is better. Case is ignored, and full names
            take precedence.
        less_keys: the same for metrics for which lower is better.
        owner: name of the hook, for messages.
        evaluated_by: the metrics of the validation, see :func:`metrics_of`.

    Raises:
        ConfigError: as for :func:`check_rules`, or a rule cannot be inferred.
    """
    evaluated_by = list(evaluated_by)
    return [
        Monitor(metric, given or _rule_of(metric, greater_keys, less_keys, evaluated_by, owner))
        for metric, given in zip(metrics, check_rules(metrics, rule, owner=owner))
    ]


def metrics_of(runner: "Runner") -> list[Any]:
    """Return the metrics of the validation of a run, none if its loop keeps them elsewhere, as mmagic's does.

    For each of several datasets, they are objects with the prefix and direction of the metric.
    """
    evaluator = getattr(runner.val_loop, "evaluator", None) if runner.has_val else None
    if isinstance(evaluator, NamedEvaluators):
        return [of_set(metric, name) for name, each in evaluator.evaluators.items() for metric in each.metrics]
    return list(getattr(evaluator, "metrics", ()))


def of_set(metric: Any, name: str) -> Any:
    """Return an object with the direction of a metric, and its prefix in the results for one of several datasets."""
    prefix = "/".join(filter(None, (name, getattr(metric, "prefix", None))))
    return SimpleNamespace(prefix=prefix, higher_is_better=getattr(metric, "higher_is_better", None))


def score_of(metrics: Mapping[str, Any], metric: str, *, owner: str) -> float | None:
    """Return a result as a float, or None if it is None; raise a ``ConfigError`` if it is missing."""
    if metric not in metrics:
        raise ConfigError(owner, f"the results have no {metric!r}", missing_hint(metrics, metric))
    value = metrics[metric]
    return None if value is None else float(value)


def missing_hint(metrics: Mapping[str, Any], metric: str) -> str:
    """Return a hint for a missing metric."""
    available = f"available: {', '.join(map(str, metrics)) or 'none'}"
    guess = did_you_mean(metric, map(str, metrics))
    return f"{guess}\n{available}" if guess else available


def _rule_of(
    metric: str, greater_keys: Sequence[str], less_keys: Sequence[str], evaluated_by: list[Any], owner: str
) -> str:
    name = metric.lower()
    for matches in (name.__eq__, name.__contains__):
        for rule, keys in (("greater", greater_keys), ("less", less_keys)):
            if any(matches(key.lower()) for key in keys):
                return rule
    better = higher_is_better(metric, evaluated_by)
    if better is None:
        raise unknown_direction(metric, owner)
    return "greater" if better else "less"
