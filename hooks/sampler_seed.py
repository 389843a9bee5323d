"""Kept for configs of MMEngine: the train loop itself sets the epoch of samplers."""

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Does nothing: opening a data loader already calls ``set_epoch`` of its samplers."""
