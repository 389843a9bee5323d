"""Conversion of instance annotations to tensors that torchvision's v2 transforms together with the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.registry import TRANSFORMS

_TOLERANCE = 1.0  # pixels by which a box may exceed its image due to rounding, before it is clipped


@TRANSFORMS.register_module()
class LoadAnnotations:
    """Convert the ``instances`` of a sample to tensors; see :class:`BaseDetDataset`.

    Sets ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags`` and, if ``with_mask``, ``gt_masks``. Place it before
    transforms that resize the image. Test pipelines may place it after resizing, to evaluate at the size of the image
    file. A sample without ``instances``, such as an image for inference, is returned unchanged.

    Args:
        with_mask: also load masks, from polygons or RLE; requires pycocotools.
    """

    def __init__(self, with_mask: bool = False) -> None:
        self.with_mask = with_mask

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its annotations.

        Raises:
            ValueError: an annotation is bad, or the image size differs from the annotation; the message contains the
                path and the annotation.
            KeyError: the image has not been loaded.
            MissingExtraError: ``with_mask`` is set and pycocotools is not installed.
        """
        from torchvision import tv_tensors

        if "instances" not in results:
            return results
        name = results.get("img_path")
        if "ori_shape" not in results:
            raise KeyError("the sample has no ori_shape: LoadImageFromFile must come before LoadAnnotations")
        size = tuple(results["ori_shape"])
        annotated = (results.get("height", size[0]), results.get("width", size[1]))
        if annotated != size:
            raise ValueError(
                f"{name} has size {size} (height, width), but its annotation states {annotated}: correct or remove the "
                "sample"
            )
        # Removed, because torchvision's transforms would visit every number of every polygon.
        instances = results.pop("instances")
        problems = list(results.get("problems", ())) or [
            f"annotation {instance.get('id', number)} {problem}"
            for number, instance in enumerate(instances)
            if (problem := box_problem(instance["bbox"], *size))
        ]
        if problems:
            raise ValueError(
                f"{name}: {problems[0]}: correct it, or set bad_annotations='skip' in the dataset to skip bad "
                "annotations (`trainwright browse-dataset` lists all)"
            )
        boxes = torch.tensor([instance["bbox"] for instance in instances], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 0::2].clamp_(0, size[1])
        boxes[:, 1::2].clamp_(0, size[0])
        results["gt_bboxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        results["gt_bboxes_labels"] = torch.tensor([one["bbox_label"] for one in instances], dtype=torch.int64)
        results["gt_ignore_flags"] = torch.tensor([bool(one.get("ignore_flag")) for one in instances], dtype=torch.bool)
        if self.with_mask:
            results["gt_masks"] = tv_tensors.Mask(torch.from_numpy(self._masks(instances, size, name)))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(with_mask={self.with_mask})"

    def _masks(self, instances: Sequence[Mapping[str, Any]], size: tuple[int, ...], name: Any) -> np.ndarray:
        masks = np.zeros((len(instances), *size), np.uint8)
        for number, instance in enumerate(instances):
            annotation = f"{name}: annotation {instance.get('id', number)}"
            if "mask" not in instance:
                raise ValueError(f"{annotation} has no mask: set with_mask=False or remove the annotation")
            try:
                masks[number] = decode_mask(instance["mask"], *size)
            except ValueError as error:
                raise ValueError(f"{annotation} has an invalid mask: {error}") from error
        return masks


def decode_mask(mask: Sequence[Sequence[float]] | Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decode a mask to pixels with pycocotools: uint8 of shape (height, width), 0 or 1.

    Args:
        mask: a list of polygons ``[x0, y0, x1, y1, …]``, or an RLE ``dict(size=(height, width), counts=...)``, whose
            ``counts`` are a list or a compressed string.
        height: height of the image.
        width: width of the image.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: the size of the RLE is not that of the image.
    """
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "loading masks") from error

    if not isinstance(mask, Mapping):
        encoded = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in mask], height, width))
    else:
        if tuple(mask["size"]) != (height, width):
            raise ValueError(f"its size is {tuple(mask['size'])}, but that of the image is {(height, width)}")
        encoded = coco_mask.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    pixels: np.ndarray = coco_mask.decode(encoded)
    return pixels


def box_problem(box: Any, height: int | None = None, width: int | None = None) -> str | None:
    """Return what is wrong with a box as a phrase that follows its name ("has ..."), or None.

    Args:
        box: left, top, right, bottom.
        height: height of the image, if known.
        width: width of the image, if known.
    """
    if not isinstance(box, list | tuple) or len(box) != 4:
        return f"has a box that does not consist of four numbers: {box!r}"
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return f"has a box that is not finite: {box}"
    left, top, right, bottom = box
    if right < left or bottom < top:
        return f"has a box of negative size: {box} (left, top, right, bottom)"
    if right == left or bottom == top:
        return f"has an empty box: {box} (left, top, right, bottom)"
    if (
        min(left, top) < -_TOLERANCE
        or right > (width or math.inf) + _TOLERANCE
        or bottom > (height or math.inf) + _TOLERANCE
    ):
        where = "its image" if height is None else f"its image of height {height} and width {width}"
        return f"has a box outside {where}: {box} (left, top, right, bottom)"
    return None


def mask_problem(mask: Any) -> str | None:
    """Return what is wrong with the format of a mask as a phrase that follows its name ("has ..."), or None."""
    if isinstance(mask, Mapping):
        return None if {"size", "counts"} <= mask.keys() else "has an RLE without size and counts"
    if not isinstance(mask, list | tuple) or not mask:
        return f"has a mask that is neither a list of polygons nor an RLE: {mask!r:.60}"
    for polygon in mask:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            return f"has a polygon that is not a list of an even number of at least 6 coordinates: {polygon!r:.60}"
    return None
