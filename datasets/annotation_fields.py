"""Checks of the fields of annotations in COCO format: quickly for many, and with a reason for one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from trainwright.engine.structures.masks import all_numbers, are_masks, is_finite, is_number, mask_problem, shown

_TOLERANCE = 1.0  # pixels by which a box may exceed its image due to rounding, before it is clipped
_FARTHEST = 1e6  # largest coordinate of a keypoint, in pixels
_LISTS = (list, tuple, np.ndarray)


@dataclass
class Rules:
    """The fields of annotations to check, besides ``id``, ``image_id``, ``category_id``, ``bbox`` and ``iscrowd``.

    Args:
        with_mask: a mask is required.
        num_keypoints: number of keypoints of an instance; None if they are not read.
        clip_boxes: boxes are clipped to their image; otherwise they must not exceed it by more than a pixel.
        with_score: a score is required, as in detections.
        corners: a box is left, top, right and bottom instead of left, top, width and height.
        names: what fields are called in messages, if they have another name.
    """

    with_mask: bool = False
    num_keypoints: int | None = None
    clip_boxes: bool = False
    with_score: bool = False
    corners: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


class Sizes:
    """Heights and widths of images by their ids; infinite if unknown.

    Args:
        images: the images by id, with ``height`` and ``width`` if known.
    """

    def __init__(self, images: Mapping[Any, Mapping[str, Any]]) -> None:
        unknown = np.inf, np.inf
        sizes = [(one["height"], one["width"]) if "height" in one else unknown for one in images.values()]
        self._sizes: dict[Any, tuple[float, float]] = dict(zip(images, sizes))
        self._table = np.array([*sizes, unknown], np.float64)
        self._places = {key: place for place, key in enumerate(images)}

    def __contains__(self, key: Any) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __getitem__(self, key: Any) -> tuple[float, float]:
        return self._sizes[key]

    def of(self, keys: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of N images, -1 if unknown, and their heights and widths: int64 (N,) and float64 (N, 2)."""
        places = np.fromiter((self._places.get(key, -1) for key in keys), np.int64, len(keys))
        return places, self._table[places]


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a whole number or text."""
    return type(value) in (int, str) or (isinstance(value, int | str | np.integer) and not isinstance(value, bool))


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, possibly stored as a float."""
    return type(value) is int or (is_number(value) and is_finite(value) and value == int(value))


def is_absent(mask: Any) -> bool:
    """Return whether the value of ``segmentation`` means that there is no mask."""
    return mask is None or (isinstance(mask, (*_LISTS, Mapping)) and len(mask) == 0)


def find_problem(annotation: Mapping[str, Any], size: tuple[float, float], rules: Rules) -> str | None:
    """Return what is wrong with an annotation whose image and category are known, or None.

    Args:
        annotation: the annotation.
        size: height and width of the image; infinite if unknown.
        rules: the fields to check.
    """
    key = annotation.get("id")
    if key is not None and not is_id(key):
        return f"id: must be a whole number or text, got {shown(key)}"
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("bbox", lambda: _required(annotation, "bbox") or box_problem(annotation["bbox"], size, rules)),
        ("iscrowd", lambda: _crowd_problem(annotation.get("iscrowd", 0))),
        ("area", lambda: _area_problem(annotation.get("area"))),
    ]
    if rules.with_score:
        checks.append(("score", lambda: _required(annotation, "score") or _number_problem(annotation["score"])))
    if rules.num_keypoints is not None:
        number = rules.num_keypoints
        checks.append(("keypoints", lambda: _keypoints_problem(annotation.get("keypoints"), number)))
        checks.append(("num_keypoints", lambda: _count_problem(annotation.get("num_keypoints"), number)))
    if rules.with_mask:
        checks.append(("segmentation", lambda: _segmentation_problem(annotation.get("segmentation"), size)))
    for name, check in checks:
        if problem := check():
            return f"{rules.names.get(name, name)}: {problem}"
    return None


def are_good(annotations: Sequence[Any], sizes: Sizes, categories: Mapping[Any, Any], rules: Rules) -> np.ndarray:
    """Return which annotations are certainly good: bool of shape (N,).

    The others need a closer look with :func:`find_problem`. This is much faster for many annotations.

    Args:
        annotations: N annotations.
        sizes: the sizes of the images.
        categories: the categories by id.
        rules: the fields to check.
    """
    try:
        return _are_good(annotations, sizes, categories, rules)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return np.zeros(len(annotations), bool)  # an unusual type somewhere


