"""Helpers of several operators: bilinear samples of feature maps, gradients by recomputation, precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Arguments = ParamSpec("Arguments")
T = TypeVar("T")


def without_autocast(function: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """Keep an operator in the precision of its inputs, as a compiled one is: autocast casts matrix products."""

    @functools.wraps(function)
    def exact(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return exact


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients for the inputs of a function, which is computed again for them."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return torch.autograd.grad(function(*leaves), leaves, grad_output)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor of a 16-bit type as float32, and others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def native(tensor: Tensor) -> Tensor:
    """Return a tensor in the precision that torchvision's kernels accept: float16 only on an accelerator."""
    return tensor if tensor.dtype == torch.float16 and tensor.device.type != "cpu" else wide(tensor)


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four pixels around points and their bilinear weights, in the convention of RoIAlign.

    Pixel i is at coordinate i. A point up to one pixel outside takes the value at the border, one farther out none.

    Args:
        y: Coordinates of any shape, in pixels.
        x: Coordinates of the same shape.
        height: Height of the feature map.
        width: Width of the feature map.

    Returns:
        Indices into the flattened map, and weights, of shape (..., 4).
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = (torch.where(inside, c, 0).clamp(0, size - 1) for c, size in ((y, height), (x, width)))
    top, left = y.detach().long(), x.detach().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    weights = torch.stack(
        [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], -1
    ) * inside.unsqueeze(-1)
    pixels = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right], -1)
    return pixels, weights


def sample_sum(features: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the sums of bilinear samples, differentiable for features and coordinates.

    Args:
        features: Maps of shape (N, C, H, W).
        image: Index of the map of each sum, of shape (P,).
        y: Coordinates of shape (P, S), in pixels.
        x: Coordinates of shape (P, S).

    Returns:
        Sums over S, of shape (P, C).
    """
    count, channels, height, width = features.shape
    pixels, weights = corners(y, x, height, width)
    rows = (pixels + image.long()[:, None, None] * (height * width)).flatten(1)
    table = features.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    return F.embedding_bag(rows, table, per_sample_weights=weights.flatten(1).to(table.dtype), mode="sum")


def add_at_corners(grad_input: Tensor, image: Tensor, y: Tensor, x: Tensor, grad: Tensor) -> None:
    """Add gradients of single bilinear samples, one position for each channel, to the gradient of the maps.

    Args:
        grad_input: Gradient of shape (N, C, H, W), changed in place.
        image: Index of the map, of shape (P,).
        y: Coordinates of shape (P, C, ...), in pixels.
        x: Coordinates of the same shape.
        grad: Gradients of the same shape.
    """
    _, channels, height, width = grad_input.shape
    pixels, weights = corners(y, x, height, width)
    planes = image.long()[:, None] * channels + torch.arange(channels, device=y.device)
    pixels = pixels + planes.reshape(planes.shape + (1,) * (pixels.dim() - 2)) * (height * width)
    total = torch.zeros_like(grad_input, dtype=weights.dtype, memory_format=torch.contiguous_format)
    total.view(-1).index_add_(0, pixels.flatten(), (weights * grad.unsqueeze(-1)).to(total.dtype).flatten())
    grad_input += total


def grids(heights: Tensor, widths: Tensor, ratio: int) -> Iterator[tuple[Tensor, int, int]]:
    """Group bins by the number of samples that they take along each axis.

    Args:
        heights: Height of a bin of each region, in pixels.
        widths: Width of a bin of each region.
        ratio: Samples along each axis; 0 or less takes one for each pixel begun.

    Yields:
        Indices of regions, and their number of samples along y and x, both above 0.
    """
    if ratio > 0:
        yield torch.arange(len(heights), device=heights.device), ratio, ratio
        return
    sizes = torch.stack([heights, widths], 1).ceil().long()
    kinds, member = torch.unique(sizes, dim=0, return_inverse=True)
    for kind, (rows, columns) in enumerate(kinds.tolist()):
        if rows > 0 and columns > 0:
            yield (member == kind).nonzero().squeeze(1), rows, columns


def positions(bins: int, samples: int, like: Tensor) -> Tensor:
    """Return the positions of samples along an axis of shape (bins, samples), in bins from the start."""
    places = (torch.arange(bins * samples, device=like.device, dtype=like.dtype) + 0.5) / samples
    return places.view(bins, samples)
