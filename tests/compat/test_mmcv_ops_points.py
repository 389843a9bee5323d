"""mmcv's operators on points and boxes in 3D, compared with their definitions written as plain loops."""

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from trainwright.compat import mmcv_ops as ops
from trainwright.compat.mmcv_ops import pairs

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])


@pytest.fixture(autouse=True, params=[40, pairs.PAIRS], ids=["cut", "whole"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with matrices cut into pieces, and with all of them in one piece."""
    monkeypatch.setattr(pairs, "PAIRS", request.param)


def lattice(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return multiples of 1/4 in [-1, 1]: distances are exact in each precision, and many are equal."""
    return (torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 4).to(dtype)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def indices(high: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def squared(a: Tensor, b: Tensor) -> float:
    return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist()))


# Neighbors


def ball(center: Tensor, cloud: Tensor, minimum: float, maximum: float, count: int, start: list[int]) -> list[int]:
    found = [i for i, p in enumerate(cloud) if (d := squared(center, p)) == 0 or minimum**2 <= d < maximum**2]
    return (found + found[:1] * count)[:count] if found else start


@PRECISIONS
@pytest.mark.parametrize(("minimum", "maximum"), [(0.0, 0.75), (0.5, 1.0)])
def test_ball_query(dtype: torch.dtype, minimum: float, maximum: float) -> None:
    points, centers = lattice(2, 30, 3, dtype=dtype), lattice(2, 9, 3, seed=1, dtype=dtype)
    centers[0, 4], centers[1, 3] = 50, points[1, 8]
    index = torch.full((2, 9, 5), 7, dtype=torch.int32)
    ops.ball_query_forward(centers, points, index, b=2, n=30, m=9, min_radius=minimum, max_radius=maximum, nsample=5)
    expected = [[ball(c, points[b], minimum, maximum, 5, [7] * 5) for c in centers[b]] for b in range(2)]
    assert index.tolist() == expected
    assert [7] * 5 in expected[0]


def test_ball_query_of_stacked_clouds() -> None:
    sizes, numbers = [12, 0, 20], [3, 2, 4]
    points, centers = lattice(32, 3), lattice(9, 3, seed=1)
    index = torch.zeros(9, 4, dtype=torch.int32)
    counts = torch.tensor(numbers, dtype=torch.int32), torch.tensor(sizes, dtype=torch.int32)
    ops.stack_ball_query_forward(centers, counts[0], points, counts[1], index, max_radius=0.75, nsample=4)
    clouds = [cloud for cloud, number in zip(points.split(sizes), numbers) for _ in range(number)]
    assert index.tolist() == [ball(c, cloud, 0, 0.75, 4, [-1, 0, 0, 0]) for c, cloud in zip(centers, clouds)]


@PRECISIONS
@pytest.mark.parametrize("count", [1, 6, 30])
def test_nearest_neighbors(dtype: torch.dtype, count: int) -> None:
    points, centers = lattice(2, 20, 3, dtype=dtype), lattice(2, 7, 3, seed=1, dtype=dtype)
    points[:, 3] = -torch.nan
    index, distance = torch.full((2, 7, count), 9, dtype=torch.int32), torch.full((2, 7, count), 9.0)
    ops.knn_forward(points, centers, index, distance, b=2, n=20, m=7, nsample=count)
    for b, c in product(range(2), range(7)):
        nearest = sorted((squared(centers[b, c], p), i) for i, p in enumerate(points[b]) if i != 3)[:count]
        nearest += [(torch.tensor(1e10).item(), 0)] * (count - len(nearest))
        assert list(zip(distance[b, c].tolist(), index[b, c].tolist())) == nearest


@PRECISIONS
@pytest.mark.parametrize("known", [2, 9])
def test_three_nearest(dtype: torch.dtype, known: int) -> None:
    target, source = lattice(2, 7, 3, dtype=dtype), lattice(2, known, 3, seed=1, dtype=dtype)
    distance, index = torch.empty(2, 7, 3, dtype=dtype), torch.empty(2, 7, 3, dtype=torch.int32)
    ops.three_nn_forward(target, source, distance, index, b=2, n=7, m=known)
    for b, t in product(range(2), range(7)):
        nearest = sorted((squared(target[b, t], p), i) for i, p in enumerate(source[b]))[:3]
        nearest += [(math.inf, 0)] * (3 - len(nearest))
        assert list(zip(distance[b, t].tolist(), index[b, t].tolist())) == nearest


def furthest(distances: list[list[float]], count: int) -> list[int]:
    taken = [0]
    while len(taken) < count:
        nearest = [min(distances[i][j] for i in taken) for j in range(len(distances))]
        taken.append(max(range(len(nearest)), key=lambda i: (nearest[i], -i)))
    return taken


def test_furthest_points() -> None:
    points = lattice(3, 25, 3)
    distances = [[[squared(p, q) for q in cloud] for p in cloud] for cloud in points]
    index = torch.zeros(3, 11, dtype=torch.int32)
    ops.furthest_point_sampling_forward(points, torch.full((3, 25), 1e10), index, b=3, n=25, m=11)
    assert index.tolist() == [furthest(d, 11) for d in distances]
    skewed = torch.tensor(distances) * torch.arange(1, 26)  # not symmetric: the row is that of the sampled point
    ops.furthest_point_sampling_with_dist_forward(skewed, torch.full((3, 25), 1e10), index, b=3, n=25, m=11)
    assert index.tolist() == [furthest(d, 11) for d in skewed.tolist()]


# Grouping


def check_gradient(expected: Tensor, gradient: Tensor, *pairs_of: tuple[Tensor, Tensor]) -> None:
    """Compare gradients, added to ones, with those of an expected output."""
    found = torch.autograd.grad(expected, [tensor for tensor, _ in pairs_of], gradient)
    for wanted, (_, added) in zip(found, pairs_of):
        torch.testing.assert_close(added - 1, wanted, atol=1e-5, rtol=1e-5)


def test_gathered_and_grouped_points() -> None:
    features = normal(2, 3, 10).requires_grad_()
    for index, name in [(indices(10, 2, 6), "gather_points"), (indices(10, 2, 4, 6), "group_points")]:
        sizes = dict(b=2, c=3, n=10, npoints=index.shape[1])
        if index.dim() == 3:
            sizes["nsample"] = 6
        out = torch.empty(2, 3, *index.shape[1:])
        getattr(ops, f"{name}_forward")(features, index, out, **sizes)
        flat = [[[features[b, c, i] for i in index[b].flatten()] for c in range(3)] for b in range(2)]
        expected = torch.stack([torch.stack([torch.stack(row) for row in rows]) for rows in flat]).view_as(out)
        assert torch.equal(out, expected) and not out.requires_grad
        gradient, added = normal(*out.shape, seed=1), torch.ones(2, 3, 10)
        getattr(ops, f"{name}_backward")(gradient, index, added, **sizes)
        check_gradient(expected, gradient, (features, added))


def test_grouped_points_of_stacked_clouds() -> None:
    features, index = normal(9, 2).requires_grad_(), indices(4, 5, 3)
    index[1, 2], index[4, 0] = -1, 5  # neither is a point of its cloud
    sizes, numbers = torch.tensor([4, 0, 5], dtype=torch.int32), torch.tensor([2, 0, 3], dtype=torch.int32)
    out = torch.full((5, 2, 3), 7.0)
    ops.stack_group_points_forward(features, sizes, index, numbers, out, b=3, c=2, m=5, nsample=3)
    expected = out.clone().fill_(7)
    for m, s in product(range(5), range(3)):
        start, size = (0, 4) if m < 2 else (4, 5)
        if 0 <= index[m, s] < size:
            expected[m, :, s] = features[start + index[m, s]]
    assert torch.equal(out, expected)
    gradient, added = normal(5, 2, 3, seed=1), torch.ones(9, 2)
    ops.stack_group_points_backward(gradient, index, numbers, sizes, added, b=3, c=2, m=5, n=9, nsample=3)
    check_gradient(expected, gradient, (features, added))


def test_interpolated_points() -> None:
    features, index, weight = normal(2, 4, 6).requires_grad_(), indices(6, 2, 5, 3), normal(2, 5, 3)
    out = torch.empty(2, 4, 5)
    ops.three_interpolate_forward(features, index, weight, out, b=2, c=4, m=6, n=5)
    expected = torch.stack(
        [
            sum(features[b, :, index[b, i, j]] * weight[b, i, j] for j in range(3))
            for b, i in product(range(2), range(5))
        ]
    )
    expected = expected.view(2, 5, 4).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    gradient, added = normal(2, 4, 5, seed=1), torch.ones(2, 4, 6)
    ops.three_interpolate_backward(gradient, index, weight, added, b=2, c=4, n=5, m=6)
    check_gradient(expected, gradient, (features, added))


def test_assigned_scores() -> None:
    points, centers = normal(2, 6, 3, 4).requires_grad_(), normal(2, 6, 3, 4, seed=1).requires_grad_()
    scores, index = normal(2, 5, 4, 3, seed=2).requires_grad_(), indices(6, 2, 5, 4, dtype=torch.int64)
    index[0, 1, 2], index[1, 3, 3] = -1, 6
    sizes = dict(B=2, N0=6, N1=5, M=3, K=4, O=4, aggregate=0)
    out = torch.ones(2, 4, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        ops.assign_score_withk_forward(points, centers, scores, index, out, **sizes)
    expected = torch.zeros(2, 4, 5, 4)
    for b, n, k, m in product(range(2), range(5), range(4), range(3)):
        if 0 <= (neighbor := index[b, n, k]) < 6:
            relative = points[b, neighbor, m] - centers[b, index[b, n, 0], m]
            expected[b, :, n, k] = expected[b, :, n, k] + scores[b, n, k, m] * relative
    torch.testing.assert_close(out - 1, expected, atol=1e-5, rtol=1e-5)
    gradient = normal(2, 4, 5, 4, seed=3)
    added = [torch.ones_like(tensor) for tensor in (points, centers, scores)]
    with torch.autocast("cpu", torch.bfloat16):
        ops.assign_score_withk_backward(gradient, points, centers, scores, index, *added, **sizes)
    check_gradient(expected, gradient, *zip((points, centers, scores), added))


def test_half_precision_adds_in_single_precision() -> None:
    """In half precision, 2048 + 1 is 2048."""
    index = torch.zeros(1, 4096, dtype=torch.int32)
    gradient, added = torch.ones(1, 1, 4096).half(), torch.zeros(1, 1, 2).half()
    ops.gather_points_backward(gradient, index, added, b=1, c=1, n=2, npoints=4096)
    assert added.flatten().tolist() == [4096, 0]
    values, coors = torch.ones(4096, 1).half(), torch.zeros(4096, 3, dtype=torch.int32)
    assert ops.dynamic_point_to_voxel_forward(values, coors, "sum")[0].item() == 4096


# Voxels


def cell_of(point: list[float], size: list[float], limits: list[float]) -> tuple[int, ...]:
    cell = [math.floor((p - low) / s) for p, low, s in zip(point, limits, size)]
    shape = [round((high - low) / s) for low, high, s in zip(limits, limits[3:], size)]
    return tuple(cell[::-1]) if all(0 <= c < n for c, n in zip(cell, shape)) else (-1, -1, -1)


SIZE, LIMITS = [0.5, 0.25, 1.0], [-0.75, -0.5, -1.0, 0.75, 1.0, 1.0]


@PRECISIONS
def test_dynamic_voxels(dtype: torch.dtype) -> None:
    points = lattice(60, 4, dtype=dtype)
    points[5, 1] = torch.nan
    coors = torch.zeros(60, 3, dtype=torch.int32)
    ops.dynamic_voxelize_forward(points, torch.tensor(SIZE), torch.tensor(LIMITS), coors, NDim=3)
    expected = [(-1,) * 3 if i == 5 else cell_of(p[:3].tolist(), SIZE, LIMITS) for i, p in enumerate(points)]
    assert list(map(tuple, coors.tolist())) == expected


@PRECISIONS
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(3, 200), (1, 8)])
def test_hard_voxels(dtype: torch.dtype, deterministic: bool, max_points: int, max_voxels: int) -> None:
    points = torch.cat([lattice(60, 3, dtype=dtype), torch.arange(60, dtype=dtype)[:, None]], 1)
    voxels, coors = torch.zeros(max_voxels, max_points, 4, dtype=dtype), torch.zeros(max_voxels, 3, dtype=torch.int32)
    counts, number = torch.zeros(max_voxels, dtype=torch.int32), torch.zeros((), dtype=torch.long)
    sizes = dict(max_points=max_points, max_voxels=max_voxels, NDim=3, deterministic=deterministic)
    arguments = torch.tensor(SIZE), torch.tensor(LIMITS), voxels, coors, counts, number
    ops.hard_voxelize_forward(points, *arguments, **sizes)
    expected: dict[tuple[int, ...], list[list[float]]] = {}
    for point in points.tolist():
        cell = cell_of(point[:3], SIZE, LIMITS)
        if cell != (-1, -1, -1) and (cell in expected or len(expected) < max_voxels):
            expected.setdefault(cell, []).append(point)
    kept = [points[:max_points] for points in expected.values()]
    assert number == len(kept) and (max_voxels == 200 or number == 8)
    assert list(map(tuple, coors[:number].tolist())) == list(expected)
    assert counts.tolist() == [len(points) for points in kept] + [0] * (max_voxels - number)
    zeros = [[0.0] * 4] * max_points
    assert voxels.tolist() == [(points + zeros)[:max_points] for points in kept] + [zeros] * (max_voxels - number)