def _are_good(annotations: Sequence[Any], sizes: Sizes, categories: Mapping[Any, Any], rules: Rules) -> np.ndarray:
    number = len(annotations)
    ids = [annotation.get("id", 0) for annotation in annotations]
    images = [annotation["image_id"] for annotation in annotations]
    labels = [annotation["category_id"] for annotation in annotations]
    crowds = [annotation.get("iscrowd", 0) for annotation in annotations]
    kinds = {*map(type, ids), *map(type, images), *map(type, labels)}
    if not kinds <= {int, str} or not set(map(type, crowds)) <= {int, bool}:
        return np.zeros(number, bool)
    good: np.ndarray = np.array(["problem" not in annotation for annotation in annotations])
    if not set(labels) <= categories.keys():
        good &= np.array([label in categories for label in labels])
    if not set(crowds) <= {0, 1}:
        good &= np.array([crowd in (0, 1) for crowd in crowds])
    places, extents = sizes.of(images)
    good &= places >= 0
    good &= _good_boxes(_numbers([annotation["bbox"] for annotation in annotations], 4), extents, rules)
    areas = _column([_given(annotation.get("area"), 0) for annotation in annotations])
    good &= (areas >= 0) & np.isfinite(areas)
    if rules.with_score:
        good &= np.isfinite(_column([annotation["score"] for annotation in annotations]))
    if rules.num_keypoints is not None:
        good &= _good_keypoints(annotations, rules.num_keypoints)
    if rules.with_mask:
        good &= are_masks([annotation.get("segmentation") for annotation in annotations], extents)
    return good


def _numbers(rows: Sequence[Any], columns: int) -> np.ndarray:
    """Return rows of numbers as an array of shape (N, columns).

    Raises:
        TypeError: a row has another length, or contains something else.
    """
    if not set(map(type, rows)) <= set(_LISTS) or not set(map(len, rows)) <= {columns}:
        raise TypeError
    if not all_numbers(chain.from_iterable(rows)):
        raise TypeError
    return np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns).reshape(-1, columns)


def _column(values: Sequence[Any]) -> np.ndarray:
    """Return numbers as an array of shape (N,), without a list for each, which the garbage collector would count.

    Raises:
        TypeError: a value is not a number.
    """
    if not all_numbers(values):
        raise TypeError
    return np.fromiter(values, np.float64, len(values))


def _good_boxes(boxes: np.ndarray, extents: np.ndarray, rules: Rules) -> np.ndarray:
    near, far = boxes[:, :2], boxes[:, 2:]
    far = far if rules.corners else near + far
    ends = extents[:, ::-1]  # width and height
    good: np.ndarray = np.isfinite(boxes).all(1) & (far > near).all(1)
    with np.errstate(over="ignore"):
        good &= (np.minimum(far, ends).astype(np.float32) > np.maximum(near, 0).astype(np.float32)).all(1)
    if not rules.clip_boxes:
        good &= (near >= -_TOLERANCE).all(1) & (far <= ends + _TOLERANCE).all(1)
    return good


def _good_keypoints(annotations: Sequence[Any], number: int) -> np.ndarray:
    rows = [_given(annotation.get("keypoints"), ()) for annotation in annotations]
    good = np.ones(len(rows), bool)
    given = np.array([len(row) > 0 for row in rows])
    if not set(map(type, rows)) <= set(_LISTS):
        raise TypeError
    if given.any():
        points = _numbers([row for row in rows if len(row)], 3 * number).reshape(-1, number, 3)
        good[given] = (np.abs(points) <= _FARTHEST).all((1, 2)) & np.isin(points[..., 2], (0, 1, 2)).all(1)
    counts = [_given(annotation.get("num_keypoints"), 0) for annotation in annotations]
    if not set(map(type, counts)) <= {int}:
        raise TypeError
    result: np.ndarray = good & np.array([0 <= count <= number for count in counts])
    return result


