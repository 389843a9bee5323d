"""Profile the first iterations of a training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_TRACES = ("log_trace", "tb_trace")


@HOOKS.register_module()
class ProfilerHook(Hook):
    """Run PyTorch's profiler for the first epoch, or the first iterations, of training in this process.

    Cost per step: that of the profiler while it is running (often more than the step itself), negligible
    afterwards.

    Example:
        >>> dict(type="ProfilerHook", by_epoch=False, profile_times=10, json_trace_path="trace.json")

    Args:
        by_epoch: profile an epoch instead of iterations.
        profile_times: number of iterations to profile; must be 1 if ``by_epoch`` is set.
        activity_with_cpu: record CPU activity.
        activity_with_cuda: record CUDA activity.
        schedule: arguments of :func:`torch.profiler.schedule`.
        on_trace_ready: handler for the trace: a function that accepts the profiler,
            ``dict(type="log_trace", sort_by=…, row_limit=…)`` to write a table to the log, or
            ``dict(type="tb_trace", dir_name=…)`` to write TensorBoard files to the log folder.
        record_shapes: record the shapes of inputs.
        profile_memory: record memory allocations.
        with_stack: record file and line number of the operations.
        with_flops: estimate the FLOPs of matrix multiplications and convolutions.
        json_trace_path: file for a trace that chrome://tracing and https://ui.perfetto.dev can open.

    Raises:
        ConfigError: a setting is invalid.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        *,
        by_epoch: bool = True,
        profile_times: int = 1,
        activity_with_cpu: bool = True,
        activity_with_cuda: bool = False,
        schedule: Mapping[str, int] | None = None,
        on_trace_ready: Callable[[Any], None] | Mapping[str, Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        json_trace_path: str | None = None,
    ) -> None:
        if profile_times < 1:
            raise ConfigError("ProfilerHook.profile_times", f"must be at least 1, but is {profile_times}")
        if by_epoch and profile_times > 1:
            raise ConfigError(
                "ProfilerHook.profile_times",
                "only one epoch can be profiled",
                "set by_epoch=False to profile iterations",
            )
        if not (activity_with_cpu or activity_with_cuda):
            raise ConfigError("ProfilerHook", "no activity to record", "set activity_with_cpu or activity_with_cuda")
        self.by_epoch = by_epoch
        self.profile_times = profile_times
        self.json_trace_path = json_trace_path
        self.on_trace_ready = _checked_trace(on_trace_ready)
        cpu, cuda = [ProfilerActivity.CPU] * activity_with_cpu, [ProfilerActivity.CUDA] * activity_with_cuda
        self._options: dict[str, Any] = {
            "activities": cpu + cuda,
            "schedule": torch.profiler.schedule(**schedule) if schedule is not None else None,
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "with_flops": with_flops,
        }
        self.profiler: Any = None
        self._left = 0

    def before_train(self, runner: "Runner") -> None:
        """Start the profiler."""
        available = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.profile_times > available:
            raise ConfigError(
                "ProfilerHook.profile_times", f"{self.profile_times} is past the end of training ({available})"
            )
        self.profiler = torch.profiler.profile(on_trace_ready=self._trace_handler(runner), **self._options)
        self.profiler.__enter__()
        self._left = self.profile_times
        runner.logger.info("The profiler is running.")

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Mark the end of a profiler step, and stop after ``profile_times`` iterations."""
        if self.profiler is None:
            return
        self.profiler.step()
        if not self.by_epoch:
            self._left -= 1
            if self._left == 0:
                self._finish(runner)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Stop the profiler if an epoch is profiled."""
        if self.by_epoch:
            self._finish(runner)

    def after_run(self, runner: "Runner") -> None:
        """Stop the profiler if the run ended early."""
        self._finish(runner)

    def _finish(self, runner: "Runner") -> None:
        if self.profiler is None:
            return
        profiler, self.profiler = self.profiler, None
        runner.logger.info("Stopping the profiler; collecting its results may take a while.")
        profiler.__exit__(None, None, None)
        if self.json_trace_path is not None:
            Path(self.json_trace_path).parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(self.json_trace_path)

    def _trace_handler(self, runner: "Runner") -> Callable[[Any], None] | None:
        if self.on_trace_ready is None or callable(self.on_trace_ready):
            return self.on_trace_ready
        options = dict(self.on_trace_ready)
        if options.pop("type") == "log_trace":
            return lambda profiler: runner.logger.info("\n" + profiler.key_averages().table(**options))
        options["dir_name"] = str(Path(runner.log_dir) / options.get("dir_name", "tf_tracing_logs"))
        runner.logger.info(f"Traces will be saved to {options['dir_name']}.")
        return torch.profiler.tensorboard_trace_handler(**options)  # type: ignore[no-any-return]


def _checked_trace(value: Any) -> Callable[[Any], None] | Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        if value.get("type") not in _TRACES:
            type_ = value.get("type")
            raise ConfigError(
                "ProfilerHook.on_trace_ready.type", f"must be 'log_trace' or 'tb_trace', not {type_!r}",
                did_you_mean(str(type_), _TRACES),
            )  # fmt: skip
    elif value is not None and not callable(value):
        raise ConfigError("ProfilerHook.on_trace_ready", f"must be a function or a dict with 'type', not {value!r}")
    return value  # type: ignore[no-any-return]  # checked above
