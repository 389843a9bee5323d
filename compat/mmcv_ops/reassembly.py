"""CARAFE, masked and oriented convolutions, correlation, and shifts in time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.compat.mmcv_ops.sampling import gradients, wide, without_autocast


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Enlarge features with a kernel of its own for each output pixel.

    From `CARAFE: Content-Aware ReAssembly of FEatures <https://arxiv.org/abs/1905.02188>`_.

    Args:
        features: Features of shape (N, C, H, W).
        masks: Kernels of shape (N, group_size * kernel_size², H * scale_factor, W * scale_factor).
        rfeatures: Takes a copy of the features, for the backward pass.
        routput: Not used.
        rmasks: Not used.
        output: Takes the result, of shape (N, C, H * scale_factor, W * scale_factor).
        kernel_size: Side of a kernel, odd.
        group_size: Groups of channels with the same kernel.
        scale_factor: Output pixels for each input pixel, along each axis.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Compute the gradients of ``carafe_forward`` for features and kernels."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


@without_autocast
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Compute ``carafe_forward`` without its buffers."""
    windows = _windows(wide(features), kernel_size, group_size)
    kernels = _kernels(wide(masks), kernel_size, group_size, scale_factor)
    result = torch.einsum("ngckhw,ngkhawb->ngchawb", windows, kernels.to(windows.dtype))
    output.copy_(result.reshape(output.shape))


@without_autocast
def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Compute the gradients of ``carafe_naive_forward`` for features and kernels."""
    count, channels, height, width = features.shape
    windows = _windows(wide(features), kernel_size, group_size)
    kernels = _kernels(wide(masks), kernel_size, group_size, scale_factor).to(windows.dtype)
    shape = (count, group_size, -1, height, scale_factor, width, scale_factor)
    grad = wide(grad_output).reshape(shape).to(windows.dtype)
    grad_masks.copy_(torch.einsum("ngckhw,ngchawb->ngkhawb", windows, grad).reshape(grad_masks.shape))
    spread = torch.einsum("ngkhawb,ngchawb->ngckhw", kernels, grad)
    spread = spread.reshape(count, channels * kernel_size**2, height * width)
    grad_input.copy_(F.fold(spread, (height, width), kernel_size, padding=kernel_size // 2))


def _windows(features: Tensor, kernel_size: int, groups: int) -> Tensor:
    """Return the window of each pixel, of shape (N, groups, channels, kernel_size², H, W)."""
    count, _, height, width = features.shape
    windows = F.unfold(features, kernel_size, padding=kernel_size // 2)
    return windows.view(count, groups, -1, kernel_size**2, height, width)


def _kernels(masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """Return the kernels in shape (N, groups, kernel_size², H, scale, W, scale)."""
    height, width = masks.shape[2] // scale, masks.shape[3] // scale
    return masks.reshape(len(masks), groups, kernel_size**2, height, scale, width, scale)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Take the windows of chosen output pixels of a convolution.

    Args:
        im: Features of shape (1, C, H, W).
        mask_h_idx: Rows of the output pixels, of shape (P,).
        mask_w_idx: Their columns.
        col: Takes the windows, of shape (C * kernel_h * kernel_w, P).
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        pad_h: Padding along y, with zeros.
        pad_w: Padding along x.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx.long() + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx.long() + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Put the columns of ``col``, of shape (C, P), at chosen pixels of ``im``, of shape (1, C, H, W)."""
    im[0, :, mask_h_idx.long(), mask_w_idx.long()] = col.to(im.dtype)


def active_rotated_filter_forward(input: Tensor, indices: Tensor, output: Tensor) -> None:
    """Turn filters with orientation channels into all rotations.

    From `Oriented Response Networks <https://arxiv.org/abs/1701.01833>`_.

    Args:
        input: Filters of shape (O, I, orientations, kH, kW).
        indices: Place, counted from 1, to which each entry of a filter goes in each rotation, of shape
            (orientations, kH, kW, rotations).
        output: Takes the filters of shape (O * rotations, I * orientations, kH, kW).
    """
    places = indices.long().flatten(0, 2).T - 1  # (rotations, entries)
    entries = input.flatten(2)[:, None].expand(-1, len(places), -1, -1)  # (O, rotations, I, entries)
    turned = torch.empty_like(entries).scatter_(3, places[None, :, None].expand_as(entries), entries)
    output.copy_(turned.reshape(output.shape))


def active_rotated_filter_backward(grad_out: Tensor, indices: Tensor, grad_in: Tensor) -> None:
    """Compute the gradient of ``active_rotated_filter_forward`` for the filters into ``grad_in``."""
    places = indices.long().flatten(0, 2).T - 1
    grad = grad_out.reshape(len(grad_in), len(places), grad_in.shape[1], -1)  # (O, rotations, I, entries)
    grad_in.copy_(grad.gather(3, places[None, :, None].expand_as(grad)).sum(1).view(grad_in.shape))


