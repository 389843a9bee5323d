"""Measure the duration of iterations and estimate the remaining time."""

from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from trainwright.engine.records.history import Series
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Record ``{mode}/time``, ``{mode}/data_time`` and ``eta`` in the message hub, all in seconds.

    ``time`` is the time from the end of one iteration to the end of the next. ``data_time`` is the part of it
    before the step, which includes fetching the batch and calling hooks. ``eta`` is the estimated remaining
    time; it ignores the first training iteration, which often compiles or warms up.

    Cost per step: about 2 µs.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        # start_iter, the two sums and t have MMEngine's names, for subclasses that override _after_iter
        self.start_iter = 0
        self.time_sec_tot = 0.0
        self.time_sec_test_val = 0.0
        self._last = perf_counter()
        self._measured = 0
        self._max_iters = 0
        self._time: Series
        self._data_time: Series

    @property
    def t(self) -> float:
        """The end of the last iteration, on the clock of :func:`time.time`."""
        return time() - (perf_counter() - self._last)

    @t.setter
    def t(self, value: float) -> None:
        self._last = perf_counter() - (time() - value)

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._last = perf_counter()
        if mode != "train":
            self.time_sec_test_val = 0.0

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._last = perf_counter()

    def before_train(self, runner: "Runner") -> None:
        """Reset the measurements."""
        self.start_iter = runner.iter
        self.time_sec_tot = 0.0
        self._measured = -1  # the first iteration is not counted
        self._max_iters = runner.max_iters
        hub = runner.message_hub
        hub.update_info("eta", 0.0)
        self._time, self._data_time = hub.series("train/time"), hub.series("train/data_time")

    def _before_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, mode: str = "train") -> None:
        runner.message_hub.update_scalar(f"{mode}/data_time", perf_counter() - self._last)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record the time since the last iteration."""
        self._data_time.add(perf_counter() - self._last)

    def _after_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Any = None,
        mode: str = "train",
    ) -> None:
        now = perf_counter()
        elapsed = now - self._last
        self._last = now
        if mode == "train":
            self._measured += 1
            if self._measured:
                self.time_sec_tot += elapsed
            self._time.add(elapsed)
            average = self.time_sec_tot / self._measured if self._measured else elapsed
            runner.message_hub.runtime_info["eta"] = average * (self._max_iters - runner.iter - 1)
            return
        self.time_sec_test_val += elapsed
        runner.message_hub.update_scalar(f"{mode}/time", elapsed)
        dataloader = runner.val_dataloader if mode == "val" else runner.test_dataloader
        average = self.time_sec_test_val / (batch_idx + 1)
        done = batch_idx + 1
        length = num_batches(dataloader)  # None for an iterable dataset without a length
        runner.message_hub.update_info("eta", average * (length - done) if length is not None else 0.0)
