"""Operators of StyleGAN: filtering with a change of resolution, and activations with a bias.

From `Analyzing and Improving the Image Quality of StyleGAN <https://arxiv.org/abs/1912.04958>`_ and `Alias-Free
Generative Adversarial Networks <https://arxiv.org/abs/2106.12423>`_. On the CPU mmcv uses its own definitions, so these
run on an accelerator, where mmcv differentiates by calling them again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.compat.mmcv_ops.sampling import wide, without_autocast


@without_autocast
def upfirdn2d(
    input: Tensor,
    filter: Tensor,
    upx: int,
    upy: int,
    downx: int,
    downy: int,
    padx0: int,
    padx1: int,
    pady0: int,
    pady1: int,
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Insert zeros between pixels, pad, filter, and keep each n-th pixel.

    Args:
        input: Images of shape (N, C, H, W).
        filter: Filter of shape (height, width).
        upx: Pixels made of one, along x.
        upy: The same along y.
        downx: Step of the pixels kept, along x.
        downy: The same along y.
        padx0: Zeros before the first column; a negative number crops.
        padx1: Zeros after the last.
        pady0: Zeros above the first row.
        pady1: Zeros below the last.
        flip_filter: Correlate, instead of convolve.
        gain: Factor of the result.
    """
    count, channels, height, width = input.shape
    spread = F.pad(input.reshape(-1, 1, height, 1, width, 1), (0, upx - 1, 0, 0, 0, upy - 1))
    spread = spread.view(-1, 1, height * upy, width * upx)
    kernel = (filter * gain if flip_filter else filter.flip(0, 1) * gain).to(input.dtype)
    padded = F.pad(spread, (padx0, padx1, pady0, pady1))
    result = F.conv2d(padded, kernel[None, None], stride=(downy, downx))
    return result.view(count, channels, *result.shape[2:])


def fused_bias_leakyrelu(
    input: Tensor, bias: Tensor, refer: Tensor, act: int, grad: int, alpha: float, scale: float
) -> Tensor:
    """Add a bias to channels, and apply a leaky ReLU or its derivative.

    Args:
        input: Features of shape (N, C, ...), or a gradient.
        bias: Bias of shape (C,), empty for none.
        refer: Output of the activation, for its derivative.
        act: 1 for none, 3 for leaky ReLU.
        grad: 0 for the activation, 1 to multiply by its derivative, 2 by its second.
        alpha: Slope below zero.
        scale: Factor of the result.
    """
    x = input + bias.view(-1, *(1,) * (input.dim() - 2)) if bias.numel() else input
    if grad == 2:
        return torch.zeros_like(x)
    if act == 3:
        x = torch.where((x if grad == 0 else refer) > 0, x, x * alpha)
    return x * scale


