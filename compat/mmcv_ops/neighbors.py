"""Neighbors in point clouds: ball query, nearest neighbors, furthest point sampling.

Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space", NeurIPS 2017.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainwright.compat.mmcv_ops.pairs import blocks, first_true
from trainwright.compat.mmcv_ops.sampling import wide


def _coordinates(points: Tensor) -> Tensor:
    """Return points of shape (B, N, 3) as (B, 3, N), in the precision to compute with."""
    return wide(points).transpose(1, 2).contiguous()


def _squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Return the squared distances from (B, 3, M) to (B, 3, N), shape (B, M, N), without cancellation."""
    total: Tensor | None = None
    for query, point in zip(queries.unbind(1), points.unbind(1)):
        difference = query[:, :, None] - point[:, None]
        total = difference.square_() if total is None else total.addcmul_(difference, difference)
    assert total is not None
    return total


def _square(radius: float) -> float:
    """Return the square of a radius in single precision, as mmcv computes it."""
    return torch.tensor(radius, dtype=torch.float32).square().item()


def _query_balls(queries: Tensor, points: Tensor, index: Tensor, minimum: float, maximum: float) -> Tensor:
    """Write the first points in each shell into ``index`` and return the number of them, shape (B, M)."""
    centers, points = _coordinates(queries), _coordinates(points)
    samples = torch.arange(index.shape[2], device=index.device)
    number = torch.zeros(index.shape[:2], dtype=torch.long, device=index.device)
    for b, rows in blocks(index.shape[:2], points.shape[2]):
        distance = _squared_distances(centers[b, :, rows], points[b])
        within = (distance == 0) | ((distance >= _square(minimum)) & (distance < _square(maximum)))
        first, found = first_true(within, index.shape[2])
        found = found[..., None]
        first = torch.where(samples < found, first, first[..., :1])
        index[b, rows] = torch.where(found > 0, first.to(index.dtype), index[b, rows])
        number[b, rows] = found[..., 0]
    return number


@torch.no_grad()
def ball_query_forward(
    new_xyz_tensor: Tensor,
    xyz_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    min_radius: float,
    max_radius: float,
    nsample: int,
) -> None:
    """Find points whose distance from a center is at least ``min_radius`` and below ``max_radius`` (PointNet++).

    A point at the center is always found.

    Args:
        new_xyz_tensor: centers, shape (B, M, 3).
        xyz_tensor: points, shape (B, N, 3).
        idx_tensor: gets the indices of the first ``nsample`` points in the order of the cloud, repeating the first
            where there are fewer; shape (B, M, nsample), int32. Left as it is for a center that has none.
        b: B.
        n: N.
        m: M.
        min_radius: inner radius, in the unit of the points.
        max_radius: outer radius.
        nsample: points per center.
    """
    _query_balls(new_xyz_tensor, xyz_tensor, idx_tensor, min_radius, max_radius)


@torch.no_grad()
def stack_ball_query_forward(
    new_xyz_tensor: Tensor,
    new_xyz_batch_cnt: Tensor,
    xyz_tensor: Tensor,
    xyz_batch_cnt: Tensor,
    idx_tensor: Tensor,
    max_radius: float,
    nsample: int,
) -> None:
    """Find points closer than ``max_radius`` in clouds of different sizes, one after the other.

    Shi et al., "PV-RCNN: Point-Voxel Feature Set Abstraction for 3D Object Detection", CVPR 2020.

    Args:
        new_xyz_tensor: centers of all clouds, shape (M1 + M2 + ..., 3).
        new_xyz_batch_cnt: M1, M2, ...; shape (B,), int32.
        xyz_tensor: points of all clouds, shape (N1 + N2 + ..., 3).
        xyz_batch_cnt: N1, N2, ...; shape (B,), int32.
        idx_tensor: gets indices within the cloud, as :func:`ball_query_forward` has them; shape (M1 + M2 + ...,
            nsample), int32. The first is -1 for a center that has none.
        max_radius: radius, in the unit of the points.
        nsample: points per center.
    """
    centers = torch.split(new_xyz_tensor, new_xyz_batch_cnt.tolist())
    clouds = torch.split(xyz_tensor, xyz_batch_cnt.tolist())
    indices = torch.split(idx_tensor, new_xyz_batch_cnt.tolist())
    for center, cloud, index in zip(centers, clouds, indices):
        found = _query_balls(center[None], cloud[None], index[None], 0.0, max_radius)
        index[found[0] == 0, 0] = -1


def _nearest(distance: Tensor, count: int) -> Tensor:
    """Return the indices of the smallest distances of each row, sorted, the lower index first among equal ones."""
    if distance.dtype != torch.float32:
        infinity = float("inf")  # instead of NaN, which came first on CUDA
        return distance.nan_to_num(infinity, posinf=infinity).argsort(dim=-1, stable=True)[..., :count]
    # The bits of floats without a sign are ordered as the floats are, NaN last, and the index breaks ties.
    key = (distance.view(torch.int32) & 0x7FFFFFFF).long().bitwise_left_shift_(32)
    key |= torch.arange(distance.shape[-1], device=distance.device)
    return key.topk(count, largest=False).values & 0xFFFFFFFF


