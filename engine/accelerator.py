"""Copies to an accelerator that overlap with its computation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement

_LARGE = 1 << 16  # bytes; the copy of a smaller tensor takes less time than switching streams


def has_own_memory(device: torch.device) -> bool:
    """Return whether a device has its own memory, and streams that copy to it during computation.

    CUDA, ROCm and XPU have; MPS shares the memory of the CPU.
    """
    return device.type not in ("cpu", "mps", "meta")


@contextmanager
def overlapping_copies(device: torch.device) -> Iterator[Callable[[Any], Any]]:
    """Yield a function that copies a tensor or data element to an accelerator, during computation in progress.

    An accelerator computes a step after Python has moved on to the next one. Copies on a separate stream need not wait
    for the end of that step, so the next batch is transferred while it is in progress. Computation that follows this
    context waits for the copies.

    Args:
        device: an accelerator with its own memory.
    """
    computing, copying = torch.accelerator.current_stream(device), _copy_stream(device)
    must_wait = False

    def copy(value: Any) -> Any:
        nonlocal must_wait
        if isinstance(value, BaseDataElement):
            return value.with_data(copy)
        if not isinstance(value, Tensor) or not _is_large_on_host(value):
            return value.to(device, non_blocking=True) if hasattr(value, "to") else value
        torch.accelerator.set_stream(copying)
        try:
            copied = value.to(device, non_blocking=True)
        finally:
            torch.accelerator.set_stream(computing)
        copied.record_stream(computing)  # its memory is not reused before the computation is done with it
        must_wait = True
        return copied

    yield copy
    if must_wait:
        computing.wait_stream(copying)


def _is_large_on_host(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.layout is torch.strided and tensor.nbytes >= _LARGE


@cache
def _copy_stream(device: torch.device) -> torch.Stream:
    return torch.Stream(device)