@PRECISIONS
@pytest.mark.parametrize("reduce_type", ["max", "mean", "sum"])
@pytest.mark.parametrize("outside", [(), (0, 7), range(20)])
def test_dynamic_scatter(dtype: torch.dtype, reduce_type: str, outside: tuple[int, ...]) -> None:
    values, coors = lattice(20, 3, dtype=dtype).requires_grad_(), indices(2, 20, 3)
    coors[list(outside), 1] = -1
    reduced, cells, group, counts = ops.dynamic_point_to_voxel_forward(values, coors, reduce_type)
    expected_cells = sorted({tuple(cell) for cell in coors.tolist() if min(cell) >= 0})
    members = [[i for i, cell in enumerate(coors.tolist()) if tuple(cell) == wanted] for wanted in expected_cells]
    assert list(map(tuple, cells.tolist())) == expected_cells and cells.dtype == group.dtype == torch.int32
    assert group.tolist() == [next((v for v, m in enumerate(members) if i in m), -1) for i in range(20)]
    assert counts.tolist() == [len(m) for m in members] and reduced.dtype == dtype
    gradient = lattice(len(members), 3, seed=1, dtype=dtype)
    result, wanted = torch.ones(20, 3, dtype=dtype), torch.zeros(20, 3, dtype=dtype)
    ops.dynamic_point_to_voxel_backward(result, gradient, values, reduced, group, counts, reduce_type)
    for v, c in product(range(len(members)), range(3)):
        column = [values[i, c].item() for i in members[v]]
        total = {"max": max(column), "sum": sum(column), "mean": sum(column) / len(column)}[reduce_type]
        assert reduced[v, c].item() == pytest.approx(total, abs=1e-3 if dtype == torch.float16 else 1e-6)
        for i, value in zip(members[v], column):
            share = {"max": value == max(column) and value not in column[: members[v].index(i)], "sum": 1}
            wanted[i, c] = gradient[v, c] * share.get(reduce_type, 1 / len(column))
    torch.testing.assert_close(result, wanted)


