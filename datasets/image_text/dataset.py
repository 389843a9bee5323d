"""A dataset of images with captions: COCO captions, tables and JSON lines."""

import csv
import io
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.formats.tables import PATH_NAMES, TABLE_SUFFIXES
from trainwright.engine.errors import DataError, did_you_mean
from trainwright.engine.fileio import load, read_text
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS, TRANSFORMS

_CAPTION_NAMES = ("caption", "captions", "text", "texts", "title", "description", "sentence", "comment", "raw")


@DATASETS.register_module()
class ImageTextDataset(BaseDataset):
    """Images with one or several captions each.

    The annotation file is one of these; rows of the same image are put together:

    - a table (``.csv``, ``.tsv``) with a header: a column ``path`` (or ``image``, ``file_name``, …), and a column
      ``caption`` (or ``text``, ``title``, …), or several such as ``caption1``, ``caption2``, which may be empty;
    - JSON lines (``.jsonl``), such as ``{"path": "1.jpg", "caption": "a red bird"}`` with a text or a list of texts;
    - the captions of COCO (``.json``): ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and
      ``caption``. Images without a caption are left out, and a message has their number.

    Samples start as ``dict(img_path=str, gt_caption=list[str])``. In training, ``RandomCaption`` draws one of them.

    Args:
        ann_file: the annotation file, relative to ``data_root``.
        image_key: name of the column with the images, if it is not one of the names above.
        caption_key: name of the column with the captions, or several names.
        max_captions: keep only the first captions of each image, such as 5 in evaluations on COCO.
        data_prefix: ``dict(img_path=folder)``: the folder of the images, relative to ``data_root``.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the file is missing.
        DataError: the file has no such column, or a row has no image or an empty caption; the message names the line.
    """

    def __init__(
        self,
        ann_file: str,
        image_key: str | None = None,
        caption_key: str | Sequence[str] | None = None,
        max_captions: int | None = None,
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_key = image_key
        self.caption_keys = (caption_key,) if isinstance(caption_key, str) else tuple(caption_key or ())
        self.max_captions = max_captions
        super().__init__(ann_file=ann_file, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and the captions of each image, in the order of the file."""
        if self.ann_file.endswith(".json"):
            pairs = _coco_pairs(self.ann_file, load(self.ann_file))
        else:
            is_table = self.ann_file.endswith(TABLE_SUFFIXES)
            rows = _table_rows(self.ann_file) if is_table else _json_rows(self.ann_file)
            pairs = _pairs_of(rows, self.image_key, self.caption_keys)
        folder = Path(self.data_prefix.get("img_path", ""))
        captions: dict[str, list[str]] = {}
        for path, caption, place in pairs:
            if not isinstance(caption, str) or not caption.strip():
                kind = "an empty caption" if caption is None or isinstance(caption, str) else f"the caption {caption!r}"
                raise DataError(f"{place}: {path} has {kind}: correct or remove this line")
            captions.setdefault(str(folder / path), []).append(caption.strip())
        if not captions:
            raise DataError(f"{self.ann_file} has no captions")
        return [{"img_path": path, "gt_caption": texts[: self.max_captions]} for path, texts in captions.items()]

    @force_full_init
    def captions(self) -> list[str]:
        """Return the captions of all images."""
        return [text for index in range(len(self)) for text in self.get_data_info(index)["gt_caption"]]


@TRANSFORMS.register_module()
class RandomCaption:
    """Draw one of the captions of a sample, ``gt_caption``, for training. Without captions, it changes nothing."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with one caption."""
        captions = results.get("gt_caption")
        return {**results, "gt_caption": random.choice(captions)} if isinstance(captions, list) else results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_Rows = Iterator[tuple[dict[str, Any], str]]
_Pairs = Iterator[tuple[str, Any, str]]


def _coco_pairs(file: str, content: Any) -> _Pairs:
    """Yield the file name, caption and place of each annotation, by image."""
    if not isinstance(content, Mapping) or not {"images", "annotations"} <= content.keys():
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise DataError(f"{file} has no captions in COCO format: expected images and annotations, got {found}")
    texts: dict[Any, list[tuple[Any, str]]] = {}
    for number, annotation in enumerate(content["annotations"]):
        place = f"{file}: annotation {annotation.get('id', f'number {number}')}"
        if "caption" not in annotation:
            hint = "use captions_*.json instead of instances_*.json"
            raise DataError(f"{place} has no caption, only {', '.join(annotation)}: {hint}")
        texts.setdefault(annotation.get("image_id"), []).append((annotation["caption"], place))
    without = sum(image.get("id") not in texts for image in content["images"])
    if without:
        message = f"{file}: {without} of {len(content['images'])} images have no caption, and are left out"
        print_log(message, logger="current", level=logging.WARNING)
    names = {image.get("id"): image.get("file_name") for image in content["images"]}
    if unknown := texts.keys() - names.keys():
        place = texts[next(iter(unknown))][0][1]
        raise DataError(f"{place}: there is no image with the id {next(iter(unknown))!r}")
    for image, name in names.items():
        for caption, place in texts.get(image, ()):
            if not isinstance(name, str) or not name:
                raise DataError(f"{file}: image {image} has no file_name")
            yield name, caption, place


def _table_rows(file: str) -> _Rows:
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{file} is empty")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;|", key=first.count))
    header: list[str] = []
    for words in reader:
        words = [word.strip() for word in words]
        if not any(words):
            continue
        if not header:
            header = words
            continue
        if len(words) != len(header):
            hint = "put captions with commas in quotation marks" if len(words) > len(header) else "fill in this line"
            message = f"expected {len(header)} values, as in the header, got {len(words)}"
            raise DataError(f"{file}:{reader.line_num}: {message}: {hint}")
        yield dict(zip(header, words)), f"{file}:{reader.line_num}"


