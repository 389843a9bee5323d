"""Which of two scores is better, and which metric is meant: one place for all hooks that watch metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainwright.engine.errors import ConfigError, did_you_mean

RULES = ("greater", "less")
GREATER_KEYS = ("acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "mAcc", "aAcc", "PCK")
LESS_KEYS = ("loss",)


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


def make_monitors(
    metrics: Sequence[str],
    rule: str | Sequence[str | None] | None = None,
    greater_keys: Sequence[str] = GREATER_KEYS,
    less_keys: Sequence[str] = LESS_KEYS,
    *,
    owner: str,
) -> list[Monitor]:
    """Returns a monitor for each metric.

    Args:
        metrics: names of the metrics.
        rule: one rule for all, or one for each; where it is None the rule follows from the metric's name.
        greater_keys: names, or parts of names, of metrics whose greater scores are better. Case does not
            matter, and whole names go before parts.
        less_keys: the same for metrics whose lower scores are better.
        owner: the hook that asks, for messages.

    Raises:
        ConfigError: an unknown rule, as many rules as no metrics, a metric named twice, or a rule that the
            name does not tell.
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
    return [
        Monitor(metric, _rule_of(metric, own_rule, greater_keys, less_keys, owner))
        for metric, own_rule in zip(metrics, rules)
    ]


def score_of(metrics: Mapping[str, Any], metric: str, *, owner: str) -> float | None:
    """Returns a metric of the results as a number, or None where the result itself is None.

    Raises:
        ConfigError: there is no such metric, with those that there are.
    """
    if metric not in metrics:
        raise ConfigError(owner, f"the results have no {metric!r}", missing_hint(metrics, metric))
    value = metrics[metric]
    return None if value is None else float(value)


def missing_hint(metrics: Mapping[str, Any], metric: str) -> str:
    """Returns what to do about a metric that the results do not have."""
    available = f"available: {', '.join(map(str, metrics)) or 'none'}"
    guess = did_you_mean(metric, map(str, metrics))
    return f"{guess}\n{available}" if guess else available


def _rule_of(metric: str, rule: str | None, greater_keys: Sequence[str], less_keys: Sequence[str], owner: str) -> str:
    if rule is not None:
        if rule not in RULES:
            raise ConfigError(f"{owner}.rule", f"{rule!r} is no rule", "'greater', 'less', or None to infer it")
        return rule
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
    raise ConfigError(
        f"{owner}.rule",
        f"cannot infer the rule for key {metric!r}",
        f"set rule='greater' or rule='less' for it (known are {', '.join([*greater_keys, *less_keys])})",
    )