def box_problem(box: Any, size: tuple[float, float], rules: Rules) -> str | None:
    """Return what is wrong with a box, or None.

    Args:
        box: four numbers, see ``rules.corners``.
        size: height and width of the image; infinite if unknown.
        rules: the format of the box, and whether it is clipped.
    """
    order = "left, top, right, bottom" if rules.corners else "left, top, width, height"
    if not isinstance(box, _LISTS) or len(box) != 4 or not all(map(is_number, box)):
        return f"must be four numbers ({order}), got {shown(box)}"
    if not all(map(is_finite, box)):
        return f"is not finite: {shown(box)}"
    shape = f"{shown(list(box))} ({order})"
    left, top, right, bottom = map(float, box)
    if not rules.corners:
        right, bottom = left + right, top + bottom
    if right < left or bottom < top:
        return f"has a negative size: {shape}"
    if right == left or bottom == top:
        return f"has no area: {shape}"
    height, width = size
    where = f"the image of height {height} and width {width}" if math.isfinite(height) else "the image"
    inner_right, inner_bottom = min(right, width), min(bottom, height)
    if inner_right <= max(left, 0) or inner_bottom <= max(top, 0):
        return f"is outside {where}: {shape}"
    with np.errstate(over="ignore"):
        clipped = np.array([inner_right, inner_bottom, max(left, 0), max(top, 0)]).astype(np.float32)
    if not (clipped[:2] > clipped[2:]).all():
        return f"is too small: {shape}"
    exceeds = min(left, top) < -_TOLERANCE or right > inner_right + _TOLERANCE or bottom > inner_bottom + _TOLERANCE
    return f"is partly outside {where}: {shape}" if exceeds and not rules.clip_boxes else None


def are_fractions(annotations: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all boxes of good annotations seem to be fractions of the image instead of pixels."""
    if any(max(annotation["bbox"]) > 1 for annotation in annotations):
        return False
    return any(value % 1 for annotation in annotations for value in annotation["bbox"])


def are_corners(annotations: Sequence[Any], sizes: Sizes, rules: Rules) -> bool:
    """Return whether all boxes are valid if they are read as left, top, right and bottom, which they should not be."""
    corners = replace(rules, corners=True)
    return not rules.corners and all(
        box_problem(annotation["bbox"], sizes[annotation["image_id"]], corners) is None
        for annotation in annotations
        if isinstance(annotation, Mapping) and "bbox" in annotation and _is_known(annotation, sizes)
    )


def _is_known(annotation: Mapping[str, Any], sizes: Sizes) -> bool:
    key = annotation.get("image_id")
    return is_id(key) and key in sizes


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _required(annotation: Mapping[str, Any], name: str) -> str | None:
    return None if name in annotation else "missing"


def _number_problem(value: Any) -> str | None:
    return None if is_number(value) and is_finite(value) else f"must be a finite number, got {shown(value)}"


def _crowd_problem(value: Any) -> str | None:
    is_flag = isinstance(value, bool | np.bool_) or (is_number(value) and value in (0, 1))
    return None if is_flag else f"must be 0 or 1, got {shown(value)}"


def _area_problem(value: Any) -> str | None:
    if value is None:
        return None
    return _number_problem(value) or (f"must not be negative, got {shown(value)}" if value < 0 else None)


def _count_problem(value: Any, number: int) -> str | None:
    is_count = value is None or (is_whole(value) and 0 <= value <= number)
    return None if is_count else f"must be a number from 0 to {number}, got {shown(value)}"


def _keypoints_problem(values: Any, number: int) -> str | None:
    if values is None:
        return None
    if not isinstance(values, _LISTS):
        return f"must be a list of numbers, got {shown(values)}"
    if len(values) not in (0, 3 * number):
        return f"must be {3 * number} numbers (x, y and visibility of {number} keypoints), got {len(values)}"
    for value in values:
        if not is_number(value) or not is_finite(value):
            return f"a value is not a finite number: {shown(value)}"
        if abs(value) > _FARTHEST:
            return f"a coordinate is far outside the image: {shown(value)}"
    for value in values[2::3]:
        if value not in (0, 1, 2):
            return f"the visibility of a keypoint must be 0, 1 or 2, got {shown(value)}"
    return None


def _segmentation_problem(mask: Any, size: tuple[float, float]) -> str | None:
    if is_absent(mask):
        return "missing, but LoadAnnotations(with_mask=True) loads masks"
    return mask_problem(mask, size)