def test_scatter_without_points_or_of_unknown_kind() -> None:
    results = ops.dynamic_point_to_voxel_forward(torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int32), "max")
    assert [tuple(result.shape) for result in results] == [(0, 4), (0, 3), (0,), (0,)]
    with pytest.raises(ValueError, match="'min'"):
        ops.dynamic_point_to_voxel_forward(torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.int32), "min")


# Boxes


def boxes_of(*shape: int, seed: int = 0) -> Tensor:
    """Return boxes with quarter turns, whose faces meet points of the lattice, and with any other headings."""
    boxes = torch.cat([lattice(*shape, 3, seed=seed), lattice(*shape, 3, seed=seed + 1).abs() + 0.5], -1)
    heading = indices(4, *shape, 1, seed=seed) * (math.pi / 2) + 0.3 * indices(3, *shape, 1, seed=seed + 2)
    return torch.cat([boxes, heading], -1)


def place_in_box(point: Tensor, box: Tensor) -> tuple[float, float, float] | None:
    """Return the place of a point inside a box, from its lowest corner, in the arithmetic of the operator."""
    x, y, z = (point - box[:3]).unbind()
    cos, sin = box[6].cos(), box[6].sin()
    x, y = x * cos + y * sin, y * cos - x * sin
    inside = abs(x) < box[3] / 2 and abs(y) < box[4] / 2 and abs(point[2] - (box[2] + box[5] / 2)) <= box[5] / 2
    return (x + box[3] / 2, y + box[4] / 2, z) if inside else None


