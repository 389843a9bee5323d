"""Masks in COCO's uncompressed RLE: column-major run lengths, alternating zeros and ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def encode_rle(
    mask: np.ndarray[Any, Any], origin: tuple[int, int] = (0, 0), image_size: tuple[int, int] | None = None
) -> dict[str, list[int]]:
    """Return the RLE of a mask.

    Args:
        mask: bool (H, W).
        origin: (top, left) of the mask in an image, all other pixels of which are zeros.
        image_size: (height, width) of that image; the size of the mask if None.
    """
    height, width = image_size or mask.shape
    if image_size is not None:
        strip = np.zeros((height, mask.shape[1]), bool)
        strip[origin[0] : origin[0] + mask.shape[0]] = mask
        mask = strip
    flat = mask.ravel(order="F")
    start = origin[1] * height
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1 + start
    first = [start] if flat.size and flat[0] and start else []
    last = [start + flat.size] if flat.size and flat[-1] and start + flat.size < height * width else []
    lengths = np.diff(np.concatenate([[0], first, ends, last, [height * width]]).astype(np.int64)).tolist()
    starts_with_one = bool(flat.size and flat[0] and not start)
    return {"size": [height, width], "counts": [0, *lengths] if starts_with_one else lengths}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return the mask of an uncompressed RLE, bool (H, W)."""
    counts = rle["counts"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(rle["size"], order="F")


def decode_columns(rle: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Return the columns of the mask that have ones, with a margin of one column, and the number of the first.

    They take much less memory and time than the mask if that is a small object in a large image.
    """
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], np.int64)
    ends = counts.cumsum()
    ones = np.flatnonzero(counts[1::2]) * 2 + 1
    if not ones.size:
        return np.zeros((height, 0), bool), 0
    first = max(0, int(ends[ones[0] - 1]) // height - 1)
    last = min(width, (int(ends[ones[-1]]) - 1) // height + 2)
    inside = np.diff(ends[ones[0] - 1 : ones[-1] + 1], prepend=first * height, append=last * height)
    flat = np.repeat(np.arange(len(inside)) % 2 == 1, inside)
    return flat.reshape((height, last - first), order="F"), first
