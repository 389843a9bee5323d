"""YOLO's text files of boxes, polygons and poses, as described in https://docs.ultralytics.com/datasets/."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.datasets.formats.content import Content, box_around, find_files, polygon_area
from trainwright.engine.errors import DamagedFileError, DataError, did_you_mean
from trainwright.engine.fileio import read_text

# Coordinates that exceed [0, 1] by rounding are clipped.
_TOLERANCE = 0.01
_SPLIT_KEYS = ("train", "val", "test")


@dataclass
class YoloDescription:
    """The contents of a ``data.yaml``.

    Args:
        classes: class names by id.
        splits: the images of each split: a folder, a text file, or a list of them.
        folders: folders that relative paths may start from, in order of preference.
        num_keypoints: keypoints per instance; 0 for boxes and polygons.
        num_values: numbers per keypoint: 2 for x and y, 3 for x, y and visibility.
        keypoints: names of the keypoints; their numbers if the file has none.
        flip_indices: for each keypoint, its index in a mirrored image; None if the file has none.
    """

    classes: dict[int, str]
    splits: dict[str, list[str]]
    folders: list[Path]
    num_keypoints: int = 0
    num_values: int = 3
    keypoints: tuple[str, ...] = ()
    flip_indices: tuple[int, ...] | None = None


def read_yolo(
    ann_file: str, split: str, data_root: str = "", classes: Sequence[str] | None = None, num_keypoints: int = 0
) -> tuple[Content, YoloDescription]:
    """Read the images of a split and their label files.

    Args:
        ann_file: a ``data.yaml``, or empty if there is none.
        split: a key of ``ann_file``, or the path of a folder of images or of a text file that lists images.
        data_root: folder that the path in ``split`` is relative to.
        classes: class names; required without ``ann_file``.
        num_keypoints: keypoints per instance without ``ann_file``.

    Raises:
        DataError: ``ann_file`` is invalid, there are no images, or not a single image has a label file.
    """
    if ann_file:
        description = read_description(ann_file)
    else:
        if not classes:
            raise DataError("YOLO labels without a data.yaml need class names: set metainfo=dict(classes=(...))")
        description = YoloDescription(dict(enumerate(classes)), {}, [Path(data_root)], num_keypoints)
        description.keypoints = tuple(map(str, range(num_keypoints)))
    places = description.splits.get(split)
    folders = description.folders
    if places is None:
        if not Path(data_root, split).exists():
            known = ", ".join(description.splits) or "none"
            hint = did_you_mean(split, description.splits)
            raise DataError(
                f"{ann_file or data_root}: no split {split!r} (its splits: {known}), nor a folder or file "
                f"{Path(data_root, split)}{': ' + hint if hint else ''}"
            )
        places, folders = [split], [Path(data_root)]
    content = Content()
    for number, name in sorted(description.classes.items()):
        keypoints = {"keypoints": list(description.keypoints)} if description.num_keypoints else {}
        content.categories.append({"id": number, "name": name, **keypoints})
    images = [path for place in places for path in _images_of(place, folders, ann_file or data_root)]
    for path in images:
        image = content.add_image(path)
        label_file = label_file_of(path)
        if label_file is None:
            content.num_backgrounds += 1
        elif "problem" not in image:
            _read_labels(label_file, image, content, description)
    if images and content.num_backgrounds == len(images):
        raise DataError(
            f"{ann_file or data_root}: none of the {len(images)} images of {split!r} has a label file: expected, "
            f"for {images[0]}, {_label_path(images[0])}"
        )
    return content, description


def read_description(file: str) -> YoloDescription:
    """Read a ``data.yaml``.

    Raises:
        DataError: the file is not valid; the message names the key.
    """
    import yaml

    try:
        keys = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(keys, dict):
        raise DataError(f"{file}: expected keys such as 'names' and 'train', got a {type(keys).__name__}")
    number, values = _keypoint_shape(file, keys)
    classes = _class_names(file, keys)
    return YoloDescription(
        classes=classes,
        splits={key: _places(file, key, keys[key]) for key in _SPLIT_KEYS if keys.get(key)},
        folders=_folders(file, keys),
        num_keypoints=number,
        num_values=values,
        keypoints=_keypoint_names(file, keys, number),
        flip_indices=_flip_indices(file, keys, number),
    )


def label_file_of(image: str) -> Path | None:
    """Return the label file of an image, or None if it has none: the image is a background image."""
    candidates = (_label_path(image), Path(image).with_suffix(".txt"))
    return next((path for path in candidates if path.is_file()), None)


def _label_path(image: str) -> Path:
    """Return the path with the last folder named ``images`` replaced by ``labels``, and the suffix by ``.txt``."""
    parts = list(Path(image).parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _class_names(file: str, keys: Mapping[str, Any]) -> dict[int, str]:
    names, number = keys.get("names"), keys.get("nc")
    if names is None and isinstance(number, int):
        names = [f"class_{index}" for index in range(number)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: 'names' must be a list of class names or a dict of them by number, not {names!r}")
    for key in names:
        if isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise DataError(f"{file}: names: the class number {key!r} is not an integer from 0")
    if number is not None and number != len(names):
        raise DataError(f"{file}: nc is {number!r}, but there are {len(names)} names: correct one of them")
    texts = {key: str(name) for key, name in names.items()}
    if duplicates := sorted({name for name in texts.values() if list(texts.values()).count(name) > 1}):
        raise DataError(f"{file}: several classes have the name {duplicates[0]!r}")
    return texts


def _places(file: str, key: str, value: Any) -> list[str]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise DataError(f"{file}: {key!r} must be a path or a list of paths, not {value!r}")
    return places


def _folders(file: str, keys: Mapping[str, Any]) -> list[Path]:
    """Return the folders that the paths of the splits may be relative to."""
    own = Path(file).parent
    folders = [own]
    if keys.get("path") is not None:
        folders.insert(0, own / str(keys["path"]))
    return folders


def _keypoint_shape(file: str, keys: Mapping[str, Any]) -> tuple[int, int]:
    shape = keys.get("kpt_shape")
    if shape is None:
        return 0, 3
    valid = isinstance(shape, list) and len(shape) == 2 and all(isinstance(size, int) for size in shape)
    if not valid or shape[0] < 1 or shape[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3], not {shape!r}")
    return shape[0], shape[1]


def _keypoint_names(file: str, keys: Mapping[str, Any], number: int) -> tuple[str, ...]:
    names = keys.get("kpt_names")
    if isinstance(names, dict):  # one list per class
        names = next(iter(names.values()), None)
    if names is None:
        return tuple(str(index) for index in range(number))
    if not isinstance(names, list) or len(names) != number:
        raise DataError(f"{file}: kpt_names must have {number} names, as kpt_shape states, not {names!r}")
    return tuple(map(str, names))


def _flip_indices(file: str, keys: Mapping[str, Any], number: int) -> tuple[int, ...] | None:
    indices = keys.get("flip_idx")
    if indices is None or not number:
        return None
    if not isinstance(indices, list) or sorted(map(str, indices)) != sorted(map(str, range(number))):
        raise DataError(f"{file}: flip_idx must contain each number from 0 to {number - 1} once, not {indices!r}")
    if wrong := [index for index in range(number) if indices[indices[index]] != index]:
        raise DataError(f"{file}: flip_idx swaps keypoint {wrong[0]} with {indices[wrong[0]]}, but not back")
    return tuple(indices)


def _images_of(place: str, folders: Sequence[Path], name: str) -> list[str]:
    """Return the image files of an entry of a split: a folder, or a text file with one path per line."""
    # Some exports start paths with ../ although the folders are next to the data.yaml.
    variants = [place, *([place.removeprefix("../")] if place.startswith("../") else [])]
    tried = [Path(os.path.normpath(folder / variant)) for variant in variants for folder in folders]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise DataError(
            f"{name}: {place!r} not found: tried {', '.join(map(str, dict.fromkeys(tried)))}. Correct the path there"
        )
    if found.is_file():
        lines = read_text(found).splitlines()
        images = [_listed_image(line.strip(), found.parent, folders) for line in lines if line.strip()]
    else:
        images = find_files(found)
    if not images:
        raise DataError(f"{name}: no images in {found}")
    return images


def _listed_image(line: str, parent: Path, folders: Sequence[Path]) -> str:
    if line.startswith("./"):
        return os.path.normpath(parent / line)
    candidates = [folder / line for folder in (*folders, parent, Path())]
    return os.path.normpath(next((path for path in candidates if path.is_file()), candidates[0]))


def _read_labels(file: Path, image: dict[str, Any], content: Content, description: YoloDescription) -> None:
    try:
        lines = read_text(file).splitlines()
    except DamagedFileError:
        content.add_annotation(image, str(file), problem="not a text file")
        return
    seen: dict[tuple[float, ...], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{file}:{number}"
        try:
            label, values = _parse(line, description)
            first = seen.setdefault((label, *values), number)
            if first != number:
                raise ValueError(f"repeats line {first}")
            fields = _fields(values, image, description)
        except ValueError as error:
            content.add_annotation(image, source, problem=str(error))
            continue
        content.add_annotation(image, source, category_id=label, **fields)


def _parse(line: str, description: YoloDescription) -> tuple[int, list[float]]:
    """Return the class and the numbers of a line.

    Raises:
        ValueError: the line is wrong; the message says how.
    """
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise ValueError(f"{wrong!r} is not a number") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{words[list(map(math.isfinite, numbers)).index(False)]!r} is not a finite number")
    _check_count(len(words), description)
    if numbers[0] not in description.classes:
        known = sorted(description.classes)
        numbering = f"from {known[0]} to {known[-1]}" if len(known) > 1 else f"only {known[0]}"
        raise ValueError(f"unknown class {words[0]}: the classes are numbered {numbering}")
    values = numbers[1:]
    if description.num_keypoints:
        size = description.num_values
        positions = values[:4] + [value for index, value in enumerate(values[4:]) if index % size < 2]
        if size == 3 and (wrong_flags := [flag for flag in values[6::3] if flag not in (0, 1, 2)]):
            raise ValueError(f"the visibility {wrong_flags[0]:g} of a keypoint is not 0, 1 or 2")
    else:
        positions = values
    outside = [value for value in positions if not -_TOLERANCE <= value <= 1 + _TOLERANCE]
    if outside:
        hint = "are they in pixels?" if max(outside) > 2 else "correct them"
        raise ValueError(f"the coordinate {outside[0]:g} is outside [0, 1]; coordinates are fractions: {hint}")
    return int(numbers[0]), values


def _check_count(count: int, description: YoloDescription) -> None:
    number, size = description.num_keypoints, description.num_values
    if number:
        if count != 5 + number * size:
            raise ValueError(
                f"expected {5 + number * size} numbers (class, box, {number} keypoints with {size} each), got {count}"
            )
    elif count == 6:
        raise ValueError("expected 5 numbers (class, center, size), got 6: is the last one a score?")
    elif count != 5 and (count < 7 or count % 2 == 0):
        raise ValueError(
            f"expected 5 numbers (class, center, size), or a class and the points of a polygon, got {count}"
        )


def _fields(values: list[float], image: Mapping[str, Any], description: YoloDescription) -> dict[str, Any]:
    """Return the annotation in COCO format, in pixels."""
    width, height = image["width"], image["height"]
    if not description.num_keypoints and len(values) > 4:
        scale = (width, height)
        polygon = [min(max(value, 0.0), 1.0) * scale[index % 2] for index, value in enumerate(values)]
        box = box_around(polygon)
        _check_size(box[2], box[3], "polygon")
        return {"bbox": box, "area": polygon_area(polygon), "segmentation": [polygon]}
    x, y, box_width, box_height = values[:4]
    _check_size(box_width, box_height, "box")
    left, right = max(0.0, x - box_width / 2) * width, min(1.0, x + box_width / 2) * width
    top, bottom = max(0.0, y - box_height / 2) * height, min(1.0, y + box_height / 2) * height
    _check_size(right - left, bottom - top, "box")
    fields: dict[str, Any] = {"bbox": [left, top, right - left, bottom - top]}
    fields["area"] = fields["bbox"][2] * fields["bbox"][3]
    if description.num_keypoints:
        size = description.num_values
        points = [values[start : start + size] for start in range(4, len(values), size)]
        keypoints = []
        for point in points:
            visible = (2.0 if point[0] or point[1] else 0.0) if size == 2 else point[2]
            keypoints += [point[0] * width, point[1] * height, visible] if visible else [0.0, 0.0, 0.0]
        fields["keypoints"] = keypoints
        fields["num_keypoints"] = sum(visible > 0 for visible in keypoints[2::3])
    return fields


def _check_size(width: float, height: float, what: str) -> None:
    if width <= 0 or height <= 0:
        raise ValueError(f"the {what} of width {width:g} and height {height:g} has no area")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
