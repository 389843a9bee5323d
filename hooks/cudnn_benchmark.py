"""Decide on cuDNN's benchmark by the sizes of the first images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.trees import tensors_in

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class CudnnBenchmarkHook(Hook):
    """Let cuDNN choose the fastest algorithms if all images of the first training batches have one size.

    cuDNN measures its algorithms once for each size of its inputs, which takes longer than it saves if sizes vary. Runs
    on CUDA have this hook unless ``env_cfg.cudnn_benchmark`` is set. It has no effect in deterministic runs, because
    another measurement may choose another algorithm.

    Cost per step: 0.1 µs after the first batches.

    Args:
        batches: number of batches to look at, after which the decision is final.
    """

    def __init__(self, batches: int = 10) -> None:
        self.batches = batches
        self._left = 0
        self._sizes: set[torch.Size] = set()

    def before_train(self, runner: "Runner") -> None:
        """Start to look at batches."""
        self._left, self._sizes = self.batches, set()

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record the sizes of the images, and decide after the last of the batches."""
        if not self._left:
            return
        self._left -= 1
        self._sizes |= image_sizes(data_batch)
        if self._left or not self._sizes:
            return
        if len(self._sizes) > 1:
            runner.logger.info("cuDNN benchmark: off, because the sizes of images vary")
        elif not torch.are_deterministic_algorithms_enabled():
            torch.backends.cudnn.benchmark = True
            height, width = next(iter(self._sizes))
            runner.logger.info("cuDNN benchmark: on, because images have one size (%d×%d)", height, width)


def image_sizes(data_batch: Any) -> set[torch.Size]:
    """Return the heights and widths of the images (or clips) in a batch: its ``inputs``, or its first item."""
    if isinstance(data_batch, Mapping):
        data_batch = data_batch.get("inputs")
    elif isinstance(data_batch, Sequence) and data_batch:
        data_batch = data_batch[0]
    return {tensor.shape[-2:] for tensor in tensors_in(data_batch) if tensor.dim() > 2}
