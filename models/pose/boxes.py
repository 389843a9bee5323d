"""Boxes of instances for top-down inference: read from a file, or found by a detector."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainwright.engine.errors import ConfigError, DataError, did_you_mean
from trainwright.engine.fileio import read_text

_COLUMNS = ("file_name", "x1", "y1", "x2", "y2")
_FORMS = (
    "expected COCO detection results, [{'image_id' or 'file_name', 'bbox': [x, y, width, height], 'score'}, ...], "
    "predictions.json of `trainwright predict`, {file name: [[left, top, right, bottom], ...]}, or a CSV file with the "
    f"columns {', '.join(_COLUMNS)} and optionally score"
)


class Boxes(NamedTuple):
    """Boxes as left, top, right, bottom in pixels, (N, 4), and their scores, (N,), or None if they have none."""

    boxes: Tensor
    scores: Tensor | None = None

    def filtered(self, bbox_thr: float, nms_thr: float) -> "Boxes":
        """Return the boxes with scores of at least ``bbox_thr``, without those that overlap a better one too much."""
        from torchvision.ops import nms

        if self.scores is None:
            return self
        good = self.scores >= bbox_thr
        boxes, scores = self.boxes[good], self.scores[good]
        kept = nms(boxes, scores, nms_thr)
        return Boxes(boxes[kept], scores[kept])


def as_boxes(rows: Any, place: str) -> Boxes:
    """Return boxes from rows of 4 numbers, or of 5 numbers with a score.

    Raises:
        DataError: the rows are not such numbers, or a box has no area; the message contains ``place``.
    """
    try:
        table = torch.as_tensor(rows, dtype=torch.float32)
        table = table.reshape(0, 4) if table.numel() == 0 else table
        if table.ndim != 2 or table.shape[1] not in (4, 5):
            raise ValueError(f"the shape is {tuple(table.shape)}, not (N, 4) or (N, 5)")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{place}: boxes must be rows of left, top, right, bottom and optionally a score: {error}"
        ) from error
    good = torch.isfinite(table).all(1) & (table[:, 2] > table[:, 0]) & (table[:, 3] > table[:, 1])
    if not good.all():
        row = table[~good][0].tolist()
        raise DataError(f"{place}: the box {row} has no area: expected left, top, right, bottom in pixels")
    return Boxes(table[:, :4], table[:, 4] if table.shape[1] == 5 else None)


def read_boxes(path: str | os.PathLike[str], cat_ids: Sequence[Any] | None = None) -> dict[str, Boxes]:
    """Read the boxes in a file.

    Args:
        path: a JSON or CSV file in one of these forms: COCO detection results; ``predictions.json`` of
            ``trainwright predict``; a dict of file names with lists of boxes; a table with a box in each line.
        cat_ids: the categories to keep, if the boxes have categories.

    Returns:
        The boxes of each image, by its file name or ``image_id``.

    Raises:
        FileNotFoundError: the file is missing.
        DataError: the file is not in one of these forms, or has boxes of several categories and ``cat_ids`` is None.
    """
    name = os.fspath(path)
    if Path(path).suffix.lower() == ".csv":
        rows: list[tuple[str, list[float] | None, Any]] = list(_csv_rows(name))
    else:
        try:
            content = json.loads(read_text(name))
        except json.JSONDecodeError as error:
            raise DataError(f"{name} is not a JSON file: {error}; {_FORMS}") from error
        if isinstance(content, dict) and all(isinstance(value, list) for value in content.values()):
            return {key: as_boxes(value, f"{name}: {key}") for key, value in content.items()}
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise DataError(f"{name} is not a file of boxes: {_FORMS}")
        rows = [row for index, entry in enumerate(content) for row in _json_rows(entry, f"{name}: entry {index}")]
    categories = {category for *_, category in rows} - {None}
    if cat_ids is None and len(categories) > 1:
        found = ", ".join(map(str, sorted(categories)))
        raise DataError(f"{name} has boxes of several categories ({found}): choose with det_cat_ids")
    if unknown := set(cat_ids or ()) - categories if categories else ():
        raise DataError(f"{name} has no boxes of the categories {sorted(unknown, key=str)}, only {sorted(categories)}")
    tables: dict[str, list[Any]] = {}
    for image, row, category in rows:
        table = tables.setdefault(image, [])
        if row is not None and (cat_ids is None or category is None or category in cat_ids):
            table.append(row)
    return {image: as_boxes(table, f"{name}: {image}") for image, table in tables.items()}


def match_images(boxes: Mapping[str, Boxes], images: Sequence[Any], name: str) -> list[Boxes]:
    """Return the boxes of each image.

    An image matches a file name that is the end of its path, or else an ``image_id`` that is its file name without
    extension, with or without leading zeros.

    Raises:
        DataError: no image has boxes, because the names differ.
    """
    by_name: dict[str, list[str]] = {}
    for key in boxes:
        by_name.setdefault(PurePath(key).name, []).append(key)
    found = [_key_of(image, boxes, by_name) for image in images]
    if boxes and not any(key is not None for key in found):
        some = ", ".join(map(repr, list(boxes)[:3]))
        raise DataError(f"{name} has no boxes for these images, such as {images[0]}; it has boxes for {some}")
    return [Boxes(torch.empty(0, 4)) if key is None else boxes[key] for key in found]


def category_labels(cat_ids: Any, classes: Sequence[str]) -> list[int] | None:
    """Return the labels of the categories to keep; None for all.

    Args:
        cat_ids: a label or the name of a class, or several; None for ``person`` if there is such a class, else for all.
        classes: the classes of the detector.

    Raises:
        ConfigError: a label or name is unknown.
    """
    if cat_ids is None:
        return [list(classes).index("person")] if "person" in classes else None
    labels = []
    for cat_id in cat_ids if isinstance(cat_ids, list | tuple) else [cat_ids]:
        label = classes.index(cat_id) if cat_id in classes else cat_id
        if not isinstance(label, int) or label < 0 or (classes and label >= len(classes)):
            known = (
                f"its classes: {', '.join(classes)}" if classes else "the names of its classes are unknown: use numbers"
            )
            hint = did_you_mean(str(cat_id), classes) or known
            raise ConfigError("det_cat_ids", f"the detector has no class {cat_id!r}", hint)
        labels.append(label)
    return labels


def _key_of(image: Any, boxes: Mapping[str, Boxes], by_name: Mapping[str, Sequence[str]]) -> str | None:
    """Return the key of an image's boxes."""
    if not isinstance(image, str | os.PathLike):
        return None
    path = PurePath(image)
    for key in sorted(by_name.get(path.name, ()), key=len, reverse=True):
        parts = PurePath(key).parts
        if path.parts[-len(parts) :] == parts:
            return key
    stem = path.stem
    return next((key for key in (stem, stem.lstrip("0") or "0") if key in boxes), None)


