"""Tells the sampler which epoch it is."""

from typing import TYPE_CHECKING, Any

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Calls ``set_epoch`` of the training sampler, or of its batch sampler's sampler, before each epoch.

    The sampler then shuffles anew each epoch, in the same way on every process.

    Cost per step: none.
    """

    def before_train_epoch(self, runner: "Runner") -> None:
        """Sets the epoch."""
        loader: Any = runner.train_loop.dataloader
        batch_sampler: Any = getattr(loader, "batch_sampler", None)
        samplers: list[Any] = [getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(runner.epoch)
                return
