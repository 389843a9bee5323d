"""Features of points gathered by indices, and the way back for their gradients.

Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space", NeurIPS 2017.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainwright.compat.mmcv_ops.pairs import blocks
from trainwright.compat.mmcv_ops.sampling import wide


def _gather(points: Tensor, index: Tensor, out: Tensor) -> None:
    """Write features of shape (B, C, N) at indices of shape (B, ...) into ``out``, shape (B, C, ...)."""
    flat = index.flatten(1)[:, None].long().expand(-1, points.shape[1], -1)
    out.copy_(points.gather(2, flat).view(out.shape))


def _add(gradient: Tensor, index: Tensor, total: Tensor) -> None:
    """Add gradients of shape (B, C, ...) at indices of shape (B, ...) to ``total``, shape (B, C, N)."""
    flat = index.flatten(1)[:, None].long().expand(-1, gradient.shape[1], -1)
    gradient = wide(gradient.flatten(2))
    total += torch.zeros_like(total, dtype=gradient.dtype).scatter_add_(2, flat, gradient)


@torch.no_grad()
def gather_points_forward(
    points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int, npoints: int
) -> None:
    """Gather the features of some points (PointNet++).

    Args:
        points_tensor: features of all points, shape (B, C, N).
        idx_tensor: indices of points, shape (B, M), int32.
        out_tensor: gets their features, shape (B, C, M).
        b: B.
        c: C.
        n: N.
        npoints: M.
    """
    _gather(points_tensor, idx_tensor, out_tensor)


@torch.no_grad()
def gather_points_backward(
    grad_out_tensor: Tensor, idx_tensor: Tensor, grad_points_tensor: Tensor, b: int, c: int, n: int, npoints: int
) -> None:
    """Add gradients of :func:`gather_points_forward` to those of all points.

    Args:
        grad_out_tensor: gradient of the gathered features, shape (B, C, M).
        idx_tensor: indices of points, shape (B, M), int32.
        grad_points_tensor: added to, shape (B, C, N).
        b: B.
        c: C.
        n: N.
        npoints: M.
    """
    _add(grad_out_tensor, idx_tensor, grad_points_tensor)


@torch.no_grad()
def group_points_forward(
    points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int, npoints: int, nsample: int
) -> None:
    """Gather the features of the points of each group (PointNet++).

    Args:
        points_tensor: features of all points, shape (B, C, N).
        idx_tensor: indices of points, shape (B, M, nsample), int32.
        out_tensor: gets their features, shape (B, C, M, nsample).
        b: B.
        c: C.
        n: N.
        npoints: M, number of groups.
        nsample: points of each group.
    """
    _gather(points_tensor, idx_tensor, out_tensor)


@torch.no_grad()
def group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    """Add gradients of :func:`group_points_forward` to those of all points.

    Args:
        grad_out_tensor: gradient of the grouped features, shape (B, C, M, nsample).
        idx_tensor: indices of points, shape (B, M, nsample), int32.
        grad_points_tensor: added to, shape (B, C, N).
        b: B.
        c: C.
        n: N.
        npoints: M.
        nsample: points of each group.
    """
    _add(grad_out_tensor, idx_tensor, grad_points_tensor)


def _global_indices(index: Tensor, counts: Tensor, index_counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices into all clouds, one after the other, and which of them are points of their own cloud."""
    counts, rows = counts.long(), len(index)
    starts = (counts.cumsum(0) - counts).repeat_interleave(index_counts.long(), output_size=rows)
    ends = counts.repeat_interleave(index_counts.long(), output_size=rows)
    valid = (index >= 0) & (index < ends[:, None])
    return torch.where(valid, index, 0) + starts[:, None], valid