def _query_nearest(queries: Tensor, points: Tensor, index: Tensor, squared: Tensor, furthest: float) -> None:
    """Write indices and squared distances of the nearest points closer than ``furthest``, else 0 and ``furthest``."""
    queries, points = _coordinates(queries), _coordinates(points)
    index.zero_()
    squared.fill_(furthest)
    count = min(index.shape[2], points.shape[2])
    for b, rows in blocks(index.shape[:2], points.shape[2]):
        distance = _squared_distances(queries[b, :, rows], points[b])
        nearest = _nearest(distance, count)
        distance = distance.gather(-1, nearest)
        near = distance < furthest
        index[b, rows, :count] = torch.where(near, nearest, 0).to(index.dtype)
        squared[b, rows, :count] = torch.where(near, distance, furthest).to(squared.dtype)


@torch.no_grad()
def knn_forward(
    xyz_tensor: Tensor,
    new_xyz_tensor: Tensor,
    idx_tensor: Tensor,
    dist2_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    nsample: int,
) -> None:
    """Find the nearest points of each center.

    Xu et al., "PAConv: Position Adaptive Convolution with Dynamic Kernel Assembling on Point Clouds", CVPR 2021.

    Args:
        xyz_tensor: points, shape (B, N, 3).
        new_xyz_tensor: centers, shape (B, M, 3).
        idx_tensor: gets the indices of the points, the nearest first; shape (B, M, nsample), int32. Zero where there
            are fewer than ``nsample`` points.
        dist2_tensor: gets the squared distances, same shape; 1e10 where there are fewer points.
        b: B.
        n: N.
        m: M.
        nsample: points per center.
    """
    _query_nearest(new_xyz_tensor, xyz_tensor, idx_tensor, dist2_tensor, 1e10)


@torch.no_grad()
def three_nn_forward(
    unknown_tensor: Tensor, known_tensor: Tensor, dist2_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """Find the three nearest points, to interpolate their features (PointNet++).

    Args:
        unknown_tensor: points without features, shape (B, N, 3).
        known_tensor: points with features, shape (B, M, 3).
        dist2_tensor: gets the squared distances in ascending order, shape (B, N, 3); infinity beyond M points.
        idx_tensor: gets the indices of the known points, shape (B, N, 3), int32; zero beyond M points.
        b: B.
        n: N.
        m: M.
    """
    _query_nearest(unknown_tensor, known_tensor, idx_tensor, dist2_tensor, float("inf"))


def _sample_furthest(distances_from: Callable[[Tensor], Tensor], nearest: Tensor, index: Tensor) -> None:
    """Begin with point 0, then take the point furthest from those taken, the lowest index among equal ones.

    Args:
        distances_from: returns distances of all points from one point in each cloud, shape (B, N).
        nearest: distance of each point from the nearest taken point, updated; shape (B, N).
        index: gets the taken points, shape (B, M).
    """
    last = torch.zeros(len(nearest), dtype=torch.long, device=nearest.device)
    taken = [last]
    for _ in range(index.shape[1] - 1):
        torch.fmin(nearest, distances_from(last), out=nearest)
        last = nearest.argmax(1)
        taken.append(last)
    index.copy_(torch.stack(taken, 1)[:, : index.shape[1]])


@torch.no_grad()
def furthest_point_sampling_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """Sample points that are far from each other (PointNet++).

    Args:
        points_tensor: points, shape (B, N, 3).
        temp_tensor: a large number for each point, overwritten; shape (B, N), float32.
        idx_tensor: gets the indices of the sampled points, shape (B, M), int32.
        b: B.
        n: N.
        m: M.
    """
    points = _coordinates(points_tensor)

    def distances_from(point: Tensor) -> Tensor:
        center = points.gather(2, point[:, None, None].expand(-1, 3, 1))
        return (points - center).square_().sum(1)

    _sample_furthest(distances_from, temp_tensor.to(points), idx_tensor)


@torch.no_grad()
def furthest_point_sampling_with_dist_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """Sample points that are far from each other by given distances.

    Yang et al., "3DSSD: Point-based 3D Single Stage Object Detector", CVPR 2020.

    Args:
        points_tensor: distance of each pair of points, shape (B, N, N).
        temp_tensor: a large number for each point, overwritten; shape (B, N).
        idx_tensor: gets the indices of the sampled points, shape (B, M), int32.
        b: B.
        n: N.
        m: M.
    """
    clouds = torch.arange(len(points_tensor), device=points_tensor.device)
    _sample_furthest(lambda point: points_tensor[clouds, point], temp_tensor.to(points_tensor), idx_tensor)
