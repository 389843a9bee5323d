"""Pooling of features in boxes, rotated boxes, Bézier curves and along borders.

Regions are given in pixels of the image; ``spatial_scale`` is the size of the feature map relative to it. Their first
column is the index of the image in the batch. Outputs and gradients are written into the tensors passed for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision  # noqa: F401  # registers its operators
from torch import Tensor
from torch.nn import functional as F

from trainwright.compat.mmcv_ops.sampling import (
    add_at_corners,
    corners,
    gradients,
    grids,
    native,
    positions,
    sample_sum,
    wide,
    without_autocast,
)

SAMPLED_ON = ("cpu",)
"""Kinds of devices on which sums of gathered rows are several times as fast as torchvision's kernel of RoIAlign."""


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool bilinear samples in a grid of bins, as in `Mask R-CNN <https://arxiv.org/abs/1703.06870>`_.

    Args:
        input: Features of shape (N, C, H, W).
        rois: Image and corners of shape (R, 5).
        output: Takes the result, of shape (R, C, bins along y, bins along x).
        argmax_y: Takes the y coordinate of the greatest sample, in pixels of the features; empty for means.
        argmax_x: Takes its x coordinate.
        aligned_height: Bins along y.
        aligned_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
        sampling_ratio: Samples along each axis of a bin; 0 takes one for each pixel begun.
        pool_mode: 0 for the greatest sample, 1 for their mean.
        aligned: Shift by half a pixel, so that the center of pixel i is at i + 0.5 in the image.
    """
    features, boxes = native(input), rois.to(native(input).dtype)
    sizes = (aligned_height, aligned_width)
    if pool_mode == 1 and features.device.type in SAMPLED_ON:
        output.copy_(_upright(features, boxes, None, *sizes, spatial_scale, sampling_ratio, aligned))
        return
    if pool_mode == 1:
        result = torch.ops.torchvision.roi_align(features, boxes, spatial_scale, *sizes, sampling_ratio, aligned)
        output.copy_(result)
        return
    left, top, width, height = _scaled(rois, spatial_scale, aligned)
    bin_height, bin_width = height / aligned_height, width / aligned_width
    for members, rows, columns in grids(bin_height, bin_width, sampling_ratio):
        # Smaller bins with one sample each give every sample.
        samples = torch.ops.torchvision.roi_align(
            features, boxes[members], spatial_scale, aligned_height * rows, aligned_width * columns, 1, aligned
        )
        blocks = samples.unflatten(3, (aligned_width, columns)).unflatten(2, (aligned_height, rows))
        best, which = blocks.transpose(3, 4).flatten(4).max(-1)
        output[members] = best.to(output.dtype)
        y = positions(aligned_height, rows, top) * bin_height[members, None, None] + top[members, None, None]
        x = positions(aligned_width, columns, left) * bin_width[members, None, None] + left[members, None, None]
        y = y[:, None, :, None].expand(*best.shape, rows).gather(4, (which // columns)[..., None])
        x = x[:, None, None].expand(*best.shape, columns).gather(4, (which % columns)[..., None])
        argmax_y[members], argmax_x[members] = y[..., 0].to(argmax_y.dtype), x[..., 0].to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Compute the gradient of ``roi_align_forward`` for the features into ``grad_input``."""
    grad, sizes = native(grad_output), (aligned_height, aligned_width)
    boxes = rois.to(grad.dtype)
    if pool_mode == 1 and grad.device.type in SAMPLED_ON:
        settings = (*sizes, spatial_scale, sampling_ratio, aligned)
        (result,) = gradients(lambda x: _upright(x, boxes, None, *settings), [_zeros(grad_input, grad)], grad)
        grad_input.copy_(result)
        return
    if pool_mode == 1:
        result = torch.ops.torchvision._roi_align_backward(
            grad, boxes, spatial_scale, *sizes, *grad_input.shape, sampling_ratio, aligned
        )
        grad_input.copy_(result)
        return
    grid = _grid_sizes(rois, spatial_scale, aligned, aligned_height, aligned_width, sampling_ratio)
    grad = wide(grad) * (grid > 0).all(1)[:, None, None, None]
    add_at_corners(grad_input, rois[:, 0], wide(argmax_y), wide(argmax_x), grad)


