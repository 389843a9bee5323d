"""Images of samples with annotations and predictions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import utils

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.masks import decode_mask
from trainwright.engine.visualization import drawing
from trainwright.engine.visualization.drawing import Array, array

_TITLES = {"gt": "ground truth", "pred": "prediction"}
_SMALLEST_SIDE = 224
_TOP = 3
_IGNORED = 255


def draw_sample(
    image: Array,
    sample: BaseDataElement,
    dataset_meta: Mapping[str, Any],
    draw_gt: bool = True,
    draw_pred: bool = True,
    score_thr: float = 0.3,
) -> Array:
    """Return an image with the annotations and, to the right, the predictions of a sample.

    These fields are drawn: ``*_label``, ``pred_score``, ``*_sem_seg``, and in ``*_instances`` ``bboxes``, ``labels``,
    ``scores``, ``masks`` and ``keypoints``. Small images are enlarged, so that texts are readable.

    Args:
        image: RGB, uint8, (height, width, 3).
        sample: annotations and predictions.
        dataset_meta: ``classes`` and ``palette``, if known; ``skeleton_links`` for keypoints.
        draw_gt, draw_pred: whether to draw the fields ``gt_*`` and ``pred_*``.
        score_thr: instances with lower scores are left out.
    """
    factor = max(1, math.ceil(_SMALLEST_SIDE / min(image.shape[:2])))
    canvas = image.repeat(factor, axis=0).repeat(factor, axis=1)
    wanted = [kind for kind, draw in (("gt", draw_gt), ("pred", draw_pred)) if draw]
    panels = [
        _draw_panel(canvas, sample, kind, dataset_meta, factor, score_thr)
        for kind in wanted
        if any(key.startswith(f"{kind}_") for key in sample.keys())  # noqa: SIM118  # an element iterates otherwise
    ]
    return np.concatenate(panels, axis=1) if panels else canvas


def _draw_panel(
    image: Array, sample: BaseDataElement, kind: str, meta: Mapping[str, Any], factor: int, score_thr: float
) -> Array:
    sem_seg = sample.get(f"{kind}_sem_seg")
    if sem_seg is not None:
        image = _draw_sem_seg(image, array(getattr(sem_seg, "sem_seg", sem_seg.get("data"))), meta)
    instances = sample.get(f"{kind}_instances")
    if instances is not None:
        image = _draw_instances(image, instances, meta, factor, score_thr)
    label = sample.get(f"{kind}_label")
    if label is not None:
        scores = sample.get("pred_score") if kind == "pred" else None
        image = _draw_label(image, _TITLES[kind], array(label).reshape(-1).tolist(), scores, meta)
    return image


def _draw_label(
    image: Array, title: str, labels: Sequence[int], scores: Tensor | None, meta: Mapping[str, Any]
) -> Array:
    lines = [f"{title}: {', '.join(_class_name(label, meta) for label in labels)}"]
    if scores is not None:
        top = scores.detach().float().cpu().topk(min(_TOP, scores.numel()))
        lines += [f"{_class_name(i, meta)} {s:.2f}" for s, i in zip(top.values.tolist(), top.indices.tolist())]
    size = max(12, image.shape[0] // 16)
    frame = {"facecolor": "k", "alpha": 0.6}
    return drawing.draw_texts(image, ["\n".join(lines)], [[4, 4]], size, "w", "top", "left", "sans-serif", frame)


def _draw_sem_seg(image: Array, labels: Array, meta: Mapping[str, Any]) -> Array:
    """Draw a segmentation map with class names, resized to the image."""
    plane = labels.reshape(labels.shape[-2:])
    rows, columns = (np.arange(wanted) * given // wanted for wanted, given in zip(image.shape[:2], plane.shape))
    plane = plane[rows[:, None], columns]
    shown = [int(label) for label in np.unique(plane) if 0 <= label != _IGNORED]
    meta = {**meta, "classes": meta.get("seg_classes") or meta.get("classes")}
    colors = _colors(meta, max(shown, default=0) + 1)
    for label in shown:
        image = drawing.draw_masks(image, plane == label, colors[label], 0.5)
    size = max(10, min(image.shape[:2]) // 24)
    large = [label for label in shown if (plane == label).sum() > 2 * size**2]  # not hidden by its name
    if not large:
        return image
    names = [_class_name(label, meta) for label in large]
    places = [_middle(plane == label) for label in large]
    frame = {"facecolor": "k", "alpha": 0.4}
    return drawing.draw_texts(image, names, places, size, "w", "center", "center", "sans-serif", frame)


def _middle(mask: Array) -> tuple[float, float]:
    """Return (x, y) of the pixel of a mask nearest to the median of its pixels."""
    points = np.argwhere(mask)
    row, column = points[np.abs(points - np.median(points, axis=0)).sum(1).argmin()].tolist()
    return column, row


def _draw_instances(
    image: Array, instances: InstanceData, meta: Mapping[str, Any], factor: int, score_thr: float
) -> Array:
    scores = instances.get("scores")
    if scores is not None:
        instances = instances[scores > score_thr]
        scores = instances.get("scores")
    labels = instances.get("labels")
    number = len(instances)
    if number == 0:
        return image
    classes = [0] * number if labels is None else array(labels).tolist()
    palette = _colors(meta, max(classes) + 1)
    colors = [palette[label] for label in classes]

    masks = instances.get("masks")
    if isinstance(masks, list):
        image = _draw_encoded_masks(image, masks, colors, factor)
    elif masks is not None:
        planes = array(masks).astype(bool).repeat(factor, axis=1).repeat(factor, axis=2)
        image = drawing.draw_masks(image, planes, colors, 0.5)
    canvas = torch.from_numpy(image).permute(2, 0, 1)
    boxes = instances.get("bboxes")
    if boxes is not None:
        texts = None if labels is None else [_class_name(label, meta) for label in classes]
        if texts is not None and scores is not None:
            texts = [f"{text} {score:.2f}" for text, score in zip(texts, array(scores).tolist())]
        corners = torch.as_tensor(array(getattr(boxes, "tensor", boxes))) * factor
        canvas = utils.draw_bounding_boxes(canvas, corners, texts, list(colors), width=2)
    keypoints = instances.get("keypoints")
    if keypoints is not None:
        points = (torch.as_tensor(array(keypoints))[..., :2] + 0.5) * factor - 0.5
        seen = _keypoints_seen(instances, score_thr)
        links = meta.get("skeleton_links")
        radius = max(2, min(image.shape[:2]) // 100)
        canvas = utils.draw_keypoints(canvas, points, links, colors="red", radius=radius, width=2, visibility=seen)
    return np.ascontiguousarray(canvas.permute(1, 2, 0).numpy())


def _draw_encoded_masks(
    image: Array, masks: Sequence[Mapping[str, Any]], colors: Sequence[tuple[int, int, int]], factor: int
) -> Array:
    """Draw masks given as RLE one after the other, since those of a large image would not fit into memory."""
    drawn = image.copy()
    for mask, color in zip(masks, colors):
        plane = decode_mask(mask)
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        if rows.size:
            inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            enlarged = np.s_[
                rows[0] * factor : (rows[-1] + 1) * factor, columns[0] * factor : (columns[-1] + 1) * factor
            ]
            pixels = plane[inside].repeat(factor, axis=0).repeat(factor, axis=1)
            drawn[enlarged] = drawing.draw_masks(drawn[enlarged], pixels, [color], 0.5)
    return drawn


def _keypoints_seen(instances: InstanceData, score_thr: float) -> Tensor | None:
    """Return a mask of keypoints to draw: labeled ones, or those with a score above the threshold."""
    visible, scores = instances.get("keypoints_visible"), instances.get("keypoint_scores")
    if visible is not None:
        return torch.as_tensor(array(visible)) > 0
    return None if scores is None else torch.as_tensor(array(scores)) > score_thr


def _class_name(label: int, meta: Mapping[str, Any]) -> str:
    classes = meta.get("classes") or ()
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def _colors(meta: Mapping[str, Any], number: int) -> list[tuple[int, int, int]]:
    given = meta.get("palette")
    known = given if isinstance(given, list | tuple) else ()  # "random" in some datasets
    return [drawing.rgb(tuple(color)) for color in known] + drawing.palette(number)[len(known) :]
