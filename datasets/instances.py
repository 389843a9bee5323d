"""Geometry of the instance annotations of a sample: selecting, placing on a canvas, joining.

The keys and their formats are described in :mod:`trainwright.datasets.transforms`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

INSTANCE_KEYS = (
    "gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "gt_masks", "gt_keypoints", "gt_keypoints_visible", "gt_areas",
)  # fmt: skip
"""The keys of annotations with one entry per instance."""


def instances_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the instance annotations of a sample."""
    return {key: results[key] for key in INSTANCE_KEYS if key in results}


def select_instances(instances: Mapping[str, Any], chosen: Tensor) -> dict[str, Any]:
    """Return the chosen instances.

    Args:
        instances: instance annotations of a sample.
        chosen: indices, or booleans of shape (N,).
    """
    return {
        key: tv_tensors.wrap(torch.as_tensor(value)[chosen], like=value)
        if isinstance(value, tv_tensors.TVTensor)
        else torch.as_tensor(value)[chosen]
        for key, value in instances.items()
    }


def join_instances(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the instances of several images on the same canvas as those of one image.

    Raises:
        ValueError: the images have different kinds of annotations.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.keys() != first.keys():
            raise ValueError(
                f"cannot combine images with different annotations: {', '.join(first) or 'none'}, and "
                f"{', '.join(part) or 'none'}"
            )
    joined = {key: torch.cat([torch.as_tensor(part[key]).as_subclass(Tensor) for part in parts]) for key in first}
    return {
        key: tv_tensors.wrap(value, like=first[key]) if isinstance(first[key], tv_tensors.TVTensor) else value
        for key, value in joined.items()
    }


def place_instances(
    instances: Mapping[str, Any],
    image_size: tuple[int, int],
    new_size: tuple[int, int],
    origin: tuple[int, int],
    canvas_size: tuple[int, int],
) -> dict[str, Any]:
    """Return the instances of an image that is resized and then placed on a canvas, which may cut it.

    Boxes are clipped, and instances whose boxes are left with less than a pixel are removed. Keypoints outside the
    canvas count as not labeled.

    Args:
        instances: instance annotations, including ``gt_bboxes``; may be empty.
        image_size: (height, width) of the image.
        new_size: (height, width) that it is resized to.
        origin: (top, left) of the image on the canvas; may be negative.
        canvas_size: (height, width) of the canvas.
    """
    if not instances:
        return {}
    (height, width), (top, left) = canvas_size, origin
    scale = torch.tensor([new_size[1] / image_size[1], new_size[0] / image_size[0]])
    shift = torch.tensor([left, top], dtype=torch.float32)
    whole = instances["gt_bboxes"].as_subclass(Tensor) * scale.repeat(2) + shift.repeat(2)
    boxes = torch.minimum(whole.clamp(min=0), whole.new_tensor([width, height, width, height]))
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    placed = select_instances({key: value for key, value in instances.items() if key != "gt_bboxes"}, kept)
    placed["gt_bboxes"] = tv_tensors.BoundingBoxes(boxes[kept], format="XYXY", canvas_size=canvas_size)
    if "gt_masks" in placed:
        masks = resize_nearest(placed["gt_masks"].as_subclass(Tensor), new_size)
        placed["gt_masks"] = tv_tensors.Mask(paste(masks.new_zeros(len(masks), height, width), masks, origin))
    if "gt_areas" in placed:
        visible = area(boxes[kept]) / area(whole[kept])
        placed["gt_areas"] = (
            placed["gt_masks"].as_subclass(Tensor).sum((1, 2)).to(placed["gt_areas"].dtype)
            if "gt_masks" in placed
            else placed["gt_areas"] * scale.prod() * visible
        )
    if "gt_keypoints" in placed:
        points = (placed["gt_keypoints"] + 0.5) * scale - 0.5 + shift  # the center of the first pixel is (0, 0)
        placed["gt_keypoints"] = points
        inside = ((points >= -0.5) & (points < points.new_tensor([width, height]) - 0.5)).all(-1)
        placed["gt_keypoints_visible"] = placed["gt_keypoints_visible"] * inside
    return {key: placed[key] for key in instances}


def area(boxes: Tensor) -> Tensor:
    """Return the areas (N,) of boxes (N, 4), given as left, top, right, bottom."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def paste(canvas: Tensor, picture: Tensor, origin: tuple[int, int]) -> Tensor:
    """Write a picture (..., h, w) on a canvas (..., H, W) in place, without what lies outside; return the canvas.

    Args:
        canvas: what to write on.
        picture: what to write.
        origin: (top, left) of the picture on the canvas; may be negative.
    """
    top, left = origin
    height, width = picture.shape[-2:]
    rows = slice(max(top, 0), max(0, min(top + height, canvas.shape[-2])))
    columns = slice(max(left, 0), max(0, min(left + width, canvas.shape[-1])))
    canvas[..., rows, columns] = picture[
        ..., rows.start - top : max(rows.stop - top, 0), columns.start - left : max(columns.stop - left, 0)
    ]
    return canvas


def resize_nearest(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return planes (..., H, W) resized without mixing values: each pixel has the value at its center."""
    if tuple(planes.shape[-2:]) == size or planes.numel() == 0:
        return planes if tuple(planes.shape[-2:]) == size else planes.new_zeros(*planes.shape[:-2], *size)
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1) for new, old in zip(size, planes.shape[-2:])
    )
    return planes[..., rows[:, None], columns]
