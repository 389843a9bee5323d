"""Change the gradient accumulation during training."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.condition import Condition
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class GradientAccumulationScheduleHook(Hook):
    """Set ``accumulative_counts`` of the optimizer wrapper according to a schedule, or whenever a condition holds.

    A new count takes effect at the next accumulation window; a window in progress is finished with the old one. With
    several optimizers, the count is that of all of them.

    Larger batches instead of lower learning rates: Smith et al., https://arxiv.org/abs/1711.00489.

    Cost per step: none by epoch; 0.4 µs by iteration; 0.5 µs with a scalar of the training, with one synchronization
    for each reading.

    Example:
        >>> dict(type="GradientAccumulationScheduleHook", schedule={0: 1, 4: 4})  # 4 from the fifth epoch on
        >>> dict(type="GradientAccumulationScheduleHook", counts=[2, 4, 8],
        ...      when=dict(monitor="train/loss", interval=500, plateau=dict(patience=3)))

    Args:
        schedule: mapping from the 0-based epoch or iteration at which a count takes effect to that count. Before
            the first entry, the count of the optimizer wrapper is used.
        by_epoch: count epochs instead of iterations.
        when: a condition, as of :class:`SwitchHook`, instead of a schedule.
        counts: the counts of ``when``: each time that it holds, the next one takes effect.

    Raises:
        ConfigError: the schedule is empty, or contains a negative key or a count below 1; or not exactly one of a
            schedule, and a condition with its counts, is set.
    """

    condition_argument = "when"

    def __init__(
        self,
        schedule: Mapping[int | str, int] | None = None,
        by_epoch: bool = True,
        when: Mapping[str, Any] | None = None,
        counts: int | Sequence[int] | None = None,
    ) -> None:
        if (schedule is None) == (when is None) or (when is None) != (counts is None):
            hint = "schedule={0: 1, 4: 4}, or when=dict(...) with counts=[2, 4]"
            raise ConfigError(
                "GradientAccumulationScheduleHook", "set a schedule, or a condition with its counts", hint
            )
        self._when = None if when is None else Condition(when, owner="GradientAccumulationScheduleHook")
        self._steps = [counts] if isinstance(counts, int) else list(counts or ())
        self._taken = 0
        if when is not None and (
            not self._steps or any(not isinstance(count, int) or count < 1 for count in self._steps)
        ):
            message = f"expected integers of at least 1, not {counts!r}"
            raise ConfigError("GradientAccumulationScheduleHook.counts", message)
        self._by_epoch = by_epoch
        self._current: int | None = None
        self._begins: list[int] = []
        if schedule is None:
            return
        pairs = sorted((int(begin), count) for begin, count in schedule.items())
        if not pairs or any(begin < 0 or count < 1 for begin, count in pairs):
            raise ConfigError(
                "GradientAccumulationScheduleHook.schedule",
                f"invalid schedule {dict(schedule)}",
                "map 0-based epochs or iterations to counts, such as {0: 1, 4: 4}",
            )
        self._begins = [begin for begin, _ in pairs]
        self._counts = [count for _, count in pairs]

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points that the schedule or the condition needs."""
        if self._when is None:
            needed = {"before_train_epoch" if self._by_epoch else "before_train_iter"}
        else:
            needed = {"after_val_epoch"} if self._when.scalar is None else {"after_train_iter", "before_snapshot"}
        return [stage for stage in super().get_triggered_stages() if stage in {"before_train", *needed}]

    def state_dict(self) -> dict[str, Any] | None:
        """Return the number of counts that took effect and the state of the condition; None for a schedule."""
        return None if self._when is None else {"taken": self._taken, "when": self._when.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; :meth:`before_train` sets the count."""
        if self._when is not None:
            self._taken = min(state["taken"], len(self._steps))
            self._when.load_state_dict(state["when"])

    def before_train(self, runner: "Runner") -> None:
        """Set the count for the start of the training, or for the point where it is resumed."""
        self._current = None
        if self._when is None:
            self._apply(runner)
            return
        self._when.before_train(runner)
        if self._taken:
            self._set(runner, self._steps[self._taken - 1])

    def before_train_epoch(self, runner: "Runner") -> None:
        """Set the count for this epoch."""
        self._apply(runner)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Set the count for this iteration."""
        self._apply(runner)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Take the next count if a result of the validation satisfies the condition."""
        if self._when is not None and self._taken < len(self._steps) and self._when.holds_after_val(metrics):
            self._advance(runner)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Take the next count if a scalar of the training satisfies the condition."""
        self.before_snapshot(runner)

    def before_snapshot(self, runner: "Runner") -> None:
        """Take the next count if a scalar of the training satisfies the condition, before the checkpoint."""
        if self._when is not None and self._taken < len(self._steps) and self._when.holds_after_iter(runner):
            self._advance(runner)

    def _advance(self, runner: "Runner") -> None:
        assert self._when is not None
        count = self._steps[self._taken]
        self._taken += 1
        self._set(runner, count)
        runner.logger.info(f"Gradient accumulation: {count} iterations per update from now on ({self._when.monitor}).")

    def _apply(self, runner: "Runner") -> None:
        position = bisect_right(self._begins, runner.epoch if self._by_epoch else runner.iter) - 1
        if position < 0 or self._counts[position] == self._current:
            return
        self._current = self._counts[position]
        self._set(runner, self._current)

    def _set(self, runner: "Runner", count: int) -> None:
        for wrapper in runner.optim_wrapper.optim_wrappers.values():
            wrapper.accumulative_counts = count
