"""Areas shared by rotated boxes and by polygons, without sorting vertices.

The area that polygon P shares with a region whose vertical sections are ``[0, c(x)]`` is the sum over the directed
edges ``y(x)`` of P of the integral of ``clamp(y(x), 0, c(x))``: Green's theorem with the height cut to the region. Each
edge contributes on its own and continuously, so identical, touching and empty polygons need no special case, and
autograd gives the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 21
"""How many pairs are computed in one go, which bounds the memory that a large matrix needs."""


def rotated_intersections(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """Return the areas shared by rotated boxes.

    Args:
        boxes1: Boxes of shape (N, 5): center x and y, width, height, and the angle in radians by which the box is
            turned from the x axis towards the y axis.
        boxes2: Boxes of shape (M, 5).
        aligned: Compare the boxes row by row, which needs N = M, instead of all pairs.

    Returns:
        Areas of shape (N, M), or (N,) if aligned.
    """
    if aligned:
        return _box_areas(boxes1, boxes2)
    areas = boxes1.new_zeros((len(boxes1), len(boxes2)))
    first, second = near_boxes(boxes1, boxes2)
    return areas.index_put((first, second), _box_areas(boxes1[first], boxes2[second]))


def near_boxes(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of all pairs of rotated boxes whose circumscribed circles meet."""
    reach1, reach2 = (boxes[:, 2:4].norm(dim=1) / 2 for boxes in (boxes1, boxes2))

    def near(rows: Tensor) -> Tensor:
        distances = (boxes1[rows, None, :2] - boxes2[None, :, :2]).norm(dim=-1)
        return torch.le(distances, reach1[rows, None] + reach2)

    return _pairs(near, len(boxes1), len(boxes2), boxes1.device)


