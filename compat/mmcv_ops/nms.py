"""Non-maximum suppression and overlaps of boxes, rotated boxes and polygons."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor

from trainwright.compat.mmcv_ops import polygons
from trainwright.compat.mmcv_ops.sampling import gradients, wide, without_autocast


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the boxes kept by greedy suppression, by falling score.

    Args:
        boxes: Corners (x1, y1, x2, y2) of shape (N, 4), in pixels.
        scores: Scores of shape (N,).
        iou_threshold: A box is dropped if it overlaps a kept one by more than this.
        offset: What is added to widths and heights: 1 counts x2 and y2 as part of the box, 0 does not.

    Returns:
        Indices, of type int64.
    """
    boxes = wide(boxes)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    return torch.as_tensor(torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Return the order in which boxes are picked while the scores of those that they overlap decay.

    From `Soft-NMS -- Improving Object Detection With One Line of Code <https://arxiv.org/abs/1704.04503>`_. It runs on
    the CPU, one pick after the other.

    Args:
        boxes: Corners of shape (N, 4).
        scores: Scores of shape (N,).
        dets: Takes the boxes with their final scores, of shape (N, 5), in the order of picking.
        iou_threshold: From which overlap scores decay, for methods 0 and 1.
        sigma: Width of the decay of method 2.
        min_score: A box is dropped when its score falls below.
        method: 0 drops what overlaps, 1 multiplies its score by 1 - IoU, 2 any score by exp(-IoU² / sigma).
        offset: What is added to widths and heights, 0 or 1.

    Returns:
        Indices of the boxes that remain.
    """
    left, top, right, bottom = boxes.detach().cpu().float().numpy().T.copy()
    score = scores.detach().cpu().float().numpy().copy()
    areas = (right - left + offset) * (bottom - top + offset)
    order, count = np.arange(len(score)), len(score)
    picked = 0
    while picked < count:
        best = picked + int(score[picked:count].argmax())
        order[[picked, best]], score[[picked, best]] = order[[best, picked]], score[[best, picked]]
        chosen, rest = order[picked], order[picked + 1 : count]
        width = np.minimum(right[chosen], right[rest]) - np.maximum(left[chosen], left[rest]) + offset
        height = np.minimum(bottom[chosen], bottom[rest]) - np.maximum(top[chosen], top[rest]) + offset
        shared = width.clip(0) * height.clip(0)
        union = areas[chosen] + areas[rest] - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        if method == 2:
            decay = np.exp(-(iou * iou) / np.float32(sigma))
        else:
            decay = np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1).astype(np.float32)
        picked += 1
        score[picked:count] *= decay
        # The last of those that remain fill the gaps, in turn: it decides between equal scores.
        alive = np.flatnonzero(score[picked:count] >= min_score)
        gaps = np.setdiff1d(np.arange(len(alive)), alive)
        source = np.arange(len(alive))
        source[gaps] = alive[alive >= len(alive)][::-1]
        order[picked : picked + len(alive)] = rest[source]
        score[picked : picked + len(alive)] = score[picked + source]
        count = picked + len(alive)
    kept = torch.from_numpy(order[:count])
    dets[:count, :4] = boxes[kept.to(boxes.device)].to(dets)
    dets[:count, 4] = torch.from_numpy(score[:count]).to(dets)
    return kept.to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return groups of boxes: each kept box, and those that it suppresses, by falling score.

    From `Prime Sample Attention in Object Detection <https://arxiv.org/abs/1904.04821>`_.

    Args:
        dets: Corners and score of shape (N, 5).
        iou_threshold: From which overlap a box is suppressed.
    """
    boxes = dets[:, :4].detach().cpu().float()
    waiting = dets[:, 4].detach().cpu().argsort(descending=True, stable=True)
    groups = []
    while len(waiting):
        iou = torchvision.ops.box_iou(boxes[waiting[:1]], boxes[waiting])[0]
        matched = iou >= iou_threshold
        matched[0] = True
        groups.append(waiting[matched].tolist())
        waiting = waiting[~matched]
    return groups


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Return the rotated boxes kept by greedy suppression, by falling score.

    Args:
        dets: Boxes of shape (N, 5) or more columns.
        scores: Scores of shape (N,).
        order: Indices by falling score.
        dets_sorted: ``dets`` in that order.
        labels: Not used: as in mmcv 2.2, boxes suppress those of other classes too.
        iou_threshold: A box is dropped if it overlaps a kept one by more than this.
        multi_label: Not used.
    """
    boxes = wide(dets_sorted)[:, :5]
    first, second = polygons.near_boxes(boxes, boxes)
    first, second = first[first < second], second[first < second]
    shared = polygons.rotated_intersections(boxes[first], boxes[second], aligned=True)
    areas = boxes[:, 2] * boxes[:, 3]
    overlap = _ratio(shared, areas[first] + areas[second] - shared) > iou_threshold
    return order[survivors(first[overlap], second[overlap], len(order))]


def nms_quadri(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """Return the quadrilaterals kept by greedy suppression, by falling score.

    Args:
        dets: Corners (x1, y1, ..., x4, y4) of shape (N, 8) or more columns.
        scores: Scores of shape (N,).
        order: Indices by falling score.
        dets_sorted: ``dets`` in that order.
        iou_threshold: One is dropped if it overlaps a kept one by more than this.
        multi_label: Not used: as in mmcv 2.2, boxes suppress those of other classes too.
    """
    quads = wide(dets_sorted)[:, :8].reshape(-1, 4, 2)
    first, second = polygons.near_polygons(quads, quads)
    first, second = first[first < second], second[first < second]
    shared = polygons.polygon_intersections(quads[first], quads[second], aligned=True)
    areas = polygons.polygon_areas(quads)
    overlap = _ratio(shared, areas[first] + areas[second] - shared) > iou_threshold
    return order[survivors(first[overlap], second[overlap], len(order))]


def survivors(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return which of ``count`` boxes remain if a box that remains, ``first``, drops the later ``second``.

    Each round settles all whose suppressors are settled, as boxes fall in chains that are short. The fixed point is
    that of the loop over boxes.
    """
    kept = torch.ones(count, dtype=torch.bool, device=first.device)
    while True:
        before = kept
        kept = torch.ones_like(before)
        kept[second[before[first]]] = False
        if torch.equal(kept, before):
            return kept.nonzero().squeeze(1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return ``part / whole``, and 0 where the whole is empty."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool = False, offset: int = 0
) -> None:
    """Compute overlaps of boxes into ``ious``.

    Args:
        bboxes1: Corners (x1, y1, x2, y2) of shape (N, 4).
        bboxes2: Corners of shape (M, 4).
        ious: Takes the overlaps, of shape (N, M), or (N,) if aligned.
        mode: 0 divides by the union, 1 by the area of the first box.
        aligned: Compare row by row.
        offset: What is added to widths and heights, 0 or 1.
    """
    first, second = wide(bboxes1), wide(bboxes2)
    area1, area2 = ((b[:, 2] - b[:, 0] + offset) * (b[:, 3] - b[:, 1] + offset) for b in (first, second))
    if not aligned:
        first, area1 = first[:, None], area1[:, None]
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    ious.copy_(_ratio(shared, area1.expand_as(shared) if mode == 1 else area1 + area2 - shared))


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Compute overlaps of rotated boxes of shapes (N, 5) and (M, 5) into ``ious``, of N * M or, aligned, N values.

    ``mode_flag`` 0 divides by the union, 1 by the area of the first box.
    """
    first, second = wide(boxes1), wide(boxes2)
    shared = polygons.rotated_intersections(first, second, aligned)
    areas = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    ious.copy_(_overlaps(shared, *areas, mode_flag, aligned).reshape(ious.shape))


def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Compute overlaps of quadrilaterals of shapes (N, 8) and (M, 8), as ``box_iou_rotated`` does."""
    first, second = (wide(boxes).reshape(-1, 4, 2) for boxes in (boxes1, boxes2))
    shared = polygons.polygon_intersections(first, second, aligned)
    areas = polygons.polygon_areas(first), polygons.polygon_areas(second)
    ious.copy_(_overlaps(shared, *areas, mode_flag, aligned).reshape(ious.shape))


def _overlaps(shared: Tensor, area1: Tensor, area2: Tensor, mode: int, aligned: bool) -> Tensor:
    if not aligned:
        area1 = area1[:, None]
    return _ratio(shared, area1.expand_as(shared) if mode == 1 else area1 + area2 - shared)


def convex_iou(pointsets: Tensor, polygons_: Tensor, ious: Tensor) -> None:
    """Compute the IoU of the convex hulls of point sets (N, 18) with quadrilaterals (K, 8) into ``ious`` (N, K)."""
    points, quads = wide(pointsets).reshape(len(pointsets), -1, 2), wide(polygons_).reshape(-1, 4, 2)
    hulls = polygons.convex_hulls(points)
    shared = polygons.polygon_intersections(hulls, quads)
    areas = polygons.polygon_areas(hulls), polygons.polygon_areas(quads)
    ious.copy_(_overlaps(shared, *areas, 0, False))


def convex_giou(pointsets: Tensor, polygons_: Tensor, output: Tensor) -> None:
    """Compute the generalized IoU of the convex hulls of point sets with a quadrilateral each, and its gradient.

    From `Generalized Intersection over Union <https://arxiv.org/abs/1902.09630>`_ and, for hulls of points, `Beyond
    Bounding-Box: Convex-hull Feature Adaptation <https://openaccess.thecvf.com/content/CVPR2021/html/Guo_Beyond_
    Bounding-Box_Convex-Hull_Feature_Adaptation_for_Oriented_and_Densely_Packed_CVPR_2021_paper.html>`_.

    Args:
        pointsets: Nine points (x1, y1, ..., x9, y9) of shape (N, 18).
        polygons_: Quadrilaterals of shape (N, 8).
        output: Takes the gradient for the points in columns 0 to 17 and the value in column 18, of shape (N, 19).
    """
    points, quads = wide(pointsets).reshape(len(pointsets), -1, 2), wide(polygons_).reshape(-1, 4, 2)
    if not len(points):
        return

    def giou(points: Tensor) -> Tensor:
        hulls = polygons.convex_hulls(points)
        shared = polygons.polygon_intersections(hulls, quads, aligned=True)
        union = polygons.polygon_areas(hulls) + polygons.polygon_areas(quads) - shared
        around = polygons.polygon_areas(polygons.convex_hulls(torch.cat([points, quads], 1)))
        return _ratio(shared, union) - _ratio(around - union, around)

    values = giou(points)
    (grad,) = gradients(giou, [points], torch.ones_like(values))
    output.copy_(torch.cat([grad.flatten(1), values[:, None]], 1))


@without_autocast
def min_area_polygons(pointsets: Tensor, polygons_: Tensor) -> None:
    """Compute the smallest rectangles of any rotation around point sets (N, 18) into ``polygons_`` (N, 8).

    Corners are in the order (x_max, y_min), (x_min, y_min), (x_min, y_max), (x_max, y_max) of the turned frame. One
    side of the smallest rectangle lies on the convex hull (Freeman and Shapira 1975, doi:10.1145/360881.360919).
    """
    points = wide(pointsets).reshape(len(pointsets), -1, 2)
    if not len(points):
        return
    hulls = polygons.convex_hulls(points)
    sides = hulls.roll(-1, 1) - hulls
    angles = torch.atan2(sides[..., 1], sides[..., 0]).remainder(torch.pi / 2)  # (N, sides)
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)  # (N, sides, 2, 2)
    turned = torch.einsum("nsij,npj->nspi", turns, points)
    low, high = turned.aminmax(dim=2)
    areas = (high - low).prod(-1)
    best = (areas <= areas.amin(1, keepdim=True) * (1 + 1e-5)).long().argmax(1)  # of equal ones, the first
    each = torch.arange(len(points), device=points.device)
    (left, top), (right, bottom) = low[each, best].unbind(1), high[each, best].unbind(1)
    box = torch.stack([right, top, left, top, left, bottom, right, bottom], 1).view(-1, 4, 2)
    polygons_.copy_((box @ turns[each, best]).flatten(1))


def points_in_polygons_forward(points: Tensor, polygons_: Tensor, output: Tensor) -> None:
    """Set ``output`` (B, M) to 1 where a point (B, 2) lies in a quadrilateral (M, 8), else to 0, by even-odd rule."""
    x, y = points[:, 0, None, None], points[:, 1, None, None]
    start_x, start_y = polygons_.reshape(-1, 4, 2).unbind(-1)
    end_x, end_y = start_x.roll(1, 1), start_y.roll(1, 1)
    crosses = (start_y < y) != (end_y < y)
    at = start_x + (y - start_y) * (end_x - start_x) / torch.where(end_y == start_y, 1, end_y - start_y)
    output.copy_((crosses & (at > x)).sum(-1) % 2)
