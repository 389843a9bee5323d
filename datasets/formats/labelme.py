"""LabelMe's JSON files, one per image; see https://github.com/wkentaro/labelme."""

import base64
import binascii
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.formats.content import Content, box_around, find_files, polygon_area
from trainwright.engine.errors import DamagedFileError, DataError
from trainwright.engine.fileio import read_text
from trainwright.engine.inference.images import IMAGE_SUFFIXES

_NUM_POINTS = {"rectangle": 2, "circle": 2, "mask": 2, "polygon": 3, "line": 2, "linestrip": 2, "point": 1, "points": 1}
_REGIONS = ("rectangle", "polygon", "circle", "mask")
_CIRCLE_CORNERS = 64


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is an annotation of LabelMe."""
    return isinstance(content, Mapping) and "shapes" in content and "imagePath" in content


def labelme_files(place: str, listed: str = "") -> list[str]:
    """Return the JSON files of a folder and its subfolders, or those in a text file.

    Args:
        place: the folder.
        listed: text file with one path per line, relative to ``place``; if empty, all files.

    Raises:
        DataError: there are none.
    """
    if listed:
        lines = read_text(listed).splitlines()
        files = [str(Path(place, line.strip()).with_suffix(".json")) for line in lines if line.strip()]
    else:
        files = find_files(place, (".json",))
    if not files:
        raise DataError(f"{listed or place}: no JSON files of LabelMe")
    return files


def read_labelme(
    files: Sequence[str], classes: Sequence[str] | None = None, keypoints: Sequence[str] | None = None
) -> Content:
    """Read boxes and polygons.

    Rectangles, polygons, circles and masks are instances; points and lines are left out. For a pose, the points belong
    to the region with the same ``group_id``; without ``group_id``, to the only region in the file.

    Args:
        files: the JSON files.
        classes: class names, in the order of their numbers; the sorted labels of all regions if None.
        keypoints: for poses, the names of the keypoints, which are labels of points.
    """
    content = Content()
    shapes_of: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for file in files:
        image, shapes = _read_file(file, content)
        shapes_of.append((image, shapes))
    names = list(classes) if classes is not None else _labels(shapes_of, keypoints)
    points = {} if keypoints is None else {"keypoints": list(keypoints)}
    content.categories = [{"id": name, "name": name, **points} for name in names]
    for image, shapes in shapes_of:
        if "problem" in image:
            continue
        if keypoints is None:
            _add_regions(shapes, image, content)
        else:
            _add_poses(shapes, image, content, list(keypoints), names)
    return content


def point_labels(files: Sequence[str]) -> list[str]:
    """Return the labels of all points in the files, in the order of their first occurrence."""
    labels: dict[str, None] = {}
    for file in files:
        _, shapes = _read_file(file, Content())
        labels.update(dict.fromkeys(shape["label"] for shape in shapes if shape["shape_type"] == "point"))
    return list(labels)


def _labels(shapes_of: Sequence[tuple[Any, Sequence[Mapping[str, Any]]]], keypoints: Any) -> list[str]:
    shapes = [shape for _, shapes in shapes_of for shape in shapes]
    found = sorted({shape["label"] for shape in shapes if shape["shape_type"] in _REGIONS})
    return found or (["object"] if keypoints is not None else [])


def _read_file(file: str, content: Content) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Add the image of a file, and return its entry and the valid shapes, each with its ``source``."""
    try:
        annotation = json.loads(read_text(file))
    except FileNotFoundError:
        return _without_image(file, content, "not found"), []
    except (DamagedFileError, json.JSONDecodeError) as error:
        return _without_image(file, content, f"not valid JSON: {error}"), []
    if not is_labelme(annotation) or not isinstance(annotation["shapes"], list):
        return _without_image(file, content, "not an annotation of LabelMe: it needs 'shapes' and 'imagePath'"), []
    path = _image_of(file, annotation["imagePath"])
    if path is None:
        embedded = " (it is embedded as imageData: export it with LabelMe)" if annotation.get("imageData") else ""
        return _without_image(file, content, f"imagePath: no image {annotation['imagePath']!r}{embedded}"), []
    image = content.add_image(path, file)
    stated = (annotation.get("imageHeight"), annotation.get("imageWidth"))
    if "problem" not in image and None not in stated and stated != (image["height"], image["width"]):
        image["problem"] = (
            f"imageHeight and imageWidth: {stated[0]} and {stated[1]}, but {path} has the height {image['height']} and "
            f"the width {image['width']}"
        )
    shapes = []
    for number, shape in enumerate(annotation["shapes"], 1):
        source = f"{file}: shape {number}"
        if problem := _shape_problem(shape):
            content.add_annotation(image, source, problem=problem)
        else:
            shapes.append({**shape, "shape_type": shape.get("shape_type") or "polygon", "source": source})
    return image, shapes


def _without_image(file: str, content: Content, problem: str) -> dict[str, Any]:
    image = {"id": len(content.images), "file_name": file, "source": file, "problem": problem}
    content.images.append(image)
    return image


def _image_of(file: str, stated: Any) -> Path | None:
    """Return the image of a JSON file: the one that it names, or else one next to it with the same name."""
    name = str(stated or "").replace("\\", "/")
    beside = Path(file)
    candidates = [beside.parent / name, beside.with_name(Path(name).name)] if name else []
    candidates += [beside.with_suffix(suffix) for base in IMAGE_SUFFIXES for suffix in (base, base.upper())]
    return next((path for path in candidates if path.is_file()), None)


