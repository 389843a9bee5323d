"""Pooling of regions against loops over bins and samples, values and gradients."""

import math
from itertools import pairwise

import pytest
import torch

from trainwright.compat import mmcv_ops
from trainwright.compat.mmcv_ops import regions

F64 = torch.float64


def random(*shape, seed=0):
    return torch.rand(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def sample(plane, y, x):
    """One bilinear sample of a map (H, W) in the convention of RoIAlign; y and x may need gradients."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(())
    y, x = (torch.as_tensor(c, dtype=F64).clamp(0, size - 1) for c, size in ((y, height), (x, width)))
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    upper = plane[y0, x0] * (1 - (x - x0)) + plane[y0, x1] * (x - x0)
    lower = plane[y1, x0] * (1 - (x - x0)) + plane[y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


def samples_of_bin(start, size, index, ratio):
    count = ratio if ratio > 0 else math.ceil(size)
    return [start + (index + (i + 0.5) / count) * size for i in range(count)]


def pooled(features, rois, rows, columns, reduce):
    """Fill (R, C, rows, columns) by a function of image, channel, region, row and column."""
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([torch.stack([reduce(plane, roi, i, j) for j in range(columns)]) for i in range(rows)])
                    for plane in features[int(roi[0])]
                ]
            )
            for roi in rois
        ]
    )


def mean(values):
    return sum(values) / len(values) if values else torch.zeros((), dtype=F64)


def agrees(features, expected, result, backward, *others):
    """Compare a result with its definition, and its gradients with those that autograd gives for the definition."""
    torch.testing.assert_close(result, expected.detach())
    grad = random(*result.shape, seed=99)
    for found, wanted in zip(backward(grad), torch.autograd.grad(expected, (features, *others), grad)):
        torch.testing.assert_close(found, wanted)


BOXES = torch.tensor(
    [[0, 1.3, 2.1, 7.9, 6.2], [1, 0, 0, 3.1, 9.3], [0, -2, -3, 4, 3], [1, 5.2, 5.1, 5.9, 5.4], [1, 4, 3, 16, 12]],
    dtype=F64,
)
SETTINGS = dict(spatial_scale=0.8, sampling_ratio=2, aligned=True)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["max", "avg", "avg by torchvision"])
def test_roi_align(mode, ratio, aligned, monkeypatch):
    monkeypatch.setattr(regions, "SAMPLES_AT_ONCE", 50)
    if mode == "avg by torchvision":
        monkeypatch.setattr(regions, "SAMPLED_ON", ())
    features = random(2, 3, 8, 9).requires_grad_()

    def one_bin(plane, roi, i, j):
        left, top, right, bottom = (roi[1:] * 0.8 - (0.5 if aligned else 0)).tolist()
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        values = [
            sample(plane, y, x)
            for y in samples_of_bin(top, height / 3, i, ratio)
            for x in samples_of_bin(left, width / 2, j, ratio)
        ]
        return max(values) if mode == "max" else mean(values)

    output, grad_input = torch.zeros(5, 3, 3, 2, dtype=F64), torch.zeros(2, 3, 8, 9, dtype=F64)
    argmax = [torch.zeros_like(output) for _ in range(2)]
    settings = dict(
        aligned_height=3,
        aligned_width=2,
        spatial_scale=0.8,
        sampling_ratio=ratio,
        pool_mode=int(mode != "max"),
        aligned=aligned,
    )
    mmcv_ops.roi_align_forward(features.detach(), BOXES, output, *argmax, **settings)

    def backward(grad):
        mmcv_ops.roi_align_backward(grad, BOXES, *argmax, grad_input, **settings)
        return (grad_input,)

    agrees(features, pooled(features, BOXES, 3, 2, one_bin), output, backward)


def test_roi_align_of_half_precision_and_no_boxes():
    features = random(1, 2, 8, 8)
    boxes = torch.tensor([[0.0, 1, 1, 6, 6]])
    half, single = torch.zeros(1, 2, 2, 2, dtype=torch.half), torch.zeros(1, 2, 2, 2)
    empty = torch.zeros(0)
    mmcv_ops.roi_align_forward(features.half(), boxes.half(), half, empty, empty, 2, 2, 1.0, 2, 1, True)
    mmcv_ops.roi_align_forward(features.float(), boxes, single, empty, empty, 2, 2, 1.0, 2, 1, True)
    torch.testing.assert_close(half.float(), single, atol=2e-3, rtol=0)
    none = torch.zeros(0, 2, 2, 2)
    for mode in (0, 1):
        mmcv_ops.roi_align_forward(
            features.float(), boxes[:0], none, none.clone(), none.clone(), 2, 2, 1.0, 0, mode, True
        )
        grad = torch.ones(1, 2, 8, 8)
        mmcv_ops.roi_align_backward(none, boxes[:0], none, none, grad.zero_(), 2, 2, 1.0, 0, mode, True)
        assert not grad.any()


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_roi_pool(scale):
    features = (random(2, 3, 8, 9) * 6).floor()  # with equal values
    boxes = torch.cat([BOXES, torch.tensor([[0, 30, 30, 40, 40], [0, 5, 5, 2, 2]], dtype=F64)])  # outside; inside out
    output, argmax = torch.zeros(7, 3, 3, 2, dtype=F64), torch.zeros(7, 3, 3, 2, dtype=torch.int)
    mmcv_ops.roi_pool_forward(features, boxes, output, argmax, pooled_height=3, pooled_width=2, spatial_scale=scale)

    def greatest(plane, roi, i, j):
        left, top = (roi[1:3] * scale).tolist()
        right, bottom = ((roi[3:5] + 1) * scale).tolist()
        height, width = (bottom - top) / 3, (right - left) / 2
        rows = range(max(math.floor(top + i * height), 0), min(math.ceil(top + (i + 1) * height), 8))
        columns = range(max(math.floor(left + j * width), 0), min(math.ceil(left + (j + 1) * width), 9))
        cells = [(y, x) for y in rows for x in columns] if height > 0 and width > 0 else []
        best = max(cells, key=lambda c: (plane[c], -c[0] * 9 - c[1]), default=None)
        return (
            torch.stack([plane[best], torch.tensor(best[0] * 9 + best[1], dtype=F64)])
            if best
            else torch.tensor([0, -1], dtype=F64)
        )

    expected = pooled(features, boxes, 3, 2, greatest)
    assert torch.equal(output, expected[..., 0])
    assert torch.equal(argmax, expected[..., 1].int())
    grad, grad_input = random(7, 3, 3, 2), torch.zeros(2, 3, 8, 9, dtype=F64)
    mmcv_ops.roi_pool_backward(grad, boxes, argmax, grad_input, pooled_height=3, pooled_width=2, spatial_scale=scale)
    wanted = torch.zeros(2, 3, 72, dtype=F64)
    for r, box in enumerate(boxes):
        for c in range(3):
            for place, value in zip(argmax[r, c].flatten().tolist(), grad[r, c].flatten()):
                if place >= 0:
                    wanted[int(box[0]), c, place] += value
    torch.testing.assert_close(grad_input.flatten(2), wanted)


TURNED = torch.tensor(
    [[0, 4.3, 4.1, 5.9, 3.2, 0.7], [1, 3, 5, 6.1, 2.3, -2.0], [0, 0.5, 0.5, 4, 3, 5.0], [1, 4, 4, 0.4, 0.3, 0.1]],
    dtype=F64,
)


def rotated_bin(plane, roi, i, j, rows, columns, scale, ratio, aligned, clockwise):
    center_x, center_y = (roi[1:3] * scale - (0.5 if aligned else 0)).tolist()
    width, height = (roi[3:5] * scale).tolist()
    if not aligned:
        width, height = max(width, 1), max(height, 1)
    angle = -roi[5] if clockwise else roi[5]
    return mean(
        [
            sample(plane, y * angle.cos() - x * angle.sin() + center_y, y * angle.sin() + x * angle.cos() + center_x)
            for y in samples_of_bin(-height / 2, height / rows, i, ratio)
            for x in samples_of_bin(-width / 2, width / columns, j, ratio)
        ]
    )


@pytest.mark.parametrize(("aligned", "clockwise", "ratio"), [(True, False, 0), (False, True, 2)])
def test_roi_align_rotated(aligned, clockwise, ratio):
    features = random(2, 3, 8, 9).requires_grad_()
    output, grad_input = torch.zeros(4, 3, 3, 2, dtype=F64), torch.zeros(2, 3, 8, 9, dtype=F64)
    settings = dict(
        pooled_height=3, pooled_width=2, spatial_scale=0.8, sampling_ratio=ratio, aligned=aligned, clockwise=clockwise
    )
    mmcv_ops.roi_align_rotated_forward(features.detach(), TURNED, output, **settings)

    def backward(grad):
        mmcv_ops.roi_align_rotated_backward(grad, TURNED, grad_input, **settings)
        return (grad_input,)

    expected = pooled(
        features, TURNED, 3, 2, lambda p, r, i, j: rotated_bin(p, r, i, j, 3, 2, 0.8, ratio, aligned, clockwise)
    )
    agrees(features, expected, output, backward)


@pytest.mark.parametrize(("clockwise", "ratio"), [(False, 2), (True, 0)])
def test_riroi_align_rotated(clockwise, ratio):
    features = random(2, 8, 8, 9).requires_grad_()  # two features in four orientations
    output, grad_input = torch.zeros(4, 8, 2, 2, dtype=F64), torch.zeros(2, 8, 8, 9, dtype=F64)
    settings = dict(
        pooled_height=2, pooled_width=2, spatial_scale=0.8, num_samples=ratio, num_orientations=4, clockwise=clockwise
    )
    mmcv_ops.riroi_align_rotated_forward(features.detach(), TURNED, output, **settings)

    def backward(grad):
        mmcv_ops.riroi_align_rotated_backward(grad, TURNED, grad_input, **settings)
        return (grad_input,)

    plain = pooled(
        features, TURNED, 2, 2, lambda p, r, i, j: rotated_bin(p, r, i, j, 2, 2, 0.8, ratio, False, clockwise)
    )
    expected = []
    for roi, regions_ in zip(TURNED, plain):
        steps = roi[5].item() * 4 / (2 * math.pi)
        whole, part = math.floor(steps), steps - math.floor(steps)
        for feature in (0, 4):
            for o in range(4):
                here, following = feature + (o - whole) % 4, feature + (o - whole + 1) % 4
                expected.append((1 - part) * regions_[here] + part * regions_[following])
    agrees(features, torch.stack(expected).view(4, 8, 2, 2), output, backward)


def test_prroi_pool():
    """Against the sum of many samples of the interpolation, and the gradients against finite differences."""
    features = random(1, 2, 6, 7)
    rois = torch.tensor([[0, 0.7, 1.2, 4.9, 4.4], [0, -2, -1.5, 3, 2], [0, 3, 3, 3, 5]], dtype=F64)
    sizes = dict(pooled_height=2, pooled_width=3, spatial_scale=0.9)

    def pool(features, rois):
        output = torch.zeros(3, 2, 2, 3, dtype=F64)
        mmcv_ops.prroi_pool_forward(features, rois, output, **sizes)
        return output

    output = pool(features, rois)
    padded = torch.nn.functional.pad(features[0], (4, 4, 4, 4))  # outside there are zeros
    count = 40
    for roi, result in zip(rois[:2] * 0.9, output):
        for i in range(2):
            for j in range(3):
                grid = (torch.arange(count, dtype=F64) + 0.5) / count
                y = roi[2] + (i + grid) * (roi[4] - roi[2]) / 2 + 4
                x = roi[1] + (j + grid) * (roi[3] - roi[1]) / 3 + 4
                y_weight = (1 - (y[:, None] - torch.arange(14)).abs()).clamp(min=0)
                x_weight = (1 - (x[:, None] - torch.arange(15)).abs()).clamp(min=0)
                expected = (y_weight @ padded @ x_weight.T).mean((1, 2))
                torch.testing.assert_close(result[:, i, j], expected, atol=1e-3, rtol=0)
    assert not output[2].any()  # an empty region

    class Pool(torch.autograd.Function):
        @staticmethod
        def forward(ctx, features, rois):
            ctx.save_for_backward(features, rois)
            return pool(features, rois)

        @staticmethod
        def backward(ctx, grad):
            features, rois = ctx.saved_tensors
            grads = torch.zeros_like(features), torch.zeros_like(rois)
            mmcv_ops.prroi_pool_backward(grad, rois, grads[0], **sizes)
            mmcv_ops.prroi_pool_coor_backward(pool(features, rois), grad, features, rois, grads[1], **sizes)
            return grads

    def of_corners(features, corners):
        return Pool.apply(features, torch.cat([torch.zeros(3, 1, dtype=F64), corners], 1))

    rois[2, 3] = 5
    assert torch.autograd.gradcheck(of_corners, (features.requires_grad_(), rois[:, 1:].clone().requires_grad_()))


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(ratio):
    features = random(2, 2, 8, 9).requires_grad_()
    offset = (random(5, 2, 2, 3, seed=1) - 0.5).requires_grad_()
    rows = list(BOXES)
    which = {id(roi): n for n, roi in enumerate(rows)}

    def one_bin(plane, roi, i, j, offset):
        left, top, right, bottom = (roi[1:] * 0.8 - 0.5).tolist()
        width, height = right - left, bottom - top
        dx, dy = (0, 0) if offset is None else 0.3 * offset[which[id(roi)], :, i, j] * torch.tensor([width, height])
        return mean(
            [
                sample(plane, y + dy, x + dx)
                for y in samples_of_bin(top, height / 2, i, ratio)
                for x in samples_of_bin(left, width / 3, j, ratio)
            ]
        )

    settings = dict(pooled_height=2, pooled_width=3, spatial_scale=0.8, sampling_ratio=ratio, gamma=0.3)
    for shifts in (offset, None):
        given = torch.zeros(0, dtype=F64) if shifts is None else shifts.detach()
        output = torch.zeros(5, 2, 2, 3, dtype=F64)
        mmcv_ops.deform_roi_pool_forward(features.detach(), BOXES, given, output, **settings)

        def backward(grad, given=given):
            grads = torch.zeros(2, 2, 8, 9, dtype=F64), torch.zeros_like(given)
            mmcv_ops.deform_roi_pool_backward(grad, features.detach(), BOXES, given, *grads, **settings)
            return grads[: 1 + (given.numel() > 0)]

        expected = pooled(features, rows, 2, 3, lambda p, r, i, j, shifts=shifts: one_bin(p, r, i, j, shifts))
        agrees(features, expected, output, backward, *([] if shifts is None else [shifts]))


@pytest.mark.parametrize(("aligned", "ratio"), [(True, 2), (False, 0)])
def test_bezier_align(aligned, ratio):
    features = random(2, 2, 8, 9).requires_grad_()
    upper, lower = [1, 2, 3, 1, 5, 1, 7, 3], [7, 6, 5, 5, 3, 4, 1, 6]
    beziers = torch.tensor([[0, *upper, *lower], [1, *[v + 0.7 for v in upper], *[v + 0.9 for v in lower]]], dtype=F64)

    def point(controls, u):
        """De Casteljau: interpolate between neighbors until one point is left."""
        while len(controls) > 1:
            controls = [(a[0] * (1 - u) + b[0] * u, a[1] * (1 - u) + b[1] * u) for a, b in pairwise(controls)]
        return controls[0]

    def one_bin(plane, bezier, i, j):
        points = [tuple(p) for p in (bezier[1:] * 0.8).view(8, 2).tolist()]
        above, below = points[:4], points[4:][::-1]
        width, height = (max(abs(c[0][axis] - c[3][axis]) for c in (above, below)) for axis in (0, 1))
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        start, end = (point(curve, j / 3) for curve in (above, below))
        x, y = (s * (1 - i / 2) + e * i / 2 - (0.5 if aligned else 0) for s, e in zip(start, end))
        return mean(
            [
                sample(plane, v, u)
                for v in samples_of_bin(y - height / 4, height / 2, 0, ratio)
                for u in samples_of_bin(x - width / 6, width / 3, 0, ratio)
            ]
        )

    settings = dict(aligned_height=2, aligned_width=3, spatial_scale=0.8, sampling_ratio=ratio, aligned=aligned)
    output, grad_input = torch.zeros(2, 2, 2, 3, dtype=F64), torch.zeros(2, 2, 8, 9, dtype=F64)
    mmcv_ops.bezier_align_forward(features.detach(), beziers, output, **settings)

    def backward(grad):
        mmcv_ops.bezier_align_backward(grad, beziers, grad_input, **settings)
        return (grad_input,)

    agrees(features, pooled(features, beziers, 2, 3, one_bin), output, backward)


def test_border_align():
    features = random(2, 8, 6, 7).requires_grad_()
    boxes = torch.stack([BOXES[:4, 1:], BOXES[1:, 1:]]) * 0.7
    output, argmax = torch.zeros(2, 2, 4, 4, dtype=F64), torch.zeros(2, 2, 4, 4, dtype=torch.int)
    mmcv_ops.border_align_forward(features.detach(), boxes, output, argmax, pool_size=3)
    expected, indices = [], []
    for maps, few in zip(features, boxes):
        for channel in range(2):
            for left, top, right, bottom in few.tolist():
                sides = [
                    [(left + (right - left) * k / 3, top) for k in range(4)],
                    [(left, top + (bottom - top) * k / 3) for k in range(4)],
                    [(right - (right - left) * k / 3, bottom) for k in range(4)],
                    [(right, bottom - (bottom - top) * k / 3) for k in range(4)],
                ]
                for border, side in enumerate(sides):
                    values = [sample(maps[border * 2 + channel], y, x) for x, y in side]
                    expected.append(max(values))
                    indices.append(values.index(max(values)))

    def backward(grad):
        grad_input = torch.zeros(2, 8, 6, 7, dtype=F64)
        mmcv_ops.border_align_backward(grad, boxes, argmax, grad_input, pool_size=3)
        return (grad_input,)

    assert argmax.flatten().tolist() == indices
    agrees(features, torch.stack(expected).view(2, 2, 4, 4), output, backward)


@pytest.mark.parametrize("points", [1, 5])
def test_rotated_feature_align(points):
    features = random(2, 2, 4, 5).requires_grad_()
    boxes = torch.cat(
        [random(2, 4, 5, 2, seed=1) * 8, random(2, 4, 5, 2, seed=2) * 6, random(2, 4, 5, 1, seed=3) * 7], -1
    )
    output, grad_input = torch.zeros(2, 2, 4, 5, dtype=F64), torch.zeros(2, 2, 4, 5, dtype=F64)
    mmcv_ops.rotated_feature_align_forward(features.detach(), boxes, output, spatial_scale=0.5, points=points)
    expected = []
    for maps, each in zip(features, boxes):
        for plane in maps:
            for i in range(4):
                for j in range(5):
                    y, x, width, height, angle = (each[i, j] * torch.tensor([0.5, 0.5, 0.5, 0.5, 1])).tolist()
                    total = plane[i, j] + sample(plane, y, x)
                    for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1)) if points == 5 else ():
                        dx = a * math.cos(angle) * width / 2 - b * math.sin(angle) * height / 2
                        dy = a * math.sin(angle) * width / 2 + b * math.cos(angle) * height / 2
                        total = total + sample(plane, y + dy, x + dx)
                    expected.append(total)

    def backward(grad):
        mmcv_ops.rotated_feature_align_backward(grad, boxes, grad_input, spatial_scale=0.5, points=points)
        return (grad_input,)

    agrees(features, torch.stack(expected).view(2, 2, 4, 5), output, backward)
