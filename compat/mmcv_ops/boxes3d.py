"""Boxes in three dimensions: points inside them and their features, overlaps, non-maximum suppression.

A box has a center (x, y, z), sizes along its own axes, and a heading in radians from the x axis towards the y axis.
Operators on points take the center of its bottom face instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainwright.compat.mmcv_ops.nms import survivors
from trainwright.compat.mmcv_ops.pairs import blocks, first_true, ranks
from trainwright.compat.mmcv_ops.polygons import rotated_intersections
from trainwright.compat.mmcv_ops.sampling import wide


def _in_box_frame(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return coordinates of points along the axes of boxes, from the center of the bottom face."""
    x, y, z = (points[..., i] - boxes[..., i] for i in range(3))
    cos, sin = boxes[..., 6].cos(), boxes[..., 6].sin()
    return x * cos + y * sin, y * cos - x * sin, z


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Tell which points are inside boxes, those on the bottom and the top included, those on the sides not."""
    points, boxes = wide(points), wide(boxes)
    x, y, _ = _in_box_frame(points, boxes)
    half = boxes[..., 3:6] / 2
    z = points[..., 2] - (boxes[..., 2] + half[..., 2])
    return (x.abs() < half[..., 0]) & (y.abs() < half[..., 1]) & (z.abs() <= half[..., 2])


@torch.no_grad()
def points_in_boxes_part_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Find the first box that each point is in.

    Args:
        boxes_tensor: x, y, z of the bottom center, sizes along x, y, z, heading; shape (B, T, 7).
        pts_tensor: points, shape (B, N, 3).
        box_idx_of_points_tensor: gets the index of the box, shape (B, N), int32. Left as it is for a point in none.
    """
    if boxes_tensor.shape[1] == 0:
        return
    for b, rows in blocks(pts_tensor.shape[:2], boxes_tensor.shape[1]):
        inside = _inside(pts_tensor[b, rows, None], boxes_tensor[b, None])
        first = inside.byte().argmax(-1).int()
        box_idx_of_points_tensor[b, rows] = torch.where(inside.any(-1), first, box_idx_of_points_tensor[b, rows])