def _json_rows(entry: Mapping[str, Any], place: str) -> Iterator[tuple[str, list[float] | None, Any]]:
    """Yield the image, box and category of each box in an entry of a list; the box is None for an image without."""
    if "pred_instances" in entry and "input" in entry:
        found = entry["pred_instances"]
        labels = found.get("labels") or [None] * len(found["bboxes"])
        for box, score, label in zip(found["bboxes"], found["scores"], labels):
            yield entry["input"], [*box, score], label
        if not found["bboxes"]:
            yield entry["input"], None, None
        return
    image = entry.get("file_name", entry.get("image_id"))
    box = entry.get("bbox")
    if image is None or not isinstance(box, list) or len(box) != 4:
        known = ("image_id", "file_name", "bbox", "score", "category_id")
        hints = [hint for key in entry if key not in known and (hint := did_you_mean(key, known))]
        missing = "bbox: [x, y, width, height]" if image is not None else "image_id or file_name"
        raise DataError(f"{place} lacks {missing}; it has {', '.join(entry)}" + "".join(f"; {hint}" for hint in hints))
    try:
        left, top, width, height = (float(value) for value in box)
        scores = [float(entry["score"])] if "score" in entry else []
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: bbox and score must be numbers, got {box} and {entry.get('score')}") from error
    yield str(image), [left, top, left + width, top + height, *scores], entry.get("category_id")


def _csv_rows(path: str) -> Iterator[tuple[str, list[float] | None, Any]]:
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = reader.fieldnames or ()
    if missing := [column for column in _COLUMNS if column not in columns]:
        hint = did_you_mean(missing[0], columns)
        raise DataError(f"{path}: the column {missing[0]!r} is missing{f'; {hint}' if hint else ''}; {_FORMS}")
    wanted = [*_COLUMNS[1:], *(["score"] if "score" in columns else [])]
    for row in reader:
        try:
            yield row["file_name"], [float(row[column]) for column in wanted], None
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}:{reader.line_num}: {', '.join(wanted)} must be numbers: {error}") from error
