"""Datasets for object detection and instance segmentation: image files and annotations with boxes and masks."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.detection.transforms import box_problem, mask_problem
from trainwright.datasets.transforms import oriented_size
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import list_from_file, load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS

_FILTERS = ("filter_empty_gt", "min_size")


@DATASETS.register_module()
class BaseDetDataset(BaseDataset):
    """Images with annotated instances, by default read from an annotation file in OpenMMLab format.

    Samples start as ``dict(img_path=str, img_id=..., height=int, width=int, instances=[...])``, where ``img_id``,
    ``height`` and ``width`` are optional. An instance is a dict with ``bbox`` (left, top, right, bottom in pixels),
    ``bbox_label`` (class index from 0), ``ignore_flag`` (1 for crowd and difficult instances) and optionally ``mask``:
    a list of polygons ``[x0, y0, x1, y1, …]``, or an RLE. ``LoadAnnotations`` converts them to tensors.

    Bad annotations are detected when the file is read: boxes that are empty, of negative size, not finite, or more than
    a pixel outside their image, unknown classes, and invalid masks. Their number is logged as a warning;
    :meth:`check_annotations` reports all of them.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        bad_annotations: ``raise`` an error when a sample with a bad annotation is loaded, or ``skip`` bad annotations.
        data_prefix: ``dict(img_path=folder)`` (or ``img``, as in MMDetection): the image folder, relative to
            ``data_root``.
        filter_cfg: ``filter_empty_gt=True`` removes images without non-ignored instances, ``min_size=32`` images with a
            smaller height or width. Has no effect in ``test_mode``.
        metainfo, data_root, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; ``metainfo["classes"]`` selects classes and sets their order.

    Raises:
        ValueError: an unknown value of ``bad_annotations`` or key of ``filter_cfg``.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str] = "",
        bad_annotations: str = "raise",
        data_prefix: Mapping[str, str] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if bad_annotations not in ("raise", "skip"):
            raise ValueError(f"bad_annotations must be 'raise' or 'skip', not {bad_annotations!r}")
        for key in filter_cfg or {}:
            if key not in _FILTERS:
                hint = did_you_mean(key, _FILTERS) or f"must be one of {', '.join(_FILTERS)}"
                raise ValueError(f"unknown option {key!r} in filter_cfg: {hint}")
        self.bad_annotations = bad_annotations
        prefix = dict(data_prefix or {"img_path": ""})
        if "img" in prefix:
            prefix["img_path"] = prefix.pop("img")
        super().__init__(ann_file=ann_file, data_prefix=prefix, filter_cfg=filter_cfg, **kwargs)

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the samples to keep, without bad annotations in their instances."""
        number, first = 0, ""
        for info in self.data_list:
            if problems := self._remove_bad_instances(info):
                number += len(problems)
                first = first or f"{info['img_path']}: {problems[0]}"
        if number:
            consequence = (
                "they are skipped"
                if self.bad_annotations == "skip"
                else "loading their samples will fail: set bad_annotations='skip' to skip them, or correct them "
                "(`trainwright browse-dataset` lists all)"
            )
            print_log(
                f"{self.ann_file}: {number} bad annotations (the first: {first}); {consequence}",
                "current",
                logging.WARNING,
            )
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        return [info for info in self.data_list if self._passes_filters(info)]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of the instances of a sample that are not ignored."""
        instances = self.get_data_info(idx)["instances"]
        return [instance["bbox_label"] for instance in instances if not instance.get("ignore_flag")]

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem: bad annotations, missing or corrupt files, size mismatches."""
        for index in range(len(self)):
            info = self.get_data_info(index)
            place = f"sample {index}: {info['img_path']}"
            for problem in info.get("problems", info.get("skipped_problems", ())):
                yield f"{place}: {problem}"
            try:
                height, width = oriented_size(info["img_path"])
            except FileNotFoundError:
                yield f"{place} not found: check data_root and data_prefix"
                continue
            except OSError as error:
                yield f"{place} cannot be read: {error}: replace the file or remove the sample"
                continue
            if (height, width) != (info.get("height", height), info.get("width", width)):
                stated = (info["height"], info["width"])
                yield f"{place} has size {(height, width)} (height, width), but its annotation states {stated}"
            if "height" not in info:  # otherwise checked by filter_data
                for instance in info["instances"]:
                    if problem := box_problem(instance["bbox"], height, width):
                        yield f"{place}: {problem}"

    def _remove_bad_instances(self, info: dict[str, Any]) -> list[str]:
        """Remove bad instances from a sample, record their problems in it and return these."""
        good, problems = [], []
        for number, instance in enumerate(info.setdefault("instances", [])):
            problem = self._problem(instance, info)
            if problem is None:
                good.append(instance)
            else:
                problems.append(f"annotation {instance.get('id', number)} {problem}")
        info["instances"] = good
        if problems:
            info["problems" if self.bad_annotations == "raise" else "skipped_problems"] = problems
        return problems

    def _problem(self, instance: Mapping[str, Any], info: Mapping[str, Any]) -> str | None:
        classes = self._metainfo.get("classes")
        label = instance.get("bbox_label")
        if not isinstance(label, int) or label < 0 or (classes and label >= len(classes)):
            return f"has the unknown class {instance.get('category', label)!r}"
        if problem := box_problem(instance.get("bbox"), info.get("height"), info.get("width")):
            return problem
        return None if "mask" not in instance else mask_problem(instance["mask"])

    def _passes_filters(self, info: Mapping[str, Any]) -> bool:
        assert self.filter_cfg is not None
        is_empty = all(instance.get("ignore_flag") for instance in info["instances"])
        if self.filter_cfg.get("filter_empty_gt") and is_empty and not info.get("problems"):
            return False
        min_size = self.filter_cfg.get("min_size", 0)
        return min(info.get("height", min_size), info.get("width", min_size)) >= min_size  # type: ignore[no-any-return]


@DATASETS.register_module()
class CocoDataset(BaseDetDataset):
    """A dataset in COCO format: a JSON file with ``images``, ``annotations`` and ``categories``.

    ::

        data_root/annotations/instances_train2017.json
        data_root/train2017/000000000009.jpg

    with ``ann_file="annotations/instances_train2017.json"`` and ``data_prefix=dict(img_path="train2017")``. The classes
    are the categories sorted by id, for COCO itself the usual 80; ``metainfo=dict(classes=(...))`` selects some of
    them. Instances with ``iscrowd`` are ignored in evaluation. The field ``keypoints`` of annotations is kept as it is.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        **kwargs: arguments of :class:`BaseDetDataset`.

    Raises:
        ValueError: the file is not in COCO format, lacks a class in ``metainfo``, contains a duplicate image id, or an
            annotation refers to an unknown image.
    """

    def read_content(self) -> Any:
        """Return the annotations in COCO format; subclasses for other formats convert them.

        An annotation may have a ``source``, such as ``labels/7.txt:3``, which messages name instead of its id.
        """
        return load(self.ann_file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a sample for each image."""
        content = self.read_content()
        if not isinstance(content, dict) or (missing := {"images", "categories"} - content.keys()):
            reason = f"missing {' and '.join(sorted(missing))}" if isinstance(content, dict) else "not a dict"
            raise ValueError(f"{self.ann_file} is not an annotation file in COCO format: {reason}")
        labels = self._labels(content["categories"])
        names = {category["id"]: category["name"] for category in content["categories"]}
        samples = {image["id"]: self._sample(image) for image in content["images"]}
        if len(samples) < len(content["images"]):
            raise ValueError(f"{self.ann_file}: several images have the same id")
        for annotation in content.get("annotations", ()):
            if annotation["image_id"] not in samples:
                raise ValueError(
                    f"{self.ann_file}: the image_id {annotation['image_id']} of annotation {annotation.get('id')} "
                    "is not in the file"
                )
            if annotation["category_id"] in names and annotation["category_id"] not in labels:
                continue  # a class that metainfo does not select
            samples[annotation["image_id"]]["instances"].append(_coco_instance(annotation, labels))
        return list(samples.values())

    def _labels(self, categories: list[dict[str, Any]]) -> dict[int, int]:
        """Return the label of each selected category."""
        ids = {category["name"]: category["id"] for category in sorted(categories, key=lambda entry: entry["id"])}
        classes = self._metainfo.setdefault("classes", tuple(ids))
        if unknown := [name for name in classes if name not in ids]:
            hint = did_you_mean(unknown[0], ids) or f"must be one of {', '.join(ids)}"
            raise ValueError(f"{self.ann_file} has no class {unknown[0]!r}: {hint}")
        return {ids[name]: label for label, name in enumerate(classes)}

    def _sample(self, image: Mapping[str, Any]) -> dict[str, Any]:
        path = os.path.join(self.data_prefix["img_path"], image["file_name"])  # noqa: PTH118  # strings stay short
        sample = {"img_path": path, "img_id": image["id"], "instances": []}
        return sample | {key: image[key] for key in ("height", "width") if key in image}


