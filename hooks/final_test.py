"""Ends a training with a test."""

from typing import TYPE_CHECKING

from trainwright.engine.hook import Hook
from trainwright.engine.registry import HOOKS

if TYPE_CHECKING:
    from trainwright.engine.runner import Runner


@HOOKS.register_module()
class FinalTestHook(Hook):
    """Tests the weights of the end of a training that came to its end. Costs nothing per step."""

    priority = "LOWEST"

    def after_train(self, runner: "Runner") -> None:
        """Runs the test loop, unless the training was stopped."""
        if not runner.state.stop_signal:
            runner.test_loop.run()
