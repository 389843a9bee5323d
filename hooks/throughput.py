"""Measures how many samples a second are trained on."""

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
    """Measures the speed of the training.

    Writes ``train/throughput`` (samples per second, of all processes) and ``train/batches_per_second`` to the
    hub.

    Loading the data counts, validation does not. With ``flops_per_sample`` and ``peak_flops`` also
    ``train/mfu``: which part of what the device could compute the model makes use of (PaLM, Chowdhery et al.
    2022, appendix B).

    Cost per step: about 1 µs; every ``window`` iterations a few more. It never waits for the device: over a
    window, what is queued and what is done is nearly the same.

    Args:
        window: measure over so many iterations, and over the rest of an epoch.
        flops_per_sample: floating-point operations of one sample, forward and backward.
        peak_flops: floating-point operations per second of one device, from its data sheet.

    Raises:
        ConfigError: ``window`` is below 1, or only one of the two numbers for ``train/mfu`` is given.
    """

    def __init__(
        self, window: int = 50, flops_per_sample: float | None = None, peak_flops: float | None = None
    ) -> None:
        if window < 1:
            raise ConfigError("ThroughputHook.window", f"must be at least 1, but is {window}")
        if (flops_per_sample is None) != (peak_flops is None):
            raise ConfigError("ThroughputHook", "flops_per_sample and peak_flops need each other", "give both or none")
        self.window = window
        self.flops_per_sample = flops_per_sample
        self.peak_flops = peak_flops
        self._restart()

    def before_train_epoch(self, runner: "Runner") -> None:
        """Begins a window."""
        self._restart()

    def after_val(self, runner: "Runner") -> None:
        """Begins a window: the validation is not counted."""
        self._restart()

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Counts a batch, and measures at the end of a window."""
        self._batches += 1
        self._samples += num_samples(data_batch)
        if self._batches == self.window:
            self._measure(runner)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Measures what is left of an epoch."""
        if self._batches:
            self._measure(runner)

    def _measure(self, runner: "Runner") -> None:
        elapsed = time.perf_counter() - self._start
        samples_per_second = self._samples * runner.world_size / elapsed
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