def _box_areas(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the shared areas of boxes with broadcast shapes (..., 5)."""
    x1, y1, width1, height1, angle1 = boxes1.unbind(-1)
    x2, y2, width2, height2, angle2 = boxes2.unbind(-1)
    # The corners of the second box in the frame in which the first is [0, width] x [0, height].
    cos, sin = angle1.cos(), angle1.sin()
    dx, dy = x2 - x1, y2 - y1
    center_x, center_y = dx * cos + dy * sin + width1 / 2, dy * cos - dx * sin + height1 / 2
    turned_cos, turned_sin = (angle2 - angle1).cos(), (angle2 - angle1).sin()
    along_x, along_y = turned_cos * width2 / 2, turned_sin * width2 / 2
    across_x, across_y = -turned_sin * height2 / 2, turned_cos * height2 / 2
    corners = [
        (center_x + a * along_x + b * across_x, center_y + a * along_y + b * across_y)
        for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))
    ]
    total = torch.zeros_like(center_x)
    for (start_x, start_y), (end_x, end_y) in zip(corners, corners[1:] + corners[:1]):
        left, right, low, high = _cut(start_x, start_y, end_x, end_y, width1)
        total = total + (right - left) * (_mean_above(low, high) - _mean_above(low - height1, high - height1))
    return torch.minimum(total.clamp(min=0), torch.minimum(width1 * height1, width2 * height2))


def polygon_intersections(polygons1: Tensor, polygons2: Tensor, aligned: bool = False) -> Tensor:
    """Return the areas shared by simple polygons, whatever their orientation.

    Args:
        polygons1: Vertices of shape (N, A, 2).
        polygons2: Vertices of shape (M, B, 2).
        aligned: Compare row by row, which needs N = M, instead of all pairs.

    Returns:
        Areas of shape (N, M), or (N,) if aligned.
    """
    if aligned:
        return _polygon_areas(polygons1, polygons2)
    areas = polygons1.new_zeros((len(polygons1), len(polygons2)))
    first, second = near_polygons(polygons1, polygons2)
    return areas.index_put((first, second), _polygon_areas(polygons1[first], polygons2[second]))


def near_polygons(polygons1: Tensor, polygons2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of all pairs of polygons whose bounding boxes meet."""
    if not (len(polygons1) and len(polygons2)):
        return (torch.empty(0, dtype=torch.long, device=polygons1.device),) * 2
    (low1, high1), (low2, high2) = (polygons.aminmax(dim=1) for polygons in (polygons1, polygons2))

    def near(rows: Tensor) -> Tensor:
        return ((low1[rows, None] <= high2) & (low2 <= high1[rows, None])).all(-1)

    return _pairs(near, len(polygons1), len(polygons2), polygons1.device)


def _pairs(near: Callable[[Tensor], Tensor], rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row and column of each true element of a matrix, which ``near`` gives for a range of rows."""
    parts = torch.split(torch.arange(rows, device=device), max(1, PAIRS_AT_ONCE // max(1, columns)))
    found = [(part, *near(part).nonzero(as_tuple=True)) for part in parts]
    first = torch.cat([part[row] for part, row, _ in found])
    return first, torch.cat([column for _, _, column in found])


def _polygon_areas(polygons1: Tensor, polygons2: Tensor) -> Tensor:
    """Return the shared areas of polygons with broadcast shapes (..., vertices, 2).

    The second polygon is a sum of signed triangles from a point. Each is mapped to the triangle below ``1 - x`` in the
    unit square, with the edges of the first polygon. The point is one through which no line of interest goes: where a
    vertex lies on the border between two triangles, the gradient of each is one-sided.
    """
    count = polygons2.shape[-2]
    weights = torch.linspace(1, 1.618, count, dtype=polygons2.dtype, device=polygons2.device)
    origin = (polygons2 * (weights / weights.sum())[:, None]).sum(-2, keepdim=True)
    fan, moved = polygons2 - origin, polygons1 - origin
    total = moved.new_zeros(moved.shape[:-2])
    for i in range(count):
        (ax, ay), (bx, by) = fan[..., i - 1, :].unbind(-1), fan[..., i, :].unbind(-1)
        doubled = ax * by - ay * bx
        scale = torch.where(doubled == 0, 1, doubled)[..., None]
        x = (moved[..., 0] * by[..., None] - moved[..., 1] * bx[..., None]) / scale
        y = (moved[..., 1] * ax[..., None] - moved[..., 0] * ay[..., None]) / scale
        left, right, low, high = _cut(x, y, x.roll(-1, -1), y.roll(-1, -1), 1)
        shared = (right - left) * (_mean_above(low, high) - _mean_above(low - (1 - left), high - (1 - right)))
        total = (
            total + shared.sum(-1) * doubled.abs()
        )  # a clockwise triangle mirrors the first polygon: its sign changes
    areas = polygon_areas(polygons1), polygon_areas(polygons2)
    return torch.minimum(total.abs(), torch.minimum(*areas))


def polygon_areas(polygons: Tensor) -> Tensor:
    """Return the areas of simple polygons of shape (..., vertices, 2)."""
    x, y = (polygons - polygons[..., :1, :]).unbind(-1)
    return ((x * y.roll(-1, -1) - y * x.roll(-1, -1)).sum(-1) / 2).abs()


def _cut(
    start_x: Tensor, start_y: Tensor, end_x: Tensor, end_y: Tensor, width: Tensor | float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut edges to ``0 <= x <= width``: return their first and last x and the y there; outside, both x are equal."""
    run = end_x - start_x
    slope_run = torch.where(run == 0, 1, run)
    rise = end_y - start_y
    width = torch.as_tensor(width, dtype=start_x.dtype, device=start_x.device)
    left, right = (torch.minimum(x.clamp(min=0), width) for x in (start_x, end_x))
    low, high = (start_y + ((x - start_x) / slope_run).clamp(0, 1) * rise for x in (left, right))
    return left, right, low, high


def _mean_above(start: Tensor, end: Tensor) -> Tensor:
    """Return the mean of ``max(y, 0)`` while y goes from start to end."""
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    crossing = (low < 0) & (high > 0)
    triangle = high.clamp(min=0).square() / (2 * torch.where(crossing, high - low, 1))
    return torch.where(crossing, triangle, ((low + high) / 2).clamp(min=0))


def convex_hulls(points: Tensor) -> Tensor:
    """Return the convex hulls of point sets, by gift wrapping.

    Args:
        points: Points of shape (N, P, 2).

    Returns:
        Corners of shape (N, P, 2), in one turning direction; the first is repeated at the end where a hull has fewer.
    """
    each = torch.arange(len(points), device=points.device)
    with torch.no_grad():
        # The lowest point, of several the leftmost, is a corner.
        lowest = points[..., 1] == points[..., 1].amin(1, keepdim=True)
        start = torch.where(lowest, points[..., 0], torch.inf).argmin(1)
        corner, closed = start, torch.zeros_like(start, dtype=torch.bool)
        found = []
        for _ in range(points.shape[1]):
            found.append(corner)
            steps = points - points[each, corner][:, None]
            following, reach = corner, torch.zeros_like(steps[:, 0])
            for i in range(points.shape[1]):
                step = steps[:, i]
                turn = reach[:, 0] * step[:, 1] - reach[:, 1] * step[:, 0]
                farther = step.square().sum(1) > reach.square().sum(1)
                better = (turn < 0) | ((turn == 0) & farther)
                following = torch.where(better, i, following)
                reach = torch.where(better[:, None], step, reach)
            closed |= following == start
            corner = torch.where(closed, start, following)
    return points[each[:, None], torch.stack(found, 1)]
