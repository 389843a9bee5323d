"""Suppression and overlaps of boxes against loops over boxes and clipped polygons."""

import math

import pytest
import torch

from trainwright.compat import mmcv_ops
from trainwright.compat.mmcv_ops import polygons

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def corners(box):
    x, y, w, h, angle = box.tolist()
    cos, sin = math.cos(angle), math.sin(angle)
    return [
        (x + cos * i * w - sin * j * h, y + sin * i * w + cos * j * h)
        for i, j in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    ]


def area(polygon):
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1])) / 2


def clipped(polygon, convex):
    """Sutherland and Hodgman 1974: cut the polygon along each side of a convex one."""
    if area(convex) < 0:
        convex = convex[::-1]
    for (ax, ay), (bx, by) in zip(convex, convex[1:] + convex[:1]):
        kept = []
        for p, q in zip(polygon, polygon[1:] + polygon[:1]):
            at_p, at_q = ((bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in (p, q))
            if at_p >= 0:
                kept.append(p)
            if at_p * at_q < 0:
                t = at_p / (at_p - at_q)
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        polygon = kept
    return polygon


def shared_area(polygon, convex):
    return abs(area(clipped(polygon, convex)))


def rotated_boxes():
    """Boxes with identical, touching, turned, nested, near-identical and empty ones."""
    boxes = torch.rand(20, 5, dtype=F64, generator=seeded(0)) * torch.tensor([50, 50, 30, 30, 7])
    boxes[0] = boxes[1]
    boxes[2, 2] = 0
    boxes[3] = torch.tensor([10, 10, 4, 6, 0])
    boxes[4] = torch.tensor([14, 10, 4, 6, 0])  # shares a side
    boxes[5] = torch.tensor([10, 10, 6, 4, math.pi / 2])  # the same, turned
    boxes[6] = torch.tensor([12, 10, 4, 6, 0])  # sides on the same lines
    boxes[7] = boxes[1] + torch.tensor([0, 0, 0, 0, 1e-7])
    boxes[8] = boxes[1] * torch.tensor([1, 1, 0.5, 0.5, 1])
    boxes[9] = torch.tensor([14, 16, 4, 6, 0])  # shares a corner
    return boxes


def test_shared_areas_of_rotated_boxes():
    boxes = rotated_boxes()
    expected = torch.tensor([[shared_area(corners(a), corners(b)) for b in boxes] for a in boxes], dtype=F64)
    torch.testing.assert_close(polygons.rotated_intersections(boxes, boxes), expected, atol=1e-6, rtol=0)
    aligned = polygons.rotated_intersections(boxes, boxes.flip(0), aligned=True)
    torch.testing.assert_close(aligned, expected.flip(1).diagonal(), atol=1e-6, rtol=0)
    narrow = polygons.rotated_intersections(boxes.float(), boxes.float())
    torch.testing.assert_close(narrow, expected.float(), atol=1e-3, rtol=1e-5)
    quads = torch.tensor([corners(box) for box in boxes], dtype=F64)
    torch.testing.assert_close(polygons.polygon_intersections(quads, quads.flip(1)), expected, atol=1e-6, rtol=0)


def test_large_matrices_are_computed_in_parts(monkeypatch):
    boxes = rotated_boxes()
    whole = polygons.rotated_intersections(boxes, boxes)
    monkeypatch.setattr(polygons, "PAIRS_AT_ONCE", 45)
    assert torch.equal(polygons.rotated_intersections(boxes, boxes), whole)
    assert polygons.rotated_intersections(boxes[:0], boxes).shape == (0, 20)
    assert polygons.polygon_intersections(boxes[:, :4].view(-1, 2, 2)[:0], boxes[:, :4].view(-1, 2, 2)).shape == (0, 20)


def test_shared_area_of_concave_polygons():
    arrow = [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (1.0, 0.5), (0.0, 2.0)]
    window = [(0.0, 1.0), (2.0, 1.0), (2.0, 2.0), (0.0, 2.0)]
    first, second = (torch.tensor([p], dtype=F64) for p in (arrow, window))
    expected = shared_area(arrow, window)
    for a, b in ((first, second), (second, first), (first.flip(1), second)):
        torch.testing.assert_close(polygons.polygon_intersections(a, b)[0, 0].item(), expected)


def test_shared_areas_have_gradients():
    a, b = (torch.rand(3, 5, dtype=F64, generator=seeded(i)) * torch.tensor([5, 5, 30, 30, 7]) for i in (1, 2))
    assert torch.autograd.gradcheck(
        polygons.rotated_intersections, (a.requires_grad_(), b.requires_grad_()), fast_mode=True
    )
    quads = torch.tensor([corners(box) for box in a], dtype=F64).requires_grad_()
    others = torch.tensor([corners(box) for box in b], dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(polygons.polygon_intersections, (quads, others), fast_mode=True)


def iou(a, b, offset=0):
    """IoU of two boxes (x1, y1, x2, y2)."""
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    return w * h / (sum(areas) - w * h)


def random_boxes(count, seed):
    start = torch.rand(count, 2, generator=seeded(seed)) * 30
    boxes = torch.cat([start, start + 2 + torch.rand(count, 2, generator=seeded(seed + 1)) * 20], 1)
    return boxes, torch.rand(count, generator=seeded(seed + 2))


def suppressed(overlap, scores, threshold):
    """Keep the best, drop what overlaps it, and so on."""
    waiting, kept = scores.argsort(descending=True).tolist(), []
    while waiting:
        kept.append(waiting.pop(0))
        waiting = [i for i in waiting if overlap(kept[-1], i) <= threshold]
    return kept


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(offset):
    boxes, scores = random_boxes(60, 0)
    kept = mmcv_ops.nms(boxes, scores, iou_threshold=0.3, offset=offset)
    listed = boxes.tolist()
    assert kept.tolist() == suppressed(lambda i, j: iou(listed[i], listed[j], offset), scores, 0.3)
    assert 5 < len(kept) < 50
    assert mmcv_ops.nms(boxes.half(), scores.half(), 0.3, offset).dtype == torch.int64
    assert mmcv_ops.nms(boxes[:0], scores[:0], 0.3, offset).tolist() == []


def decayed(boxes, scores, threshold, sigma, least, method, offset):
    """Soft-NMS as a loop: pick the best of those left, decay the others, drop those with too low a score."""
    left, result = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        result.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == "gaussian":
                left[i] *= math.exp(-overlap * overlap / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == "linear" else 0
            if left[i] < least:
                del left[i]
    return result


@pytest.mark.parametrize(("number", "method"), [(0, "naive"), (1, "linear"), (2, "gaussian")])
@pytest.mark.parametrize("offset", [0, 1])
def test_softnms(number, method, offset):
    boxes, scores = random_boxes(40, 3)
    dets = torch.empty(40, 5)
    kept = mmcv_ops.softnms(
        boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.1, method=number, offset=offset
    )
    expected = decayed(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.1, method, offset)
    assert kept.tolist() == [i for i, _ in expected]
    assert 5 < len(kept) < 38
    torch.testing.assert_close(dets[: len(kept), :4], boxes[kept])
    torch.testing.assert_close(dets[: len(kept), 4], torch.tensor([score for _, score in expected]))


def test_softnms_orders_equal_scores_as_mmcv_does():
    """The example of mmcv.ops.soft_nms: a box that is dropped is replaced by the last one."""
    boxes = torch.tensor([[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]])
    scores = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.4, 0.0])
    dets = torch.empty(6, 5)
    assert mmcv_ops.softnms(boxes, scores, dets, 0.6, 0.5, 1e-3, 1, 0).tolist() == [0, 1, 2, 3, 4]
    apart = torch.tensor([[10.0 * i, 0, 10 * i + 5, 5] for i in range(5)])
    order = mmcv_ops.softnms(apart, torch.tensor([0.9, 0.0, 0.5, 0.5, 0.5]), torch.empty(5, 5), 0.6, 0.5, 1e-3, 1, 0)
    assert order.tolist() == [0, 4, 2, 3]


def test_nms_match():
    boxes, scores = random_boxes(50, 6)
    groups = mmcv_ops.nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold=0.3)
    waiting, expected = scores.argsort(descending=True).tolist(), []
    while waiting:
        best = waiting.pop(0)
        matched = [i for i in waiting if iou(boxes[best].tolist(), boxes[i].tolist()) >= 0.3]
        expected.append([best, *matched])
        waiting = [i for i in waiting if i not in matched]
    assert groups == expected
    assert 5 < len(groups) < 45


