"""Points sorted into voxels, and features of the points of each voxel reduced to one.

Zhou and Tuzel, "VoxelNet: End-to-End Learning for Point Cloud Based 3D Object Detection", CVPR 2018.
Zhou et al., "End-to-End Multi-View Fusion for 3D Object Detection in LiDAR Point Clouds", CoRL 2019 (dynamic voxels).
"""

import math

import torch
from torch import Tensor

from trainwright.compat.mmcv_ops.pairs import ranks, unique_rows
from trainwright.compat.mmcv_ops.sampling import wide


def _cells(points: Tensor, voxel_size: Tensor, coors_range: Tensor, NDim: int) -> tuple[Tensor, Tensor]:
    """Return the voxel of each point in the order z, y, x, and whether it is within the range."""
    size, low, high = voxel_size.float(), coors_range[:NDim].float(), coors_range[NDim:].float()
    grid = [math.floor(cells + 0.5) for cells in ((high - low) / size).tolist()]
    low, size = low.to(points.device), size.to(points.device)
    cells = ((wide(points[:, :NDim]) - low) / size).floor()
    inside = ((cells >= 0) & (cells < torch.tensor(grid, device=points.device))).all(1)
    return cells.flip(1), inside


@torch.no_grad()
def dynamic_voxelize_forward(
    points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor, NDim: int = 3
) -> None:
    """Find the voxel of each point.

    Args:
        points: x, y, z and further features, shape (N, C).
        voxel_size: size along x, y, z; shape (3,), float32 on the CPU.
        coors_range: x, y, z of the lowest corner and of the highest one, shape (6,), float32 on the CPU.
        coors: gets the voxel of each point along z, y, x, or -1, -1, -1 out of the range; shape (N, 3), int32.
        NDim: 3.
    """
    cells, inside = _cells(points, voxel_size, coors_range, NDim)
    coors.copy_(torch.where(inside[:, None], cells, -1))


@torch.no_grad()
def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Collect the points of each voxel, up to fixed numbers of points and of voxels.

    Voxels are in the order of their first points. The first points of each are kept.

    Args:
        points: x, y, z and further features, shape (N, C).
        voxel_size: size along x, y, z; shape (3,), float32 on the CPU.
        coors_range: x, y, z of the lowest corner and of the highest one, shape (6,), float32 on the CPU.
        voxels: gets the points, shape (max_voxels, max_points, C).
        coors: gets the voxels along z, y, x; shape (max_voxels, 3), int32.
        num_points_per_voxel: gets the number of points kept in each voxel, shape (max_voxels,), int32.
        voxel_num: gets the number of voxels, shape (), int64.
        max_points: points of a voxel.
        max_voxels: number of voxels.
        NDim: 3.
        deterministic: ignored: the result is always the same.
    """
    cells, inside = _cells(points, voxel_size, coors_range, NDim)
    points, cells = points[inside], cells[inside].long()
    first, group, sizes = unique_rows(cells)
    order = first.argsort()
    first, sizes = first[order], sizes[order]
    voxel = order.argsort()[group]
    by_voxel = voxel.argsort(stable=True)
    voxel = voxel[by_voxel]
    rank = ranks(voxel, sizes)
    keep = (rank < max_points) & (voxel < max_voxels)
    voxels[voxel[keep], rank[keep]] = points[by_voxel[keep]]
    number = min(len(first), max_voxels)
    coors[:number] = cells[first[:number]].to(coors.dtype)
    num_points_per_voxel[:number] = sizes[:number].clamp(max=max_points).to(num_points_per_voxel.dtype)
    voxel_num.fill_(number)


@torch.no_grad()
def dynamic_point_to_voxel_forward(
    feats: Tensor, coors: Tensor, reduce_type: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduce the features of the points of each voxel to one.

    Args:
        feats: features of the points, shape (N, C).
        coors: voxel of each point, shape (N, D), int32. A point with a negative one is left out.
        reduce_type: "max", "mean" or "sum".

    Returns:
        Features of the voxels, shape (M, C); the voxels in lexicographic order, shape (M, D); row of the voxel of each
        point or -1, shape (N,), int32; number of points of each voxel, shape (M,), int32.

    Raises:
        ValueError: ``reduce_type`` is another word.
    """
    _check(reduce_type)
    inside = (coors >= 0).all(1)
    kept = coors[inside]
    first, group, sizes = unique_rows(kept)
    values = wide(feats)[inside]
    start = -math.inf if reduce_type == "max" else 0.0
    reduced = values.new_full((len(first), feats.shape[1]), start)
    if reduce_type == "max":
        reduced.scatter_reduce_(0, group[:, None].expand_as(values), values, "amax")
    else:
        reduced.index_add_(0, group, values)
    if reduce_type == "mean":
        reduced /= sizes[:, None]
    point_to_voxel = torch.full((len(feats),), -1, dtype=torch.int32, device=feats.device)
    point_to_voxel[inside] = group.int()
    return reduced.to(feats.dtype), kept[first], point_to_voxel, sizes.int()


@torch.no_grad()
def dynamic_point_to_voxel_backward(
    grad_feats: Tensor,
    grad_reduced_feats: Tensor,
    feats: Tensor,
    reduced_feats: Tensor,
    coors_idx: Tensor,
    reduce_count: Tensor,
    reduce_type: str,
) -> None:
    """Write the gradient of :func:`dynamic_point_to_voxel_forward`. That of a maximum goes to its first point.

    Args:
        grad_feats: gets the gradient of the points' features, shape (N, C).
        grad_reduced_feats: gradient of the voxels' features, shape (M, C).
        feats: features of the points, shape (N, C).
        reduced_feats: features of the voxels, shape (M, C).
        coors_idx: row of the voxel of each point or -1, shape (N,), int32.
        reduce_count: number of points of each voxel, shape (M,), int32.
        reduce_type: "max", "mean" or "sum".

    Raises:
        ValueError: ``reduce_type`` is another word.
    """
    _check(reduce_type)
    grad_feats.zero_()
    point = (coors_idx >= 0).nonzero()[:, 0]
    voxel = coors_idx[point].long()
    gradient = wide(grad_reduced_feats)
    if reduce_type == "mean":
        gradient = gradient / reduce_count[:, None]
    gradient = gradient[voxel].to(grad_feats.dtype)
    if reduce_type == "max":
        candidates = torch.where(feats[point] == reduced_feats[voxel], point[:, None], len(feats))
        winner = candidates.new_full(reduced_feats.shape, len(feats))
        winner.scatter_reduce_(0, voxel[:, None].expand_as(candidates), candidates, "amin")
        gradient = torch.where(winner[voxel] == point[:, None], gradient, 0)
    grad_feats[point] = gradient


def _check(reduce_type: str) -> None:
    if reduce_type not in ("max", "mean", "sum"):
        raise ValueError(f"reduce_type is {reduce_type!r}, but must be 'max', 'mean' or 'sum'")
