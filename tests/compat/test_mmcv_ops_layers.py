"""Convolutions, attention, losses and activations against loops, values and gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from trainwright.compat import mmcv_ops

F64 = torch.float64


def random(*shape, seed=0):
    return torch.rand(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def zeros(*shapes):
    return [torch.zeros(shape, dtype=F64) for shape in shapes]


def agree(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def bilinear(plane, y, x):
    """One bilinear sample of a map, with zeros outside."""
    height, width = plane.shape
    total = plane.new_zeros(())
    top, left = math.floor(float(y.detach())), math.floor(float(x.detach()))
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < height and 0 <= j < width:
                total = total + plane[i, j] * (1 - (y - i).abs()) * (1 - (x - j).abs())
    return total


def deformed(input, weight, offset, mask, stride, padding, dilation, groups, offset_groups):
    """Deformable convolution by its definition; stride, padding and dilation along y and x."""
    outputs, channels, rows, columns = weight.shape[0], input.shape[1], *weight.shape[2:]
    height, width = offset.shape[2:]
    offset = offset.view(len(input), offset_groups, rows * columns, 2, height, width)
    result = []
    for n in range(len(input)):
        for o in range(outputs):
            group = o // (outputs // groups)
            for i in range(height):
                for j in range(width):
                    total = input.new_zeros(())
                    for c in range(channels // groups):
                        channel = group * (channels // groups) + c
                        share = channel // (channels // offset_groups)
                        for k in range(rows * columns):
                            dy, dx = offset[n, share, k, :, i, j]
                            y = i * stride[0] - padding[0] + k // columns * dilation[0] + dy
                            x = j * stride[1] - padding[1] + k % columns * dilation[1] + dx
                            value = bilinear(input[n, channel], y, x) * weight[o, c, k // columns, k % columns]
                            total = total + (
                                value if mask is None else value * mask[n, share * rows * columns + k, i, j]
                            )
                    result.append(total)
    return torch.stack(result).view(len(input), outputs, height, width)


GEOMETRY = ((2, 1), (1, 0), (1, 2), 2, 2)


def deform_operands():
    """Input, weight, offset and mask of a convolution with a 2 x 2 kernel, in two groups, for GEOMETRY."""
    input, weight = random(1, 4, 4, 5), random(4, 2, 2, 2, seed=1)
    offset, mask = random(1, 16, 3, 3, seed=2) * 3 - 1.5, random(1, 8, 3, 3, seed=3)
    return [tensor.requires_grad_() for tensor in (input, weight, offset, mask)]


def test_deform_conv():
    input, weight, offset, _ = deform_operands()
    expected = deformed(input, weight, offset, None, *GEOMETRY)
    settings = dict(
        kW=2, kH=2, dW=1, dH=2, padW=0, padH=1, dilationW=2, dilationH=1, group=2, deformable_group=2, im2col_step=1
    )
    (output,) = zeros(expected.shape)
    columns = torch.zeros(0, dtype=F64)
    x, w, shift = input.detach(), weight.detach(), offset.detach()
    mmcv_ops.deform_conv_forward(x, w, shift, output, columns, columns, **settings)
    agree([output], [expected])
    grad = random(*expected.shape, seed=4)
    wanted = torch.autograd.grad(expected, (input, offset, weight), grad)
    for both in (True, False):  # the weight's gradient comes with the input's, or is asked for alone
        found = zeros(input.shape, offset.shape, weight.shape)
        columns = torch.zeros(0, dtype=F64)
        if both:
            mmcv_ops.deform_conv_backward_input(x, shift, grad, *found[:2], w, columns, **settings)
            agree(found[:2], wanted[:2])
        for _ in range(2):  # it is added to what is there
            mmcv_ops.deform_conv_backward_parameters(x, shift, grad, found[2], columns, columns, scale=0.5, **settings)
        agree(found[2:], wanted[2:])


@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv(with_bias):
    operands = [*deform_operands(), random(4 if with_bias else 0, seed=5).requires_grad_()]
    input, weight, offset, mask, bias = operands
    expected = deformed(input, weight, offset, mask, *GEOMETRY)
    expected = expected + bias[:, None, None] if with_bias else expected
    settings = dict(
        kernel_h=2,
        kernel_w=2,
        stride_h=2,
        stride_w=1,
        pad_h=1,
        pad_w=0,
        dilation_h=1,
        dilation_w=2,
        group=2,
        deformable_group=2,
        with_bias=with_bias,
    )
    (output,) = zeros(expected.shape)
    empty = torch.zeros(0, dtype=F64)
    x, w, shift, m, b = (operand.detach() for operand in operands)
    mmcv_ops.modulated_deform_conv_forward(x, w, b, empty, shift, m, output, empty, **settings)
    agree([output], [expected])
    grad = random(*expected.shape, seed=6)
    order = (input, weight, bias, offset, mask)
    found = zeros(*(operand.shape for operand in order))
    mmcv_ops.modulated_deform_conv_backward(x, w, b, empty, shift, m, empty, *found, grad, **settings)
    agree(
        [g for g, o in zip(found, order) if o.numel()],
        torch.autograd.grad(expected, [o for o in order if o.numel()], grad),
    )
    half = torch.zeros(expected.shape, dtype=torch.half)
    mmcv_ops.modulated_deform_conv_forward(*(t.half() for t in (x, w, b, empty, shift, m)), half, empty, **settings)
    torch.testing.assert_close(half.double(), expected.detach(), atol=2e-2, rtol=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_sigmoid_focal_loss(weighted):
    logits = ((random(5, 3) - 0.5) * 8).requires_grad_()
    target = torch.tensor([0, 2, 3, 1, 2])  # 3 is background
    weight = random(3, seed=1) if weighted else random(0)
    probability = logits.sigmoid()
    losses = [
        (1.0 if t == 3 or not weighted else weight[t])
        * (-0.3 * (1 - p) ** 1.5 * p.log() if t == c else -0.7 * p**1.5 * (1 - p).log())
        for row, t in zip(probability, target.tolist())
        for c, p in enumerate(row)
    ]
    expected = torch.stack(losses).view(5, 3)
    output, grad = zeros((5, 3), (5, 3))
    mmcv_ops.sigmoid_focal_loss_forward(logits.detach(), target, weight, output, gamma=1.5, alpha=0.3)
    mmcv_ops.sigmoid_focal_loss_backward(logits.detach(), target, weight, grad, gamma=1.5, alpha=0.3)
    agree([output, grad], [expected, *torch.autograd.grad(expected.sum(), logits)])


def test_sigmoid_focal_loss_of_extreme_logits_in_half_precision():
    logits = torch.tensor([[60.0, -60, 0]], dtype=torch.half)
    output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    settings = (torch.tensor([1]), torch.zeros(0))
    mmcv_ops.sigmoid_focal_loss_forward(logits, *settings, output, gamma=2.0, alpha=0.25)
    mmcv_ops.sigmoid_focal_loss_backward(logits, *settings, grad, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(
        output, torch.tensor([[45, 15, 0.75 * 0.25 * math.log(2)]], dtype=torch.half), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(grad[0, :2], torch.tensor([0.75, -0.25], dtype=torch.half))


@pytest.mark.parametrize("weighted", [True, False])
def test_softmax_focal_loss(weighted):
    logits = ((random(5, 3) - 0.5) * 8).requires_grad_()
    target = torch.tensor([0, 2, -1, 1, 2])  # -1 is ignored
    weight = random(3, seed=1) if weighted else random(0)
    softmax = logits.softmax(1)
    losses = [
        -0.3 * (1 - row[t]) ** 1.5 * row[t].log() * (weight[t] if weighted else 1) if t >= 0 else row.sum() * 0
        for row, t in zip(softmax, target.tolist())
    ]
    expected = torch.stack(losses)
    output, buffer, grad = zeros(5, 5, (5, 3))
    mmcv_ops.softmax_focal_loss_forward(softmax.detach(), target, weight, output, gamma=1.5, alpha=0.3)
    mmcv_ops.softmax_focal_loss_backward(softmax.detach(), target, weight, buffer, grad, gamma=1.5, alpha=0.3)
    agree([output, grad], [expected, *torch.autograd.grad(expected.sum(), logits)])


def test_chamfer_distance():
    first, second = random(2, 4, 2).requires_grad_(), random(2, 6, 2, seed=1).requires_grad_()
    distances = [zeros((2, 4), (2, 6)), [torch.zeros(2, 4, dtype=torch.int), torch.zeros(2, 6, dtype=torch.int)]]
    mmcv_ops.chamfer_distance_forward(first.detach(), second.detach(), *distances[0], *distances[1])
    expected = []
    for here, there, found, indices in zip((first, second), (second, first), *distances):
        rows = [[((p - q) ** 2).sum() for q in others] for points, others in zip(here, there) for p in points]
        expected.append(torch.stack([min(row) for row in rows]).view(found.shape))
        assert indices.flatten().tolist() == [row.index(min(row)) for row in rows]
    agree(distances[0], expected)
    grads, found = [random(2, 4, seed=2), random(2, 6, seed=3)], zeros(first.shape, second.shape)
    mmcv_ops.chamfer_distance_backward(first.detach(), second.detach(), *distances[1], *grads, *found)
    agree(found, torch.autograd.grad(expected, (first, second), grads))


def test_ms_deform_attn():
    sizes = [(3, 4), (2, 2)]
    value = random(2, 16, 2, 3).requires_grad_()
    places = (random(2, 3, 2, 2, 2, 2, seed=1) * 1.4 - 0.2).requires_grad_()
    weights = random(2, 3, 2, 2, 2, seed=2).requires_grad_()
    result = []
    for n in range(2):
        for q in range(3):
            for head in range(2):
                for d in range(3):
                    total, start = value.new_zeros(()), 0
                    for level, (height, width) in enumerate(sizes):
                        plane = value[n, start : start + height * width, head, d].view(height, width)
                        start += height * width
                        for point in range(2):
                            x, y = places[n, q, head, level, point]
                            sample = bilinear(plane, y * height - 0.5, x * width - 0.5)
                            total = total + sample * weights[n, q, head, level, point]
                    result.append(total)
    expected = torch.stack(result).view(2, 3, 6)
    inputs = (value.detach(), torch.tensor(sizes), torch.tensor([0, 12]), places.detach(), weights.detach())
    output = mmcv_ops.ms_deform_attn_forward(*inputs, im2col_step=64)
    agree([output], [expected])
    grad, found = random(2, 3, 6, seed=3), zeros(value.shape, places.shape, weights.shape)
    mmcv_ops.ms_deform_attn_backward(*inputs, grad, *found, im2col_step=64)
    agree(found, torch.autograd.grad(expected, (value, places, weights), grad))


def test_ms_deform_attn_reads_sizes_again_after_a_change():
    shapes = torch.tensor([[2, 2]])
    value, place, weight = (
        random(1, 4, 1, 1),
        torch.full((1, 1, 1, 1, 1, 2), 0.125).double(),
        torch.ones(1, 1, 1, 1, 1).double(),
    )
    before = mmcv_ops.ms_deform_attn_forward(value, shapes, torch.tensor([0]), place, weight, 64)
    shapes.copy_(torch.tensor([[1, 4]]))
    after = mmcv_ops.ms_deform_attn_forward(value, shapes, torch.tensor([0]), place, weight, 64)
    torch.testing.assert_close(before[0, 0, 0], random(1, 4, 1, 1)[0, 0, 0, 0] * 0.75**2)
    torch.testing.assert_close(after[0, 0, 0], random(1, 4, 1, 1)[0, 0, 0, 0] * 0.625)


@pytest.mark.parametrize("kind", [0, 1])
def test_psamask(kind):
    height, width, rows, columns = 3, 4, 3, 5
    input = random(2, rows * columns, height, width).requires_grad_()
    expected = torch.zeros(2, height * width, height, width, dtype=F64)
    for n in range(2):
        for h in range(height):
            for w in range(width):
                for i in range(rows):
                    for j in range(columns):
                        y, x = h + i - 1, w + j - 2
                        if 0 <= y < height and 0 <= x < width:
                            value = input[n, i * columns + j, h, w]
                            if kind == 0:
                                expected[n, y * width + x, h, w] = value
                            else:
                                expected[n, h * width + w, y, x] = value
    settings = dict(
        psa_type=kind,
        num_=2,
        h_feature=height,
        w_feature=width,
        h_mask=rows,
        w_mask=columns,
        half_h_mask=1,
        half_w_mask=2,
    )
    output, found = zeros(expected.shape, input.shape)
    mmcv_ops.psamask_forward(input.detach(), output, **settings)
    grad = random(*expected.shape, seed=1)
    mmcv_ops.psamask_backward(grad, found, **settings)
    agree([output, found], [expected, *torch.autograd.grad(expected, input, grad)])


@pytest.mark.parametrize("naive", [True, False])
def test_carafe(naive):
    kernel, groups, scale = 3, 2, 2
    features = random(2, 4, 3, 2).requires_grad_()
    masks = random(2, groups * kernel**2, 6, 4, seed=1).requires_grad_()
    result = []
    for n in range(2):
        for c in range(4):
            for y in range(6):
                for x in range(4):
                    total = features.new_zeros(())
                    for k in range(kernel**2):
                        i, j = y // scale + k // kernel - 1, x // scale + k % kernel - 1
                        if 0 <= i < 3 and 0 <= j < 2:
                            total = total + features[n, c, i, j] * masks[n, c // 2 * kernel**2 + k, y, x]
                    result.append(total)
    expected = torch.stack(result).view(2, 4, 6, 4)
    settings = dict(kernel_size=kernel, group_size=groups, scale_factor=scale)
    x, m = features.detach(), masks.detach()
    output, *found = zeros(expected.shape, features.shape, masks.shape)
    grad = random(*expected.shape, seed=2)
    if naive:
        mmcv_ops.carafe_naive_forward(x, m, output, **settings)
        mmcv_ops.carafe_naive_backward(grad, x, m, *found, **settings)
    else:
        copy, *unused = zeros(features.shape, expected.shape, expected.shape, features.shape, masks.shape)
        mmcv_ops.carafe_forward(x, m, copy, unused[0], unused[3], output, **settings)
        mmcv_ops.carafe_backward(grad, copy, m, *unused, *found, **settings)
    agree([output, *found], [expected, *torch.autograd.grad(expected, (features, masks), grad)])


def test_masked_convolution():
    """The two steps around a matrix product are a convolution at the pixels of the mask."""
    features, weight = random(1, 3, 5, 6), random(4, 3, 3, 2, seed=1)
    rows, columns = torch.tensor([0, 2, 4]), torch.tensor([0, 6, 3])
    (windows,) = zeros((18, 3))
    mmcv_ops.masked_im2col_forward(features, rows, columns, windows, kernel_h=3, kernel_w=2, pad_h=1, pad_w=1)
    (output,) = zeros((1, 4, 5, 7))
    mmcv_ops.masked_col2im_forward(weight.flatten(1) @ windows, rows, columns, output, height=5, width=7, channels=4)
    full = F.conv2d(features, weight, padding=1)
    mask = torch.zeros(5, 7, dtype=F64)
    mask[rows, columns] = 1
    agree([output], [full * mask])


def test_active_rotated_filter():
    weight = random(2, 3, 4, 3, 3).requires_grad_()
    # A rotation by a quarter turn moves an orientation to the next, and turns the kernel.
    places = torch.arange(36).view(4, 3, 3)
    turned = torch.stack([torch.rot90(places.roll(k, 0), k, (1, 2)) for k in range(4)], -1)
    indices = torch.empty_like(turned)
    for k in range(4):
        indices[..., k].view(-1)[turned[..., k].flatten()] = torch.arange(36)
    expected = torch.stack([torch.rot90(weight.roll(k, 2), k, (3, 4)) for k in range(4)], 1).reshape(8, 12, 3, 3)
    output, found = zeros(expected.shape, weight.shape)
    mmcv_ops.active_rotated_filter_forward(weight.detach(), (indices + 1).int(), output)
    grad = random(*expected.shape, seed=1)
    mmcv_ops.active_rotated_filter_backward(grad, (indices + 1).int(), found)
    agree([output, found], [expected, *torch.autograd.grad(expected, weight, grad)])


def test_correlation():
    first, second = random(2, 3, 5, 6).requires_grad_(), random(2, 3, 5, 6, seed=1).requires_grad_()
    settings = dict(
        kH=2,
        kW=1,
        patchH=3,
        patchW=5,
        padH=1,
        padW=0,
        dilationH=2,
        dilationW=1,
        dilation_patchH=1,
        dilation_patchW=2,
        dH=1,
        dW=2,
    )

    def at(maps, n, y, x):
        return maps[n, :, y, x] if 0 <= y < 5 and 0 <= x < 6 else maps.new_zeros(3)

    result = [
        sum(
            (at(first, n, y, x) * at(second, n, y + p - 1, x + (q - 2) * 2)).sum()
            for y, x in ((i - 1, j * 2), (i + 1, j * 2))
        )
        for n in range(2)
        for p in range(3)
        for q in range(5)
        for i in range(5)
        for j in range(3)
    ]
    expected = torch.stack(result).view(2, 3, 5, 5, 3)
    output, *found = zeros(expected.shape, first.shape, second.shape)
    mmcv_ops.correlation_forward(first.detach(), second.detach(), output, **settings)
    grad = random(*expected.shape, seed=2)
    mmcv_ops.correlation_backward(grad, first.detach(), second.detach(), *found, **settings)
    agree([output, *found], [expected, *torch.autograd.grad(expected, (first, second), grad)])


def test_tin_shift():
    input = random(2, 4, 6, 2).requires_grad_()
    shift = torch.tensor([[1, 0, -2], [-1, 4, 2]], dtype=torch.int)
    expected = torch.zeros_like(input)
    for n in range(2):
        for t in range(4):
            for c in range(6):
                later = t + int(shift[n, c // 2])
                if 0 <= later < 4:
                    expected[n, later, c] = input[n, t, c]
    output, found = zeros(input.shape, input.shape)
    mmcv_ops.tin_shift_forward(input.detach(), shift, output)
    grad = random(*input.shape, seed=1)
    mmcv_ops.tin_shift_backward(grad, shift, found)
    agree([output, found], [expected, *torch.autograd.grad(expected, input, grad)])


@pytest.mark.parametrize("flip", [True, False])
def test_upfirdn2d(flip):
    image, kernel = random(2, 3, 4, 5), random(3, 2, seed=1).float()
    output = mmcv_ops.upfirdn2d(image, kernel, 2, 3, 2, 1, 2, -1, -2, 3, flip, 1.5)
    large = torch.zeros(2, 3, 4 * 3 - 2 + 3, 5 * 2 + 2 - 1, dtype=F64)
    for i in range(4):
        for j in range(5):
            if 0 <= i * 3 - 2 < large.shape[2] and 0 <= j * 2 + 2 < large.shape[3]:
                large[:, :, i * 3 - 2, j * 2 + 2] = image[:, :, i, j]
    expected = torch.zeros(2, 3, large.shape[2] - 2, (large.shape[3] - 1 + 1) // 2, dtype=F64)
    for i in range(expected.shape[2]):
        for j in range(expected.shape[3]):
            for a in range(3):
                for b in range(2):
                    weight = kernel[a, b] if flip else kernel[2 - a, 1 - b]
                    expected[:, :, i, j] += large[:, :, i + a, j * 2 + b] * weight.double() * 1.5
    agree([output], [expected])


ACTIVATIONS = [
    lambda x: x,
    lambda x: torch.where(x > 0, x, 0),
    lambda x: torch.where(x > 0, x, 0.3 * x),
    lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    lambda x: 1 / (1 + (-x).exp()),
    lambda x: torch.where(x > 0, x, x.exp() - 1),
    lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1)),
    lambda x: (1 + x.exp()).log(),
    lambda x: x / (1 + (-x).exp()),
]


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("clamp", [-1, 1.2])
def test_bias_act(number, clamp):
    """The first and second derivative are those of the activation, limits included."""
    x, b = (random(2, 3, 4) * 6 - 3).requires_grad_(), (random(3, seed=1) - 0.5).requires_grad_()
    null = torch.zeros(0, dtype=F64)
    y = ACTIVATIONS[number - 1](x + b[:, None]) * 1.5
    y = y.clamp(-clamp, clamp) if clamp >= 0 else y
    output = mmcv_ops.bias_act(x.detach(), b.detach(), null, null, null, 0, 1, number, 0.3, 1.5, clamp)
    agree([output], [y])
    dy = random(2, 3, 4, seed=2)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    kept = (x.detach(), b.detach()) if number == 9 else (null, null)  # what mmcv keeps for the backward pass
    result = null if number == 9 else y.detach()
    found = mmcv_ops.bias_act(dy, kept[1], kept[0], result, null, 1, 1, number, 0.3, 1.5, clamp)
    agree([found], [dx])
    if number > 3:
        further = random(2, 3, 4, seed=3)
        (ddx,) = torch.autograd.grad(dx, x, further)
        found = mmcv_ops.bias_act(further, b.detach(), x.detach(), result, dy, 2, 1, number, 0.3, 1.5, clamp)
        agree([found], [ddx])


def test_fused_bias_leakyrelu():
    x, b = (random(2, 3, 4) - 0.5).requires_grad_(), (random(3, seed=1) - 0.5).requires_grad_()
    null = torch.zeros(0, dtype=F64)
    y = torch.where(x + b[:, None] > 0, x + b[:, None], 0.2 * (x + b[:, None])) * 1.4
    settings = dict(act=3, alpha=0.2, scale=1.4)
    agree([mmcv_ops.fused_bias_leakyrelu(x.detach(), b.detach(), null, grad=0, **settings)], [y])
    grad = random(2, 3, 4, seed=2)
    found = mmcv_ops.fused_bias_leakyrelu(grad, null, y.detach(), grad=1, **settings)
    agree([found], torch.autograd.grad(y, x, grad))


@pytest.mark.parametrize("taps", [1, 2])
def test_filtered_lrelu(taps):
    """The backward pass of mmcv is a second call with the signs of the first; together they are the derivative."""
    x, b = (random(1, 2, 4, 5) * 4 - 2).requires_grad_(), random(2, seed=1)
    up, down = random(*[4] * taps, seed=2).float(), random(*[2] * taps, seed=3).float()
    null = torch.zeros(0, dtype=torch.uint8)
    y, signs, code = mmcv_ops.filtered_lrelu(
        x.detach(), up, down, b, null, 2, 2, 2, 1, 1, 2, 0, 0, 1.3, 0.2, 1.5, False, True
    )
    full_up, full_down = (f if taps == 2 else f[:, None] * f for f in (up, down))
    large = x.new_zeros(1, 2, 8, 10)
    large[:, :, ::2, ::2] = x + b[:, None, None]
    large = F.pad(large, (2, 1, 1, 2))
    flipped = full_up.flip(0, 1).double().expand(2, 1, 4, 4) * 4
    middle = F.conv2d(large, flipped, groups=2) * 1.3
    active = torch.where(middle < 0, middle * 0.2, middle).clamp(-1.5, 1.5)
    expected = F.conv2d(active, full_down.flip(0, 1).double().expand(2, 1, 2, 2), groups=2, stride=2)
    agree([y], [expected])
    assert code == 0
    assert signs.unique().tolist() == [0, 1, 2]
    grad = random(*y.shape, seed=4)
    # As mmcv.ops.filtered_lrelu computes them for these factors and paddings.
    pads = (3 + 1 - 2, 5 * 2 - y.shape[3] * 2 + 2 - 1, 3 + 1 - 1, 4 * 2 - y.shape[2] * 2 + 1 - 1)
    found, none, _ = mmcv_ops.filtered_lrelu(
        grad, down, up, torch.zeros(2), signs, 2, 2, *pads, -3 + 2, -3 + 1, 1.3, 0.2, math.inf, True, False
    )
    agree([found], torch.autograd.grad(expected, x, grad))
    assert none.numel() == 0


def test_sync_bn():
    """With one process, the steps are the batch normalization of PyTorch."""
    x = (random(3, 2, 5).float() * 3).requires_grad_()
    weight, bias = random(2, seed=1).float().requires_grad_(), random(2, seed=2).float().requires_grad_()
    running, expected_running = ([torch.zeros(2), torch.ones(2)] for _ in range(2))
    expected = F.batch_norm(x, *expected_running, weight, bias, True, 0.1, 1e-5)
    mean, var, std = (torch.zeros(2) for _ in range(3))
    norm, output, grad_input = (torch.zeros(3, 2, 5) for _ in range(3))
    mmcv_ops.sync_bn_forward_mean(x.detach(), mean)
    mmcv_ops.sync_bn_forward_var(x.detach(), mean, var)
    mmcv_ops.sync_bn_forward_output(
        x.detach(),
        mean,
        var,
        weight.detach(),
        bias.detach(),
        *running,
        norm,
        std,
        output,
        eps=1e-5,
        momentum=torch.tensor([0.1]),
        group_size=1,
    )
    agree([output, *running], [expected, *expected_running])
    grad, grads = random(3, 2, 5, seed=3).float(), [torch.zeros(2), torch.zeros(2)]
    mmcv_ops.sync_bn_backward_param(grad, norm, *grads)
    mmcv_ops.sync_bn_backward_data(grad, weight.detach(), *grads, norm, std, grad_input)
    agree([grad_input, *grads], torch.autograd.grad(expected, (x, weight, bias), grad))


def test_operators_without_a_substitute_refuse():
    with pytest.raises(NotImplementedError, match="indice_conv_forward.*spconv"):
        mmcv_ops.indice_conv_forward()
    with pytest.raises(AttributeError, match="no_such_operator"):
        mmcv_ops.no_such_operator  # noqa: B018


def under_autocast(case):
    """Return the results of an operator of float32 inputs: new tensors, and those that it wrote into."""
    if case == "carafe":
        output = torch.zeros(1, 4, 6, 6)
        mmcv_ops.carafe_naive_forward(random(1, 4, 3, 3).float(), random(1, 9, 6, 6).float(), output, 3, 1, 2)
    elif case == "correlation":
        output = torch.zeros(1, 1, 1, 3, 3)
        mmcv_ops.correlation_forward(
            random(1, 4, 3, 3).float(), random(1, 4, 3, 3, seed=1).float(), output, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1
        )
    elif case == "prroi_pool":
        output = torch.zeros(1, 4, 2, 2)
        mmcv_ops.prroi_pool_forward(random(1, 4, 5, 5).float(), torch.tensor([[0, 0.3, 0.4, 3, 4]]), output, 2, 2, 1.0)
    elif case == "bezier_align":
        output = torch.zeros(1, 4, 2, 2)
        points = torch.tensor([[0, 0.3, 0.1, 1, 0, 2, 0, 3, 0, 3, 3.3, 2, 3, 1, 3, 0, 3.4]])
        mmcv_ops.bezier_align_forward(random(1, 4, 5, 5).float(), points, output, 2, 2, 1.0, 2, True)
    elif case == "upfirdn2d":
        output = mmcv_ops.upfirdn2d(random(1, 4, 5, 5).float(), random(3, 3).float(), 2, 2, 1, 1, 1, 1, 1, 1, True, 1.0)
    elif case == "min_area_polygons":
        output = torch.zeros(1, 8)
        mmcv_ops.min_area_polygons(random(1, 18).float() * 100, output)
    elif case == "deform_conv":
        output = torch.zeros(1, 4, 3, 3)
        mmcv_ops.deform_conv_forward(
            *(t.detach().float() for t in deform_operands()[:3]),
            output,
            output,
            output,
            2,
            2,
            1,
            2,
            0,
            1,
            2,
            1,
            2,
            2,
            1,
        )
    return output


@pytest.mark.parametrize(
    "case", ["carafe", "correlation", "prroi_pool", "bezier_align", "upfirdn2d", "min_area_polygons", "deform_conv"]
)
def test_autocast_does_not_change_operators(case):
    expected = under_autocast(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = under_autocast(case)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert expected.any()
