"""Instance masks as polygons or run-length encodings (RLE) of COCO: checks, and decoding to pixels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from trainwright.engine.errors import MissingExtraError

_SEQUENCES = (list, tuple, np.ndarray)
_MAX_CHARACTERS = 7  # of one number in a compressed RLE: 35 bits
_FARTHEST = 1e6  # largest coordinate, in pixels, if the size of the image is unknown


def is_number(value: Any) -> bool:
    """Return whether a value is a number of Python or NumPy; booleans are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Return whether a number is finite, also as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def all_numbers(values: Iterable[Any]) -> bool:
    """Return whether all values are numbers, like :func:`is_number`, but fast for many values."""
    return all(
        issubclass(kind, int | float | np.integer | np.floating) and kind is not bool for kind in set(map(type, values))
    )


def decode_mask(
    mask: Sequence[Sequence[float]] | Mapping[str, Any], height: int, width: int, is_checked: bool = False
) -> np.ndarray:
    """Decode a mask to pixels with pycocotools: uint8 of shape (height, width), 0 or 1.

    Args:
        mask: a list of polygons ``[x0, y0, x1, y1, …]``, or an RLE ``dict(size=(height, width), counts=...)``, whose
            ``counts`` are a list or a compressed string.
        height: height of the image.
        width: width of the image.
        is_checked: the mask is known to be valid; checking an RLE may take longer than decoding it.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: the mask is invalid; see :func:`mask_problem`.
    """
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "loading masks") from error

    if not is_checked and (
        problem := mask_problem(mask, (height, width))
    ):  # pycocotools crashes, or returns uninitialized memory
        raise ValueError(problem)
    if not isinstance(mask, Mapping):
        encoded = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in mask], height, width))
    elif isinstance(mask["counts"], str | bytes):
        encoded = {"size": [height, width], "counts": mask["counts"]}
    else:
        encoded = coco_mask.frPyObjects(
            {"size": [height, width], "counts": [int(count) for count in mask["counts"]]}, height, width
        )
    pixels: np.ndarray = coco_mask.decode(encoded)
    return pixels


def mask_problem(mask: Any, size: tuple[float, float]) -> str | None:
    """Return what is wrong with a mask, or None.

    Args:
        mask: polygons or an RLE, see :func:`decode_mask`.
        size: height and width of the image; infinite if unknown.
    """
    if isinstance(mask, Mapping):
        return _rle_problem(mask, size)
    if not isinstance(mask, _SEQUENCES) or len(mask) == 0:
        return f"must be a list of polygons or an RLE, got {shown(mask)}"
    if all(map(is_number, mask)):
        return f"must be a list of polygons [[x0, y0, x1, y1, …]], got a single list of numbers: {shown(mask)}"
    margin = _margin(size)
    for number, polygon in enumerate(mask):
        if not _is_polygon(polygon, margin) and (problem := _polygon_problem(polygon, margin)):
            return f"polygon {number} {problem}"
    return None


def are_masks(masks: Sequence[Any], sizes: np.ndarray) -> np.ndarray:
    """Return which masks are certainly valid: bool of shape (N,).

    For the others, :func:`mask_problem` tells what is wrong, if anything. This is much faster for many masks.

    Args:
        masks: N masks.
        sizes: float (N, 2): height and width of the image of each mask; infinite if unknown.
    """
    valid = np.zeros(len(masks), bool)
    outlines = np.array([isinstance(mask, list) for mask in masks], bool)
    if outlines.any():
        margins = np.where(np.isfinite(sizes).all(1), sizes.max(1), _FARTHEST)[outlines]
        valid[outlines] = _are_polygons([mask for mask in masks if isinstance(mask, list)], margins)
    strings, areas, places = [], [], []
    for place, (mask, size) in enumerate(zip(masks, sizes.tolist())):
        if isinstance(mask, dict) and _rle_size(mask) is not None and isinstance(mask.get("counts"), str):
            height, width = _rle_size(mask)  # type: ignore[misc]
            if [height, width] == size:
                strings.append(mask["counts"])
                areas.append(height * width)
                places.append(place)
    if strings:
        valid[places] = _fill(strings, areas)
    return valid


def _is_polygon(polygon: Any, margin: float) -> bool:
    """Return whether a polygon is certainly valid."""
    try:
        return (
            len(polygon) >= 6
            and len(polygon) % 2 == 0
            and -margin <= min(polygon)
            and max(polygon) <= 2 * margin
            and math.isfinite(sum(polygon))
            and all_numbers(polygon)
        )
    except (TypeError, ValueError, OverflowError):
        return False


