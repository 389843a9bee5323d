"""Conversion of instance annotations to tensors that torchvision's v2 transforms together with the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.datasets.annotation_fields import Rules, box_problem
from trainwright.engine.errors import DataError
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.masks import decode_masks, mask_problem

_CORNERS = Rules(corners=True)


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
            DataError: the image size differs from the annotation, or an annotation is bad that was not checked when the
                file was read; the message contains the path and the annotation.
            KeyError: the image has not been loaded.
            MissingExtraError: ``with_mask`` is set and pycocotools is not installed.
        """
        from torchvision import tv_tensors

        if "instances" not in results:
            return results
        name = results.get("img_path")
        if "ori_shape" not in results:
            raise KeyError("the sample has no ori_shape: LoadImageFromFile must come before LoadAnnotations")
        size: tuple[int, int] = tuple(results["ori_shape"])
        annotated = (results.get("height", size[0]), results.get("width", size[1]))
        if annotated != size:
            raise DataError(
                f"{name} has size {size} (height, width), but its annotation states {annotated}: correct or remove the "
                "sample"
            )
        # Removed, because torchvision's transforms would visit every number of every polygon.
        instances = results.pop("instances")
        boxes = _boxes(instances, size, name)
        results["gt_bboxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        results["gt_bboxes_labels"] = torch.tensor([one["bbox_label"] for one in instances], dtype=torch.int64)
        results["gt_ignore_flags"] = torch.tensor([bool(one.get("ignore_flag")) for one in instances], dtype=torch.bool)
        if self.with_mask:
            masks = _masks(instances, size, name, is_checked=bool(results.get("masks_are_checked")))
            results["gt_masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(with_mask={self.with_mask})"


def _boxes(instances: Sequence[Mapping[str, Any]], size: tuple[int, int], name: Any) -> Tensor:
    """Return the boxes, clipped to the image: float32 (N, 4).

    Raises:
        DataError: a box is bad.
    """
    try:
        boxes = torch.tensor([instance["bbox"] for instance in instances], dtype=torch.float32).reshape(-1, 4)
    except (KeyError, TypeError, ValueError):
        boxes = torch.full((len(instances), 4), torch.nan)
    ends = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    clipped = boxes.clamp(min=torch.zeros(4), max=ends)
    if not ((clipped[:, 2:] > clipped[:, :2]).all() and ((clipped - boxes).abs() <= 1).all()):
        for number, instance in enumerate(instances):
            if problem := box_problem(instance.get("bbox"), size, _CORNERS):
                raise DataError(
                    f"{name}: annotation {instance.get('id', number)}: bbox: {problem}: correct it, or set "
                    "bad_annotations='skip' in the dataset"
                )
    return clipped


def _masks(instances: Sequence[Mapping[str, Any]], size: tuple[int, int], name: Any, is_checked: bool) -> np.ndarray:
    """Return the masks: uint8 (N, H, W).

    Raises:
        DataError: a mask is missing or bad.
    """
    masks = []
    for number, instance in enumerate(instances):
        annotation = f"{name}: annotation {instance.get('id', number)}"
        if "mask" not in instance:
            raise DataError(f"{annotation} has no mask: set with_mask=False or remove the annotation")
        if not is_checked and (problem := mask_problem(instance["mask"], size)):
            raise DataError(f"{annotation}: segmentation: {problem}: correct or remove the annotation")
        masks.append(instance["mask"])
    return decode_masks(masks, *size)
