"""Log progress and results, also to the visualization backends."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.distributed import is_main_process, start_means
from trainwright.engine.errors import ConfigError
from trainwright.engine.fileio import to_json
from trainwright.engine.records.log_processor import LogProcessor, Tag, UnfinishedLine, num_batches
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.visualization.backends.local import to_plain

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class LoggerHook(Hook):
    """Log the training progress at regular intervals, and the results of validations and tests.

    The numbers are also sent to the visualization backends.

    Cost per step: less than 1 µs. Each log line waits once for the device; there is no synchronization between lines.
    With several ranks and iterations of less than 100 ms, lines are written up to 100 ms later: their numbers are
    averaged over the ranks together, while the next iteration computes.

    Args:
        interval: number of iterations between log lines; restarts with each epoch.
        ignore_last: do not log the iterations after the last full interval of an epoch, unless the epoch is shorter
            than the interval.
        interval_exp_name: number of iterations between log lines with the name of the experiment.
        out_dir: folder to copy the logs to at the end, in a subfolder named like ``work_dir``.
        out_suffix: suffixes of the files to copy.
        keep_local: keep the original files after copying. If not, the log is appended to one of an earlier run in
            ``out_dir``.
        log_metric_by_epoch: send the results of validations to the backends by epoch instead of by iteration.

    Raises:
        ConfigError: an interval is not a positive integer, or ``keep_local`` is disabled without ``out_dir``.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        out_dir: str | Path | None = None,
        out_suffix: str | Sequence[str] = (".json", ".log", ".py", ".yaml"),
        keep_local: bool = True,
        log_metric_by_epoch: bool = True,
    ) -> None:
        for name, value in (("interval", interval), ("interval_exp_name", interval_exp_name)):
            if not isinstance(value, int) or value <= 0:
                raise ConfigError(f"default_hooks.logger.{name}", f"must be a positive integer, not {value!r}")
        if not keep_local and out_dir is None:
            raise ConfigError("default_hooks.logger.keep_local", "False would delete the logs", "set out_dir as well")
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.out_dir = out_dir
        self.out_suffix = (out_suffix,) if isinstance(out_suffix, str) else tuple(out_suffix)
        self.keep_local = keep_local
        self.log_metric_by_epoch = log_metric_by_epoch
        self.json_log_path: str | None = None
        self._last_batch: int | None = None
        self._evaluated_batches = 0
        self._unfinished: list[tuple[int, UnfinishedLine]] = []
        self._averaging: tuple[list[tuple[int, UnfinishedLine]], Callable[[], list[dict[str, float]]]] | None = None

    def before_run(self, runner: "Runner") -> None:
        """Set the name of the file for the numbers of this run, in ``vis_data``, and for the test results."""
        self.json_log_path = f"{runner.timestamp}.json"

    def before_train_epoch(self, runner: "Runner") -> None:
        """Record the number of batches in the epoch."""
        by_epoch = runner.log_processor.by_epoch
        self._last_batch = num_batches(runner.train_dataloader) if by_epoch else runner.max_iters

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Log the progress if this iteration is due."""
        if self._averaging or self._unfinished:
            self._go_on(runner)
        done = batch_idx + 1
        at_end = done == self._last_batch
        if at_end or (runner.iter + 1) % self.interval_exp_name == 0:
            runner.logger.info(f"Exp name: {runner.experiment_name}")
        if done % self.interval == 0 or (at_end and not (self.ignore_last and done > self.interval)):
            step, processor = runner.iter + 1, runner.log_processor
            if runner.state.short_iterations and _is_divided(processor):
                self._unfinished.append((step, processor.start_log_after_iter(runner, batch_idx, "train")))
            else:
                self._finish(runner)
                self._write(runner, step, processor.get_log_after_iter(runner, batch_idx, "train"))

    def after_train_epoch(self, runner: "Runner") -> None:
        """Write the unfinished lines."""
        self._finish(runner)

    def before_val_epoch(self, runner: "Runner") -> None:
        """Write the unfinished lines."""
        self._finish(runner)

    def after_train(self, runner: "Runner") -> None:
        """Write the unfinished lines."""
        self._finish(runner)

    def after_val_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Log the progress if this batch is due."""
        self._log_progress(runner, batch_idx, "val")

    def after_test_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Log the progress if this batch is due."""
        self._log_progress(runner, batch_idx, "test")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Log the results."""
        tag, line = runner.log_processor.get_log_after_epoch(runner, self._evaluated_batches, "val")
        runner.logger.info(line)
        step = runner.epoch if self.log_metric_by_epoch else runner.iter
        runner.visualizer.add_scalars(tag, step=step, file_path=self.json_log_path)

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Log the results, and write them to ``{timestamp}.json`` in the log folder."""
        tag, line = runner.log_processor.get_log_after_epoch(
            runner, self._evaluated_batches, "test", with_non_scalar=True
        )
        runner.logger.info(line)
        if is_main_process():
            assert self.json_log_path is not None
            try:
                (Path(runner.log_dir) / self.json_log_path).write_text(to_json(to_plain(tag)))
            except OSError as error:
                runner.logger.warning(f"Could not write the test results: {error}")

    def after_run(self, runner: "Runner") -> None:
        """Close the backends, and copy the logs to ``out_dir``."""
        self._write_averaged(runner)
        if self._unfinished:  # the run has failed, and other ranks may be elsewhere
            runner.logger.warning("The numbers in the next log lines are those of this rank, not means over the ranks.")
            for step, line in self._unfinished:
                self._write(runner, step, line.finish(line.numbers))
            self._unfinished = []
        runner.visualizer.close()
        if self.out_dir is None or not is_main_process():
            return
        target = Path(self.out_dir) / Path(runner.work_dir).name
        files = [path for path in sorted(Path(runner.log_dir).rglob("*")) if path.name.endswith(self.out_suffix)]
        runner.logger.info(f"Copying the logs to {target}.")
        if not self.keep_local:
            runner.logger.close()
        for path in files:
            copy = target / path.relative_to(runner.log_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            rewritten = path.name == self.json_log_path or path.suffix in (".py", ".yaml")
            if self.keep_local or rewritten or not copy.exists():
                shutil.copyfile(path, copy)
            else:  # an earlier run moved its part of the log there
                with path.open("rb") as rest, copy.open("ab") as log:
                    shutil.copyfileobj(rest, log)
            if not self.keep_local:
                path.unlink()

    def _go_on(self, runner: "Runner") -> None:
        """Start to average the unfinished lines once they cover 100 ms, and write them an iteration later."""
        if self._averaging:
            self._write_averaged(runner)
        elif runner.iter - self._unfinished[0][0] >= runner.state.short_iterations:
            self._average()

    def _finish(self, runner: "Runner") -> None:
        """Write all lines; all ranks must do so at the same point."""
        self._write_averaged(runner)
        if self._unfinished:
            self._average()
            self._write_averaged(runner)

    def _average(self) -> None:
        lines, self._unfinished = self._unfinished, []
        self._averaging = lines, start_means([line.numbers for _, line in lines])

    def _write_averaged(self, runner: "Runner") -> None:
        if self._averaging:
            (lines, means), self._averaging = self._averaging, None
            for (step, line), mean in zip(lines, means(), strict=True):
                self._write(runner, step, line.finish(mean))

    def _write(self, runner: "Runner", step: int, log: "tuple[Tag, str]") -> None:
        tag, line = log
        runner.logger.info(line)
        runner.visualizer.add_scalars(tag, step=step, file_path=self.json_log_path)

    def _log_progress(self, runner: "Runner", batch_idx: int, mode: str) -> None:
        self._evaluated_batches = batch_idx + 1  # the length of the data loader may be unknown
        if (batch_idx + 1) % self.interval == 0:
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line)


def _is_divided(processor: Any) -> bool:
    """Return whether the lines are those of :class:`LogProcessor`, which can start a line and finish it later."""
    return getattr(type(processor), "get_log_after_iter", None) is LogProcessor.get_log_after_iter
