"""Ends a training with a test."""

from typing import TYPE_CHECKING

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.stop import save_if_stopped

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class FinalTestHook(Hook):
    """Run the test loop on the final weights, unless the training was interrupted.

    An early stop is an end too; its checkpoint is written first. Costs nothing per step.
    """

    priority = "LOWEST"

    def after_train(self, runner: "Runner") -> None:
        """Run the test loop."""
        if not runner.state.interrupted:
            save_if_stopped(runner)
            runner.test_loop.run()
