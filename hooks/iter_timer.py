"""Measures how long iterations take, and how long the rest will."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

from trainwright.engine.records.history import Series
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Writes ``{mode}/time`` and ``{mode}/data_time`` in seconds, and the remaining seconds as ``eta``, to
    the hub.

    ``time`` lasts from the end of one iteration to the end of the next; ``data_time`` is its part before the
    step, in which batches are fetched and hooks do their work. The first iteration of a training, which often
    compiles or warms up, does not count for ``eta``.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._last = 0.0
        self._seconds = 0.0
        self._measured = 0
        self._max_iters = 0
        self._eval_seconds = 0.0
        self._time: Series
        self._data_time: Series

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._last = perf_counter()
        if mode != "train":
            self._eval_seconds = 0.0

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._last = perf_counter()

    def before_train(self, runner: "Runner") -> None:
        """Start measuring."""
        self._seconds = 0.0
        self._measured = -1  # the first iteration makes it 0
        self._max_iters = runner.max_iters
        hub = runner.message_hub
        hub.update_info("eta", 0.0)
        self._time, self._data_time = hub.series("train/time"), hub.series("train/data_time")

    def _before_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, mode: str = "train") -> None:
        runner.message_hub.update_scalar(f"{mode}/data_time", perf_counter() - self._last)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record how long fetching the batch took."""
        self._data_time.add(perf_counter() - self._last)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Record how long the iteration took, and how long the rest will take."""
        now = perf_counter()
        elapsed = now - self._last
        self._last = now
        self._measured += 1
        if self._measured:
            self._seconds += elapsed
        self._time.add(elapsed)
        average = self._seconds / self._measured if self._measured else elapsed
        runner.message_hub.runtime_info["eta"] = average * (self._max_iters - runner.iter - 1)

    def _after_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Any = None,
        mode: str = "val",
    ) -> None:
        now = perf_counter()
        elapsed = now - self._last
        self._last = now
        self._eval_seconds += elapsed
        runner.message_hub.update_scalar(f"{mode}/time", elapsed)
        dataloader = runner.val_dataloader if mode == "val" else runner.test_dataloader
        average = self._eval_seconds / (batch_idx + 1)
        done = batch_idx + 1
        length = num_batches(dataloader)  # None for an iterable dataset without a length
        runner.message_hub.update_info("eta", average * (length - done) if length is not None else 0.0)
