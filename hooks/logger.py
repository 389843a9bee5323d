"""Writes log lines, and hands the same numbers to the visualization backends."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.distributed import is_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.fileio import to_json
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.visualization.backends.local import to_plain

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class LoggerHook(Hook):
    """Logs every few iterations, and the results of validations and tests.

    Each line waits once for the device; nothing waits between lines.

    Args:
        interval: log after so many iterations, in epochs counted anew.
        ignore_last: do not log the iterations after the last full interval of an epoch, unless there is no
            full one.
        interval_exp_name: log the name of the experiment after so many iterations.
        out_dir: at the end, copy logs into the folder of this name, in a folder named like the work_dir.
        out_suffix: endings of the files that are copied.
        keep_local: whether the copied files also stay where they were. If not, a log that is already in
            ``out_dir``, from a run before, is continued there.
        log_metric_by_epoch: whether the results of validations go to the backends by epoch, or by iteration.

    Raises:
        ConfigError: an interval is no positive number.
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
                raise ConfigError(f"default_hooks.logger.{name}", f"must be a positive whole number, not {value!r}")
        if not keep_local and out_dir is None:
            raise ConfigError("default_hooks.logger.keep_local", "logs would be lost", "set out_dir as well")
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.out_dir = out_dir
        self.out_suffix = (out_suffix,) if isinstance(out_suffix, str) else tuple(out_suffix)
        self.keep_local = keep_local
        self.log_metric_by_epoch = log_metric_by_epoch
        self.json_log_path: str | None = None
        self._last_batch: int | None = None
        self._evaluated = 0

    def before_run(self, runner: "Runner") -> None:
        """Names the file of this run's numbers."""
        self.json_log_path = f"{runner.timestamp}.json"

    def before_train_epoch(self, runner: "Runner") -> None:
        """Notes where the epoch ends."""
        by_epoch = runner.log_processor.by_epoch
        self._last_batch = num_batches(runner.train_dataloader) if by_epoch else runner.max_iters

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Logs when it is time."""
        done = batch_idx + 1
        at_end = done == self._last_batch
        if at_end or (runner.iter + 1) % self.interval_exp_name == 0:
            runner.logger.info(f"Exp name: {runner.experiment_name}")
        if done % self.interval == 0 or (at_end and not (self.ignore_last and done > self.interval)):
            tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(line)
            runner.visualizer.add_scalars(tag, step=runner.iter + 1)

    def after_val_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Logs when it is time."""
        self._log_progress(runner, batch_idx, "val")

    def after_test_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Logs when it is time."""
        self._log_progress(runner, batch_idx, "test")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Logs the results."""
        tag, line = runner.log_processor.get_log_after_epoch(runner, self._evaluated, "val")
        runner.logger.info(line)
        step = runner.epoch if self.log_metric_by_epoch else runner.iter
        runner.visualizer.add_scalars(tag, step=step)

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Logs the results and writes them to ``{timestamp}.json`` in the log folder."""
        tag, line = runner.log_processor.get_log_after_epoch(runner, self._evaluated, "test", with_non_scalar=True)
        runner.logger.info(line)
        if is_main_process():
            assert self.json_log_path is not None
            try:
                (Path(runner.log_dir) / self.json_log_path).write_text(to_json(to_plain(tag)))
            except OSError as error:
                runner.logger.warning(f"The results could not be written: {error}")

    def after_run(self, runner: "Runner") -> None:
        """Closes the backends and copies the logs to ``out_dir``."""
        runner.visualizer.close()
        if self.out_dir is None or not is_main_process():
            return
        target = Path(self.out_dir) / Path(runner.work_dir).name
        files = [path for path in sorted(Path(runner.log_dir).rglob("*")) if path.name.endswith(self.out_suffix)]
        runner.logger.info(f"The logs are in {target}.")
        if not self.keep_local:
            runner.logger.close()
        for path in files:
            copy = target / path.relative_to(runner.log_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            rewritten = path.name == self.json_log_path or path.suffix in (".py", ".yaml")
            if self.keep_local or rewritten or not copy.exists():
                shutil.copyfile(path, copy)
            else:  # the beginning of the log was moved there before
                with path.open("rb") as rest, copy.open("ab") as log:
                    shutil.copyfileobj(rest, log)
            if not self.keep_local:
                path.unlink()

    def _log_progress(self, runner: "Runner", batch_idx: int, mode: str) -> None:
        self._evaluated = batch_idx + 1  # of an epoch whose length nobody may know before its end
        if (batch_idx + 1) % self.interval == 0:
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line)