@torch.no_grad()
def points_in_boxes_all_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Find all boxes that each point is in.

    Args:
        boxes_tensor: x, y, z of the bottom center, sizes along x, y, z, heading; shape (B, T, 7).
        pts_tensor: points, shape (B, N, 3).
        box_idx_of_points_tensor: gets 1 for a point inside a box, else left as it is; shape (B, N, T), int32.
    """
    for b, rows in blocks(pts_tensor.shape[:2], boxes_tensor.shape[1]):
        inside = _inside(pts_tensor[b, rows, None], boxes_tensor[b, None])
        box_idx_of_points_tensor[b, rows] = box_idx_of_points_tensor[b, rows].masked_fill(inside, 1)


@torch.no_grad()
def points_in_boxes_cpu_forward(boxes_tensor: Tensor, pts_tensor: Tensor, pts_indices_tensor: Tensor) -> None:
    """Find all boxes that each point of one cloud is in.

    Args:
        boxes_tensor: x, y, z of the bottom center, sizes along x, y, z, heading; shape (T, 7).
        pts_tensor: points, shape (N, 3).
        pts_indices_tensor: gets 1 for a point inside a box, else 0; shape (T, N), int32.
    """
    for _, rows in blocks((1, len(boxes_tensor)), len(pts_tensor)):
        pts_indices_tensor[rows] = _inside(pts_tensor, boxes_tensor[rows, None]).int()


@torch.no_grad()
def roipoint_pool3d_forward(
    xyz: Tensor, boxes3d: Tensor, pts_feature: Tensor, pooled_features: Tensor, pooled_empty_flag: Tensor
) -> None:
    """Collect the same number of points from each box.

    Shi et al., "PointRCNN: 3D Object Proposal Generation and Detection from Point Cloud", CVPR 2019.

    Args:
        xyz: points, shape (B, N, 3).
        boxes3d: x, y, z of the bottom center, sizes along x, y, z, heading; shape (B, M, 7).
        pts_feature: features of the points, shape (B, N, C).
        pooled_features: gets x, y, z and the features of the first S points inside the box, all of them again and again
            where there are fewer; shape (B, M, S, 3 + C). Left as it is for an empty box.
        pooled_empty_flag: gets 1 for an empty box, shape (B, M), int32.
    """
    samples = torch.arange(pooled_features.shape[2], device=xyz.device)
    values = torch.cat([xyz, pts_feature], -1)
    clouds = torch.arange(len(xyz), device=xyz.device)[:, None, None]
    if values.shape[1] == 0:
        pooled_empty_flag.fill_(1)
        return
    for b, rows in blocks(boxes3d.shape[:2], xyz.shape[1]):
        inside = _inside(xyz[b, None], boxes3d[b, rows, None])
        index, found = first_true(inside, len(samples))
        index = index.gather(-1, samples % found.clamp(min=1)[..., None])
        empty = found == 0
        pooled = torch.where(empty[..., None, None], pooled_features[b, rows], values[clouds[b], index])
        pooled_features[b, rows] = pooled
        pooled_empty_flag[b, rows] = pooled_empty_flag[b, rows].masked_fill(empty, 1)


def _points_of_cells(rois: Tensor, pts: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """List the points in the cells of boxes.

    Args:
        rois: boxes, shape (N, 7).
        pts: points, shape (P, 3).
        table: gets the number of points of each cell, followed by their indices; shape (N, X, Y, Z, 1 + maximum).

    Returns:
        Index of the cell in the flattened table and of the point, for all points listed, in the order of the table.
    """
    rois, pts = wide(rois), wide(pts)
    found = []
    for _, rows in blocks((1, len(rois)), len(pts)):
        roi, point = _inside(pts, rois[rows, None]).nonzero(as_tuple=True)
        found.append((roi + rows.start, point))
    roi, point = (torch.cat(parts) for parts in zip(*found))
    x, y, z = _in_box_frame(pts[point], rois[roi])
    size, cells = rois[roi, 3:6], torch.tensor(table.shape[1:4], device=rois.device)
    corner = torch.stack([x + size[:, 0] / 2, y + size[:, 1] / 2, z], -1)
    place = torch.minimum((corner / (size / cells)).long().clamp(min=0), cells - 1)
    cell = ((roi * cells[0] + place[:, 0]) * cells[1] + place[:, 1]) * cells[2] + place[:, 2]
    cell, order = cell.sort(stable=True)
    point = point[order]
    flat = table.view(-1, table.shape[4])
    sizes = torch.bincount(cell, minlength=len(flat))
    rank = ranks(cell, sizes)
    keep = rank < table.shape[4] - 1
    cell, point = cell[keep], point[keep]
    flat[cell, rank[keep] + 1] = point.to(flat.dtype)
    flat[:, 0] = sizes.clamp(max=table.shape[4] - 1)
    return cell, point


@torch.no_grad()
def roiaware_pool3d_forward(
    rois: Tensor,
    pts: Tensor,
    pts_feature: Tensor,
    argmax: Tensor,
    pts_idx_of_voxels: Tensor,
    pooled_features: Tensor,
    pool_method: int,
) -> None:
    """Pool the features of the points in each cell of a grid in each box.

    Shi et al., "From Points to Parts: 3D Object Detection from Point Cloud with Part-aware and Part-aggregation
    Network", TPAMI 2020.

    Args:
        rois: x, y, z of the bottom center, sizes along x, y, z, heading; shape (N, 7).
        pts: points, shape (P, 3).
        pts_feature: features of the points, shape (P, C).
        argmax: gets the point with the maximum, -1 for an empty cell; shape (N, X, Y, Z, C), int32. Only for maxima.
        pts_idx_of_voxels: gets the number of points of each cell, followed by the indices of the first ones; shape
            (N, X, Y, Z, 1 + maximum), int32.
        pooled_features: gets the features, shape (N, X, Y, Z, C). Left as they are for an empty cell.
        pool_method: 0 for the maximum, 1 for the mean.
    """
    if rois.numel() == 0 or pts.numel() == 0:
        argmax.fill_(-1)
        return
    cell, point = _points_of_cells(rois, pts, pts_idx_of_voxels)
    values = wide(pts_feature)[point]
    pooled = pooled_features.view(-1, pooled_features.shape[-1])
    if pool_method == 0:
        where = cell[:, None].expand_as(values)
        maximum = values.new_full(pooled.shape, -torch.inf).scatter_reduce_(0, where, values, "amax")
        candidates = torch.where((values == maximum[cell]) & (values > -torch.inf), point[:, None], len(pts))
        winner = candidates.new_full(pooled.shape, len(pts)).scatter_reduce_(0, where, candidates, "amin")
        found = winner < len(pts)
        argmax.copy_(torch.where(found, winner, -1).view(argmax.shape))
        pooled.copy_(torch.where(found, maximum, pooled))
    else:
        sizes = torch.bincount(cell, minlength=len(pooled))[:, None]
        mean = values.new_zeros(pooled.shape).index_add_(0, cell, values) / sizes.clamp(min=1)
        pooled.copy_(torch.where(sizes > 0, mean, pooled))


@torch.no_grad()
def roiaware_pool3d_backward(
    pts_idx_of_voxels: Tensor, argmax: Tensor, grad_out: Tensor, grad_in: Tensor, pool_method: int
) -> None:
    """Add gradients of :func:`roiaware_pool3d_forward` to those of the points' features.

    Args:
        pts_idx_of_voxels: number of points of each cell, followed by their indices; shape (N, X, Y, Z, 1 + maximum).
        argmax: point with the maximum, -1 for an empty cell; shape (N, X, Y, Z, C).
        grad_out: gradient of the pooled features, shape (N, X, Y, Z, C).
        grad_in: added to, shape (P, C).
        pool_method: 0 for the maximum, 1 for the mean.
    """
    gradient = wide(grad_out).flatten(0, 3)
    total = torch.zeros_like(grad_in, dtype=gradient.dtype)
    if pool_method == 0:
        cell, channel = (argmax.flatten(0, 3) >= 0).nonzero(as_tuple=True)
        point = argmax.flatten(0, 3)[cell, channel].long()
        total.view(-1).index_add_(0, point * total.shape[1] + channel, gradient[cell, channel])
    else:
        table = pts_idx_of_voxels.flatten(0, 3)
        sizes, listed = table[:, :1], table[:, 1:]
        cell, rank = (torch.arange(listed.shape[1], device=table.device) < sizes).nonzero(as_tuple=True)
        total.index_add_(0, listed[cell, rank].long(), gradient[cell] / sizes[cell])
    grad_in += total


def _birds_eye(boxes: Tensor) -> Tensor:
    """Return center, sizes and heading in the ground plane, shape (N, 5), of boxes of shape (N, 7)."""
    return wide(boxes)[:, [0, 1, 3, 4, 6]]


@torch.no_grad()
def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_iou: Tensor) -> None:
    """Compute the areas that boxes share when seen from above.

    Args:
        boxes_a: x, y, z, sizes along x, y, z, heading; shape (M, 7).
        boxes_b: boxes, shape (N, 7).
        ans_iou: gets the areas, shape (M, N).
    """
    boxes, others = _birds_eye(boxes_a), _birds_eye(boxes_b)
    for _, rows in blocks((1, len(boxes)), len(others)):
        ans_iou[rows] = rotated_intersections(boxes[rows], others).to(ans_iou.dtype)


def _suppress(
    boxes: Tensor,
    keep: Tensor,
    num_out: Tensor,
    threshold: float,
    intersections: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Keep each box that shares too much with none of those kept before it."""
    areas = boxes[:, 2] * boxes[:, 3]
    pairs = [torch.empty(2, 0, dtype=torch.long, device=boxes.device)]
    for _, rows in blocks((1, len(boxes)), len(boxes)):
        start = rows.start
        shared = intersections(boxes[rows], boxes[start:])
        overlaps = shared / (areas[rows, None] + areas[start:] - shared).clamp(min=1e-8)
        pair = (overlaps > threshold).triu(1).nonzero().T
        pairs.append(pair + start)
    first, second = torch.cat(pairs, 1)
    kept = survivors(first, second, len(boxes))
    keep[: len(kept)] = kept.to(keep.device)
    num_out.fill_(len(kept))


