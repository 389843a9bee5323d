"""Growth of text instances against a queue of pixels."""

from collections import deque

import torch

from trainwright.compat import mmcv_ops


def blobs(seed, share):
    """Return a random map of connected spots."""
    noise = torch.rand(1, 1, 30, 40, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0, 0]
    return smooth > smooth.flatten().sort()[0][int((1 - share) * smooth.numel())]


def components(mask):
    """Return a map in which the connected parts are numbered from 1."""
    labels, count = torch.zeros(mask.shape, dtype=torch.int), 0
    for start in mask.nonzero().tolist():
        if labels[tuple(start)]:
            continue
        count += 1
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < 30 and 0 <= x < 40 and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return labels


def test_contour_expand():
    kernels = [blobs(0, share) for share in (0.8, 0.5, 0.25)]
    labels = components(kernels[-1])
    found = mmcv_ops.contour_expand(torch.stack(kernels).byte(), labels, 6, 3)
    expected = labels.clone()
    areas = expected.flatten().bincount()
    expected[areas[expected] < 6] = 0
    assert (areas < 6).any() and expected.unique().numel() > 4
    queue = deque(expected.nonzero().tolist())
    for kernel in kernels[-2::-1]:
        later = deque()
        while queue:
            y, x = queue.popleft()
            spread = False
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < 30 and 0 <= u < 40 and kernel[v, u] and not expected[v, u]:
                    expected[v, u] = expected[y, x]
                    queue.append((v, u))
                    spread = True
            if not spread:
                later.append((y, x))
        queue = later
    assert found == expected.tolist()
    at_once = mmcv_ops.contour_expand(torch.stack([kernels[0], kernels[2]]).byte(), labels, 6, 2)
    assert at_once != found  # the steps between decide who comes first


def test_pixel_group():
    random = torch.Generator().manual_seed(1)
    score = torch.rand(30, 40, generator=random)
    mask, kernel = blobs(2, 0.7), blobs(2, 0.2)
    labels, embedding = components(kernel), torch.rand(30, 40, 3, generator=random)
    inner = torch.nn.functional.avg_pool2d(kernel[None, None].float(), 3, 1, 1, count_include_pad=True)[0, 0] == 1
    contour = (kernel & ~inner).byte()
    count = int(labels.max()) + 1
    found = mmcv_ops.pixel_group(score, mask, embedding, labels, contour, count, 0.5)
    means = [embedding[labels == i].mean(0) for i in range(count)]
    grown = labels.clone()
    queue = deque((labels * contour).nonzero().tolist())
    while queue:
        y, x = queue.popleft()
        for v, u in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
            if 0 <= v < 30 and 0 <= u < 40 and mask[v, u] and not grown[v, u]:
                if ((embedding[v, u] - means[grown[y, x]]) ** 2).sum() >= 0.25:
                    continue
                grown[v, u] = grown[y, x]
                queue.append((v, u))
    assert len(found) == count > 3 and found[0] == [0, 0]
    assert (grown > 0).sum() > (labels > 0).sum() + 50
    for instance, row in enumerate(found[1:], 1):
        pixels = (grown == instance).nonzero()
        assert row[1] == len(pixels)
        assert row[2:] == pixels.flip(1).flatten().tolist()
        assert abs(row[0] - score[grown == instance].mean().item()) < 1e-6