def bias_act(
    x: Tensor,
    b: Tensor,
    xref: Tensor,
    yref: Tensor,
    dy: Tensor,
    grad: int,
    dim: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """Add a bias and apply an activation, or multiply by its first or second derivative.

    Args:
        x: Input of the activation, or the gradient to multiply.
        b: Bias along axis ``dim``; here and below, an empty tensor stands for none.
        xref: Input of the activation without bias, for derivatives.
        yref: Output of the activation, for derivatives.
        dy: A further factor, for the second derivative.
        grad: Order of the derivative, 0 to 2.
        dim: Axis of the bias.
        act: 1 linear, 2 ReLU, 3 leaky ReLU, 4 tanh, 5 sigmoid, 6 ELU, 7 SELU, 8 softplus, 9 swish.
        alpha: Slope of leaky ReLU below zero.
        gain: Factor of the output.
        clamp: The output is cut to this magnitude; below 0 it is not.
    """
    kind, memory = x.dtype, x
    x, b, xref, yref, dy = (wide(tensor) for tensor in (x, b, xref, yref, dy))
    if b.numel():
        bias = b.view([-1 if axis == dim else 1 for axis in range(x.dim())])
        x, xref = (x + bias, xref) if grad == 0 else (x, xref + bias if xref.numel() else bias)
    if grad == 0:
        result = _activation(x, act, alpha) * gain
        result = result.clamp(-clamp, clamp) if clamp >= 0 else result
    else:
        if act == 9:  # swish keeps its input only
            yref = xref * xref.sigmoid() * gain
        factor = _derivative(xref, yref / gain if yref.numel() else yref, grad, act, alpha)
        result = x * factor * gain * (dy if dy.numel() else 1)
        if clamp >= 0 and yref.numel():
            result = torch.where(yref.abs() < clamp, result, 0)
    return torch.empty_like(memory, dtype=kind).copy_(result)


def _activation(x: Tensor, act: int, alpha: float) -> Tensor:
    match act:
        case 1:
            return x
        case 2:
            return x.relu()
        case 3:
            return F.leaky_relu(x, alpha)
        case 4:
            return x.tanh()
        case 5:
            return x.sigmoid()
        case 6:
            return F.elu(x)
        case 7:
            return F.selu(x)
        case 8:
            return F.softplus(x)
        case 9:
            return x * x.sigmoid()
    raise ValueError(f"bias_act: no activation has the number {act}; they go from 1 to 9")


SELU_SCALE = 1.0507009873554805
SELU_LIMIT = SELU_SCALE * 1.6732632423543772
"""Minus the limit of SELU far below zero (Klambauer et al. 2017, arXiv:1706.02515)."""


def _derivative(x: Tensor, y: Tensor, order: int, act: int, alpha: float) -> Tensor | float:
    """Return the first or second derivative of an activation at input x, where its output is y."""
    first = order == 1
    match act:
        case 1:
            return 1.0 if first else 0.0
        case 2:
            return (y > 0).to(y.dtype) if first else 0.0
        case 3:
            return torch.where(y > 0, 1.0, alpha) if first else 0.0
        case 4:
            return 1 - y * y if first else (1 - y * y) * (-2 * y)
        case 5:
            return y * (1 - y) if first else y * (1 - y) * (1 - 2 * y)
        case 6:
            return torch.where(y >= 0, 1.0 if first else 0.0, y + 1)
        case 7:
            return torch.where(y >= 0, SELU_SCALE if first else 0.0, y + SELU_LIMIT)
        case 8:
            return 1 - (-y).exp() if first else (-y).exp() * (1 - (-y).exp())
        case 9:
            s = x.sigmoid()
            slope = s * (1 - s)
            return s + x * slope if first else slope * (2 + x * (1 - 2 * s))
    raise ValueError(f"bias_act: no activation has the number {act}; they go from 1 to 9")


@without_autocast
def filtered_lrelu(
    input: Tensor,
    filter_up: Tensor,
    filter_down: Tensor,
    bias: Tensor,
    si: Tensor,
    up: int,
    down: int,
    px0: int,
    px1: int,
    py0: int,
    py1: int,
    sx: int,
    sy: int,
    gain: float,
    slope: float,
    clamp: float,
    flip_filter: bool,
    write_signs: bool,
) -> tuple[Tensor, Tensor, int]:
    """Enlarge, apply a leaky ReLU with limits, and reduce, with a filter each.

    Args:
        input: Images of shape (N, C, H, W).
        filter_up: Filter of shape (height, width), or (taps,) for both axes.
        filter_down: Filter of shape (height, width), or (taps,) for both axes.
        bias: Bias of shape (C,), added first.
        si: What the activation did to each pixel, as returned, to do it again; empty to look at the values.
        up: Factor of enlargement.
        down: Factor of reduction.
        px0: Padding on the left, in enlarged pixels.
        px1: Padding on the right.
        py0: Padding at the top.
        py1: Padding at the bottom.
        sx: Column of ``si`` that belongs to the first column here.
        sy: Row of ``si`` that belongs to the first row here.
        gain: Factor before the limits.
        slope: Slope below zero.
        clamp: Limit of the magnitude.
        flip_filter: Correlate, instead of convolve.
        write_signs: Whether to return what the activation did.

    Returns:
        The images; per enlarged pixel 0 for kept, 1 for sloped and 2 for limited, or an empty tensor; and 0, for done.
    """
    x = input + bias.to(input.dtype)[:, None, None]
    x = _resample(x, filter_up, up, 1, (px0, px1, py0, py1), flip_filter, float(up * up))
    signs = filtered_lrelu_act_(x, si, sx, sy, gain, slope, clamp, write_signs)
    return _resample(x, filter_down, 1, down, (0, 0, 0, 0), flip_filter, 1.0), signs, 0


def _resample(
    x: Tensor, filter: Tensor, up: int, down: int, padding: tuple[int, int, int, int], flip: bool, gain: float
) -> Tensor:
    if filter.dim() == 2:
        return upfirdn2d(x, filter, up, up, down, down, *padding, flip, gain)
    x = upfirdn2d(x, filter[None], up, 1, down, 1, *padding[:2], 0, 0, flip, 1.0)
    return upfirdn2d(x, filter[:, None], 1, up, 1, down, 0, 0, *padding[2:], flip, gain)


def filtered_lrelu_act_(
    x: Tensor, si: Tensor, sx: int, sy: int, gain: float, slope: float, clamp: float, write_signs: bool
) -> Tensor:
    """Apply the activation of ``filtered_lrelu`` in place, and return what it did, as described there."""
    if si.numel():
        marks = torch.zeros_like(x, dtype=torch.uint8)
        height, width = x.shape[2:]
        there = si[:, :, max(sy, 0) : max(sy + height, 0), max(sx, 0) : max(sx + width, 0)]
        top, left = max(-sy, 0), max(-sx, 0)
        marks[:, :, top : top + there.shape[2], left : left + there.shape[3]] = there
        x.mul_(gain).mul_(torch.where(marks == 1, slope, 1.0).to(x.dtype)).masked_fill_(marks == 2, 0)
        return x.new_empty(0, dtype=torch.uint8)
    x.mul_(gain)
    negative = x < 0
    x.copy_(torch.where(negative, x * slope, x))
    limited = x.abs() > clamp
    x.clamp_(-clamp, clamp)
    if not write_signs:
        return x.new_empty(0, dtype=torch.uint8)
    return torch.where(limited, 2, negative.to(torch.uint8)).to(torch.uint8)
