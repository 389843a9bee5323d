"""Averages the model's buffers over the processes."""

from typing import TYPE_CHECKING

from trainwright.engine.distributed import all_reduce_params
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Gives the floating-point buffers, such as running means, their mean over all processes.

    After each training epoch, and before a validation that comes in the middle of one.

    Cost per step: none. In one process it does nothing.
    """

    def __init__(self) -> None:
        self._in_sync = False

    def after_train_epoch(self, runner: "Runner") -> None:
        """Averages the buffers at the end of an epoch."""
        self._average(runner)
        self._in_sync = True

    def before_val_epoch(self, runner: "Runner") -> None:
        """Averages the buffers unless the epoch that has just ended did so."""
        if not self._in_sync:
            self._average(runner)
        self._in_sync = False

    def _average(self, runner: "Runner") -> None:
        if runner.distributed:
            all_reduce_params([buffer for buffer in runner.model.buffers() if buffer.is_floating_point()], op="mean")