@torch.no_grad()
def iou3d_nms3d_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Suppress boxes that overlap a better one when seen from above.

    Args:
        boxes: x, y, z, sizes along x, y, z, heading, the best box first; shape (N, 7).
        keep: gets the indices of the boxes that are kept, shape (N,), int64.
        num_out: gets their number, shape (), int64.
        nms_overlap_thresh: intersection over union above which the later box is suppressed.
    """
    _suppress(_birds_eye(boxes), keep, num_out, nms_overlap_thresh, rotated_intersections)


@torch.no_grad()
def iou3d_nms3d_normal_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Suppress boxes as :func:`iou3d_nms3d_forward` does, as if their headings were zero.

    Args:
        boxes: x, y, z, sizes along x, y, z, heading, the best box first; shape (N, 7).
        keep: gets the indices of the boxes that are kept, shape (N,), int64.
        num_out: gets their number, shape (), int64.
        nms_overlap_thresh: intersection over union above which the later box is suppressed.
    """
    _suppress(_birds_eye(boxes), keep, num_out, nms_overlap_thresh, _upright_intersections)


def _upright_intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the areas that boxes of shape (N, 5) and (M, 5) share if their headings are zero, shape (N, M)."""
    low, high = boxes[:, None, :2] - boxes[:, None, 2:4] / 2, boxes[:, None, :2] + boxes[:, None, 2:4] / 2
    other_low, other_high = others[:, :2] - others[:, 2:4] / 2, others[:, :2] + others[:, 2:4] / 2
    return (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(-1)


@torch.no_grad()
def diff_iou_rotated_sort_vertices_forward(vertices: Tensor, mask: Tensor, num_valid: Tensor) -> Tensor:
    """Sort the vertices of the polygon that two boxes share, counterclockwise.

    Zhou et al., "IoU Loss for 2D/3D Object Detection", 3DV 2019.

    Args:
        vertices: corners of both boxes, then intersections of their edges, around their mean; shape (B, N, 24, 2).
        mask: which of them are vertices of the polygon, shape (B, N, 24), bool.
        num_valid: number of vertices of the polygon, shape (B, N), int32.

    Returns:
        Indices of the vertices, beginning at the positive x axis; then the first again; then that of an intersection
        that is no vertex. Shape (B, N, 9), int32. Of vertices in the same place only the first one counts.
    """
    pieces = blocks((1, mask.shape[:2].numel()), mask.shape[2] ** 2)
    vertices, mask, shape = wide(vertices).flatten(0, 1), mask.flatten(0, 1), mask.shape[:2]
    indices = [_sort_vertices(vertices[rows], mask[rows]) for _, rows in pieces]
    return torch.cat(indices).view(*shape, 9) if indices else num_valid.new_zeros(*shape, 9)


def _sort_vertices(vertices: Tensor, mask: Tensor) -> Tensor:
    """Return the indices of vertices of shape (P, 24, 2), shape (P, 9)."""
    x, y = vertices.unbind(-1)
    same = ((x[:, :, None] - x[:, None]).abs() < 1e-8) & ((y[:, :, None] - y[:, None]).abs() < 1e-8)
    distinct = mask & ~(same & mask[:, None]).tril(-1).any(-1)
    angle = torch.atan2(y, x)
    angle = torch.where(angle < 0, angle + 2 * torch.pi, angle)
    order = torch.where(distinct, angle, torch.inf).argsort(dim=1, stable=True)[:, :9]
    number = distinct.sum(1, keepdim=True).clamp(max=8)
    padding = 8 + mask[:, 8:].byte().argmin(1, keepdim=True)
    place = torch.arange(9, device=mask.device)
    order = torch.where(place < number, order, torch.where(place == number, order[:, :1], padding))
    return torch.where(number >= 3, order, padding).int()
