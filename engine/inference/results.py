"""Predictions as numbers, strings, lists and dictionaries."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement


def as_plain(value: Any) -> Any:
    if isinstance(value, BaseDataElement):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, Tensor) and value.dtype == torch.bool and value.dim() == 3:
        return [run_lengths(mask) for mask in value.cpu().numpy()]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, list | tuple) else value


def run_lengths(mask: np.ndarray[Any, Any]) -> dict[str, list[int]]:
    """Returns a mask (H, W) in COCO's uncompressed RLE: lengths down the columns, by turns of zeros and of ones."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *lengths] if flat.size and flat[0] else lengths}
