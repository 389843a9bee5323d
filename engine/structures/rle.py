"""Masks in COCO's RLE: column-major run lengths, alternating zeros and ones, in a list or compressed to a string."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_MAX_CHARACTERS = 7  # of one number in a compressed RLE: 35 bits


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


def decode_part(rle: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], int, int]:
    """Return the part of a mask with ones, bool (h, w), and its first row and column; it may have a margin."""
    columns, left = decode_columns(rle)
    rows = np.flatnonzero(columns.any(1))
    if not rows.size:
        return columns[:0], 0, left
    return columns[rows[0] : rows[-1] + 1], int(rows[0]), left


def expand_counts(strings: Sequence[str | bytes]) -> list[np.ndarray[Any, Any]]:
    """Return the counts of valid compressed RLEs."""
    if not strings:
        return []
    counts, firsts, _ = parse_counts(strings)
    return np.split(counts, firsts[1:])


def parse_counts(
    strings: Sequence[str | bytes],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Parse compressed RLEs.

    A character has 6 bits: 5 of a number, and whether more follow. From the fourth number on, they are differences
    from the number before the previous one; see https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.

    Args:
        strings: N compressed RLEs.

    Returns:
        The counts of all, int64; (N,) the position of the first one of each; bool (N,) whether its characters are
        valid.
    """
    encoded = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in strings]
    encoded = [text or b" " for text in encoded]  # a space is as invalid as an empty text
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    codes = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64) - 48
    text_ends = np.cumsum(lengths)
    text_starts = text_ends - lengths
    valid = np.minimum.reduceat(codes, text_starts) >= 0
    valid &= np.maximum.reduceat(codes, text_starts) < 64
    last = (codes & 32) == 0
    valid &= last[text_ends - 1]
    last[text_ends - 1] = True
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1  # characters of each number
    owners = np.searchsorted(text_ends, ends, side="right")
    np.logical_and.at(valid, owners[sizes > _MAX_CHARACTERS], False)
    shifts = np.minimum(np.arange(len(codes)) - np.repeat(starts, sizes), _MAX_CHARACTERS) * 5
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[ends] & 16, 1 << (np.minimum(sizes, _MAX_CHARACTERS) * 5), 0)  # the sign
    firsts = np.searchsorted(owners, np.arange(len(encoded)))
    positions = np.arange(len(numbers)) - firsts[owners]
    counts = np.zeros_like(numbers)
    for chosen in (positions % 2 == 1, (positions % 2 == 0) & (positions > 0)):
        sums = np.cumsum(np.where(chosen, numbers, 0))
        before = np.concatenate([[0], sums])[firsts]
        counts = np.where(chosen, sums - before[owners], counts)
    counts = np.where(positions == 0, numbers, counts)
    return counts, firsts, valid
