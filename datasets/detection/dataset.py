"""Datasets for object detection and instance segmentation: images with boxes, and masks, as files on disk."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.detection.transforms import box_problem, mask_problem
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import list_from_file, load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS

_FILTERS = ("filter_empty_gt", "min_size")


@DATASETS.register_module()
class BaseDetDataset(BaseDataset):
    """Images with annotated instances; read from an annotation file of OpenMMLab's form unless a subclass does.

    Samples start as ``dict(img_path=str, img_id=..., height=int, width=int, instances=[...])``, as far as they are
    known; an instance is a dict with ``bbox`` (left, top, right, bottom in pixels), ``bbox_label``, counted from 0,
    ``ignore_flag`` (1 for crowds and what is too difficult to count) and possibly ``mask``: a list of polygons
    ``[x0, y0, x1, y1, …]``, or an RLE. ``LoadAnnotations`` makes tensors of them.

    Annotations that cannot be trained on are found when the file is read: boxes that are empty, negative, not finite,
    or outside of their image by more than a pixel, unknown classes, broken masks. There is a warning with their number;
    :meth:`check_annotations` names them all.

    Args:
        ann_file: annotation file.
        bad_annotations: ``raise`` makes it an error to load a sample with a bad annotation, ``skip`` leaves these
            annotations out.
        data_prefix: ``img_path`` (or ``img``, as in MMDetection): folder of the images.
        filter_cfg: unless in ``test_mode``, ``filter_empty_gt=True`` leaves out images without an instance that
            counts, ``min_size=32`` those whose height or width is less.
        metainfo, data_root, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`; with ``classes`` in ``metainfo``, only instances of these are taken, numbered in this
            order.

    Raises:
        ValueError: an unknown value of ``bad_annotations``, or key of ``filter_cfg``.
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
                hint = did_you_mean(key, _FILTERS) or f"there are {', '.join(_FILTERS)}"
                raise ValueError(f"filter_cfg knows no {key!r}: {hint}")
        self.bad_annotations = bad_annotations
        prefix = dict(data_prefix or {"img_path": ""})
        if "img" in prefix:
            prefix["img_path"] = prefix.pop("img")
        super().__init__(ann_file=ann_file, data_prefix=prefix, filter_cfg=filter_cfg, **kwargs)

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the samples to keep, with bad annotations taken out of their instances."""
        number, first = 0, ""
        for info in self.data_list:
            if problems := self._take_out_problems(info):
                number += len(problems)
                first = first or f"{info['img_path']}: {problems[0]}"
        if number:
            consequence = (
                "they are left out"
                if self.bad_annotations == "skip"
                else "to load their samples is an error. `trainwright browse-dataset` names them all; "
                "bad_annotations='skip' leaves them out"
            )
            print_log(f"{self.ann_file}: {number} bad annotations, the first in {first}; {consequence}", "current", 30)
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        return [info for info in self.data_list if self._is_kept(info)]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of the instances of a sample."""
        return [instance["bbox_label"] for instance in self.get_data_info(idx)["instances"]]

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line for each problem: bad annotations, files that are missing or damaged, sizes that differ."""
        from PIL import Image, ImageOps

        for index in range(len(self)):
            info = self.get_data_info(index)
            place = f"sample {index}: {info['img_path']}"
            for problem in info.get("problems", info.get("skipped_problems", ())):
                yield f"{place}: {problem}"
            try:
                with Image.open(info["img_path"]) as picture:
                    width, height = picture.size
                    if picture.getexif().get(0x0112, 1) > 4:  # orientations that swap the two
                        width, height = ImageOps.exif_transpose(picture).size
            except FileNotFoundError:
                yield f"{place} does not exist: check data_root and data_prefix"
                continue
            except OSError as error:
                yield f"{place} cannot be read: {error}"
                continue
            if (height, width) != (info.get("height", height), info.get("width", width)):
                yield f"{place} has the size {(height, width)}, its annotation {(info['height'], info['width'])}"
            if "height" not in info:  # else it was done when they were read
                for instance in info["instances"]:
                    if problem := box_problem(instance["bbox"], height, width):
                        yield f"{place}: {problem}"

    def _take_out_problems(self, info: dict[str, Any]) -> list[str]:
        """Move bad annotations of a sample from its instances to ``problems``; returns these."""
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
            return f"has an unknown class, {instance.get('category', label)!r}"
        if problem := box_problem(instance.get("bbox"), info.get("height"), info.get("width")):
            return problem
        return None if "mask" not in instance else mask_problem(instance["mask"])

    def _is_kept(self, info: Mapping[str, Any]) -> bool:
        assert self.filter_cfg is not None
        counts = any(not instance.get("ignore_flag") for instance in info["instances"])
        if self.filter_cfg.get("filter_empty_gt") and not counts and not info.get("problems"):
            return False
        smallest = self.filter_cfg.get("min_size", 0)
        return min(info.get("height", smallest), info.get("width", smallest)) >= smallest  # type: ignore[no-any-return]


@DATASETS.register_module()
class CocoDataset(BaseDetDataset):
    """A dataset in the form of COCO: one JSON file with ``images``, ``annotations`` and ``categories``.

    ::

        data_root/annotations/instances_train2017.json
        data_root/train2017/000000000009.jpg

    with ``ann_file="annotations/instances_train2017.json"`` and ``data_prefix=dict(img_path="train2017")``. The classes
    are the categories in the order of their ids, for COCO itself the usual 80; ``metainfo=dict(classes=(...))`` takes
    some of them. Instances with ``iscrowd`` are ignored. Fields ``keypoints`` of annotations are kept as they are.

    Args:
        ann_file: COCO's annotation file.
        **kwargs: as for :class:`BaseDetDataset`.

    Raises:
        ValueError: the file is not of COCO's form, it has no class of a name in ``metainfo``, or an annotation belongs
            to no image.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a sample for each image."""
        content = load(self.ann_file)
        if not isinstance(content, dict) or (missing := {"images", "categories"} - content.keys()):
            lacks = f"lacks {' and '.join(sorted(missing))}" if isinstance(content, dict) else "is no dictionary"
            raise ValueError(f"{self.ann_file} {lacks}: it is no annotation file of COCO's form")
        labels = self._labels(content["categories"])
        names = {category["id"]: category["name"] for category in content["categories"]}
        samples = {image["id"]: self._sample(image) for image in content["images"]}
        if len(samples) < len(content["images"]):
            raise ValueError(f"{self.ann_file}: two images have the same id")
        for annotation in content.get("annotations", ()):
            if annotation["image_id"] not in samples:
                raise ValueError(
                    f"{self.ann_file}: annotation {annotation.get('id')} belongs to image {annotation['image_id']}, "
                    "which is not in the file"
                )
            if annotation["category_id"] in names and annotation["category_id"] not in labels:
                continue  # not among the classes that the user chose
            samples[annotation["image_id"]]["instances"].append(_coco_instance(annotation, labels))
        return list(samples.values())

    def _labels(self, categories: list[dict[str, Any]]) -> dict[int, int]:
        """Return the label of each category that is wanted."""
        ids = {category["name"]: category["id"] for category in sorted(categories, key=lambda entry: entry["id"])}
        classes = self._metainfo.setdefault("classes", tuple(ids))
        if unknown := [name for name in classes if name not in ids]:
            hint = did_you_mean(unknown[0], ids) or f"it has {', '.join(ids)}"
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
    """Pascal VOC, object detection: an XML file for each image, 20 classes.

    ::

        data_root/JPEGImages/2007_000027.jpg
        data_root/Annotations/2007_000027.xml
        data_root/ImageSets/Main/train.txt

    The corners in the files are pixels, counted from 1, that belong to the box; here a box goes from the left edge of
    its first pixel to the right edge of its last one. Instances that are marked as difficult are ignored.

    Args:
        data_root: a folder such as ``VOCdevkit/VOC2007``.
        ann_file: list of the names of a split, such as ``ImageSets/Main/trainval.txt``.
        ann_folder: folder of the XML files.
        img_suffix: ending of the file names of images.
        data_prefix: ``img_path``: folder of the images.
        **kwargs: as for :class:`BaseDetDataset`.

    Raises:
        ValueError: a class in ``metainfo`` that VOC does not have.
        FileNotFoundError: the list, or an XML file, is missing.
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
        """Return a sample for each name of the list."""
        known = self.METAINFO.get("classes") or self._metainfo["classes"]
        classes = self._metainfo["classes"]
        if unknown := [name for name in classes if name not in known]:
            raise ValueError(f"{type(self).__name__} has no class {unknown[0]!r}, only {', '.join(known)}")
        labels = {name: label for label, name in enumerate(classes)}
        # Lists of a single class, such as car_train.txt, have a second column: 1, 0 for difficult, -1 for none.
        names = [line.split()[0] for line in list_from_file(self.ann_file) if line.strip()]
        return [self._sample(name, labels, known) for name in names]

    def _sample(self, name: str, labels: Mapping[str, int], known: tuple[str, ...]) -> dict[str, Any]:
        file = Path(self.data_root, self.ann_folder, f"{name}.xml")
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist, but {self.ann_file} names it: check data_root")
        try:
            root = ElementTree.parse(file).getroot()
            instances = [_voc_instance(element, labels) for element in root.iter("object")]
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
        path = os.path.join(self.data_prefix["img_path"], name + self.img_suffix)  # noqa: PTH118  # strings stay short
        sample: dict[str, Any] = {"img_path": path, "img_id": name}
        if height := int(root.findtext("size/height") or 0):
            sample.update(height=height, width=int(root.findtext("size/width") or 0))
        chosen = [one for one in instances if one["category"] in labels or one["category"] not in known]
        return sample | {"instances": chosen}


def _voc_instance(element: ElementTree.Element, labels: Mapping[str, int]) -> dict[str, Any]:
    corners = [float(element.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore[arg-type]
    name = (element.findtext("name") or "").strip()
    return {
        "bbox": [corners[0] - 1, corners[1] - 1, corners[2], corners[3]],
        "bbox_label": labels.get(name),
        "category": name,
        "ignore_flag": int(element.findtext("difficult") or 0),
    }