@pytest.mark.parametrize("labeled", [False, True])
def test_nms_rotated_and_quadri(labeled):
    """As in mmcv 2.2, labels make no difference."""
    boxes = torch.rand(50, 5, dtype=F64, generator=seeded(7)) * torch.tensor([40, 40, 25, 25, 7])
    scores = torch.rand(50, dtype=F64, generator=seeded(8))
    labels = torch.arange(50) % 3
    polygon = [corners(box) for box in boxes]

    def overlap(i, j):
        shared = shared_area(polygon[i], polygon[j])
        return shared / (abs(area(polygon[i])) + abs(area(polygon[j])) - shared)

    expected = suppressed(overlap, scores, 0.2)
    order = scores.argsort(descending=True)
    quads = torch.tensor(polygon, dtype=F64).flatten(1)
    dets, quads = (torch.cat([b, labels[:, None]], 1) if labeled else b for b in (boxes, quads))
    assert mmcv_ops.nms_rotated(dets, scores, order, dets[order], labels, 0.2, labeled).tolist() == expected
    assert mmcv_ops.nms_quadri(quads, scores, order, quads[order], 0.2, labeled).tolist() == expected
    assert 5 < len(expected) < 45


def test_suppressed_boxes_suppress_nothing():
    """In a chain in which each overlaps the next only, every second one is kept."""
    boxes = torch.tensor([[3.0 * i, 0, 4, 4, 0] for i in range(9)])
    order = torch.arange(9)
    assert mmcv_ops.nms_rotated(boxes, -order, order, boxes, order, 0.1, False).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode, offset):
    first, second = random_boxes(6, 9)[0], random_boxes(4, 12)[0]

    def overlap(a, b):
        if not mode:
            return iou(a, b, offset)
        both = iou(a, b, offset)
        areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
        return both * sum(areas) / (1 + both) / areas[0]

    expected = torch.tensor([[overlap(a, b) for b in second.tolist()] for a in first.tolist()])
    ious = torch.zeros(6, 4)
    mmcv_ops.bbox_overlaps(first, second, ious, mode=mode, aligned=False, offset=offset)
    torch.testing.assert_close(ious, expected)
    ious = torch.zeros(4)
    mmcv_ops.bbox_overlaps(first[:4], second, ious, mode=mode, aligned=True, offset=offset)
    torch.testing.assert_close(ious, expected[:4].diagonal())
    empty = torch.ones(1, 1)
    mmcv_ops.bbox_overlaps(first[:1] * 0, second[:1] * 0, empty, mode=mode, offset=0)
    assert empty.item() == 0