def _scaled(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return left, top, width and height of boxes in pixels of the features, as RoIAlign takes them."""
    left, top, right, bottom = (wide(rois)[:, 1:] * scale - (0.5 if aligned else 0)).unbind(1)
    width, height = right - left, bottom - top
    return (left, top, width, height) if aligned else (left, top, width.clamp(min=1), height.clamp(min=1))


def _grid_sizes(rois: Tensor, scale: float, aligned: bool, rows: int, columns: int, ratio: int) -> Tensor:
    """Return the samples of a bin along y and x, of shape (R, 2)."""
    _, _, width, height = _scaled(rois, scale, aligned)
    sizes = torch.stack([height / rows, width / columns], 1).ceil()
    return torch.full_like(sizes, ratio) if ratio > 0 else sizes


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the greatest pixel of each bin of a box, as in `Fast R-CNN <https://arxiv.org/abs/1504.08083>`_.

    Bins are rounded outwards to whole pixels, the corners of boxes are not rounded.

    Args:
        input: Features of shape (N, C, H, W).
        rois: Image and corners of shape (R, 5), the far corner inclusive.
        output: Takes the result, of shape (R, C, bins along y, bins along x); 0 in an empty bin.
        argmax: Takes the index of that pixel in the flattened map, -1 in an empty bin.
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
    """
    count, channels, height, width = input.shape
    boxes = wide(rois)
    start = boxes[:, 1:3] * spatial_scale
    extent = (boxes[:, 3:5] + 1) * spatial_scale - start
    left, right = _bin_ranges(start[:, 0], extent[:, 0], pooled_width, width)
    top, bottom = _bin_ranges(start[:, 1], extent[:, 1], pooled_height, height)
    rows, columns = (bottom - top)[:, :, None], (right - left)[:, None]  # (R, bins y, 1) and (R, 1, bins x)
    sizes = (rows * columns * (extent > 0).all(1)[:, None, None]).flatten()
    # List the pixels of each bin, one bin after the other.
    ends = sizes.cumsum(0)
    bins = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    cell = torch.arange(len(bins), device=sizes.device) - (ends - sizes)[bins]
    across, first_x, first_y, image = (
        value.expand(-1, pooled_height, pooled_width).flatten()[bins]
        for value in (columns, left[:, None], top[:, :, None], boxes[:, 0].long()[:, None, None])
    )
    pixels = (image * height + first_y + cell // across) * width + first_x + cell % across
    table = wide(input).permute(0, 2, 3, 1).reshape(count * height * width, channels)
    best, _, _, where = torch.embedding_bag(table, pixels, ends - sizes, mode=2)
    where = torch.where(sizes[:, None] > 0, where % (height * width), -1)
    shape = (len(rois), pooled_height, pooled_width, channels)
    output.copy_(best.view(shape).permute(0, 3, 1, 2))
    argmax.copy_(where.view(shape).permute(0, 3, 1, 2))


def _bin_ranges(start: Tensor, extent: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the first pixel of each bin and the pixel after its last, of shape (R, bins)."""
    edges = torch.arange(bins + 1, device=start.device)
    bin_size = (extent / bins)[:, None]
    first = (edges[:-1] * bin_size + start[:, None]).floor().clamp(0, size).long()
    after = (edges[1:] * bin_size + start[:, None]).ceil().clamp(0, size).long()
    return first, torch.maximum(first, after)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Compute the gradient of ``roi_pool_forward`` for the features into ``grad_input``."""
    _, channels, height, width = grad_input.shape
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    places = planes[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    total = torch.zeros_like(grad_input, memory_format=torch.contiguous_format)
    total.view(-1).index_add_(0, places.flatten(), torch.where(argmax >= 0, grad_output, 0).to(total.dtype).flatten())
    grad_input += total


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Pool bilinear samples in the bins of rotated boxes.

    As in `RoI Transformer <https://arxiv.org/abs/1812.00155>`_.

    Args:
        input: Features of shape (N, C, H, W).
        rois: Image, center x and y, width, height and angle in radians, of shape (R, 6).
        output: Takes the means of shape (R, C, bins along y, bins along x).
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
        sampling_ratio: Samples along each axis of a bin; 0 takes one for each pixel begun.
        aligned: Shift by half a pixel, and allow boxes smaller than one pixel.
        clockwise: Whether positive angles turn clockwise as seen in the image.
    """
    settings = (pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned, clockwise)
    output.copy_(_rotated(wide(input), rois, *settings))


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Compute the gradient of ``roi_align_rotated_forward`` for the features into ``grad_input``."""
    settings = (pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned, clockwise)
    grad = wide(grad_output)
    (result,) = gradients(lambda features: _rotated(features, rois, *settings), [_zeros(grad_input, grad)], grad)
    grad_input.copy_(result)


def _zeros(grad_input: Tensor, grad: Tensor) -> Tensor:
    """Return features at which the gradient of an operator that is linear in them can be taken."""
    return torch.zeros_like(grad_input, dtype=grad.dtype)


def _rotated(
    features: Tensor,
    rois: Tensor,
    rows: int,
    columns: int,
    scale: float,
    ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    rois = rois.to(features.dtype)
    center_x, center_y = (rois[:, 1:3] * scale - (0.5 if aligned else 0)).unbind(1)
    width, height = (rois[:, 3:5] * scale).clamp(min=-torch.inf if aligned else 1).unbind(1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    cos, sin, center_y, center_x = (
        value[:, None, None, None, None] for value in (angle.cos(), angle.sin(), center_y, center_x)
    )

    def samples() -> Samples:
        for members, samples_y, samples_x in grids(height / rows, width / columns, ratio):
            y = (positions(rows, samples_y, features) / rows - 0.5) * height[members, None, None]
            x = (positions(columns, samples_x, features) / columns - 0.5) * width[members, None, None]
            y, x = y[:, :, None, :, None], x[:, None, :, None, :]  # (R, bins y, bins x, samples y, samples x)
            turned_y = y * cos[members] - x * sin[members] + center_y[members]
            turned_x = y * sin[members] + x * cos[members] + center_x[members]
            yield members, turned_y.flatten(3), turned_x.flatten(3)

    return _means(features, rois[:, 0], rows, columns, samples())


Samples = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Groups of regions with equally many samples: indices of the regions, and y and x of (R, bins y, bins x, samples)."""

SAMPLES_AT_ONCE = 1 << 21
"""How many samples are taken in one go, which bounds the memory (about 100 bytes each)."""


def _means(features: Tensor, image: Tensor, rows: int, columns: int, groups: Samples) -> Tensor:
    """Return the means (R, C, bins y, bins x) of bilinear samples, 0 for regions that are in no group."""
    count, channels, height, width = features.shape
    table = features.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    result = table.new_zeros((len(image), rows, columns, channels)) + table[:0].sum()  # has a gradient in any case
    bags: list[tuple[Tensor, Tensor, Tensor, int]] = []

    def taken() -> Tensor:
        """Return the result with the means of the bags, which are emptied."""
        pixels, weights, members, sizes = zip(*bags)
        bags.clear()
        bins = [len(some) * rows * columns for some in members]
        lengths = torch.tensor(sizes).repeat_interleave(torch.tensor(bins))
        starts = (lengths.cumsum(0) - lengths).to(features.device)
        means = F.embedding_bag(torch.cat(pixels), table, starts, per_sample_weights=torch.cat(weights), mode="sum")
        return result.index_copy(0, torch.cat(members), means.view(-1, rows, columns, channels))

    waiting = 0
    for members, y, x in groups:
        share = max(1, SAMPLES_AT_ONCE // y[0].numel())
        for some, some_y, some_x in zip(*(torch.split(t, share) for t in (members, y, x))):
            pixels, weights = corners(some_y, some_x, height, width)
            pixels = pixels + (image[some].long() * (height * width))[:, None, None, None, None]
            weights = (weights / y.shape[3]).to(features.dtype)
            bags.append((pixels.flatten(), weights.flatten(), some, 4 * y.shape[3]))
            waiting += some_y.numel()
            if waiting >= SAMPLES_AT_ONCE:
                result, waiting = taken(), 0
    if bags:
        result = taken()
    return result.permute(0, 3, 1, 2)


def riroi_align_rotated_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """Pool rotated boxes and turn the orientation channels with them.

    From `ReDet: A Rotation-equivariant Detector for Aerial Object Detection <https://arxiv.org/abs/2103.07733>`_.
    Orientations between two channels are interpolated.

    Args:
        features: Features of shape (N, C * num_orientations, H, W).
        rois: Image, center x and y, width, height and angle in radians, of shape (R, 6).
        output: Takes the means of shape (R, C * num_orientations, bins along y, bins along x).
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
        num_samples: Samples along each axis of a bin; 0 takes one for each pixel begun.
        num_orientations: Orientations of a feature, neighbors in the channel axis.
        clockwise: Whether positive angles turn clockwise as seen in the image.
    """
    settings = (pooled_height, pooled_width, spatial_scale, num_samples, num_orientations, clockwise)
    output.copy_(_rotation_invariant(wide(features), rois, *settings))


def riroi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """Compute the gradient of ``riroi_align_rotated_forward`` for the features into ``grad_input``."""
    settings = (pooled_height, pooled_width, spatial_scale, num_samples, num_orientations, clockwise)
    grad = wide(grad_output)
    (result,) = gradients(lambda x: _rotation_invariant(x, rois, *settings), [_zeros(grad_input, grad)], grad)
    grad_input.copy_(result)


def _rotation_invariant(
    features: Tensor,
    rois: Tensor,
    rows: int,
    columns: int,
    scale: float,
    samples: int,
    orientations: int,
    clockwise: bool,
) -> Tensor:
    pooled = _rotated(features, rois, rows, columns, scale, samples, False, clockwise)
    pooled = pooled.view(len(rois), -1, orientations, rows, columns)
    turns = rois[:, 5].to(features.dtype) * (orientations / (2 * torch.pi))
    whole = turns.floor()
    part = (turns - whole)[:, None, None, None, None]
    source = (torch.arange(orientations, device=rois.device) - whole.long()[:, None]) % orientations
    source = source[:, None, :, None, None]
    here = pooled.gather(2, source.expand_as(pooled))
    following = pooled.gather(2, ((source + 1) % orientations).expand_as(pooled))
    mixed: Tensor = (1 - part) * here + part * following
    return mixed.flatten(1, 2)


@without_autocast
def prroi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Integrate the bilinear interpolation of features over the bins of boxes.

    From `Acquisition of Localization Confidence for Accurate Object Detection <https://arxiv.org/abs/1807.11590>`_.

    Args:
        input: Features of shape (N, C, H, W).
        rois: Image and corners of shape (R, 5).
        output: Takes the means of shape (R, C, bins along y, bins along x).
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
    """
    output.copy_(_precise(input, rois, pooled_height, pooled_width, spatial_scale))


@without_autocast
def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Compute the gradient of ``prroi_pool_forward`` for the features into ``grad_input``."""
    settings = (pooled_height, pooled_width, spatial_scale)
    zeros = _zeros(grad_input, grad_output)
    (result,) = gradients(lambda features: _precise(features, rois, *settings), [zeros], grad_output)
    grad_input.copy_(result)


@without_autocast
def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Compute the gradient of ``prroi_pool_forward`` for the boxes into ``grad_rois``."""
    settings = (pooled_height, pooled_width, spatial_scale)
    (result,) = gradients(lambda boxes: _precise(input, boxes, *settings), [rois], grad_output)
    grad_rois.copy_(result)
    grad_rois[:, 0] = 0


def _precise(features: Tensor, rois: Tensor, rows: int, columns: int, scale: float) -> Tensor:
    # The integral of a bilinear interpolation is that of a triangle around each pixel, along y times along x.
    left, top, right, bottom = (rois[:, 1:] * scale).unbind(1)
    along_y = _triangle_integrals(top, bottom, rows, features.shape[2])
    along_x = _triangle_integrals(left, right, columns, features.shape[3])
    image = rois[:, 0].detach().long()
    parts = []
    for members in torch.split(torch.arange(len(rois), device=rois.device), 64):  # bounds the memory
        by_row = torch.einsum("rph,rchw->rcpw", along_y[members], features[image[members]])
        parts.append(torch.einsum("rcpw,rqw->rcpq", by_row, along_x[members]))
    sums = torch.cat(parts)
    area = ((right - left).clamp(min=0) * (bottom - top).clamp(min=0) / (rows * columns))[:, None, None, None]
    return torch.where(area > 0, sums / torch.where(area > 0, area, 1), 0)


def _triangle_integrals(start: Tensor, end: Tensor, bins: int, size: int) -> Tensor:
    """Return the integrals of ``max(0, 1 - |x - pixel|)`` over bins, of shape (R, bins, size)."""
    edges = torch.arange(bins + 1, device=start.device, dtype=start.dtype) / bins
    edges = start[:, None] + (end - start)[:, None] * edges
    away = (edges[:, :, None] - torch.arange(size, device=start.device, dtype=start.dtype)).clamp(-1, 1)
    primitive = away - away * away.abs() / 2
    return primitive[:, 1:] - primitive[:, :-1]


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pool the bins of boxes, each moved by an offset.

    From `Deformable Convolutional Networks <https://arxiv.org/abs/1703.06211>`_.

    Args:
        input: Features of shape (N, C, H, W).
        rois: Image and corners of shape (R, 5).
        offset: Shifts along x and y of shape (R, 2, bins along y, bins along x), in ``gamma`` times the size of the
            box; empty for none.
        output: Takes the means of shape (R, C, bins along y, bins along x).
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the features relative to the image.
        sampling_ratio: Samples along each axis of a bin; 0 takes one for each pixel begun.
        gamma: Factor of the offsets.
    """
    settings = (pooled_height, pooled_width, spatial_scale, sampling_ratio, True)
    shifts = gamma * wide(offset) if offset.numel() else None
    output.copy_(_upright(wide(input), rois, shifts, *settings))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Compute the gradients of ``deform_roi_pool_forward`` for features and offsets."""
    settings = (pooled_height, pooled_width, spatial_scale, sampling_ratio, True)
    features, shifts, grad = wide(input), wide(offset), wide(grad_output)
    if offset.numel():
        both = gradients(lambda x, by: _upright(x, rois, gamma * by, *settings), [features, shifts], grad)
        grad_input.copy_(both[0])
        grad_offset.copy_(both[1])
    else:
        (result,) = gradients(lambda x: _upright(x, rois, None, *settings), [features], grad)
        grad_input.copy_(result)


def _upright(
    features: Tensor,
    rois: Tensor,
    shifts: Tensor | None,
    rows: int,
    columns: int,
    scale: float,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """Return the means of samples in bins of boxes, which are shifted along x and y by fractions of the box."""
    left, top, width, height = (value.to(features.dtype) for value in _scaled(rois, scale, aligned))

    def samples() -> Samples:
        for members, samples_y, samples_x in grids(height / rows, width / columns, ratio):
            tall, broad = height[members, None, None], width[members, None, None]
            y = positions(rows, samples_y, features) / rows * tall + top[members, None, None]
            x = positions(columns, samples_x, features) / columns * broad + left[members, None, None]
            y, x = y[:, :, None, :, None], x[:, None, :, None, :]  # (R, bins y, bins x, samples y, samples x)
            if shifts is not None:
                x = x + (broad * shifts[members, 0])[..., None, None]
                y = y + (tall * shifts[members, 1])[..., None, None]
            shape = (len(members), rows, columns, samples_y, samples_x)
            yield members, y.expand(shape).flatten(3), x.expand(shape).flatten(3)

    return _means(features, rois[:, 0], rows, columns, samples())


@without_autocast
def bezier_align_forward(
    input: Tensor,
    beziers: Tensor,
    output: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Pool features between two Bézier curves, as for curved text.

    From `ABCNet: Real-time Scene Text Spotting with Adaptive Bezier-Curve Network <https://arxiv.org/abs/2002.10200>`_.

    Args:
        input: Features of shape (N, C, H, W).
        beziers: Image, and four control points (x, y) of the upper curve from left to right and of the lower from
            right to left, of shape (R, 17).
        output: Takes the means of shape (R, C, bins along y, bins along x).
        aligned_height: Bins from the upper to the lower curve.
        aligned_width: Bins along the curves.
        spatial_scale: Size of the features relative to the image.
        sampling_ratio: Samples along each axis of a bin; 0 takes one for each pixel begun.
        aligned: Shift by half a pixel, and allow regions smaller than one pixel.
    """
    settings = (aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    output.copy_(_bezier(wide(input), beziers, *settings))


@without_autocast
def bezier_align_backward(
    grad_output: Tensor,
    beziers: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Compute the gradient of ``bezier_align_forward`` for the features into ``grad_input``."""
    settings = (aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    grad = wide(grad_output)
    (result,) = gradients(lambda features: _bezier(features, beziers, *settings), [_zeros(grad_input, grad)], grad)
    grad_input.copy_(result)


def _bezier(
    features: Tensor, beziers: Tensor, rows: int, columns: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    points = (beziers[:, 1:].to(features.dtype) * scale).view(-1, 8, 2)
    upper, lower = points[:, :4], points[:, 4:].flip(1)
    u = torch.arange(columns, device=points.device, dtype=points.dtype) / columns
    v = (torch.arange(rows, device=points.device, dtype=points.dtype) / rows)[None, :, None, None]
    basis = torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], 1)  # Bernstein polynomials
    over, under = ((basis @ curve)[:, None] for curve in (upper, lower))  # (R, 1, columns, 2)
    centers = over * (1 - v) + under * v - (0.5 if aligned else 0)
    extent = torch.maximum((upper[:, 0] - upper[:, 3]).abs(), (lower[:, 0] - lower[:, 3]).abs())
    width, height = (extent if aligned else extent.clamp(min=1)).unbind(1)
    bin_height, bin_width = height / rows, width / columns

    def samples() -> Samples:
        for members, samples_y, samples_x in grids(bin_height, bin_width, ratio):
            y = (positions(1, samples_y, features) - 0.5) * bin_height[members, None]
            x = (positions(1, samples_x, features) - 0.5) * bin_width[members, None]
            y = centers[members, :, :, 1, None, None] + y[:, None, None, :, None]
            x = centers[members, :, :, 0, None, None] + x[:, None, None, None, :]
            shape = (len(members), rows, columns, samples_y, samples_x)
            yield members, y.expand(shape).flatten(3), x.expand(shape).flatten(3)

    return _means(features, beziers[:, 0], rows, columns, samples())


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Take the greatest of samples along each border of boxes.

    From `BorderDet: Border Feature for Dense Object Detection <https://arxiv.org/abs/2007.11056>`_.

    Args:
        input: Features of shape (N, 4 C, H, W): those of the top, left, bottom and right border.
        boxes: Corners (x1, y1, x2, y2) of shape (N, B, 4), in pixels of the features.
        output: Takes the greatest samples, of shape (N, C, B, 4).
        argmax_idx: Takes the index of that sample along the border.
        pool_size: Samples along a border, less one.
    """
    y, x = _border_points(wide(boxes), pool_size)
    features = wide(input).reshape(-1, input.shape[1] // 4, *input.shape[2:])
    images, count = boxes.shape[:2]
    image = torch.arange(images * 4, device=boxes.device).repeat_interleave(count * (pool_size + 1))
    samples = sample_sum(features, image, y.reshape(-1, 1), x.reshape(-1, 1))
    samples = samples.view(images, 4, count, pool_size + 1, -1)
    best, which = samples.max(3)  # (N, 4, B, C)
    output.copy_(best.permute(0, 3, 2, 1))
    argmax_idx.copy_(which.permute(0, 3, 2, 1))


def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    """Compute the gradient of ``border_align_forward`` for the features into ``grad_input``."""
    y, x = _border_points(wide(boxes), pool_size)  # (N, 4, B, samples)
    which = argmax_idx.long().permute(0, 3, 2, 1)  # (N, 4, B, C)
    y, x = (c.gather(3, which).flatten(0, 1).transpose(1, 2) for c in (y, x))
    grad = wide(grad_output).permute(0, 3, 1, 2).flatten(0, 1)  # (4 N, C, B)
    count, channels, height, width = grad_input.shape
    maps = grad.new_zeros((4 * count, channels // 4, height, width))
    add_at_corners(maps, torch.arange(len(maps), device=maps.device), y, x, grad)
    grad_input += maps.view(grad_input.shape)


def _border_points(boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """Return y and x of samples along the top, left, bottom and right border, of shape (N, 4, B, samples)."""
    left, top, right, bottom = boxes.unbind(2)
    along = torch.arange(pool_size + 1, device=boxes.device, dtype=boxes.dtype) / pool_size
    # The top and left border start at the first corner, the others at the second.
    y = torch.stack([top, top, bottom, bottom], 1)[..., None]
    x = torch.stack([left, left, right, right], 1)[..., None]
    width, height, still = right - left, bottom - top, torch.zeros_like(left)
    y = y + torch.stack([still, height, still, -height], 1)[..., None] * along
    x = x + torch.stack([width, still, -width, still], 1)[..., None] * along
    return y, x


def rotated_feature_align_forward(
    features: Tensor, best_bboxes: Tensor, output: Tensor, spatial_scale: float, points: int
) -> None:
    """Add to each pixel the features at the center, or center and corners, of its rotated box.

    From `R3Det: Refined Single-Stage Detector with Feature Refinement <https://arxiv.org/abs/1908.05612>`_.

    Args:
        features: Features of shape (N, C, H, W).
        best_bboxes: Center y and x, width, height and angle in radians of shape (N, H, W, 5).
        output: Takes the result, of the shape of the features.
        spatial_scale: Size of the features relative to the image.
        points: 1 for the center, 5 for center and corners.
    """
    output.copy_(_aligned_features(wide(features), best_bboxes, spatial_scale, points))


def rotated_feature_align_backward(
    top_grad: Tensor, best_bboxes: Tensor, bottom_grad: Tensor, spatial_scale: float, points: int
) -> None:
    """Compute the gradient of ``rotated_feature_align_forward`` for the features into ``bottom_grad``."""
    grad = wide(top_grad)
    (result,) = gradients(
        lambda x: _aligned_features(x, best_bboxes, spatial_scale, points), [_zeros(bottom_grad, grad)], grad
    )
    bottom_grad.copy_(result)


def _aligned_features(features: Tensor, boxes: Tensor, scale: float, points: int) -> Tensor:
    count, channels, height, width = features.shape
    center_y, center_x, box_width, box_height, angle = boxes.to(features.dtype).reshape(-1, 5, 1).unbind(1)
    y, x = center_y * scale, center_x * scale
    if points > 1:
        cos, sin = angle.cos() * scale / 2, angle.sin() * scale / 2
        across = torch.tensor([0, 1, -1, -1, 1], device=features.device, dtype=features.dtype)
        down = torch.tensor([0, 1, 1, -1, -1], device=features.device, dtype=features.dtype)
        x = x + across * cos * box_width - down * sin * box_height
        y = y + across * sin * box_width + down * cos * box_height
    image = torch.arange(count, device=features.device).repeat_interleave(height * width)
    return features + sample_sum(features, image, y, x).view(count, height, width, channels).permute(0, 3, 1, 2)