@pytest.mark.parametrize("number", [0, 6])
def test_points_in_boxes(number: int) -> None:
    points, boxes = lattice(2, 40, 3), boxes_of(2, number)
    inside = [[[place_in_box(p, box) is not None for box in boxes[b]] for p in points[b]] for b in range(2)]
    part = torch.full((2, 40), -1, dtype=torch.int32)
    ops.points_in_boxes_part_forward(boxes, points, part)
    assert part.tolist() == [[row.index(True) if any(row) else -1 for row in rows] for rows in inside]
    all_boxes = torch.zeros(2, 40, number, dtype=torch.int32)
    ops.points_in_boxes_all_forward(boxes, points, all_boxes)
    assert all_boxes.tolist() == inside
    one_cloud = torch.zeros(2, number, 40, dtype=torch.int32)
    for b in range(2):
        ops.points_in_boxes_cpu_forward(boxes[b], points[b], one_cloud[b])
    assert one_cloud.transpose(1, 2).tolist() == inside
    assert number == 0 or 10 < sum(map(sum, inside[0])) < 200


def test_boundaries_of_a_box() -> None:
    """Points on the bottom and on the top are inside, those on the sides are not; headings turn x towards y."""
    box = torch.tensor([[[1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 0.0]]])
    points = torch.tensor(
        [[[1, 1, 0], [1, 1, 1], [1, 1, 1.25], [1, 1, -0.25], [0, 1, 0.5], [1, 1.5, 0.5], [1.5, 1.25, 0]]]
    )
    index = torch.full((1, 7), -1, dtype=torch.int32)
    ops.points_in_boxes_part_forward(box, points, index)
    assert index.tolist() == [[0, 0, -1, -1, -1, -1, 0]]
    box[..., 6] = math.pi / 6
    points = torch.tensor(
        [[[1 + 0.8 * math.cos(math.pi / 6), 1 + s * 0.8 * math.sin(math.pi / 6), 0] for s in (1, -1)]]
    )
    index = torch.full((1, 2), -1, dtype=torch.int32)
    ops.points_in_boxes_part_forward(box, points, index)
    assert index.tolist() == [[0, -1]]


