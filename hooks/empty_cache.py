"""Release cached accelerator memory."""

from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Release unused memory from PyTorch's caching allocator, on any accelerator.

    Cost per step: none, unless ``after_iter`` is set; then each step has to allocate its memory from the
    driver again.

    Args:
        before_epoch: release it before each training, validation and test epoch.
        after_epoch: release it after each of these epochs.
        after_iter: release it after each iteration.
    """

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False) -> None:
        switches = {
            ("before", "epoch"): before_epoch,
            ("after", "epoch"): after_epoch,
            ("after", "iter"): after_iter,
        }
        self._enabled = {point for point, enabled in switches.items() if enabled}

    def get_triggered_stages(self) -> list[str]:
        """Return the enabled hook points, so that the others have no overhead."""
        stages = (stage.split("_") for stage in super().get_triggered_stages())
        return ["_".join(stage) for stage in stages if (stage[0], stage[-1]) in self._enabled]

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        _empty_cache(runner)

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        _empty_cache(runner)

    def _after_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Any = None,
        mode: str = "train",
    ) -> None:
        _empty_cache(runner)


def _empty_cache(runner: "Runner") -> None:
    empty_cache = getattr(torch.get_device_module(runner.device), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()
