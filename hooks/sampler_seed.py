"""A no-op hook for compatibility with MMEngine configs."""

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """No-op for compatibility: the data loader already calls ``set_epoch`` of its samplers.

    Cost per step: none.
    """
