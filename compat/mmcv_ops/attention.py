"""Multi-scale deformable attention and point-wise spatial attention."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from trainwright.compat.mmcv_ops.sampling import gradients, native, without_autocast

_SIZES: MutableMapping[Tensor, tuple[int, list[tuple[int, int]]]] = WeakTensorKeyDictionary()
"""Sizes of the levels as numbers, of each tensor that holds them: layers share it, and reading it waits for the GPU."""


@without_autocast
def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum weighted bilinear samples of several feature maps.

    From `Deformable DETR <https://arxiv.org/abs/2010.04159>`_.

    Args:
        value: Values of all pixels of all levels, of shape (N, pixels, heads, D).
        spatial_shapes: Height and width of each level, of shape (levels, 2).
        level_start_index: First pixel of each level, of shape (levels,): they follow each other.
        sampling_loc: Places (x, y), from 0 to 1 across the map, of shape (N, queries, heads, levels, points, 2).
        attn_weight: Weights of shape (N, queries, heads, levels, points).
        im2col_step: Not used.

    Returns:
        Sums of shape (N, queries, heads * D).
    """
    result = _attend(native(value), native(sampling_loc), native(attn_weight), _level_sizes(spatial_shapes))
    return result.to(value.dtype)


@without_autocast
def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Compute the gradients of ``ms_deform_attn_forward`` for values, places and weights."""
    sizes = _level_sizes(spatial_shapes)
    grads = gradients(
        lambda x, places, weights: _attend(x, places, weights, sizes),
        [native(value), native(sampling_loc), native(attn_weight)],
        native(grad_output),
    )
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        target.copy_(grad)


def _level_sizes(shapes: Tensor) -> list[tuple[int, int]]:
    known = _SIZES.get(shapes)
    if known is None or known[0] != shapes._version:
        known = (shapes._version, [(height, width) for height, width in shapes.tolist()])
        _SIZES[shapes] = known
    return known[1]


def _attend(value: Tensor, places: Tensor, weights: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    images, _, heads, width = value.shape
    queries = places.shape[1]
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (N * heads, queries, levels, points, 2)
    weights = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (N * heads, 1, queries, levels, points)
    parts = torch.split(value, [rows * columns for rows, columns in sizes], 1)
    total = value.new_zeros((images * heads, width, queries))
    for level, (part, (rows, columns)) in enumerate(zip(parts, sizes)):
        maps = part.permute(0, 2, 3, 1).reshape(images * heads, width, rows, columns)
        samples = F.grid_sample(maps, grid[:, :, level], align_corners=False)
        total = total + (samples * weights[:, :, :, level]).sum(-1)
    return total.view(images, heads * width, queries).transpose(1, 2).contiguous()


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Lay out attention that is given relative to each pixel in coordinates of the map.

    From `PSANet: Point-wise Spatial Attention Network for Scene Parsing <https://hszhao.github.io/papers/
    eccv18_psanet.pdf>`_.

    Args:
        input: Attention of each pixel for the window around it, of shape (N, h_mask * w_mask, H, W).
        output: Takes the attention of shape (N, H * W, H, W), 0 outside the window: with type 0, what pixel (h, w)
            collects from each pixel of axis 1; with type 1, what the pixel of axis 1 distributes to (h, w).
        psa_type: 0 to collect, 1 to distribute.
        num_: Number of images.
        h_feature: Height of the map.
        w_feature: Width of the map.
        h_mask: Height of the window.
        w_mask: Width of the window.
        half_h_mask: Row of the window that is the pixel itself.
        half_w_mask: Column of the window that is the pixel itself.
    """
    place, inside = _window_places(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device)
    flat = input.flatten(2)
    collected = torch.where(inside, flat.gather(1, place.expand(len(flat), -1, -1)), 0)
    output.copy_((collected.transpose(1, 2) if psa_type else collected).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Compute the gradient of ``psamask_forward`` into ``grad_input``."""
    place, inside = _window_places(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, grad_input.device)
    grad = grad_output.flatten(2)
    grad = torch.where(inside, grad.transpose(1, 2) if psa_type else grad, 0)
    total = torch.zeros_like(grad_input.flatten(2)).scatter_add_(1, place.expand(len(grad), -1, -1), grad)
    grad_input += total.view(grad_input.shape)


def _window_places(
    height: int, width: int, rows: int, columns: int, middle_row: int, middle_column: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the cell of the window of each pixel (axis 1) that is another pixel (axis 0), and whether there is one."""
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    row, column = y[:, None] - y + middle_row, x[:, None] - x + middle_column
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return torch.where(inside, row * columns + column, 0), inside
