"""Annotations of instances: from what a file says to tensors that torchvision's v2 moves with the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.registry import TRANSFORMS

_SLACK = 1.0  # pixels by which a box may reach out of its image: rounding; it is cut


@TRANSFORMS.register_module()
class LoadAnnotations:
    """Make tensors of a sample's ``instances``, see :class:`BaseDetDataset`.

    It sets ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags`` and, if asked for, ``gt_masks``. Put it before what
    resizes the image; only a test pipeline may have it after that, to be measured in the size of the files. A sample
    without ``instances``, such as an image to predict, is left as it is.

    Args:
        with_mask: load masks too, from polygons or RLE; needs pycocotools.
    """

    def __init__(self, with_mask: bool = False) -> None:
        self.with_mask = with_mask

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its annotations.

        Raises:
            ValueError: an annotation is bad, or the image has another size than its annotation says; the message names
                the image and the annotation.
            KeyError: the image is not loaded yet.
            MissingExtraError: masks are asked for, and pycocotools is not installed.
        """
        from torchvision import tv_tensors

        if "instances" not in results:
            return results
        name = results.get("img_path")
        if "ori_shape" not in results:
            raise KeyError("LoadAnnotations needs the size of the image: put LoadImageFromFile before it")
        size = tuple(results["ori_shape"])
        annotated = (results.get("height", size[0]), results.get("width", size[1]))
        if annotated != size:
            raise ValueError(f"{name} has the size {size}, its annotation {annotated}: one of the two is wrong")
        instances = results["instances"]
        problems = list(results.get("problems", ())) or [
            f"annotation {instance.get('id', number)} {problem}"
            for number, instance in enumerate(instances)
            if (problem := box_problem(instance["bbox"], *size))
        ]
        if problems:
            raise ValueError(
                f"{name}: {problems[0]} (`trainwright browse-dataset` names all bad annotations; "
                "bad_annotations='skip' of the dataset leaves them out)"
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
                raise ValueError(f"{annotation} has no mask: train without with_mask, or leave it out")
            try:
                masks[number] = decode_mask(instance["mask"], *size)
            except ValueError as error:
                raise ValueError(f"{annotation} has a mask that does not fit: {error}") from error
        return masks


def decode_mask(mask: Sequence[Sequence[float]] | Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return a mask as pixels, uint8 of shape (height, width), 0 or 1; as pycocotools draws it.

    Args:
        mask: polygons, each ``[x0, y0, x1, y1, …]``; or an RLE, ``dict(size=(height, width), counts=...)`` with a list
            or a compressed text.
        height: of the image.
        width: of the image.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: the RLE is of another size.
    """
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "loading masks") from error

    if not isinstance(mask, Mapping):
        encoded = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in mask], height, width))
    else:
        if tuple(mask["size"]) != (height, width):
            raise ValueError(f"its size is {tuple(mask['size'])}, that of the image {(height, width)}")
        encoded = coco_mask.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    pixels: np.ndarray = coco_mask.decode(encoded)
    return pixels


def box_problem(box: Any, height: int | None = None, width: int | None = None) -> str | None:
    """Return what is wrong with a box, for a sentence that begins with its name, or None.

    Args:
        box: left, top, right, bottom.
        height: of the image, where it is known.
        width: of the image, where it is known.
    """
    if not isinstance(box, list | tuple) or len(box) != 4:
        return f"has no box of four numbers, but {box!r}"
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return f"has a box that is not finite: {box}"
    left, top, right, bottom = box
    if right < left or bottom < top:
        return f"has a box of negative size: {box} (left, top, right, bottom)"
    if right == left or bottom == top:
        return f"has an empty box: {box} (left, top, right, bottom)"
    if min(left, top) < -_SLACK or right > (width or math.inf) + _SLACK or bottom > (height or math.inf) + _SLACK:
        where = "its image" if height is None else f"its image of height {height} and width {width}"
        return f"has a box outside of {where}: {box} (left, top, right, bottom)"
    return None


def mask_problem(mask: Any) -> str | None:
    """Return what is wrong with the form of a mask, for a sentence that begins with its name, or None."""
    if isinstance(mask, Mapping):
        return None if {"size", "counts"} <= mask.keys() else "has an RLE without size and counts"
    if not isinstance(mask, list | tuple) or not mask:
        return f"has a mask that is neither polygons nor an RLE: {mask!r:.60}"
    for polygon in mask:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            return f"has a polygon that is no list of an even number of coordinates, at least 6: {polygon!r:.60}"
    return None
