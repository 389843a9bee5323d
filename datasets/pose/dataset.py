"""Datasets of keypoints in COCO format."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainwright.datasets.annotation_fields import Rules, is_id, is_whole
from trainwright.datasets.annotations import (
    BAD_ANNOTATIONS,
    AnnotationChecker,
    Problem,
    image_problem,
    labels_of,
    select,
)
from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.engine.errors import DataError, did_you_mean
from trainwright.engine.fileio import load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS
from trainwright.engine.structures.masks import shown

_MODES = ("topdown", "bottomup")


@DATASETS.register_module()
class BaseCocoStyleDataset(BaseDataset):
    """An annotation file in COCO format with any set of keypoints.

    The file is JSON with ``images`` (``id``, ``file_name``, ``width``, ``height``), ``categories`` (``id``, ``name``,
    ``keypoints``, ``skeleton``) and ``annotations`` (``image_id``, ``category_id``, ``bbox`` as left, top, width and
    height in pixels, ``keypoints`` as x, y and visibility 0 to 2 of each keypoint, and optionally ``area`` and
    ``iscrowd``); see https://cocodataset.org/#format-data. Keypoint names and skeleton are read from the first category
    that has them, unless ``metainfo`` sets them. Keypoints whose names differ only in left and right are swapped when
    an image is flipped.

    With ``data_mode="topdown"`` every labeled instance is a sample. Crowds and instances without labeled keypoints are
    skipped, and their number is logged. With ``"bottomup"`` every image is a sample with all its instances. In both
    modes samples have ``gt_bboxes``, clipped to the image, ``gt_bboxes_labels``, ``gt_keypoints``,
    ``gt_keypoints_visible`` and ``gt_areas``. All annotations are checked when the file is read;
    :meth:`check_annotations` reports all bad ones.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        data_mode: ``topdown`` or ``bottomup``.
        bbox_file: file with detected boxes to use instead of the annotated ones, for ``topdown`` tests: a list of dicts
            with ``image_id``, ``category_id``, ``bbox`` and ``score``, relative to ``data_root``. These samples have no
            ground truth, so pass the annotation file to the metric.
        bad_annotations: ``error`` raises an error that names the bad annotations and images, ``skip`` leaves them out
            and logs a warning that names them. (``raise`` is the same as ``error``.)
        filter_cfg: ``bbox_score_thr``: skip detected boxes with lower scores; ``min_keypoints``: skip images with fewer
            labeled keypoints (``bottomup`` only).
        metainfo, data_root, data_prefix, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; ``data_prefix["img_path"]`` is the image folder.

    Raises:
        ValueError: an unknown mode or option, or ``bbox_file`` without ``topdown``.
        DataError: a file is not in this format, or annotations are bad.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str] = "",
        data_mode: str = "topdown",
        bbox_file: str | os.PathLike[str] | None = None,
        bad_annotations: str = "error",
        filter_cfg: Mapping[str, Any] | None = None,
        data_root: str | os.PathLike[str] | None = "",
        **kwargs: Any,
    ) -> None:
        if data_mode not in _MODES:
            raise ValueError(f"data_mode must be 'topdown' or 'bottomup', not {data_mode!r}")
        if bbox_file is not None and data_mode != "topdown":
            raise ValueError(f"bbox_file requires data_mode='topdown', not {data_mode!r}")
        if bad_annotations not in BAD_ANNOTATIONS:
            raise ValueError(f"bad_annotations must be 'error' or 'skip', not {bad_annotations!r}")
        known = ("bbox_score_thr", "min_keypoints")
        for name in filter_cfg or ():
            if name not in known:
                hint = did_you_mean(name, known) or f"must be one of {', '.join(known)}"
                raise ValueError(f"unknown option {name!r} in filter_cfg: {hint}")
        self.data_mode = data_mode
        self.bad_annotations = bad_annotations
        self.problems: list[Problem] = []
        self.bbox_file = None if bbox_file is None else str(Path(data_root or "", bbox_file))
        super().__init__(ann_file=ann_file, filter_cfg=filter_cfg, data_root=data_root, **kwargs)

    def read_content(self) -> Any:
        """Return the annotations in COCO format; see :meth:`CocoDataset.read_content`."""
        return load(self.ann_file)

    @property
    def _file(self) -> str:
        """The file or folder of the annotations, for messages."""
        return self.ann_file or self.data_root

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a dict for each good instance, image or detected box."""
        content = self.read_content()  # may set data_prefix
        checker = AnnotationChecker(
            self._file, self.data_prefix.get("img_path", ""), Rules(clip_boxes=True), self.pipeline
        )
        # Test sets are published without annotations.
        is_test = self.test_mode or self.bbox_file is not None
        required = ("images", "categories") if is_test else ("images", "annotations", "categories")
        entries, annotations, categories = checker.content(content, required)
        known = checker.categories(categories, annotations)
        checker.settle(self.bad_annotations)
        names = {key: category["name"] for key, category in known.items()}
        labels = labels_of(self._file, names, self._metainfo.setdefault("classes", tuple(names.values())))
        self._read_keypoints([known[key] for key in labels])
        sizes = checker.images(entries)
        images = {key: self._image_info(image) for key, image in sizes.items()}
        self.problems = checker.problems
        if self.bbox_file is not None:
            checker.settle(self.bad_annotations)
            return self._detections(images, sizes, names, labels)
        checker.rules.num_keypoints = len(self._metainfo["keypoints"])
        chosen = select(self._file, annotations, names, labels)
        good = checker.annotations(chosen, sizes, labels)
        checker.settle(self.bad_annotations)
        instances = [_instance(annotation, labels, images[annotation["image_id"]]) for annotation in good]
        if self.data_mode == "topdown":
            return self._per_instance(instances, images)
        return _per_image(instances, images)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the image path of a sample and its annotations as tensors."""
        return self._with_tensors(super().get_data_info(idx))

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem: bad or suspicious annotations, missing or corrupt files, size mismatches."""
        yield from map(str, self.problems)
        checked: set[str] = set()
        for index in range(len(self)):
            info = super().get_data_info(index)
            if "warning" in info:
                yield f"sample {index} ({info['img_path']}): {info['warning']}"
            if info["img_path"] not in checked and (problem := image_problem(info, self.pipeline)):
                yield f"sample {index}: {problem}"
            checked.add(info["img_path"])

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of the instances of a sample."""
        return [instance["label"] for instance in super().get_data_info(idx)["instances"]]

    @force_full_init
    def remap_keypoints(self, keypoints: Sequence[str]) -> None:
        """Reorder the keypoints of all samples, and what ``metainfo`` lists for each keypoint.

        Args:
            keypoints: the names of the keypoints of this dataset in another order.
        """
        names = list(self._metainfo["keypoints"])
        order = [names.index(name) for name in keypoints]
        infos = [self._stored(position) for position in range(self._num_annotations())]
        for instance in (instance for info in infos for instance in info["instances"]):
            points = instance["keypoints"]
            if len(points) == 3 * len(order):
                instance["keypoints"] = tuple(value for old in order for value in points[3 * old : 3 * old + 3])
        self._store(infos)
        meta = self._metainfo
        meta["keypoints"] = tuple(keypoints)
        meta["flip_indices"] = tuple(order.index(meta["flip_indices"][old]) for old in order)
        if meta.get("sigmas") is not None:
            meta["sigmas"] = tuple(meta["sigmas"][old] for old in order)
        links = meta.get("skeleton_links") or ()
        meta["skeleton_links"] = tuple(tuple(order.index(end) for end in link) for link in links)

    def filter_data(self) -> list[dict[str, Any]]:
        """Return all samples; in ``bottomup`` mode, only images with at least ``min_keypoints`` labeled keypoints."""
        minimum = (self.filter_cfg or {}).get("min_keypoints", 0)
        if not minimum or self.data_mode == "topdown":
            return self.data_list
        return [
            info
            for info in self.data_list
            if sum(_num_labeled(instance["keypoints"]) for instance in info["instances"]) >= minimum
        ]

    def _read_keypoints(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Read keypoint names and skeleton from the selected categories."""
        sources = [category for category in categories if category.get("keypoints")]
        if "keypoints" not in self._metainfo:
            if not sources:
                raise DataError(f"{self._file}: no category has keypoint names: set metainfo=dict(keypoints=(...))")
            for source in sources:
                if problem := keypoint_names_problem(source):
                    raise DataError(f"{self._file}: category {source['id']!r}: {problem}")
                if list(source["keypoints"]) != list(sources[0]["keypoints"]):
                    raise DataError(
                        f"{self._file}: the categories {sources[0]['name']!r} and {source['name']!r} have different "
                        "keypoints: select one of them with metainfo=dict(classes=(...))"
                    )
            self._metainfo["keypoints"] = tuple(sources[0]["keypoints"])
            links = sources[0].get("skeleton") or ()
            self._metainfo.setdefault("skeleton_links", tuple((int(start) - 1, int(end) - 1) for start, end in links))
        self._metainfo.setdefault("flip_indices", mirror_images(self._metainfo["keypoints"]))

    def _image_info(self, image: Mapping[str, Any]) -> dict[str, Any]:
        path = os.path.join(self.data_prefix.get("img_path", ""), image["file_name"])  # noqa: PTH118  # strings stay short
        return {"img_id": image["id"], "img_path": path, "height": image.get("height"), "width": image.get("width")}

    def _per_instance(self, instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        samples, num_skipped = [], 0
        for instance in instances:
            if instance["crowd"] or not _num_labeled(instance["keypoints"]):
                num_skipped += 1
                continue
            warning = {"warning": instance["warning"]} if "warning" in instance else {}
            samples.append({**images[instance["img_id"]], "instances": [instance], **warning})
        if num_skipped:
            print_log(
                f"{self._file}: skipped {num_skipped} of {len(instances)} instances, which are crowds or have no "
                "labeled keypoint",
                logger="current",
            )
        return samples

    def _detections(
        self,
        images: Mapping[Any, Mapping[str, Any]],
        sizes: Mapping[Any, Mapping[str, Any]],
        names: Mapping[Any, str],
        labels: Mapping[Any, int],
    ) -> list[dict[str, Any]]:
        """Return a sample for each detected box."""
        file = str(self.bbox_file)
        found = load(file)
        if not isinstance(found, list):
            raise DataError(
                f"{file} must be a list of dicts with image_id, category_id, bbox and score, not a "
                f"{type(found).__name__}"
            )
        ids = [one["category_id"] for one in found if isinstance(one, Mapping) and is_id(one.get("category_id"))]
        chosen = select(file, found, {key: str(key) for key in ids} | dict(names), labels, "detections")
        checker = AnnotationChecker(
            file, self.data_prefix.get("img_path", ""), Rules(clip_boxes=True, with_score=True), self.pipeline
        )
        good = checker.annotations(chosen, sizes, labels, kind="detection")
        checker.settle(self.bad_annotations)
        self.problems += checker.problems
        threshold = (self.filter_cfg or {}).get("bbox_score_thr", 0.0)
        kept = [one for one in good if one["score"] >= threshold]
        if len(kept) < len(good):
            message = (
                f"{file}: left out {len(good) - len(kept)} of {len(good)} detections with scores below {threshold}"
            )
            print_log(message, logger="current")
        samples = []
        for detection in kept:
            left, top, width, height = detection["bbox"]
            samples.append({
                **images[detection["image_id"]], "instances": [], "bbox": (left, top, left + width, top + height),
                "bbox_score": detection["score"], "bbox_label": labels[detection["category_id"]],
            })  # fmt: skip
        return samples

    def _with_tensors(self, info: dict[str, Any]) -> dict[str, Any]:
        from torchvision import tv_tensors

        info["flip_indices"] = self._metainfo["flip_indices"]
        instances = info.pop("instances")
        info.pop("warning", None)
        if "bbox_score" in info:
            return info
        number = len(self._metainfo["keypoints"])
        points = torch.tensor(
            [instance["keypoints"] or (0.0,) * (3 * number) for instance in instances], dtype=torch.float32
        ).view(-1, number, 3)
        boxes = torch.tensor([instance["bbox"] for instance in instances], dtype=torch.float32).view(-1, 4)
        size = (info["height"] or 0, info["width"] or 0)
        info.update(
            gt_bboxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            gt_bboxes_labels=torch.tensor([instance["label"] for instance in instances], dtype=torch.int64),
            gt_keypoints=points[..., :2].contiguous(),
            gt_keypoints_visible=points[..., 2].contiguous(),
            gt_areas=torch.tensor([instance["area"] for instance in instances], dtype=torch.float32),
        )
        if self.data_mode == "topdown":
            info.update(id=instances[0]["id"], bbox_label=instances[0]["label"])
        else:
            info["gt_ignore_flags"] = torch.tensor([instance["crowd"] for instance in instances], dtype=torch.bool)
        return info


@DATASETS.register_module()
class CocoKeypointDataset(BaseCocoStyleDataset):
    """COCO keypoints: 17 per person.

    ::

        data_root/train2017/000000000036.jpg
        data_root/annotations/person_keypoints_train2017.json

    Args:
        **kwargs: arguments of :class:`BaseCocoStyleDataset`.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": ("person",),
        "keypoints": (
            "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
            "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
            "left_ankle", "right_ankle",
        ),
        "flip_indices": (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
        "skeleton_links": (
            (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
            (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
        ),
        "sigmas": (
            0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
            0.089, 0.089,
        ),
    }  # fmt: skip


def mirror_images(names: Sequence[str]) -> tuple[int, ...]:
    """Return for each keypoint the index of the one with left and right swapped in its name, or its own index."""
    swapped = {"left": "right", "right": "left", "l": "r", "r": "l"}
    position = {name: index for index, name in enumerate(names)}
    result = []
    for index, name in enumerate(names):
        for separator in ("_", " ", "-"):
            other = separator.join(swapped.get(part, part) for part in name.split(separator))
            if other != name and other in position:
                result.append(position[other])
                break
        else:
            result.append(index)
    return tuple(result)


def _instance(annotation: Mapping[str, Any], labels: Mapping[Any, int], image: Mapping[str, Any]) -> dict[str, Any]:
    """Return a good annotation as an instance whose box is clipped to the image."""
    left, top, width, height = annotation["bbox"]
    keypoints = annotation.get("keypoints")
    instance: dict[str, Any] = {
        "id": annotation.get("id"),
        "img_id": annotation["image_id"],
        "label": labels[annotation["category_id"]],
        "keypoints": () if keypoints is None else tuple(keypoints),
        "crowd": bool(annotation.get("iscrowd", 0)),
        "area": float(annotation.get("area") or width * height),
    }
    right, bottom = left + width, top + height
    if image["height"] is not None:
        if warning := _find_warning(annotation["bbox"], instance["keypoints"], image["width"], image["height"]):
            name = annotation.get("source", f"annotation {instance['id']}")
            instance["warning"] = f"{name}: {warning}"
        left, right = max(0, left), min(image["width"], right)
        top, bottom = max(0, top), min(image["height"], bottom)
    return {**instance, "bbox": (left, top, right, bottom)}


def _per_image(instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for instance in instances:
        by_image[instance["img_id"]].append(instance)
    samples = []
    for key, image in images.items():
        info = {**image, "instances": by_image[key]}
        if warnings := [instance["warning"] for instance in by_image[key] if "warning" in instance]:
            info["warning"] = "; ".join(warnings)
        samples.append(info)
    return samples


def _find_warning(box: Sequence[float], keypoints: Sequence[float], width: int, height: int) -> str | None:
    """Return what is suspicious about a valid annotation, or None."""
    where = f"the image of width {width} and height {height}"
    left, top, box_width, box_height = box
    if left < -1 or top < -1 or left + box_width > width + 1 or top + box_height > height + 1:
        return f"its bbox {list(box)} (left, top, width, height) is clipped to {where}"
    points = zip(*(keypoints[start::3] for start in range(3)))
    outside = [(x, y) for x, y, seen in points if seen > 0 and not (-1 <= x <= width and -1 <= y <= height)]
    if outside:
        return f"its labeled keypoint at {outside[0]} is outside {where}"
    return None


def _num_labeled(keypoints: Sequence[float]) -> int:
    return sum(visible > 0 for visible in keypoints[2::3])


def keypoint_names_problem(category: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the keypoint names and the skeleton of a category, or None."""
    names, links = category["keypoints"], category.get("skeleton") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return f"keypoints must be a list of names, got {shown(names)}"
    if len(set(names)) < len(names):
        return f"the names of keypoints must be different, got {shown(names)}"
    if not isinstance(links, list | tuple):
        return f"skeleton must be a list of pairs, got {shown(links)}"
    for link in links:
        is_pair = isinstance(link, list | tuple) and len(link) == 2
        if not is_pair or not all(is_whole(end) and 1 <= end <= len(names) for end in link):
            return f"skeleton must be pairs of numbers from 1 to {len(names)}, got {shown(link)}"
    return None
