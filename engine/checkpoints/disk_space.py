"""How much space a checkpoint takes, and whether the disk has it."""

import errno
import shutil
from pathlib import Path
from typing import Any

import torch

from trainwright.engine.trees import tensors_in

_BYTES_BESIDE_A_TENSOR = 256


def bytes_of(checkpoint: Any) -> int:
    """Return about how many bytes a checkpoint takes on the disk: its tensors, those that share memory once."""
    sizes: dict[int, int] = {}
    number = 0
    for tensor in tensors_in(checkpoint):
        number += 1
        sizes[tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)] = (
            tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else tensor.numel() * tensor.itemsize
        )
    return sum(sizes.values()) + number * _BYTES_BESIDE_A_TENSOR


def check_space(folder: Path, needed: int) -> None:
    """Raise the error of a full disk before anything is written, if ``needed`` bytes will not fit.

    Raises:
        OSError: with ``ENOSPC``; it names what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"a checkpoint takes about {human_bytes(needed)}, {human_bytes(free)} are free", str(folder)
        )


def human_bytes(number: int) -> str:
    """Format a number of bytes, e.g. ``1.2 GB``."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"
