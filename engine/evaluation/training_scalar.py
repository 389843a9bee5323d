"""Scalars of the training that decide something, read at intervals and agreed on by all ranks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.building import origin_of
from trainwright.engine.distributed import start_means
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.direction import TRAINING

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

INTERVAL = 50
"""The default number of iterations between two readings."""


def is_training_scalar(name: Any) -> bool:
    """Return whether a monitored name is that of a scalar of the training, such as ``train/loss``."""
    return isinstance(name, str) and name.startswith(TRAINING)


class TrainingScalar:
    """The mean of a scalar of the training over a window of iterations, and over the ranks.

    It is read every ``interval`` iterations, and not before the window is full. Reading waits for the device once, and
    in several processes for a message of a few numbers, so that all ranks see the same value at the same iteration. In
    between, it costs nothing.

    Args:
        name: name of the scalar, such as ``train/loss``: ``train/`` and the name of an output of ``train_step``.
        interval: number of iterations between readings; 50 if None.
        window: number of iterations to average over; those between two readings if None.
        owner: the part that monitors it, for messages.

    Raises:
        ConfigError: a number is not a positive integer.
    """

    def __init__(self, name: str, interval: int | None = None, window: int | None = None, *, owner: str) -> None:
        for mistake in reading_mistakes([name], {"interval": interval, "window": window}, owner):
            raise mistake
        self.name = name
        self.interval = INTERVAL if interval is None else interval
        self.window = self.interval if window is None else window
        self._owner = owner
        self._read_at = -1
        self._is_looked_for = True

    def read(self, runner: "Runner") -> float | None:
        """Return the value after an iteration, or None if it is not due, was already read, or the window is not full.

        All ranks must call this in the same hook point of each iteration. To be read before a checkpoint is written,
        whatever the order of the hooks, call it in ``before_snapshot``, too.

        Raises:
            ConfigError: at the first reading, there is no scalar of this name.
        """
        done = runner.state.iter + 1
        if done % self.interval and not self._is_looked_for:
            return None
        if not runner.state.iter_done:  # a snapshot between iterations
            return None
        if self._is_looked_for:
            self._is_looked_for = False
            self._warn_if_unknown(runner)
        if done % self.interval or done == self._read_at:
            return None
        self._read_at = done
        history = runner.message_hub.log_scalars.get(self.name)
        is_full = history is not None and len(history) >= self.window
        if history is not None:
            history.reserve(self.window)
        value = history.mean(self.window) if history is not None and is_full else 0.0
        own = {"known": float(history is not None), "full": float(is_full), "value": value}
        [mean] = start_means([own])()
        if not mean["known"]:
            raise ConfigError(self._owner, f"there is no scalar {self.name!r} of the training", self._hint(runner))
        return mean["value"] / mean["full"] if mean["full"] else None  # of the ranks that have it

    def _warn_if_unknown(self, runner: "Runner") -> None:
        if self.name not in runner.message_hub.scalar_names:
            runner.logger.warning(
                f"{self._owner}: there is no scalar {self.name!r} of the training yet, and an error if it is still "
                f"missing after {self.interval} iterations: {self._hint(runner)}"
            )

    def _hint(self, runner: "Runner") -> str:
        names = [name for name in runner.message_hub.scalar_names if name.startswith(TRAINING)]
        return did_you_mean(self.name, names) or f"available: {', '.join(names) or 'none'}"


def reading_mistakes(monitors: Iterable[Any], cfg: Mapping[str, Any], path: str) -> Iterator[ConfigError]:
    """Yield an error for each setting of readings, ``interval`` and ``window``, that is wrong or has no effect.

    Args:
        monitors: the monitored names.
        cfg: the config with the settings.
        path: its dotted path.
    """
    has_readings = any(map(is_training_scalar, monitors))
    for key in ("interval", "window"):
        value = cfg.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield ConfigError(f"{path}.{key}", f"must be a positive integer, not {value!r}", origin=origin_of(cfg, key))
        elif not has_readings:
            message = "has no effect: no scalar of the training is monitored"
            yield ConfigError(f"{path}.{key}", message, "their names begin with 'train/'", origin_of(cfg, key))


def without_validation(runner: "Runner", monitors: Iterable[Any], owner: str) -> None:
    """Warn if results of validations are monitored, but there are none."""
    names = [name for name in monitors if not is_training_scalar(name)]
    if names and not runner.has_val:
        runner.logger.warning(
            f"{owner} monitors {', '.join(names)}, but there is no validation, so nothing will happen. The names of "
            "scalars of the training begin with 'train/', as in 'train/loss'."
        )
