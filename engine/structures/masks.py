"""Instance masks as polygons or run-length encodings (RLE) of COCO: checks, and decoding to pixels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.structures.rle import decode_part, expand_counts, parse_counts

_SEQUENCES = (list, tuple, np.ndarray)
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


def decode_mask(mask: Sequence[Sequence[float]] | Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Check a mask, and decode it to pixels: uint8 of shape (height, width), 0 or 1; see :func:`decode_masks`.

    Raises:
        MissingExtraError: the mask consists of polygons, and pycocotools is not installed.
        ValueError: the mask is invalid; see :func:`mask_problem`.
    """
    if problem := mask_problem(mask, (height, width)):
        raise ValueError(problem)
    pixels: np.ndarray = decode_masks([mask], height, width)[0]
    return pixels


def decode_masks(masks: Sequence[Sequence[Sequence[float]] | Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Decode masks to pixels: uint8 of shape (N, height, width), 0 or 1.

    The pixels of a polygon are those that pycocotools computes, but only the part of the image with the mask is
    decoded, which takes a tenth of the time for a small object.

    Args:
        masks: N valid masks: each a list of polygons ``[x0, y0, x1, y1, …]``, or an RLE
            ``dict(size=(height, width), counts=...)``, whose ``counts`` are a list or a compressed string.
        height: height of the image.
        width: width of the image.

    Raises:
        MissingExtraError: a mask consists of polygons, and pycocotools is not installed.
    """
    pixels = np.zeros((len(masks), height, width), np.uint8)
    counts = [mask["counts"] if isinstance(mask, Mapping) else _rasterized(mask, height, width) for mask in masks]
    compressed = [number for number, value in enumerate(counts) if isinstance(value, str | bytes)]
    for number, expanded in zip(compressed, expand_counts([counts[number] for number in compressed])):
        counts[number] = expanded
    for image, runs in zip(pixels, counts):
        part, top, left = decode_part({"size": (height, width), "counts": runs})
        image[top : top + part.shape[0], left : left + part.shape[1]] = part
    return pixels


def _rasterized(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Return the counts of the compressed RLE of polygons."""
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "loading masks") from error

    encoded = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width))
    counts: bytes = encoded["counts"]
    return counts


def mask_problem(mask: Any, size: tuple[float, float]) -> str | None:
    """Return what is wrong with a mask, or None.

    Args:
        mask: polygons or an RLE, see :func:`decode_masks`.
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

    For the others, :func:`mask_problem` returns what is wrong, if anything. This is much faster for many masks.

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

    Args:
        strings: N compressed RLEs.
        areas: number of pixels of each image.
    """
    counts, firsts, valid = parse_counts(strings)
    valid &= np.minimum.reduceat(counts, firsts) >= 0
    result: np.ndarray = valid & (np.add.reduceat(counts, firsts) == np.asarray(areas))
    return result


def shown(value: Any) -> str:
    """Return a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
