"""Measure the training throughput."""

import time
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.micro_batches import num_samples

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Measure the training throughput.

    ``train/throughput`` (samples per second over all processes) and ``train/batches_per_second`` are recorded in
    the message hub. They include the time for loading data, but not validation.

    With ``flops_per_sample`` and ``peak_flops``, ``train/mfu`` is recorded as well: the model FLOPs utilization,
    achieved / peak FLOP/s (PaLM, Chowdhery et al. 2022, appendix B).

    Cost per step: about 1 µs, and a few more every ``window`` iterations. The hook never waits for the device:
    over a window, the number of queued and of executed steps is nearly the same.

    Args:
        window: number of iterations to measure over; the remaining iterations of an epoch are measured too.
        flops_per_sample: floating-point operations per sample, forward and backward.
        peak_flops: peak floating-point operations per second of one device, from its data sheet.

    Raises:
        ConfigError: ``window`` is below 1, or only one of ``flops_per_sample`` and ``peak_flops`` is set.
    """

    def __init__(
        self, window: int = 50, flops_per_sample: float | None = None, peak_flops: float | None = None
    ) -> None:
        if window < 1:
            raise ConfigError("ThroughputHook.window", f"must be at least 1, but is {window}")
        if (flops_per_sample is None) != (peak_flops is None):
            raise ConfigError(
                "ThroughputHook", "flops_per_sample and peak_flops must be set together", "set both or neither"
            )
        self.window = window
        self.flops_per_sample = flops_per_sample
        self.peak_flops = peak_flops
        self._restart()

    def before_train_epoch(self, runner: "Runner") -> None:
        """Start a window."""
        self._restart()

    def after_val(self, runner: "Runner") -> None:
        """Start a window, so that the validation is not counted."""
        self._restart()

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Count the batch, and measure at the end of a window."""
        self._batches += 1
        self._samples += num_samples(data_batch)
        if self._batches == self.window:
            self._measure(runner)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Measure the remaining iterations of the epoch."""
        if self._batches:
            self._measure(runner)

    def _measure(self, runner: "Runner") -> None:
        elapsed = time.perf_counter() - self._start
        samples_per_second = self._samples * runner.strategy.data_size / elapsed
        runner.message_hub.update_scalar("train/throughput", samples_per_second)
        runner.message_hub.update_scalar("train/batches_per_second", self._batches / elapsed)
        if self.flops_per_sample is not None and self.peak_flops is not None:
            used = self.flops_per_sample * samples_per_second / (self.peak_flops * runner.world_size)
            runner.message_hub.update_scalar("train/mfu", used)
        self._restart()

    def _restart(self) -> None:
        self._batches = 0
        self._samples = 0
        self._start = time.perf_counter()