@without_autocast
def correlation_forward(
    input1: Tensor,
    input2: Tensor,
    output: Tensor,
    kH: int,
    kW: int,
    patchH: int,
    patchW: int,
    padH: int,
    padW: int,
    dilationH: int,
    dilationW: int,
    dilation_patchH: int,
    dilation_patchW: int,
    dH: int,
    dW: int,
) -> None:
    """Correlate windows of one map with shifted windows of another.

    From `FlowNet: Learning Optical Flow with Convolutional Networks <https://arxiv.org/abs/1504.06852>`_.

    Args:
        input1: Features of shape (N, C, H, W).
        input2: Features of the same shape.
        output: Takes the sums over channels and window, of shape (N, patchH, patchW, output height, output width).
        kH: Height of the window.
        kW: Width of the window.
        patchH: Number of shifts along y, odd.
        patchW: Number of shifts along x, odd.
        padH: Padding along y, with zeros.
        padW: Padding along x.
        dilationH: Step between the rows of a window.
        dilationW: Step between its columns.
        dilation_patchH: Step between shifts along y.
        dilation_patchW: Step between shifts along x.
        dH: Stride along y.
        dW: Stride along x.
    """
    settings = (kH, kW, patchH, patchW, padH, padW, dilationH, dilationW, dilation_patchH, dilation_patchW, dH, dW)
    output.copy_(_correlate(wide(input1), wide(input2), *settings))


@without_autocast
def correlation_backward(
    grad_output: Tensor,
    input1: Tensor,
    input2: Tensor,
    grad_input1: Tensor,
    grad_input2: Tensor,
    kH: int,
    kW: int,
    patchH: int,
    patchW: int,
    padH: int,
    padW: int,
    dilationH: int,
    dilationW: int,
    dilation_patchH: int,
    dilation_patchW: int,
    dH: int,
    dW: int,
) -> None:
    """Compute the gradients of ``correlation_forward`` for both maps."""
    settings = (kH, kW, patchH, patchW, padH, padW, dilationH, dilationW, dilation_patchH, dilation_patchW, dH, dW)
    grads = gradients(lambda a, b: _correlate(a, b, *settings), [wide(input1), wide(input2)], wide(grad_output))
    grad_input1.copy_(grads[0])
    grad_input2.copy_(grads[1])


def _correlate(
    input1: Tensor,
    input2: Tensor,
    rows: int,
    columns: int,
    shifts_y: int,
    shifts_x: int,
    pad_y: int,
    pad_x: int,
    step_y: int,
    step_x: int,
    shift_y: int,
    shift_x: int,
    stride_y: int,
    stride_x: int,
) -> Tensor:
    height, width = input1.shape[2:]
    reach_y, reach_x = shift_y * (shifts_y - 1) // 2, shift_x * (shifts_x - 1) // 2
    around = F.pad(input2, (reach_x, reach_x, reach_y, reach_y))
    products = [
        (input1 * around[:, :, i * shift_y :, j * shift_x :][:, :, :height, :width]).sum(1)
        for i in range(shifts_y)
        for j in range(shifts_x)
    ]
    maps = torch.stack(products, 1)
    window = maps.new_ones((1, 1, rows, columns))
    sums = F.conv2d(
        maps.flatten(0, 1)[:, None],
        window,
        stride=(stride_y, stride_x),
        padding=(pad_y, pad_x),
        dilation=(step_y, step_x),
    )
    return sums.view(len(input1), shifts_y, shifts_x, *sums.shape[2:])


def tin_shift_forward(input: Tensor, shift: Tensor, output: Tensor) -> None:
    """Move groups of channels in time, with zeros where nothing comes from.

    From `Temporal Interlacing Network <https://arxiv.org/abs/2001.06499>`_.

    Args:
        input: Features of shape (N, T, C, H * W).
        shift: Steps by which each group moves to later frames, of shape (N, groups).
        output: Takes the moved features.
    """
    output.copy_(_moved_in_time(input, shift))


def tin_shift_backward(grad_output: Tensor, shift: Tensor, grad_input: Tensor) -> None:
    """Compute the gradient of ``tin_shift_forward`` into ``grad_input``.

    The compiled function of mmcv 2.2 moves gradients by ``shift`` too, to later frames; this is the derivative.
    """
    grad_input.copy_(_moved_in_time(grad_output, -shift))


def _moved_in_time(input: Tensor, shift: Tensor) -> Tensor:
    frames, channels = input.shape[1:3]
    steps = shift.long().repeat_interleave(channels // shift.shape[1], 1)[:, None]  # (N, 1, C)
    source = torch.arange(frames, device=input.device)[None, :, None] - steps
    inside = ((source >= 0) & (source < frames))[..., None]
    moved = input.gather(1, source.clamp(0, frames - 1)[..., None].expand(input.shape))
    return torch.where(inside, moved, 0)
