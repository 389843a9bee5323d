"""Estimating the size of a checkpoint, and checking the free disk space."""

import errno
import shutil
from pathlib import Path
from typing import Any

import torch

from trainwright.engine.strategy.shards import is_sharded
from trainwright.engine.trees import tensors_in

_OVERHEAD_PER_TENSOR = 256


def bytes_of(checkpoint: Any) -> int:
    """Estimate the size of a checkpoint file in bytes; memory shared between tensors counts once."""
    sizes: dict[int, int] = {}
    tensors = list(tensors_in(checkpoint))
    for tensor in tensors:
        if tensor.layout == torch.strided and not is_sharded(tensor):
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        else:
            sizes[id(tensor)] = tensor.numel() * tensor.itemsize
    return sum(sizes.values()) + len(tensors) * _OVERHEAD_PER_TENSOR


def check_space(folder: Path, needed: int) -> None:
    """Raise the error of a full disk in advance if ``needed`` bytes will not fit.

    Raises:
        OSError: with ``ENOSPC`` and the number of bytes needed and available.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"a checkpoint needs about {human_bytes(needed)}, only {human_bytes(free)} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def human_bytes(number: int) -> str:
    """Format a number of bytes, e.g. ``1.2 GB``."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"
