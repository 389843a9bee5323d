"""Pascal VOC for object detection, and other data with an XML file per image."""

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trainwright.datasets.detection.dataset import CocoDataset
from trainwright.engine.errors import DataError, MissingFileError, did_you_mean
from trainwright.engine.fileio import list_from_file
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS

_FLAGS = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}


@DATASETS.register_module()
class VOCDataset(CocoDataset):
    """Objects in the XML format of Pascal VOC, which CVAT, labelImg and Roboflow write too.

    ::

        data_root/JPEGImages/2007_000027.jpg
        data_root/Annotations/2007_000027.xml
        data_root/ImageSets/Main/train.txt

    The default classes are the 20 of VOC. For other data, list them: ``metainfo=dict(classes=("helmet", "vest"))``.
    Difficult instances are ignored in evaluation. Polygons of the objects, if any, are loaded as masks.

    An XML file need not have more than the name and box of its objects: the size of the image is read from the image
    file if it is missing or 0, and ``<path>`` and ``<folder>`` are not used.

    Args:
        data_root: a folder such as ``VOCdevkit/VOC2007``.
        ann_file: text file with the sample names of a split, relative to ``data_root``; if empty, all XML files in
            ``ann_folder`` and its subfolders are used.
        ann_folder: folder of the XML files, relative to ``data_root``; may be that of the images.
        img_suffix: suffix of image file names; by default that of ``<filename>`` in the XML file, or ``.jpg``.
        data_prefix: ``dict(img_path=folder)``: the image folder, relative to ``data_root``.
        one_based: coordinates are 1-based and inclusive pixel indices, as in VOC: they are converted to coordinates
            from the left edge of the first pixel to the right edge of the last one. If false, they are taken as they
            are, such as from CVAT and labelImg, which measure from the edge of the image.
        **kwargs: further arguments of :class:`BaseDetDataset`.

    Raises:
        DataError: annotations are bad, or there are none of the classes.
        FileNotFoundError: ``ann_file`` or an XML file is missing.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": (
            "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
            "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
        ),
    }  # fmt: skip
    _field_names: Mapping[str, str] = {
        "bbox": "bndbox", "category_id": "name", "iscrowd": "difficult", "segmentation": "polygon",
    }  # fmt: skip

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        ann_file: str | os.PathLike[str] = "ImageSets/Main/trainval.txt",
        ann_folder: str = "Annotations",
        img_suffix: str = "",
        data_prefix: Mapping[str, str] | None = None,
        one_based: bool = True,
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.ann_folder = ann_folder
        self.img_suffix = img_suffix
        self.one_based = one_based
        self._selects_classes = "classes" in (metainfo or {})
        prefix = {"img_path": "JPEGImages"} if data_prefix is None else data_prefix
        super().__init__(ann_file=ann_file, data_root=data_root, data_prefix=prefix, metainfo=metainfo, **kwargs)

    def read_content(self) -> dict[str, Any]:
        """Return the annotations of all XML files in COCO format; the ids of categories are their names."""
        images, annotations = [], []
        for name in self._names():
            image, objects = self._read(name)
            images.append(image)
            annotations += objects
        found = Counter(one["category_id"] for one in annotations if "problem" not in one)
        classes = self._metainfo.get("classes")
        if classes and not self._selects_classes:
            self._report_unknown(annotations, found, classes)
            found = Counter(classes)
        at_zero = sum(-1 in one.get("bbox", ())[:2] for one in annotations)
        if self.one_based and at_zero:
            print_log(
                f"{self._file}: {at_zero} boxes begin at 0, but pixels in Pascal VOC are counted from 1. If the tool "
                "that wrote the files counts from 0, set one_based=False",
                "current",
                logging.WARNING,
            )
        categories = [{"id": name, "name": name} for name in sorted(found)]
        return {"images": images, "annotations": annotations, "categories": categories}

    @property
    def _file(self) -> str:
        return self.ann_file or os.path.join(self.data_root, self.ann_folder)  # noqa: PTH118  # may be empty

    def _names(self) -> list[str]:
        """Return the paths of the XML files relative to their folder, without suffix."""
        folder = Path(self.data_root, self.ann_folder)
        if not self.ann_file:
            names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.xml"))
            if not names:
                raise DataError(f"no XML files in {folder}: check data_root and ann_folder")
            return names
        names = []
        for line in list_from_file(self.ann_file):
            # The lists of single classes, such as car_train.txt, have a second column: 1, 0 (difficult) or -1 (absent).
            name = re.sub(r"\s+-?[01]$", "", line.strip())
            if not name:
                continue
            stem = str(Path(name).with_suffix(""))
            if not (folder / f"{name}.xml").is_file() and (folder / f"{stem}.xml").is_file():
                name = stem  # the list contains file names
            if not (folder / f"{name}.xml").is_file():
                message = f"{folder / name}.xml not found, but {self.ann_file} lists it: check data_root and ann_folder"
                raise MissingFileError(message)
            names.append(name)
        return names

    def _read(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        file = Path(self.data_root, self.ann_folder, f"{name}.xml")
        image: dict[str, Any] = {"id": name, "file_name": f"{name}{self.img_suffix or '.jpg'}", "source": str(file)}
        try:
            root = ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            return {**image, "problem": f"not a valid XML file: {error}"}, []
        image["file_name"] = self._image_name(name, (root.findtext("filename") or "").strip())
        height, width = (_number(root.findtext(f"size/{key}")) for key in ("height", "width"))
        if height and width:  # otherwise missing or 0
            image.update(height=height, width=width)
        objects = enumerate(root.iter("object"), 1)
        return image, [self._object(element, name, f"{file}: object {number}") for number, element in objects]

    def _image_name(self, name: str, stated: str) -> str:
        """Return the path of an image relative to its folder, given what the XML file states."""
        path = Path(stated.replace("\\", "/"))
        if self.img_suffix:
            return f"{name}{self.img_suffix}"
        usual = f"{name}{path.suffix or '.jpg'}"
        if not stated or path.stem == Path(name).name:
            return usual
        folder = Path(self.data_prefix["img_path"])
        other = Path(name).with_name(path.name).as_posix()
        return other if not (folder / usual).is_file() and (folder / other).is_file() else usual

    def _object(self, element: ElementTree.Element, name: str, source: str) -> dict[str, Any]:
        """Return an object as an annotation."""
        first = 1 if self.one_based else 0
        corners = {key: _number(element.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")}
        points = _polygon(element)
        polygon = [value - first if isinstance(value, float) else value for value in points]
        category = (element.findtext("name") or "").strip()
        difficult = (element.findtext("difficult") or "").strip().lower()
        result: dict[str, Any] = {
            "image_id": name, "source": source, "category_id": category, "iscrowd": _FLAGS.get(difficult, difficult),
            "segmentation": [polygon] if polygon else [],
        }  # fmt: skip
        if not category:
            return {**result, "problem": "name: missing"}
        if element.find("bndbox") is None and len(polygon) >= 6 and all(isinstance(one, float) for one in polygon):
            left, top, right, bottom = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
            return {**result, "bbox": [left, top, right - left, bottom - top]}
        for key, value in corners.items():
            if not isinstance(value, float):
                return {**result, "problem": f"bndbox: {key} " + ("missing" if value is None else f"is {value!r}")}
        left, top = corners["xmin"] - first, corners["ymin"] - first
        return {**result, "bbox": [left, top, corners["xmax"] - left, corners["ymax"] - top]}

    def _report_unknown(self, annotations: list[dict[str, Any]], found: Counter[str], classes: tuple[str, ...]) -> None:
        """Mark annotations of unknown classes as bad.

        Raises:
            DataError: all classes are unknown.
        """
        unknown = sorted(found.keys() - set(classes))
        if unknown and len(unknown) == len(found):
            counts = ", ".join(f"{name} ({found[name]})" for name in unknown)
            raise DataError(
                f"{self._file} has none of the {len(classes)} classes of {type(self).__name__}, but these: {counts}. "
                f"Set metainfo=dict(classes={tuple(unknown)!r}) in the datasets of all splits, in the same order"
            )
        for annotation in annotations:
            name = annotation["category_id"]
            if name in unknown and "problem" not in annotation:
                hint = did_you_mean(name, classes) or "list all classes in metainfo=dict(classes=(...))"
                annotation["problem"] = f"name: {name!r} is not a class of {type(self).__name__}: {hint}"


def _number(text: str | None) -> Any:
    """Return a number, the text if it is not one, or None if there is no text."""
    try:
        return None if text is None or not text.strip() else float(text)
    except ValueError:
        return text


def _polygon(element: ElementTree.Element) -> list[Any]:
    """Return the coordinates of the polygon of an object: x0, y0, x1, y1, …

    They are in elements ``x1``, ``y1``, ``x2``, … (Roboflow), or ``x`` and ``y`` of several ``pt`` (LabelMe).
    """
    if (polygon := element.find("polygon")) is None:
        return []
    if points := polygon.findall("pt"):
        return [_number(point.findtext(axis)) for point in points for axis in "xy"]
    values = {part.tag: _number(part.text) for part in polygon}
    numbers = sorted(int(tag[1:]) for tag in values if re.fullmatch(r"x\d+", tag))
    return [values.get(f"{axis}{number}") for number in numbers for axis in "xy"]