def _polygon_problem(polygon: Any, margin: float) -> str | None:
    if not isinstance(polygon, _SEQUENCES):
        return f"must be a list of coordinates, got {shown(polygon)}"
    if any(isinstance(value, _SEQUENCES) for value in polygon):
        return f"must be a flat list [x0, y0, x1, y1, …], got nested lists: {shown(polygon)}"
    for value in polygon:
        if not is_number(value) or not is_finite(value):
            return f"has a coordinate that is not a finite number: {shown(value)}"
    if len(polygon) % 2:
        return f"has an odd number of coordinates ({len(polygon)})"
    if len(polygon) < 6:
        return f"has fewer than three points: {shown(polygon)}"
    for value in polygon:
        if not -margin <= value <= 2 * margin:
            return f"has a coordinate far outside the image: {shown(value)}"
    return None


def _are_polygons(masks: Sequence[list[Any]], margins: np.ndarray) -> np.ndarray:
    """Return which masks are certainly valid lists of polygons.

    Args:
        masks: N masks.
        margins: shape (N,): how far outside the image coordinates may be, in pixels.
    """
    try:
        per_mask = np.fromiter(map(len, masks), np.int64, len(masks))
        polygons = list(chain.from_iterable(masks))
        lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
        number = int(lengths.sum())
        if not per_mask.all() or not lengths.all() or not all_numbers(chain.from_iterable(polygons)):
            return np.zeros(len(masks), bool)
        values = np.fromiter(chain.from_iterable(polygons), np.float64, number)
    except (TypeError, OverflowError):
        return np.zeros(len(masks), bool)
    starts = np.cumsum(lengths) - lengths
    margins = np.repeat(margins, per_mask)
    good = (lengths >= 6) & (lengths % 2 == 0)
    good &= np.minimum.reduceat(values, starts) >= -margins  # false for NaN, which these functions propagate
    good &= np.maximum.reduceat(values, starts) <= 2 * margins
    result: np.ndarray = np.logical_and.reduceat(good, np.cumsum(per_mask) - per_mask)
    return result


def _margin(size: tuple[float, float]) -> float:
    return float(max(size)) if math.isfinite(max(size)) else _FARTHEST


def _rle_size(rle: Mapping[str, Any]) -> tuple[int, int] | None:
    size = rle.get("size")
    if isinstance(size, _SEQUENCES) and len(size) == 2 and all(is_number(v) and is_finite(v) and v >= 0 for v in size):
        height, width = (int(value) for value in size)
        return (height, width) if (height, width) == tuple(size) else None
    return None


def _rle_problem(rle: Mapping[str, Any], image_size: tuple[float, float]) -> str | None:
    if missing := {"size", "counts"} - rle.keys():
        return f"must be an RLE with size and counts: {' and '.join(sorted(missing))} missing"
    size = _rle_size(rle)
    if size is None:
        return f"size must be the height and width in pixels, got {shown(rle['size'])}"
    if math.isfinite(max(image_size)) and size != image_size:
        return f"its size is {size} (height, width), but that of the image is {image_size}"
    counts, area = rle["counts"], size[0] * size[1]
    if isinstance(counts, str | bytes):
        fills = bool(_fill([counts], [area])[0])
    elif isinstance(counts, _SEQUENCES):
        if bad := [value for value in counts if not is_number(value) or not is_finite(value) or value != int(value)]:
            return f"counts must be whole numbers, got {shown(bad[0])}"
        if any(value < 0 for value in counts):
            return f"counts must not be negative, got {min(counts)}"
        fills = sum(int(value) for value in counts) == area
    else:
        return f"counts must be a list of numbers or a string, got {shown(counts)}"
    return (
        None if fills else f"counts do not add up to the {area} pixels of the image (height {size[0]}, width {size[1]})"
    )


def _fill(strings: Sequence[str | bytes], areas: Sequence[int]) -> np.ndarray:
    """Return which compressed RLEs are valid and fill their image exactly.

    A character has 6 bits: 5 of a number, and whether more follow. From the fourth number on, they are differences
    from the number before the previous one; see https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.

    Args:
        strings: N compressed RLEs.
        areas: number of pixels of each image.
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
    valid &= np.minimum.reduceat(counts, firsts) >= 0
    result: np.ndarray = valid & (np.add.reduceat(counts, firsts) == np.asarray(areas))
    return result


def shown(value: Any) -> str:
    """Return a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
