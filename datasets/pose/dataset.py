"""Datasets of keypoints in COCO format."""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS

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
    ``gt_keypoints_visible`` and ``gt_areas``. Loading a sample with an invalid annotation raises an error, unless
    ``bad_annotations="skip"``; :meth:`check_annotations` reports all of them.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        data_mode: ``topdown`` or ``bottomup``.
        bbox_file: file with detected boxes to use instead of the annotated ones, for ``topdown`` tests: a list of dicts
            with ``image_id``, ``category_id``, ``bbox`` and ``score``, relative to ``data_root``. These samples have no
            ground truth, so pass the annotation file to the metric.
        bad_annotations: ``raise`` an error when a sample with an invalid annotation is loaded, or ``skip`` invalid
            annotations and log their number.
        filter_cfg: ``bbox_score_thr``: skip detected boxes with lower scores; ``min_keypoints``: skip images with fewer
            labeled keypoints (``bottomup`` only).
        metainfo, data_root, data_prefix, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; ``data_prefix["img_path"]`` is the image folder.

    Raises:
        ValueError: an unknown mode or option, ``bbox_file`` without ``topdown``, or a file that is not in this format.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str] = "",
        data_mode: str = "topdown",
        bbox_file: str | os.PathLike[str] | None = None,
        bad_annotations: str = "raise",
        filter_cfg: Mapping[str, Any] | None = None,
        data_root: str | os.PathLike[str] | None = "",
        **kwargs: Any,
    ) -> None:
        if data_mode not in _MODES:
            raise ValueError(f"data_mode must be 'topdown' or 'bottomup', not {data_mode!r}")
        if bbox_file is not None and data_mode != "topdown":
            raise ValueError(f"bbox_file requires data_mode='topdown', not {data_mode!r}")
        if bad_annotations not in ("raise", "skip"):
            raise ValueError(f"bad_annotations must be 'raise' or 'skip', not {bad_annotations!r}")
        known = ("bbox_score_thr", "min_keypoints")
        for name in filter_cfg or ():
            if name not in known:
                hint = did_you_mean(name, known) or f"must be one of {', '.join(known)}"
                raise ValueError(f"unknown option {name!r} in filter_cfg: {hint}")
        self.data_mode = data_mode
        self.bad_annotations = bad_annotations
        self._skipped: list[str] = []
        self.bbox_file = None if bbox_file is None else str(Path(data_root or "", bbox_file))
        super().__init__(ann_file=ann_file, filter_cfg=filter_cfg, data_root=data_root, **kwargs)

    def read_content(self) -> Any:
        """Return the annotations in COCO format; see :meth:`CocoDataset.read_content`."""
        return load(self.ann_file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a dict for each instance or image, with ``problem`` describing its invalid annotations."""
        content = self.read_content()
        wanted = ("images", "annotations", "categories")
        if not isinstance(content, dict) or any(key not in content for key in wanted):
            raise ValueError(
                f"{self.ann_file} is not an annotation file in COCO format: expected a dict with {', '.join(wanted)}"
            )
        self._read_categories(content["categories"])
        images = {image["id"]: self._image_info(image) for image in content["images"]}
        if self.bbox_file is not None:
            return self._detections(images)
        parsed = [self._parse(annotation, images) for annotation in content["annotations"]]
        instances = self._drop_bad_annotations([instance for instance in parsed if instance is not None], images)
        return (
            self._per_instance(instances, images) if self.data_mode == "topdown" else self._per_image(instances, images)
        )

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the image path of a sample and its annotations as tensors.

        Raises:
            ValueError: an annotation is invalid; the message contains the sample, the file and the reason.
        """
        info = super().get_data_info(idx)
        if "problem" in info:
            raise ValueError(
                f"sample {info['sample_idx']} ({info['img_path']}): {info['problem']}; correct or remove it "
                "(`trainwright browse-dataset` lists all such samples)"
            )
        return self._with_tensors(info)

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem: invalid or suspicious annotations, unreadable images, size mismatches."""
        from PIL import Image

        yield from self._skipped
        checked: set[str] = set()
        for index in range(len(self)):
            info = super().get_data_info(index)
            path = info["img_path"]
            for problem in filter(None, (info.get("problem"), info.get("warning"))):
                yield f"sample {index} ({path}): {problem}"
            if path in checked or not path:
                continue
            checked.add(path)
            try:
                with Image.open(path) as picture:
                    size = picture.size
            except OSError as error:
                yield f"sample {index} ({path}): {error}: check data_root and data_prefix"
                continue
            stated = (info.get("width"), info.get("height"))
            if None not in stated and size != stated:
                yield (
                    f"sample {index} ({path}): the image has size {size} (width, height), but {self.ann_file} states "
                    f"{stated}: correct one of them"
                )

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
            if "problem" in info
            or sum(_num_labeled(instance["keypoints"]) for instance in info["instances"]) >= minimum
        ]

    def _read_categories(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Map categories to labels, and read keypoint names and skeleton from them."""
        classes = self._metainfo.setdefault("classes", tuple(category["name"] for category in categories))
        label_of = {name: label for label, name in enumerate(classes)}
        self._names = {category["id"]: category["name"] for category in categories}
        self._labels = {key: label_of[name] for key, name in self._names.items() if name in label_of}
        if not self._labels:
            raise ValueError(
                f"{self.ann_file} has none of the classes {list(classes)}: its categories are "
                f"{list(self._names.values())}"
            )
        source = next((category for category in categories if category.get("keypoints")), {})
        if "keypoints" not in self._metainfo:
            if not source:
                raise ValueError(f"{self.ann_file}: no category has keypoint names: set metainfo=dict(keypoints=(...))")
            self._metainfo["keypoints"] = tuple(source["keypoints"])
            links = source.get("skeleton") or ()
            self._metainfo.setdefault("skeleton_links", tuple((start - 1, end - 1) for start, end in links))
        self._metainfo.setdefault("flip_indices", mirror_images(self._metainfo["keypoints"]))

    def _image_info(self, image: Mapping[str, Any]) -> dict[str, Any]:
        folder = self.data_prefix.get("img_path", "")
        return {
            "img_id": image["id"],
            "img_path": os.path.join(folder, image["file_name"]),  # noqa: PTH118  # strings stay short
            "height": image.get("height"),
            "width": image.get("width"),
        }

    def _parse(self, annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return an instance, with its ``problem`` if it is invalid; None for a class that is not selected."""
        instance: dict[str, Any] = {
            "id": annotation.get("id"),
            "img_id": annotation.get("image_id"),
            "label": self._labels.get(annotation.get("category_id"), -1),
            "bbox": tuple(annotation.get("bbox") or ()),
            "keypoints": tuple(annotation.get("keypoints") or ()),
            "crowd": bool(annotation.get("iscrowd", 0)),
        }
        if annotation.get("category_id") in self._names and instance["label"] < 0:
            return None
        image = images.get(instance["img_id"])
        name = f"annotation {instance['id']}"
        if problem := self._find_problem(annotation, instance, image):
            return {**instance, "problem": f"{name}: {problem}"}
        assert image is not None
        left, top, width, height = instance["bbox"]
        right, bottom = left + width, top + height
        if image["width"] is not None and image["height"] is not None:
            if warning := _find_warning(instance, image["width"], image["height"]):
                instance["warning"] = f"{name}: {warning}"
            left, right = max(0, left), min(image["width"], right)
            top, bottom = max(0, top), min(image["height"], bottom)
        instance["bbox"] = (left, top, right, bottom)
        instance["area"] = float(annotation.get("area") or width * height)
        return instance

    def _find_problem(
        self, annotation: Mapping[str, Any], instance: Mapping[str, Any], image: Mapping[str, Any] | None
    ) -> str | None:
        """Return why an annotation is invalid, or None."""
        if image is None:
            return f"its image_id {instance['img_id']!r} is not in the file"
        if instance["label"] < 0:
            return f"its category_id {annotation.get('category_id')!r} is not in the file"
        number, values = len(self._metainfo["keypoints"]), instance["keypoints"]
        if values and len(values) != 3 * number:
            return f"expected {3 * number} numbers in keypoints (x, y and visibility of {number}), got {len(values)}"
        if not all(map(_is_finite_number, values)):
            return "its keypoints contain a value that is not a finite number"
        box = instance["bbox"]
        if len(box) != 4 or not all(map(_is_finite_number, box)):
            return f"its bbox {list(box)} does not consist of four finite numbers (left, top, width, height)"
        if box[2] <= 0 or box[3] <= 0:
            return f"its bbox {list(box)} (left, top, width, height) has no area"
        width, height = image["width"], image["height"]
        if width is None or height is None:
            return None
        if box[0] >= width or box[1] >= height or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
            where = f"the image of width {width} and height {height}"
            return f"its bbox {list(box)} (left, top, width, height) is outside {where}"
        return None

    def _drop_bad_annotations(self, instances: list[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        """Return the valid instances if ``bad_annotations="skip"``, else all; keep the skipped problems for reports."""
        if self.bad_annotations != "skip":
            return instances
        bad = [instance for instance in instances if "problem" in instance]
        paths = (images.get(instance["img_id"], {}).get("img_path", "") for instance in bad)
        self._skipped = [f"skipped ({path}): {one['problem']}" for path, one in zip(paths, bad)]
        if bad:
            print_log(f"{self.ann_file}: skipped {len(bad)} invalid annotations", "current", logging.WARNING)
        return [instance for instance in instances if "problem" not in instance]

    def _per_instance(self, instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        samples, num_skipped = [], 0
        for instance in instances:
            if "problem" not in instance and (instance["crowd"] or not _num_labeled(instance["keypoints"])):
                num_skipped += 1
                continue
            image = images.get(instance["img_id"], {"img_id": instance["img_id"], "img_path": ""})
            info = {**image, "instances": [instance]}
            info |= {key: instance[key] for key in ("problem", "warning") if key in instance}
            samples.append(info)
        if num_skipped:
            print_log(
                f"{self.ann_file}: skipped {num_skipped} of {len(instances)} instances, which are crowds or have no "
                "labeled keypoint",
                logger="current",
            )
        return samples

    def _per_image(self, instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for instance in instances:
            by_image[instance["img_id"]].append(instance)
        samples = []
        for key in [*images, *(key for key in by_image if key not in images)]:
            info = {**images.get(key, {"img_id": key, "img_path": ""}), "instances": by_image[key]}
            for kind in ("problem", "warning"):
                if found := [instance[kind] for instance in by_image[key] if kind in instance]:
                    info[kind] = "; ".join(found)
            samples.append(info)
        return samples

    def _detections(self, images: Mapping[Any, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a sample for each detected box."""
        threshold = (self.filter_cfg or {}).get("bbox_score_thr", 0.0)
        samples = []
        for index, found in enumerate(load(str(self.bbox_file))):
            if found["category_id"] not in self._labels or found["score"] < threshold:
                continue
            if found["image_id"] not in images:
                raise ValueError(
                    f"{self.bbox_file}: the image_id {found['image_id']!r} of detection {index} is not in "
                    f"{self.ann_file}"
                )
            left, top, width, height = found["bbox"]
            samples.append({
                **images[found["image_id"]], "instances": [], "bbox": (left, top, left + width, top + height),
                "bbox_score": found["score"], "bbox_label": self._labels[found["category_id"]],
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


def _find_warning(instance: Mapping[str, Any], width: int, height: int) -> str | None:
    """Return what is suspicious about a valid annotation, or None."""
    where = f"the image of width {width} and height {height}"
    left, top, box_width, box_height = instance["bbox"]
    if left < -1 or top < -1 or left + box_width > width + 1 or top + box_height > height + 1:
        return f"its bbox {list(instance['bbox'])} (left, top, width, height) is clipped to {where}"
    points = zip(*(instance["keypoints"][start::3] for start in range(3)))
    outside = [(x, y) for x, y, seen in points if seen > 0 and not (-1 <= x <= width and -1 <= y <= height)]
    if outside:
        return f"its labeled keypoint at {outside[0]} is outside {where}"
    return None


def _num_labeled(keypoints: Sequence[float]) -> int:
    return sum(visible > 0 for visible in keypoints[2::3])


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
