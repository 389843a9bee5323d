"""Conditions on scalars of the training and on results of validations."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.direction import higher_is_better, unknown_direction
from trainwright.engine.evaluation.monitor import RULES, Monitor, make_monitors, metrics_of, score_of
from trainwright.engine.evaluation.training_scalar import (
    TrainingScalar,
    is_training_scalar,
    reading_mistakes,
    without_validation,
)

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_KINDS = ("above", "below", "plateau")
_KEYS = ("monitor", *_KINDS, "interval", "window")
_EXAMPLE = "dict(monitor=…, above=…), dict(monitor=…, below=…) or dict(monitor=…, plateau=dict(patience=…))"


class Condition:
    """A condition on a scalar of the training or on a result of the validation, for the argument ``when`` of hooks.

    Keys:

    - ``monitor``: the name of a result, such as ``accuracy/top1``, or of a scalar of the training, such as
      ``train/loss``: ``train/`` and the name of an output of ``train_step``. A result is read after each
      validation; a scalar of the training every ``interval`` iterations (50 by default), as its mean over the last
      ``window`` iterations (by default, as many as ``interval``) and over all ranks.
    - ``above``, ``below`` or ``plateau``: whether it exceeds a number, falls below it, or has not improved in
      ``plateau=dict(patience=…)`` readings in a row. An improvement smaller than or equal to ``min_delta`` (0 by
      default) does not count. ``rule`` is ``"greater"`` or ``"less"``, if it cannot be inferred which is better. NaN is
      neither above nor below anything, and no improvement.

    Example:
        >>> dict(monitor="accuracy/top1", above=90)
        >>> dict(monitor="train/loss", window=200, below=0.1)
        >>> dict(monitor="train/loss", interval=500, plateau=dict(patience=4, min_delta=0.01))

    Args:
        cfg: the keys.
        owner: the hook, for messages.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """

    def __init__(self, cfg: Mapping[str, Any], *, owner: str) -> None:
        for mistake in self.mistakes(cfg, f"{owner}.when"):
            raise mistake
        self._owner = owner
        self.monitor: str = cfg["monitor"]
        self._above: float | None = cfg.get("above")
        self._below: float | None = cfg.get("below")
        plateau: Mapping[str, Any] = cfg.get("plateau") or {}
        self._patience: int = plateau.get("patience", 0)
        self._min_delta: float = plateau.get("min_delta", 0.0)
        self._rule: str | None = plateau.get("rule")
        self._direction: Monitor | None = None
        self._best: float | None = None
        self._waited = 0
        self.scalar: TrainingScalar | None = None
        if is_training_scalar(self.monitor):
            reading = (cfg.get("interval"), cfg.get("window"))
            self.scalar = TrainingScalar(self.monitor, *reading, owner=f"{owner}.when.monitor")

    @staticmethod
    def mistakes(cfg: Any, path: str, metrics: Iterable[Any] | None = None) -> Iterator[ConfigError]:
        """Yield an error for each wrong key.

        Args:
            cfg: the keys.
            path: their dotted path.
            metrics: the metrics of the validation, to tell whether the direction of a plateau can be inferred.
        """
        if not isinstance(cfg, Mapping):
            yield ConfigError(path, f"invalid condition {cfg!r}", _EXAMPLE)
            return
        for key in cfg:
            if key not in _KEYS:
                hint = did_you_mean(key, _KEYS) or _EXAMPLE
                yield ConfigError(f"{path}.{key}", "unknown key of a condition", hint, origin_of(cfg, key))
        monitor = cfg.get("monitor")
        if not isinstance(monitor, str) or sum(cfg.get(kind) is not None for kind in _KINDS) != 1:
            yield ConfigError(path, f"invalid condition {dict(cfg)}", _EXAMPLE, origin_of(cfg, "monitor"))
            return
        for key in ("above", "below"):
            value = cfg.get(key)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                yield ConfigError(f"{path}.{key}", f"must be a number, not {value!r}", origin=origin_of(cfg, key))
        yield from reading_mistakes([monitor], cfg, path)
        if cfg.get("plateau") is not None:
            yield from _plateau_mistakes(cfg["plateau"], f"{path}.plateau")
            rule = cfg["plateau"].get("rule") if isinstance(cfg["plateau"], Mapping) else ""
            if metrics is not None and rule is None and higher_is_better(monitor, metrics) is None:
                yield unknown_direction(monitor, f"{path}.plateau", origin_of(cfg, "monitor"))

    def before_train(self, runner: "Runner") -> None:
        """Infer which is better, and warn if there is no validation whose results could be read."""
        without_validation(runner, [self.monitor], self._owner)
        if self._patience:
            [self._direction] = make_monitors(
                [self.monitor], self._rule, owner=f"{self._owner}.when.plateau", evaluated_by=metrics_of(runner)
            )

    def holds_after_iter(self, runner: "Runner") -> bool:
        """Return whether a scalar of the training is due and satisfies the condition; see :class:`TrainingScalar`."""
        value = None if self.scalar is None else self.scalar.read(runner)
        return value is not None and self._holds(value)

    def holds_after_val(self, metrics: Mapping[str, Any] | None) -> bool:
        """Return whether a result of a validation satisfies the condition.

        Raises:
            ConfigError: there is no such result.
        """
        if self.scalar is not None:
            return False
        metrics, monitor = metrics or {}, self.monitor
        if monitor not in metrics:  # also accept the name in the message hub
            monitor = monitor.removeprefix("val/")
        score = score_of(metrics, monitor, owner=f"{self._owner}.when.monitor")
        return score is not None and self._holds(score)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the number of readings since."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        self._best, self._waited = state["best"], state["waited"]

    def _holds(self, value: float) -> bool:
        if self._above is not None:
            return value > self._above
        if self._below is not None:
            return value < self._below
        assert self._direction is not None
        best = self._direction.worst if self._best is None else self._best
        if self._direction.is_better(value, best, self._min_delta):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited < self._patience:
            return False
        self._waited = 0  # for a hook that waits for the next plateau
        return True


def _plateau_mistakes(plateau: Any, path: str) -> Iterator[ConfigError]:
    keys = ("patience", "min_delta", "rule")
    if not isinstance(plateau, Mapping):
        yield ConfigError(path, f"expected a dict, not {plateau!r}", "plateau=dict(patience=5, min_delta=0.0)")
        return
    for key in plateau:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"valid keys: {', '.join(keys)}"
            yield ConfigError(f"{path}.{key}", "unknown key of a plateau", hint, origin_of(plateau, key))
    patience, min_delta, rule = plateau.get("patience"), plateau.get("min_delta", 0.0), plateau.get("rule")
    for key, is_valid, expected in (
        ("patience", isinstance(patience, int) and patience >= 1, "an integer of at least 1"),
        ("min_delta", isinstance(min_delta, int | float) and min_delta >= 0, "a number of at least 0"),
        ("rule", rule is None or rule in RULES, "'greater' or 'less'"),
    ):
        if not is_valid:
            message = f"must be {expected}, not {plateau.get(key)!r}"
            yield ConfigError(f"{path}.{key}", message, origin=origin_of(plateau, key))