def _shape_problem(shape: Any) -> str | None:
    if not isinstance(shape, Mapping):
        return "must be a dict"
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind not in _NUM_POINTS:
        return f"shape_type: {kind!r} is unknown; the known ones are {', '.join(_NUM_POINTS)}"
    if not isinstance(shape.get("label"), str) or not shape["label"]:
        return f"label: must be text, not {shape.get('label')!r}"
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return "points: must be a list of pairs of finite numbers"
    exact = kind in ("rectangle", "circle", "mask", "point")
    if len(points) < _NUM_POINTS[kind] or (exact and len(points) > _NUM_POINTS[kind]):
        return f"points: a {kind} has {'' if exact else 'at least '}{_NUM_POINTS[kind]}, not {len(points)}"
    return None


def _is_point(point: Any) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in point)


def _add_regions(shapes: Sequence[Mapping[str, Any]], image: dict[str, Any], content: Content) -> None:
    for shape in shapes:
        if shape["shape_type"] not in _REGIONS:
            content.left_out.append(f"{shape['source']}: a {shape['shape_type']} has no area")
            continue
        try:
            fields = _region(shape, image)
        except ValueError as error:
            fields = {"problem": str(error)}
        content.add_annotation(image, shape["source"], category_id=shape["label"], **fields)


def _region(shape: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Return box, area and mask of a shape.

    Raises:
        ValueError: it has no area, or its mask cannot be decoded.
    """
    kind = shape["shape_type"]
    if kind == "mask":
        return _mask(shape, image)
    points = [value for point in shape["points"] for value in point]
    if kind == "rectangle":
        left, top, width, height = box_around(points)
        points = [left, top, left + width, top, left + width, top + height, left, top + height]
    elif kind == "circle":
        radius = math.dist(*shape["points"])
        angles = [2 * math.pi * step / _CIRCLE_CORNERS for step in range(_CIRCLE_CORNERS)]
        circle = ((points[0] + radius * math.cos(one), points[1] + radius * math.sin(one)) for one in angles)
        limits = (image["width"], image["height"])
        points = [min(max(value, 0.0), limit) for point in circle for value, limit in zip(point, limits)]
    box = box_around(points)
    if box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"points: the {kind} of width {box[2]:g} and height {box[3]:g} has no area")
    return {"bbox": box, "area": polygon_area(points), "segmentation": [points]}


def _mask(shape: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))) as picture:
            pixels = np.array(picture.convert("L")) > 0
    except (binascii.Error, TypeError, OSError, ValueError) as error:
        raise ValueError(f"mask: not an image in base64: {error}") from error
    left, top = (round(min(point[axis] for point in shape["points"])) for axis in (0, 1))
    height, width = pixels.shape
    if left < 0 or top < 0 or top + height > image["height"] or left + width > image["width"]:
        raise ValueError(f"mask: the {width}x{height} pixels at {left}, {top} exceed the image")
    if not pixels.any():
        raise ValueError("mask: has no pixels")
    plane = np.zeros((image["height"], image["width"]), bool)
    plane[top : top + height, left : left + width] = pixels
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    flat = plane.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    rle = {"size": list(plane.shape), "counts": [0, *counts] if flat[0] else counts}
    return {"bbox": box, "area": int(plane.sum()), "segmentation": rle}


def _add_poses(
    shapes: Sequence[Mapping[str, Any]], image: dict[str, Any], content: Content, keypoints: list[str], names: list[str]
) -> None:
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    regions = [shape for shape in shapes if shape["shape_type"] in _REGIONS]
    only = regions[0].get("group_id") if len(regions) == 1 else None
    for shape in shapes:
        if shape["shape_type"] not in (*_REGIONS, "point"):
            content.left_out.append(f"{shape['source']}: a {shape['shape_type']} is not a keypoint")
            continue
        group = shape.get("group_id")
        if shape["shape_type"] == "point" and group is None and len(regions) > 1:
            problem = f"group_id: missing, and the file has {len(regions)} regions that the point may belong to"
            content.add_annotation(image, shape["source"], problem=problem)
            continue
        if shape["shape_type"] != "point" and group is None and len(regions) > 1:
            group = shape["source"]  # an instance without points
        groups[only if group is None else group].append(shape)
    for group in groups.values():
        source = group[0]["source"]
        try:
            fields = _pose(group, image, keypoints)
        except ValueError as error:
            fields = {"problem": str(error)}
        label = next((shape["label"] for shape in group if shape["shape_type"] in _REGIONS), names[0])
        content.add_annotation(image, source, category_id=label, **fields)


def _pose(group: Sequence[Mapping[str, Any]], image: Mapping[str, Any], keypoints: list[str]) -> dict[str, Any]:
    """Return box and keypoints of the shapes that form an instance.

    Raises:
        ValueError: there are several regions, or a point is unknown or repeated.
    """
    regions = [shape for shape in group if shape["shape_type"] in _REGIONS]
    if len(regions) > 1:
        raise ValueError(f"group_id: {regions[0].get('group_id')!r} is that of {len(regions)} regions")
    values = [0.0] * (3 * len(keypoints))
    points = [shape for shape in group if shape["shape_type"] == "point"]
    for shape in points:
        if shape["label"] not in keypoints:
            raise ValueError(f"label: {shape['label']!r} is not a keypoint; they are {', '.join(keypoints)}")
        place = 3 * keypoints.index(shape["label"])
        if values[place + 2]:
            raise ValueError(f"label: the keypoint {shape['label']!r} occurs twice")
        values[place : place + 3] = [*shape["points"][0], 2.0]
    if regions:
        fields = {key: value for key, value in _region(regions[0], image).items() if key != "segmentation"}
    else:
        box = box_around([value for shape in points for value in shape["points"][0]])
        if box[2] <= 0 or box[3] <= 0:
            raise ValueError("points: a single keypoint without a rectangle has no box")
        fields = {"bbox": box, "area": box[2] * box[3]}
    return {**fields, "keypoints": values, "num_keypoints": len(points)}
