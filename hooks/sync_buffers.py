"""Average the model's buffers over all ranks."""

from typing import TYPE_CHECKING

from trainwright.engine.distributed import all_reduce_params
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Average the model's floating-point buffers, such as running means, over all ranks.

    This is done after each training epoch, and before a validation in the middle of an epoch. With a single
    process the hook is a no-op.

    Cost per step: none.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook replaces the buffers by averaged ones for a validation

    def after_train_epoch(self, runner: "Runner") -> None:
        """Average the buffers at the end of an epoch."""
        self._average(runner)

    def before_val_epoch(self, runner: "Runner") -> None:
        """Average the buffers unless this was done at the end of the epoch."""
        if runner.state.inner_iter > 0:
            self._average(runner)

    def _average(self, runner: "Runner") -> None:
        if runner.distributed:
            all_reduce_params([buffer for buffer in runner.model.buffers() if buffer.is_floating_point()], op="mean")
