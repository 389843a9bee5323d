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
    first step, so that a mistake in it is found then. Without test data it does nothing but log this.

    Cost per step: none.
    """

    priority = "LOWEST"

    def before_train(self, runner: "Runner") -> None:
        """Build the test loop."""
        if runner.test_loop is None:
            runner.logger.info("There is no test at the end of the training: the config has no test_dataloader.")

    def after_train(self, runner: "Runner") -> None:
        """Run the test loop."""
        if runner.test_loop is not None and not runner.state.interrupted:
            save_if_stopped(runner)
            runner.test_loop.run()