def test_pooled_points_of_boxes() -> None:
    points, features, boxes = lattice(2, 40, 3), normal(2, 40, 5), boxes_of(2, 6)
    boxes[1, 2, :3] = 9
    pooled, flags = torch.full((2, 6, 8, 8), 7.0), torch.zeros(2, 6, dtype=torch.int32)
    ops.roipoint_pool3d_forward(points, boxes, features, pooled, flags)
    for b, m in product(range(2), range(6)):
        found = [i for i in range(40) if place_in_box(points[b, i], boxes[b, m]) is not None][:8]
        assert flags[b, m] == (not found)
        for s in range(8):
            i = found[s % len(found)] if found else 0
            expected = torch.cat([points[b, i], features[b, i]]) if found else torch.full((8,), 7.0)
            assert torch.equal(pooled[b, m, s], expected)
    assert flags.sum() >= 1


@pytest.mark.parametrize("method", ["max", "mean"])
@pytest.mark.parametrize("maximum", [2, 20])
def test_pooled_grids_of_boxes(method: str, maximum: int) -> None:
    shape, count = (2, 3, 1), 120
    points, boxes = normal(count, 3) / 2, boxes_of(5)
    boxes[:, 3:6] *= 2
    points[0], points[1] = boxes[0, :3], boxes[0, :3] + torch.tensor([0, 0, 1]) * boxes[0, 5]
    features = lattice(count, 4)
    argmax, table = torch.zeros(5, *shape, 4, dtype=torch.int32), torch.zeros(5, *shape, maximum + 1, dtype=torch.int32)
    pooled = torch.full((5, *shape, 4), 7.0)
    ops.roiaware_pool3d_forward(boxes, points, features, argmax, table, pooled, pool_method=int(method == "mean"))
    members: dict[tuple[int, ...], list[int]] = {}
    for n, i in product(range(5), range(count)):
        place = place_in_box(points[i], boxes[n])
        if place is not None:
            step = boxes[n, 3:6] / torch.tensor(shape)
            cell = [min(int(p / s), k - 1) for p, s, k in zip(place, step, shape)]
            members.setdefault((n, *cell), []).append(i)
    assert len(members) > 15 and max(map(len, members.values())) > 2
    expected, winners, wanted = pooled.clone().fill_(7), argmax.clone().fill_(-1), torch.zeros(count, 4)
    gradient, added = normal(*pooled.shape, seed=1), torch.ones(count, 4)
    for cell in product(range(5), *map(range, shape)):
        listed = members.get(cell, [])[:maximum]
        assert table[cell].tolist() == [len(listed), *listed] + [0] * (maximum - len(listed))
        for c in range(4) if listed else ():
            column = features[listed, c]
            expected[cell][c] = column.mean() if method == "mean" else column.max()
            winner = winners[cell][c] = listed[column.tolist().index(column.max())]
            for i in listed if method == "mean" else [winner]:
                wanted[i, c] += gradient[cell][c] / (len(listed) if method == "mean" else 1)
    torch.testing.assert_close(pooled, expected)
    assert torch.equal(argmax, winners if method == "max" else torch.zeros_like(argmax))
    ops.roiaware_pool3d_backward(table, argmax, gradient, added, pool_method=int(method == "mean"))
    torch.testing.assert_close(added - 1, wanted)