def _coco_instance(annotation: Mapping[str, Any], labels: Mapping[int, int]) -> dict[str, Any]:
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    instance = {
        "id": annotation.get("id"),
        "bbox": box,
        "bbox_label": labels.get(annotation["category_id"]),
        "ignore_flag": int(annotation.get("iscrowd", 0)),
    }
    if instance["bbox_label"] is None:
        instance["category"] = annotation["category_id"]
    if annotation.get("segmentation"):
        instance["mask"] = annotation["segmentation"]
    if "keypoints" in annotation:
        instance["keypoints"] = annotation["keypoints"]
    return instance


@DATASETS.register_module()
class VOCDataset(BaseDetDataset):
    """Pascal VOC for object detection: an XML file per image, 20 classes.

    ::

        data_root/JPEGImages/2007_000027.jpg
        data_root/Annotations/2007_000027.xml
        data_root/ImageSets/Main/train.txt

    The files contain 1-based, inclusive pixel indices. They are converted to coordinates from the left edge of the
    first pixel to the right edge of the last one. Difficult instances are ignored in evaluation.

    Args:
        data_root: a folder such as ``VOCdevkit/VOC2007``.
        ann_file: text file with the sample names of a split, relative to ``data_root``.
        ann_folder: folder of the XML files, relative to ``data_root``.
        img_suffix: suffix of image file names.
        data_prefix: ``dict(img_path=folder)``: the image folder, relative to ``data_root``.
        **kwargs: further arguments of :class:`BaseDetDataset`.

    Raises:
        ValueError: a class in ``metainfo`` is not a class of VOC, or an XML file is corrupt.
        FileNotFoundError: ``ann_file`` or an XML file is missing.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": (
            "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
            "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
        ),
    }  # fmt: skip

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        ann_file: str = "ImageSets/Main/trainval.txt",
        ann_folder: str = "Annotations",
        img_suffix: str = ".jpg",
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.ann_folder = ann_folder
        self.img_suffix = img_suffix
        super().__init__(
            ann_file=ann_file, data_root=data_root, data_prefix=data_prefix or {"img_path": "JPEGImages"}, **kwargs
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a sample for each name in ``ann_file``."""
        known = self.METAINFO.get("classes") or self._metainfo["classes"]
        classes = self._metainfo["classes"]
        if unknown := [name for name in classes if name not in known]:
            raise ValueError(f"{type(self).__name__} has no class {unknown[0]!r}: must be one of {', '.join(known)}")
        labels = {name: label for label, name in enumerate(classes)}
        # The lists of single classes, such as car_train.txt, have a second column: 1, 0 for difficult, -1 for absent.
        names = [line.split()[0] for line in list_from_file(self.ann_file) if line.strip()]
        return [self._sample(name, labels, known) for name in names]

    def _sample(self, name: str, labels: Mapping[str, int], known: tuple[str, ...]) -> dict[str, Any]:
        file = Path(self.data_root, self.ann_folder, f"{name}.xml")
        if not file.is_file():
            raise FileNotFoundError(f"{file} not found, but {self.ann_file} lists it: check data_root and ann_folder")
        try:
            root = ElementTree.parse(file).getroot()
            instances = [_voc_instance(element, labels) for element in root.iter("object")]
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a valid annotation file: {error}") from error
        path = os.path.join(self.data_prefix["img_path"], name + self.img_suffix)  # noqa: PTH118  # strings stay short
        sample: dict[str, Any] = {"img_path": path, "img_id": name}
        if height := int(root.findtext("size/height") or 0):
            sample.update(height=height, width=int(root.findtext("size/width") or 0))
        # Keep unknown classes, which are reported as bad annotations.
        instances = [one for one in instances if one["category"] in labels or one["category"] not in known]
        return sample | {"instances": instances}


def _voc_instance(element: ElementTree.Element, labels: Mapping[str, int]) -> dict[str, Any]:
    corners = [float(element.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore[arg-type]
    name = (element.findtext("name") or "").strip()
    return {
        "bbox": [corners[0] - 1, corners[1] - 1, corners[2], corners[3]],
        "bbox_label": labels.get(name),
        "category": name,
        "ignore_flag": int(element.findtext("difficult") or 0),
    }