@pytest.mark.parametrize("mode", [0, 1])
def test_box_iou_of_rotated_boxes_and_quadrilaterals(mode):
    boxes = rotated_boxes()
    polygon = [corners(box) for box in boxes]

    def overlap(p, q):
        shared, areas = shared_area(p, q), [abs(area(r)) for r in (p, q)]
        whole = areas[0] if mode else sum(areas) - shared
        return shared / whole if whole else 0

    expected = torch.tensor([[overlap(p, q) for q in polygon] for p in polygon], dtype=F64)
    quads = torch.tensor(polygon, dtype=F64).flatten(1)
    for function, items in ((mmcv_ops.box_iou_rotated, boxes), (mmcv_ops.box_iou_quadri, quads)):
        ious = torch.zeros(400, dtype=F64)
        function(items, items, ious, mode_flag=mode, aligned=False)
        torch.testing.assert_close(ious.view(20, 20), expected, atol=1e-8, rtol=0)
        ious = torch.zeros(20, dtype=F64)
        function(items, items.flip(0), ious, mode_flag=mode, aligned=True)
        torch.testing.assert_close(ious, expected.flip(1).diagonal(), atol=1e-8, rtol=0)


def hull(points):
    """Andrew's monotone chain (1979)."""
    points, chain = sorted(set(points)), []
    for row in (points, points[::-1]):
        part = []
        for p in row:
            while len(part) > 1 and area([part[-2], part[-1], p]) <= 0:
                part.pop()
            part.append(p)
        chain += part[:-1]
    return chain


