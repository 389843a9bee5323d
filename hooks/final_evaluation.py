"""Run a test at the end of the training."""

from typing import TYPE_CHECKING

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.stop import save_if_stopped

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class FinalTestHook(Hook):
    """Run the test loop on the final weights, unless the training was interrupted.

    It is also run after an early stop, once the last checkpoint is written. The test data is already read before the
    first step, so that a mistake in it is found then.

    Cost per step: none.
    """

    priority = "LOWEST"

    def before_train(self, runner: "Runner") -> None:
        """Build the test loop."""
        _ = runner.test_loop

    def after_train(self, runner: "Runner") -> None:
        """Run the test loop."""
        if not runner.state.interrupted:
            save_if_stopped(runner)
            runner.test_loop.run()