def corners(box: Tensor) -> list[tuple[float, float]]:
    """Return the corners of a box seen from above, counterclockwise."""
    x, y, _, width, height, _, heading = box.tolist()
    cos, sin = math.cos(heading), math.sin(heading)
    offsets = [(sx * width / 2, sy * height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in offsets]


def shared_area(box: Tensor, other: Tensor) -> float:
    """Return the area that two boxes share, by Sutherland and Hodgman's clipping."""
    polygon, frame = corners(box), corners(other)
    for (ax, ay), (bx, by) in zip(frame, frame[1:] + frame[:1]):
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        clipped = []
        for i, ((x, y), side) in enumerate(zip(polygon, sides)):
            (px, py), before = polygon[i - 1], sides[i - 1]
            if side * before < 0:
                t = before / (before - side)
                clipped.append((px + t * (x - px), py + t * (y - py)))
            if side >= 0:
                clipped.append((x, y))
        polygon = clipped
    return sum(x * v - u * y for (x, y), (u, v) in pairwise([*polygon, *polygon[:1]])) / 2


def test_overlaps_from_above() -> None:
    boxes, others = boxes_of(6), boxes_of(7, seed=3)
    others[0], others[1] = boxes[0], boxes[1] + torch.tensor([0, 0, 5.0, 0, 0, 0, math.pi])
    areas = torch.empty(6, 7)
    ops.iou3d_boxes_overlap_bev_forward(boxes, others, areas)
    expected = torch.tensor([[shared_area(a, b) for b in others] for a in boxes])
    torch.testing.assert_close(areas, expected, atol=1e-5, rtol=1e-5)
    assert (expected > 0.1).sum() > 10


@pytest.mark.parametrize("number", [0, 1, 25])
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("threshold", [0.1, 0.4])
def test_suppression(number: int, upright: bool, threshold: float) -> None:
    boxes = boxes_of(number)
    boxes[:, :2] *= 2
    flat = boxes * torch.tensor([1, 1, 1, 1, 1, 1, 0.0]) if upright else boxes
    keep, num_out = torch.zeros(number, dtype=torch.long), torch.zeros((), dtype=torch.long)
    operator = ops.iou3d_nms3d_normal_forward if upright else ops.iou3d_nms3d_forward
    operator(boxes, keep, num_out, nms_overlap_thresh=threshold)
    kept: list[int] = []
    for i in range(number):
        areas = [(shared_area(flat[i], flat[j]), flat[[i, j], 3] @ flat[[i, j], 4]) for j in kept]
        if all(shared / (total - shared) <= threshold for shared, total in areas):
            kept.append(i)
    assert keep[:num_out].tolist() == kept
    assert number < 25 or 5 < len(kept) < 25


def test_sorted_vertices() -> None:
    """Vertices go around their mean; a repeated one counts once; fewer than three give padding."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 30, 24, 2, generator=generator)
    mask = torch.zeros(2, 30, 24, dtype=torch.bool)
    for b, n in product(range(2), range(30)):
        mask[b, n, torch.randperm(23, generator=generator)[: n % 9]] = True
    vertices[0, 8], mask[0, 8] = torch.randn(4, 2, generator=generator).repeat(6, 1), torch.arange(24) < 8
    vertices[0, 7, 3], mask[0, 7] = torch.tensor([1.0, 0.0]), torch.arange(24) < 7  # on the positive x axis
    result = ops.diff_iou_rotated_sort_vertices_forward(vertices, mask, mask.sum(-1).int())
    assert result.shape == (2, 30, 9) and result.dtype == torch.int32
    for b, n in product(range(2), range(30)):
        places = {tuple(vertices[b, n, i].tolist()): i for i in reversed(range(24)) if mask[b, n, i]}
        around = sorted(places.values(), key=lambda i: math.atan2(*vertices[b, n, i].flip(0).tolist()) % math.tau)
        padding = next(i for i in range(8, 24) if not mask[b, n, i])
        around = [*around, around[0]] if len(around) >= 3 else []
        assert result[b, n].tolist() == around + [padding] * (9 - len(around))


def test_sparse_convolution_names_its_package() -> None:
    with pytest.raises(NotImplementedError, match="spconv"):
        ops.indice_conv_forward(torch.zeros(1, 1), torch.zeros(1, 1), None, None, 1, 0, 0)


# Pieces


@pytest.mark.parametrize("shape", [(16, 4096, 16384), (3, 5, 7), (1, 2, 10**7), (0, 5, 5), (5, 0, 5), (5, 5, 0)])
def test_pieces_cover_all_rows_and_are_bounded(shape: tuple[int, int, int]) -> None:
    batches, rows, columns = shape
    seen = 0
    for b, r in pairs.blocks(shape[:2], columns, pairs=1 << 20):
        number = len(range(batches)[b]) * len(range(rows)[r])
        assert number > 0 and (number == 1 or number * columns <= 1 << 20)
        seen += number
    assert seen == batches * rows


def test_unique_rows_of_large_numbers() -> None:
    rows = torch.tensor([[2**31 - 2, 5, 2**31 - 2], [0, 9, 1], [2**31 - 2, 5, 2**31 - 2], [2**31 - 2, 4, 0]])
    first, group, sizes = pairs.unique_rows(rows)
    assert (first.tolist(), group.tolist(), sizes.tolist()) == ([1, 3, 0], [2, 0, 2, 1], [1, 1, 2])