@torch.no_grad()
def stack_group_points_forward(
    features_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    nsample: int,
) -> None:
    """Gather the features of the points of each group, in clouds of different sizes, one after the other.

    Shi et al., "PV-RCNN: Point-Voxel Feature Set Abstraction for 3D Object Detection", CVPR 2020.

    Args:
        features_tensor: features of the points of all clouds, shape (N1 + N2 + ..., C).
        features_batch_cnt_tensor: N1, N2, ...; shape (B,), int32.
        idx_tensor: indices within the cloud, shape (M1 + M2 + ..., nsample), int32.
        idx_batch_cnt_tensor: M1, M2, ...; shape (B,), int32.
        out_tensor: gets the features, shape (M1 + M2 + ..., C, nsample). Left as it is where an index is not that of
            a point of the cloud.
        b: B.
        c: C.
        m: M1 + M2 + ...
        nsample: points of each group.
    """
    if len(features_tensor):
        index, valid = _global_indices(idx_tensor, features_batch_cnt_tensor, idx_batch_cnt_tensor)
        grouped = features_tensor[index.clamp(max=len(features_tensor) - 1)].transpose(1, 2)
        out_tensor.copy_(torch.where(valid[:, None], grouped, out_tensor))


@torch.no_grad()
def stack_group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    grad_features_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
    nsample: int,
) -> None:
    """Add gradients of :func:`stack_group_points_forward` to those of all points.

    Args:
        grad_out_tensor: gradient of the grouped features, shape (M1 + M2 + ..., C, nsample).
        idx_tensor: indices within the cloud, shape (M1 + M2 + ..., nsample), int32.
        idx_batch_cnt_tensor: M1, M2, ...; shape (B,), int32.
        features_batch_cnt_tensor: N1, N2, ...; shape (B,), int32.
        grad_features_tensor: added to, shape (N1 + N2 + ..., C).
        b: B.
        c: C.
        m: M1 + M2 + ...
        n: N1 + N2 + ...
        nsample: points of each group.
    """
    index, valid = _global_indices(idx_tensor, features_batch_cnt_tensor, idx_batch_cnt_tensor)
    gradient = wide(grad_out_tensor.transpose(1, 2)[valid])
    total = torch.zeros_like(grad_features_tensor, dtype=gradient.dtype)
    grad_features_tensor += total.index_add_(0, index[valid], gradient)


@torch.no_grad()
def three_interpolate_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
) -> None:
    """Interpolate features from three points each (PointNet++).

    Args:
        points_tensor: features of the known points, shape (B, C, M).
        idx_tensor: indices of known points, shape (B, N, 3), int32.
        weight_tensor: their weights, shape (B, N, 3).
        out_tensor: gets the features, shape (B, C, N).
        b: B.
        c: C.
        m: M.
        n: N.
    """
    points, index, weight = wide(points_tensor), idx_tensor.long(), wide(weight_tensor)
    total = torch.zeros_like(out_tensor, dtype=points.dtype)
    for i, w in zip(index.unbind(2), weight.unbind(2)):
        total.addcmul_(points.gather(2, i[:, None].expand(-1, points.shape[1], -1)), w[:, None])
    out_tensor.copy_(total)


@torch.no_grad()
def three_interpolate_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    m: int,
) -> None:
    """Add gradients of :func:`three_interpolate_forward` to those of the known points.

    Args:
        grad_out_tensor: gradient of the interpolated features, shape (B, C, N).
        idx_tensor: indices of known points, shape (B, N, 3), int32.
        weight_tensor: their weights, shape (B, N, 3).
        grad_points_tensor: added to, shape (B, C, M).
        b: B.
        c: C.
        n: N.
        m: M.
    """
    gradient, weight = wide(grad_out_tensor), wide(weight_tensor)
    _add(gradient[..., None] * weight[:, None], idx_tensor, grad_points_tensor)