def _json_rows(file: str) -> _Rows:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            hint = "annotation files end with .csv, .tsv, .jsonl, or .json for COCO"
            raise DataError(f"{file}:{number}: is not JSON: {error}: {hint}") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: expected an object with an image and a caption, got {line.strip()[:80]}")
        yield row, f"{file}:{number}"


def _pairs_of(rows: _Rows, image_key: str | None, caption_keys: Sequence[str]) -> _Pairs:
    """Yield the path, each caption and the place of each row."""
    for row, place in rows:
        key = _image_key(row, image_key, place)
        if not isinstance(row[key], str) or not row[key]:
            raise DataError(f"{place}: {key!r} must be the path of an image, got {row[key]!r}")
        names = _caption_keys(row, key, caption_keys, place)
        found = [row[name] for name in names]
        texts = [text for each in found for text in (each if isinstance(each, list) else [each])]
        if len(texts) > 1:  # columns for several captions may be empty
            texts = [text for text in texts if text != ""] or [""]
        for text in texts or [""]:
            yield row[key], text, place


def _image_key(row: Mapping[str, Any], given: str | None, place: str) -> str:
    known = [given] if given else [name for name in row if name.lower() in PATH_NAMES]
    if not known or known[0] not in row:
        hint = did_you_mean(given, row) if given else "name a column 'path', or set image_key"
        raise DataError(f"{place}: there is no {given or 'column of images'}, only {', '.join(row)}: {hint}")
    return known[0]


def _caption_keys(row: Mapping[str, Any], image: str, given: Sequence[str], place: str) -> list[str]:
    if missing := [name for name in given if name not in row]:
        hint = did_you_mean(missing[0], row) or "set caption_key"
        raise DataError(f"{place}: there is no {missing[0]!r}, only {', '.join(row)}: {hint}")
    names = [name for name in row if name != image and name.lower().rstrip("0123456789_") in _CAPTION_NAMES]
    if not given and not names:
        message = f"there is no column of captions, only {', '.join(row)}"
        raise DataError(f"{place}: {message}: name one 'caption', or set caption_key")
    return list(given) or names
