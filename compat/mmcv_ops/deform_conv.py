"""Deformable convolutions, by torchvision's kernels.

Offsets are in pixels, in pairs (y, x) for each position of the kernel, group after group.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision  # noqa: F401  # registers its operators
from torch import Tensor

from trainwright.compat.mmcv_ops.sampling import native, without_autocast


@without_autocast
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve with kernels whose positions are moved.

    From `Deformable Convolutional Networks <https://arxiv.org/abs/1703.06211>`_.

    Args:
        input: Features of shape (N, C, H, W).
        weight: Kernels of shape (O, C / group, kH, kW).
        offset: Offsets of shape (N, 2 * deformable_group * kH * kW, output height, output width).
        output: Takes the result.
        columns: Carries gradients from one function of the backward pass to the other.
        ones: Not used.
        kW: Width of the kernel.
        kH: Height of the kernel.
        dW: Stride along x.
        dH: Stride along y.
        padW: Padding along x, with zeros.
        padH: Padding along y.
        dilationW: Dilation along x.
        dilationH: Dilation along y.
        group: Groups of channels that are convolved on their own.
        deformable_group: Groups of channels that share offsets.
        im2col_step: Not used.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Compute the gradients of ``deform_conv_forward`` for features and offsets.

    The kernel of torchvision gives that for the weights too, which is kept in ``columns`` for
    ``deform_conv_backward_parameters``.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    columns.resize_(grads[1].shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of ``deform_conv_forward`` for the weights to ``gradWeight``."""
    if columns.shape == gradWeight.shape:
        grad = columns
    else:
        geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
        grad = _backward(gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, geometry)[1]
    gradWeight.add_(grad.to(gradWeight.dtype), alpha=scale)
    columns.resize_(0)


@without_autocast
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve with kernels whose positions are moved and weighted.

    From `Deformable ConvNets v2: More Deformable, Better Results <https://arxiv.org/abs/1811.11168>`_.

    Args:
        input: Features of shape (N, C, H, W).
        weight: Kernels of shape (O, C / group, kernel_h, kernel_w).
        bias: Bias of shape (O,), empty without.
        ones: Not used.
        offset: Offsets of shape (N, 2 * deformable_group * kernel_h * kernel_w, output height, output width).
        mask: Weights of shape (N, deformable_group * kernel_h * kernel_w, output height, output width).
        output: Takes the result.
        columns: Not used.
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        stride_h: Stride along y.
        stride_w: Stride along x.
        pad_h: Padding along y, with zeros.
        pad_w: Padding along x.
        dilation_h: Dilation along y.
        dilation_w: Dilation along x.
        group: Groups of channels that are convolved on their own.
        deformable_group: Groups of channels that share offsets.
        with_bias: Whether to add the bias.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Compute all gradients of ``modulated_deform_conv_forward``."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _backward(grad_output, input, weight, offset, mask, bias if with_bias else None, geometry)
    for target, grad in zip((grad_input, grad_weight, grad_offset, grad_mask), grads[:4]):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grads[4])


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Any:
    return torch.ops.torchvision.deform_conv2d(
        *_operands(input, weight, offset, mask, bias), *geometry, mask is not None
    )


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Any:
    """Return the gradients for input, weight, offset, mask and bias."""
    operands = _operands(input, weight, offset, mask, bias)
    grad = grad.to(operands[0].dtype).contiguous()
    return torch.ops.torchvision._deform_conv2d_backward(grad, *operands, *geometry, mask is not None)


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the operands as torchvision's kernels take them, with empty ones for those that are missing."""
    if mask is None:
        mask = input.new_zeros((len(input), 1))
    if bias is None:
        bias = input.new_zeros(len(weight))
    kind = native(input).dtype
    return tuple(operand.to(kind).contiguous() for operand in (input, weight, offset, mask, bias))