def _neighborhoods(
    points: Tensor, centers: Tensor, scores: Tensor, knn_idx: Tensor
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Cut the neighborhoods of all points into pieces whose features fit into memory.

    Yields:
        A range of clouds and of points; for them the rows of their neighbors in all clouds, one after the other, shape
        (b, n, K); 0 for an index that is not that of a point, else 1, same shape; features of the neighbors, shape
        (b, n, K, M, O), and of the centers, shape (b, n, M, O); and scores, shape (b, n, K, M), 0 for a wrong index.
    """
    clouds, size = points.shape[:2]
    valid = (knn_idx >= 0) & (knn_idx < size)
    rows = knn_idx.clamp(0, size - 1) + torch.arange(clouds, device=points.device)[:, None, None] * size
    points, centers, scores = wide(points).flatten(0, 1), wide(centers).flatten(0, 1), wide(scores)
    for b, n in blocks(knn_idx.shape[:2], knn_idx.shape[2] * points[0].numel(), pairs=1 << 24):
        row, exists = rows[b, n], valid[b, n].to(scores.dtype)
        yield b, n, row, exists, points[row], centers[row[..., 0]], scores[b, n] * exists[..., None]


@torch.no_grad()
def assign_score_withk_forward(
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    output: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741
    aggregate: int,
) -> None:
    """Sum the features of each neighbor, relative to the center's, over the weight matrices by its scores.

    Xu et al., "PAConv: Position Adaptive Convolution with Dynamic Kernel Assembling on Point Clouds", CVPR 2021,
    appendix D.

    Args:
        points: features of the points by each weight matrix, shape (B, N0, M, O).
        centers: features of the points as centers, same shape.
        scores: scores of the weight matrices for each neighbor, shape (B, N1, K, M).
        knn_idx: indices of the neighbors of each center, that of the center first; shape (B, N1, K), int64. One that
            is not that of a point adds nothing.
        output: added to, shape (B, O, N1, K).
        B: number of clouds.
        N0: number of points.
        N1: number of centers.
        M: number of weight matrices.
        K: neighbors of each center.
        O: features.
        aggregate: not used by mmcv either, which sums over the weight matrices in any case.
    """
    with torch.autocast(points.device.type, enabled=False):
        for b, n, _, _, neighbor, center, score in _neighborhoods(points, centers, scores, knn_idx):
            total = (score[..., None, :] @ neighbor).squeeze(-2) - score @ center
            output[b, :, n] += total.permute(0, 3, 1, 2)


@torch.no_grad()
def assign_score_withk_backward(
    grad_out: Tensor,
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    grad_points: Tensor,
    grad_centers: Tensor,
    grad_scores: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741
    aggregate: int,
) -> None:
    """Add gradients of :func:`assign_score_withk_forward` to those of its inputs.

    Args:
        grad_out: gradient of the output, shape (B, O, N1, K).
        points: features of the points by each weight matrix, shape (B, N0, M, O).
        centers: features of the points as centers, same shape.
        scores: scores of the weight matrices for each neighbor, shape (B, N1, K, M).
        knn_idx: indices of the neighbors of each center, that of the center first; shape (B, N1, K), int64.
        grad_points: added to, shape (B, N0, M, O).
        grad_centers: added to, shape (B, N0, M, O).
        grad_scores: added to, shape (B, N1, K, M).
        B: number of clouds.
        N0: number of points.
        N1: number of centers.
        M: number of weight matrices.
        K: neighbors of each center.
        O: features.
        aggregate: not used.
    """
    gradient = wide(grad_out)
    total_points = torch.zeros_like(grad_points, dtype=gradient.dtype).flatten(0, 1)
    total_centers = torch.zeros_like(grad_centers, dtype=gradient.dtype).flatten(0, 1)
    with torch.autocast(points.device.type, enabled=False):
        for b, n, row, exists, neighbor, center, score in _neighborhoods(points, centers, scores, knn_idx):
            grad = gradient[b, :, n].permute(0, 2, 3, 1)
            total_points.index_add_(0, row.flatten(), (score[..., None] * grad[..., None, :]).flatten(0, 2))
            total_centers.index_add_(0, row[..., 0].flatten(), -(score.mT @ grad).flatten(0, 1))
            grad_scores[b, n] += ((neighbor - center[:, :, None]) @ grad[..., None]).squeeze(-1) * exists[..., None]
    grad_points += total_points.view_as(grad_points)
    grad_centers += total_centers.view_as(grad_centers)
