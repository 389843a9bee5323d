"""Gives cached accelerator memory back."""

from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Releases the memory that PyTorch's allocator caches and does not use, on any accelerator.

    Cost per step: none, unless ``after_iter`` is set; then the next step has to ask the driver for memory
    again.

    Args:
        before_epoch: release it before each epoch of training, validation and test.
        after_epoch: release it after each of them.
        after_iter: release it after each iteration.
    """

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False) -> None:
        switches = {
            ("before", "epoch"): before_epoch,
            ("after", "epoch"): after_epoch,
            ("after", "iter"): after_iter,
        }
        self._on = {point for point, on in switches.items() if on}

    def get_triggered_stages(self) -> list[str]:
        """Returns the points that are switched on, so that the others cost nothing."""
        stages = (stage.split("_") for stage in super().get_triggered_stages())
        return ["_".join(stage) for stage in stages if (stage[0], stage[-1]) in self._on]

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
