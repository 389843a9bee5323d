"""Datasets of keypoints in annotation files of COCO's format."""

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
_KEYPOINT_META = ("keypoints", "flip_indices", "skeleton_links")


@DATASETS.register_module()
class BaseCocoStyleDataset(BaseDataset):
    """Keypoints in an annotation file of COCO's format, with any set of keypoints.

    The file is JSON with ``images`` (``id``, ``file_name``, ``width``, ``height``), ``categories`` (``id``, ``name``,
    ``keypoints``, ``skeleton``) and ``annotations`` (``image_id``, ``category_id``, ``bbox`` as left, top, width and
    height, ``keypoints`` as x, y and visibility 0 to 2 for each, and where there are ``area`` and ``iscrowd``);
    https://cocodataset.org/#format-data. Names and skeleton come from the first category that has them, unless
    ``metainfo`` says them; keypoints whose names differ by left and right are taken as mirror images.

    With ``data_mode="topdown"`` every labeled instance is a sample; crowds, and instances without any labeled
    keypoint, are left out, and their number is logged. With ``"bottomup"`` every image is a sample with all its
    instances. Either way samples have ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_keypoints``, ``gt_keypoints_visible``
    and ``gt_areas``; the boxes are cut to the image. A sample with an annotation that makes no sense raises an error
    when it is asked for, unless ``bad_annotations="skip"``; :meth:`check_annotations` names all.

    Args:
        ann_file: the annotation file, relative to ``data_root``.
        data_mode: ``topdown`` or ``bottomup``.
        bbox_file: file with detected boxes, to be looked into instead of the true ones, for ``topdown`` tests: a list
            of dicts with ``image_id``, ``category_id``, ``bbox`` and ``score``. These samples have no true keypoints:
            give the metric the annotation file.
        bad_annotations: ``raise`` makes it an error to load a sample with an annotation that makes no sense, ``skip``
            leaves these annotations out, and logs their number.
        filter_cfg: ``bbox_score_thr``: detected boxes with lower scores are left out; ``min_keypoints``: images with
            fewer visible keypoints are left out (``bottomup``).
        metainfo, data_root, data_prefix, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; images lie in ``data_prefix["img_path"]``.

    Raises:
        ValueError: an unknown mode or option, ``bbox_file`` without ``topdown``, or a file that is not of this format.
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
            raise ValueError(f"data_mode is 'topdown' or 'bottomup', not {data_mode!r}")
        if bbox_file is not None and data_mode != "topdown":
            raise ValueError("bbox_file is for data_mode='topdown' only")
        if bad_annotations not in ("raise", "skip"):
            raise ValueError(f"bad_annotations must be 'raise' or 'skip', not {bad_annotations!r}")
        known = ("bbox_score_thr", "min_keypoints")
        for name in filter_cfg or ():
            if name not in known:
                hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
                raise ValueError(f"filter_cfg has no option {name!r}: {hint}")
        self.data_mode = data_mode
        self.bad_annotations = bad_annotations
        self._skipped: list[str] = []
        self.bbox_file = None if bbox_file is None else str(Path(data_root or "", bbox_file))
        super().__init__(ann_file=ann_file, filter_cfg=filter_cfg, data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a dict for each instance or image; what makes no sense in it is noted as ``problem``."""
        content = load(self.ann_file)
        wanted = ("images", "annotations", "categories")
        if not isinstance(content, dict) or any(key not in content for key in wanted):
            raise ValueError(f"{self.ann_file} is no annotation file of COCO's format: it lacks {', '.join(wanted)}")
        self._read_categories(content["categories"])
        images = {image["id"]: self._image_info(image) for image in content["images"]}
        if self.bbox_file is not None:
            return self._detections(images)
        parsed = [self._parse(annotation, images) for annotation in content["annotations"]]
        instances = self._without_skipped([instance for instance in parsed if instance is not None], images)
        return self._one_each(instances, images) if self.data_mode == "topdown" else self._per_image(instances, images)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a sample with the path of its image and its annotations as tensors.

        Raises:
            ValueError: its annotations make no sense; the message names the sample and the reason.
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
        """Yield a line for each problem of the annotations, and for images that are missing or of another size."""
        from PIL import Image

        yield from self._skipped
        checked: set[str] = set()
        for index in range(len(self)):
            info = super().get_data_info(index)
            path = info["img_path"]
            for problem in filter(None, (info.get("problem"), info.get("oddity"))):
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
                yield f"sample {index} ({path}): the image is {size} (width, height), the annotations say {stated}"

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of the instances of a sample."""
        return [instance["label"] for instance in super().get_data_info(idx)["instances"]]

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the samples without the images that have too few visible keypoints."""
        least = (self.filter_cfg or {}).get("min_keypoints", 0)
        if not least or self.data_mode == "topdown":
            return self.data_list
        return [
            info
            for info in self.data_list
            if "problem" in info or sum(_labeled(instance["keypoints"]) for instance in info["instances"]) >= least
        ]

    def _read_categories(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Record which label each category has, and what the categories say about keypoints."""
        classes = self._metainfo.setdefault("classes", tuple(category["name"] for category in categories))
        label_of = {name: label for label, name in enumerate(classes)}
        self._names = {category["id"]: category["name"] for category in categories}
        self._labels = {key: label_of[name] for key, name in self._names.items() if name in label_of}
        if not self._labels:
            raise ValueError(
                f"{self.ann_file} has none of the classes {list(classes)}, only {list(self._names.values())}"
            )
        source = next((category for category in categories if category.get("keypoints")), {})
        if "keypoints" not in self._metainfo:
            if not source:
                raise ValueError(
                    f"{self.ann_file}: no category names its keypoints: give metainfo=dict(keypoints=(...))"
                )
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
        """Return an instance, with its ``problem`` if it has one; None for a class that is not wanted."""
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
        if problem := self._problem(annotation, instance, image):
            return {**instance, "problem": f"{name}: {problem}"}
        assert image is not None
        left, top, width, height = instance["bbox"]
        right, bottom = left + width, top + height
        if image["width"] is not None and image["height"] is not None:
            if odd := _oddity(instance, image["width"], image["height"]):
                instance["oddity"] = f"{name}: {odd}"
            left, right = max(0, left), min(image["width"], right)
            top, bottom = max(0, top), min(image["height"], bottom)
        instance["bbox"] = (left, top, right, bottom)
        instance["area"] = float(annotation.get("area") or width * height)
        return instance

    def _problem(
        self, annotation: Mapping[str, Any], instance: Mapping[str, Any], image: Mapping[str, Any] | None
    ) -> str | None:
        """Return what makes an annotation useless, or None."""
        if image is None:
            return f"there is no image {instance['img_id']!r} in the file"
        if instance["label"] < 0:
            return f"there is no category {annotation.get('category_id')!r} in the file"
        number, given = len(self._metainfo["keypoints"]), instance["keypoints"]
        if given and len(given) != 3 * number:
            return f"it has {len(given)} numbers for keypoints, not {3 * number} (x, y and visibility of {number})"
        if not all(map(_is_number, given)):
            return "a keypoint is no finite number"
        box = instance["bbox"]
        if len(box) != 4 or not all(map(_is_number, box)):
            return f"its bbox {list(box)} is not left, top, width and height"
        if box[2] <= 0 or box[3] <= 0:
            return f"its bbox {list(box)} (left, top, width, height) has no area"
        width, height = image["width"], image["height"]
        if width is None or height is None:
            return None
        if box[0] >= width or box[1] >= height or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
            return f"its bbox {list(box)} lies outside of the image, which is {width} wide and {height} high"
        return None

    def _without_skipped(self, instances: list[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        """Return the instances without those that make no sense, if these are to be left out; their lines are kept."""
        if self.bad_annotations != "skip":
            return instances
        bad = [instance for instance in instances if "problem" in instance]
        paths = (images.get(instance["img_id"], {}).get("img_path", "") for instance in bad)
        self._skipped = [f"left out ({path}): {one['problem']}" for path, one in zip(paths, bad)]
        if bad:
            print_log(f"{self.ann_file}: {len(bad)} annotations make no sense and are left out", "current", 30)
        return [instance for instance in instances if "problem" not in instance]

    def _one_each(self, instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        kept, unlabeled = [], 0
        for instance in instances:
            if "problem" not in instance and (instance["crowd"] or not _labeled(instance["keypoints"])):
                unlabeled += 1
                continue
            image = images.get(instance["img_id"], {"img_id": instance["img_id"], "img_path": ""})
            info = {**image, "instances": [instance]}
            info |= {key: instance[key] for key in ("problem", "oddity") if key in instance}
            kept.append(info)
        if unlabeled:
            print_log(
                f"{self.ann_file}: {unlabeled} of {len(instances)} instances are crowds or have no labeled keypoint; "
                "they are left out",
                logger="current",
            )
        return kept

    def _per_image(self, instances: Sequence[dict[str, Any]], images: Mapping[Any, Any]) -> list[dict[str, Any]]:
        of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for instance in instances:
            of_image[instance["img_id"]].append(instance)
        samples = []
        for key in [*images, *(key for key in of_image if key not in images)]:
            info = {**images.get(key, {"img_id": key, "img_path": ""}), "instances": of_image[key]}
            for kind in ("problem", "oddity"):
                if found := [instance[kind] for instance in of_image[key] if kind in instance]:
                    info[kind] = "; ".join(found)
            samples.append(info)
        return samples

    def _detections(self, images: Mapping[Any, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a sample for each detected box."""
        least = (self.filter_cfg or {}).get("bbox_score_thr", 0.0)
        samples = []
        for index, found in enumerate(load(str(self.bbox_file))):
            if found["category_id"] not in self._labels or found["score"] < least:
                continue
            if found["image_id"] not in images:
                raise ValueError(
                    f"{self.bbox_file}: detection {index} is in image {found['image_id']!r}, which "
                    f"{self.ann_file} does not have"
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
        info.pop("oddity", None)
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
    """COCO, keypoints: 17 of each person.

    ::

        data_root/train2017/000000000036.jpg
        data_root/annotations/person_keypoints_train2017.json

    Args:
        **kwargs: as for :class:`BaseCocoStyleDataset`.
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
    """Return for each keypoint the position of the one with left and right exchanged in its name, or its own."""
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


def _oddity(instance: Mapping[str, Any], width: int, height: int) -> str | None:
    """Return what is strange about an annotation that can be used all the same, or None."""
    left, top, across, down = instance["bbox"]
    if left < -1 or top < -1 or left + across > width + 1 or top + down > height + 1:
        return f"its bbox {list(instance['bbox'])} reaches beyond the image, {width} wide and {height} high: it is cut"
    points = zip(*(instance["keypoints"][start::3] for start in range(3)))
    outside = [(x, y) for x, y, seen in points if seen > 0 and not (-1 <= x <= width and -1 <= y <= height)]
    if outside:
        return f"a labeled keypoint at {outside[0]} lies outside of the image, {width} wide and {height} high"
    return None


def _labeled(keypoints: Sequence[float]) -> int:
    """Return how many keypoints are labeled."""
    return sum(visible > 0 for visible in keypoints[2::3])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
