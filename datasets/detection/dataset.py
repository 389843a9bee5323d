"""Datasets for object detection and instance segmentation: image files and annotations with boxes and masks."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from trainwright.datasets.annotation_fields import Rules, is_absent
from trainwright.datasets.annotations import (
    BAD_ANNOTATIONS,
    AnnotationChecker,
    Problem,
    image_problem,
    labels_of,
    select,
)
from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import load
from trainwright.engine.registry import DATASETS
from trainwright.engine.structures.masks import shown

_FILTERS = ("filter_empty_gt", "min_size")
_NAMES = {"category_id": "bbox_label", "segmentation": "mask", "iscrowd": "ignore_flag"}


@DATASETS.register_module()
class BaseDetDataset(BaseDataset):
    """Images with annotated instances, by default read from an annotation file in OpenMMLab format.

    Samples start as ``dict(img_path=str, img_id=..., height=int, width=int, instances=[...])``, where ``img_id``,
    ``height`` and ``width`` are optional. An instance is a dict with ``bbox`` (left, top, right, bottom in pixels),
    ``bbox_label`` (class index from 0), ``ignore_flag`` (1 for crowd and difficult instances) and optionally ``mask``:
    a list of polygons ``[x0, y0, x1, y1, …]``, or an RLE. ``LoadAnnotations`` converts them to tensors.

    All annotations are checked when the file is read: boxes that are empty, of negative size, not finite, or more than
    a pixel outside their image; unknown classes; fields that are missing or of another type; and, if the pipeline has
    ``LoadAnnotations(with_mask=True)``, missing and invalid masks. :meth:`check_annotations` reports all of them.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        bad_annotations: ``error`` raises an error that names the bad annotations and images, ``skip`` leaves them out
            and logs a warning that names them. (``raise`` is the same as ``error``.)
        data_prefix: ``dict(img_path=folder)`` (or ``img``, as in MMDetection): the image folder, relative to
            ``data_root``.
        filter_cfg: ``filter_empty_gt=True`` removes images without non-ignored instances, ``min_size=32`` images with a
            smaller height or width. Has no effect in ``test_mode``.
        metainfo, data_root, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; ``metainfo["classes"]`` selects classes and sets their order.

    Raises:
        ValueError: an unknown value of ``bad_annotations`` or key of ``filter_cfg``.
        DataError: annotations are bad.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str] = "",
        bad_annotations: str = "error",
        data_prefix: Mapping[str, str] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if bad_annotations not in BAD_ANNOTATIONS:
            raise ValueError(f"bad_annotations must be 'error' or 'skip', not {bad_annotations!r}")
        for key in filter_cfg or {}:
            if key not in _FILTERS:
                hint = did_you_mean(key, _FILTERS) or f"must be one of {', '.join(_FILTERS)}"
                raise ValueError(f"unknown option {key!r} in filter_cfg: {hint}")
        self.bad_annotations = bad_annotations
        self.problems: list[Problem] = []
        prefix = dict(data_prefix or {"img_path": ""})
        if "img" in prefix:
            prefix["img_path"] = prefix.pop("img")
        super().__init__(ann_file=ann_file, data_prefix=prefix, filter_cfg=filter_cfg, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a sample for each good image, with its good instances."""
        samples = super().load_data_list()
        rules = Rules(with_mask=self._loads_masks(), corners=True, names=_NAMES)
        checker = AnnotationChecker(self.ann_file, "", rules, self.pipeline)
        entries, annotations = [], []
        for index, sample in enumerate(samples):
            entry: dict[str, Any] = _size_of(sample)
            entry |= {"id": index, "file_name": sample.get("img_path"), "source": f"sample {index}"}
            instances = sample.setdefault("instances", [])
            if not isinstance(sample.get("img_path"), str):
                entry["problem"] = f"img_path: must be text, got {shown(sample.get('img_path'))}"
            if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
                entry["problem"] = "instances: must be a list of dicts"
                instances = []
            entries.append(entry)
            annotations += [_as_annotation(instance, index, number) for number, instance in enumerate(instances)]
            sample["instances"] = []
        labels = {annotation["category_id"] for annotation in annotations if type(annotation["category_id"]) is int}
        classes = self._metainfo.get("classes")
        known = range(len(classes)) if classes else {label for label in labels if label >= 0}
        images = checker.images(entries)
        good = checker.annotations(annotations, images, dict.fromkeys(known))
        self.problems = checker.problems
        checker.settle(self.bad_annotations)
        for annotation in good:
            samples[annotation["image_id"]]["instances"].append(annotation["instance"])
        mark = {"masks_are_checked": True} if checker.rules.with_mask else {}
        return [samples[index] | mark | _size_of(image) for index, image in images.items()]

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a sample with its path joined; a bad one unchanged, for :meth:`load_data_list` to report."""
        if not isinstance(raw_data_info, dict):
            return {"img_path": None}
        return (
            super().parse_data_info(raw_data_info) if isinstance(raw_data_info.get("img_path"), str) else raw_data_info
        )

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the samples to keep."""
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
        yield from map(str, self.problems)
        for index in range(len(self)):
            if problem := image_problem(self.get_data_info(index), self.pipeline):
                yield f"sample {index}: {problem}"

    def _loads_masks(self) -> bool:
        return any(getattr(transform, "with_mask", False) for transform in self.pipeline.transforms)

    def _passes_filters(self, info: Mapping[str, Any]) -> bool:
        assert self.filter_cfg is not None
        if self.filter_cfg.get("filter_empty_gt") and all(one.get("ignore_flag") for one in info["instances"]):
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
    them, by name. The file may lack some of these, such as a split in which not all classes occur. Instances with
    ``iscrowd`` are ignored in evaluation. The field ``keypoints`` of annotations is kept as it is.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        **kwargs: arguments of :class:`BaseDetDataset`.

    Raises:
        DataError: the file is not in COCO format, has none of the classes in ``metainfo``, or annotations, images or
            categories are bad.
    """

    _field_names: Mapping[str, str] = {}  # names of the fields in another format, for messages

    @property
    def _file(self) -> str:
        """The file or folder of the annotations, for messages."""
        return self.ann_file or self.data_root

    def read_content(self) -> Any:
        """Return the annotations in COCO format; subclasses for other formats convert them.

        An annotation or image may have a ``source``, such as ``labels/7.txt:3``, which messages name instead of its id,
        and a ``problem``, such as ``bbox: expected 4 numbers, got 3``, if it is bad.
        """
        return load(self.ann_file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a sample for each good image, with its good instances."""
        content = self.read_content()  # may set data_prefix
        folder = self.data_prefix["img_path"]
        rules = Rules(with_mask=self._loads_masks(), names=self._field_names)
        checker = AnnotationChecker(self._file, folder, rules, self.pipeline)
        # Test sets are published without annotations.
        required = ("images", "categories") if self.test_mode else ("images", "annotations", "categories")
        entries, annotations, categories = checker.content(content, required)
        known = checker.categories(categories, annotations)
        checker.settle(self.bad_annotations)
        names = {key: known[key]["name"] for key in sorted(known, key=lambda key: (str(type(key)), key))}
        classes = self._metainfo.setdefault("classes", tuple(names.values()))
        labels = labels_of(self._file, names, classes)
        images = checker.images(entries)
        chosen = select(self._file, annotations, names, labels)
        good = checker.annotations(chosen, images, labels)
        self.problems = checker.problems
        checker.settle(self.bad_annotations)
        mark = {"masks_are_checked": True} if checker.rules.with_mask else {}
        samples: dict[Any, dict[str, Any]] = {
            key: {
                "img_path": os.path.join(folder, image["file_name"]),  # noqa: PTH118  # strings stay short
                "img_id": key, **_size_of(image), "instances": [], **mark,
            }
            for key, image in images.items()
        }  # fmt: skip
        for annotation in good:
            samples[annotation["image_id"]]["instances"].append(_coco_instance(annotation, labels))
        return list(samples.values())


def _as_annotation(instance: dict[str, Any], image: int, number: int) -> dict[str, Any]:
    """Return an instance in OpenMMLab format as an annotation to check."""
    return {
        **{key: instance[key] for key in ("bbox", "area") if key in instance},
        "image_id": image,
        "category_id": instance.get("bbox_label"),
        "iscrowd": instance.get("ignore_flag", 0),
        "segmentation": instance.get("mask"),
        "source": f"annotation {instance.get('id', number)}",
        "instance": instance,
    }


def _size_of(image: Mapping[str, Any]) -> dict[str, int]:
    return {key: image[key] for key in ("height", "width") if key in image}


def _coco_instance(annotation: Mapping[str, Any], labels: Mapping[Any, int]) -> dict[str, Any]:
    left, top, width, height = annotation["bbox"]
    instance = {
        "id": annotation.get("id"),
        "bbox": [left, top, left + width, top + height],
        "bbox_label": labels[annotation["category_id"]],
        "ignore_flag": int(annotation.get("iscrowd", 0)),
    }
    if not is_absent(annotation.get("segmentation")):
        instance["mask"] = annotation["segmentation"]
    if "keypoints" in annotation:
        instance["keypoints"] = annotation["keypoints"]
    return instance