def pointsets():
    points = torch.rand(6, 9, 2, dtype=F64, generator=seeded(15)) * 10
    points[1, 4:] = points[1, 0]  # repeated
    points[2, :, 0] = 3  # on a line
    points[3] = torch.tensor([[i, j] for i in range(3) for j in range(3)])  # a grid
    return points


def test_convex_hulls():
    for points, found in zip(pointsets(), polygons.convex_hulls(pointsets())):
        expected = hull([tuple(p) for p in points.tolist()])
        assert abs(polygons.polygon_areas(found).item() - area(expected)) < 1e-12
        assert set(map(tuple, found.tolist())) == set(expected)


def giou(points, quad):
    inner, around = hull(points), hull(points + quad)
    shared = shared_area(quad, inner) if len(inner) > 2 else 0
    union = area(inner) + abs(area(quad)) - shared
    return shared / union - (area(around) - union) / area(around), shared / union


def test_convex_iou_and_giou():
    points = pointsets()
    quads = torch.tensor([corners(torch.tensor([5.0, 4, 6, 3 + i, 0.3 * i])) for i in range(6)], dtype=F64)
    expected = [[giou(list(map(tuple, p)), list(map(tuple, q))) for q in quads.tolist()] for p in points.tolist()]
    ious = torch.zeros(6, 6, dtype=F64)
    mmcv_ops.convex_iou(points.flatten(1), quads.flatten(1), ious)
    torch.testing.assert_close(ious, torch.tensor(expected, dtype=F64)[..., 1])
    output = torch.zeros(6, 19, dtype=F64)
    mmcv_ops.convex_giou(points.flatten(1), quads.flatten(1), output)
    torch.testing.assert_close(output[:, 18], torch.tensor(expected, dtype=F64)[..., 0].diagonal())
    for row in (0, 4, 5):  # those in general position have a derivative
        for column in range(18):
            values = []
            for step in (1e-6, -1e-6):
                moved = points[row].flatten().clone()
                moved[column] += step
                values.append(
                    giou(list(map(tuple, moved.view(9, 2).tolist())), list(map(tuple, quads[row].tolist())))[0]
                )
            assert abs((values[0] - values[1]) / 2e-6 - output[row, column].item()) < 1e-6


def test_min_area_polygons():
    points = pointsets()
    found = torch.zeros(6, 8, dtype=F64)
    mmcv_ops.min_area_polygons(points.flatten(1), found)
    for cloud, quad in zip(points, found.view(-1, 4, 2)):
        sides = quad - quad.roll(1, 0)
        assert abs((sides[0] * sides[1]).sum()) < 1e-9
        least = min(
            (turned.amax(0) - turned.amin(0)).prod().item()
            for angle in torch.linspace(0, math.pi / 2, 401, dtype=F64)
            for turned in [cloud @ torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]], dtype=F64)]
        )
        size = polygons.polygon_areas(quad).item()
        assert size <= least + 1e-9 and size > least * 0.99 - 1e-9
        grown = torch.where(quad > quad.mean(0), quad + 1e-9, quad - 1e-9).tolist()
        assert all(
            abs(area(hull([*map(tuple, grown), tuple(p)])) - area(hull(list(map(tuple, grown))))) < 1e-7
            for p in cloud.tolist()
        )


def test_points_in_polygons():
    points = torch.rand(60, 2, generator=seeded(16)) * 20
    quads = torch.tensor([corners(torch.tensor([10.0, 10, 14, 6, 0.4 * i])) for i in range(4)])
    quads = torch.cat([quads, torch.tensor([[[2.0, 2], [18, 2], [10, 6], [10, 18]]])])  # the last is concave
    inside = torch.zeros(60, 5)
    mmcv_ops.points_in_polygons_forward(points, quads.flatten(1), inside)
    for point, row in zip(points.tolist(), inside.tolist()):
        for quad, found in zip(quads.tolist(), row):
            # The sides turn once around a point inside, seen from it.
            angles = [math.atan2(y - point[1], x - point[0]) for x, y in quad]
            turns = sum((b - a + math.pi) % (2 * math.pi) - math.pi for a, b in zip(angles, angles[1:] + angles[:1]))
            assert found == (abs(turns) > 1)
    assert 20 < inside.sum() < 200
