"""A progress bar in a terminal."""

import sys
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

from trainwright.engine.distributed import is_main_process
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a progress bar with epoch, speed, remaining time and loss below the log lines.

    Nothing is shown if the output is not a terminal. The loss is the one of the last log line, so showing it
    never waits for the device.

    Cost per step: none without a terminal; otherwise about 2 µs, and redrawing the bar every
    ``refresh_seconds``.

    Args:
        refresh_seconds: time between two updates of the bar.
    """

    priority = "LOWEST"

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        self.refresh_seconds = refresh_seconds
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._next_refresh = 0.0
        self._loss = ""

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points: none without a terminal, to avoid the overhead."""
        return super().get_triggered_stages() if sys.stdout.isatty() and is_main_process() else []

    def before_train_epoch(self, runner: "Runner") -> None:
        """Start a bar: for the epoch, or for the whole run if the loop counts iterations."""
        if runner.log_processor.by_epoch:
            text = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
            self._start(runner, "train", text, num_batches(runner.train_dataloader), runner.state.inner_iter)
        else:
            self._start(runner, "train", "train", runner.max_iters, runner.iter)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Update the bar, at most every ``refresh_seconds``."""
        hub = runner.message_hub
        if not hub.has_pending and "train/loss" in hub.log_scalars:  # right after a log line
            loss = hub.get_scalar("train/loss").mean(runner.log_processor.window_size)
            self._loss = f"  loss {loss:.4f}"
        self._advance(runner, "train", batch_idx + 1)

    def _after_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Any = None,
        mode: str = "val",
    ) -> None:
        self._advance(runner, mode, batch_idx + 1)

    def before_val_epoch(self, runner: "Runner") -> None:
        """Start a bar."""
        self._start(runner, "val", "val", num_batches(runner.val_dataloader), 0)

    def before_test_epoch(self, runner: "Runner") -> None:
        """Start a bar."""
        self._start(runner, "test", "test", num_batches(runner.test_dataloader), 0)

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._stop(mode)

    def after_run(self, runner: "Runner") -> None:
        """Remove bars left behind by an exception."""
        for mode in list(self._tasks):
            self._stop(mode)

    def _start(self, runner: "Runner", mode: str, text: str, total: int | None, done: int) -> None:
        if self._progress is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
            )
            console = runner.logger.console
            # Refresh explicitly: rich's refresh thread would compete with the training.
            self._progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
            self._progress.start()
        self._tasks[mode] = self._progress.add_task(text, total=total, completed=done, state="")

    def _advance(self, runner: "Runner", mode: str, done: int) -> None:
        now = perf_counter()
        if now < self._next_refresh or self._progress is None:
            return
        self._next_refresh = now + self.refresh_seconds
        task = self._tasks[mode]
        speed = self._progress.tasks[self._progress.task_ids.index(task)].speed or 0.0
        eta = timedelta(seconds=int(runner.message_hub.get_info("eta", 0)))
        state = f"{speed:.1f} it/s  eta {eta}{self._loss if mode == 'train' else ''}"
        self._progress.update(task, completed=done, state=state, refresh=True)

    def _stop(self, mode: str) -> None:
        if self._progress is None or mode not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(mode))
        if not self._tasks:
            self._progress.stop()
            self._progress = None
