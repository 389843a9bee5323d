"""Growth of text instances from their kernels, in breadth-first order, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]


def contour_expand(
    kernel_mask: Tensor, internal_kernel_label: Tensor, min_kernel_area: int, kernel_num: int
) -> list[list[int]]:
    """Grow kernels of text into larger and larger ones; a pixel belongs to the instance that reaches it first.

    The progressive scale expansion of `Shape Robust Text Detection With Progressive Scale Expansion Network
    <https://arxiv.org/abs/1903.12473>`_. The compiled function of mmcv 2.2 grows into the largest kernel at once.

    Args:
        kernel_mask: Kernels of shape (kernels, H, W), from the largest to the smallest.
        internal_kernel_label: Instance of each pixel of the smallest kernel, of shape (H, W); 0 for none.
        min_kernel_area: Instances of fewer pixels are dropped.
        kernel_num: Number of kernels, as in ``kernel_mask``.

    Returns:
        Rows of the map of instances.
    """
    labels = _padded(internal_kernel_label)
    areas = np.bincount(labels.ravel())
    labels[areas[labels] < min_kernel_area] = 0
    width = labels.shape[1]
    flat = labels.ravel()
    front = np.flatnonzero(flat)
    neighbors = np.array([-width, width, -1, 1])
    for mask in kernel_mask[:-1].flip(0):
        front = _grow(flat, front, _padded(mask).ravel() != 0, neighbors)
    result: list[list[int]] = labels[1:-1, 1:-1].tolist()
    return result


def pixel_group(
    score: Tensor,
    mask: Tensor,
    embedding: Tensor,
    kernel_label: Tensor,
    kernel_contour: Tensor,
    kernel_region_num: int,
    distance_threshold: float,
) -> list[list[float]]:
    """Grow kernels of text into pixels whose embedding is like the kernel's.

    The pixel aggregation of `Efficient and Accurate Arbitrary-Shaped Text Detection with Pixel Aggregation Network
    <https://arxiv.org/abs/1908.05900>`_.

    Args:
        score: Score of each pixel, of shape (H, W).
        mask: Pixels that may belong to text, of shape (H, W).
        embedding: Embeddings of shape (H, W, D).
        kernel_label: Instance of each pixel of a kernel, of shape (H, W); 0 for none.
        kernel_contour: Pixels of kernels from which to grow, of shape (H, W).
        kernel_region_num: Number of instances, and one for the background.
        distance_threshold: Distance from the mean embedding of a kernel from which pixels do not join.

    Returns:
        For each instance, the background first and empty: mean score, number of pixels, and x and y of each.
    """
    labels = _padded(kernel_label)
    vectors = np.pad(embedding.detach().cpu().float().numpy(), ((1, 1), (1, 1), (0, 0))).reshape(labels.size, -1)
    flat, width = labels.ravel(), labels.shape[1]
    inside = flat > 0
    sizes = np.bincount(flat[inside], minlength=kernel_region_num)
    means = np.zeros((len(sizes), vectors.shape[1]), np.float32)
    np.add.at(means, flat[inside], vectors[inside])
    means /= np.maximum(sizes, 1)[:, None]

    def alike(pixels: Ints, instances: Ints) -> npt.NDArray[np.bool_]:
        squares: npt.NDArray[np.float32] = np.square(vectors[pixels] - means[instances]).sum(1)
        return squares < distance_threshold**2

    front = np.flatnonzero(inside & (_padded(kernel_contour).ravel() != 0))
    allowed = _padded(mask).ravel() != 0
    _grow(flat, front, allowed, np.array([-1, 1, -width, width]), alike)
    final = torch.from_numpy(labels[1:-1, 1:-1].copy())
    scores = score.detach().cpu().float()
    result: list[list[float]] = [[0.0, 0.0]]
    for instance in range(1, kernel_region_num):
        y, x = (final == instance).nonzero(as_tuple=True)
        mean = float(scores[y, x].mean()) if len(y) else 0.0
        result.append([mean, float(len(y)), *torch.stack([x, y], 1).flatten().float().tolist()])
    return result


def _padded(image: Tensor) -> Ints:
    """Return a map with a border of zeros, so that each pixel has four neighbors."""
    return np.pad(image.cpu().numpy().astype(np.int64), 1)


def _grow(
    labels: Ints,
    front: Ints,
    allowed: npt.NDArray[np.bool_],
    neighbors: Ints,
    accepts: Callable[[Ints, Ints], npt.NDArray[np.bool_]] | None = None,
) -> Ints:
    """Give free pixels the label of the neighbor that reaches them first in a queue.

    A whole layer of the queue is treated at once: of those that reach a pixel in it, the first in the queue wins.

    Args:
        labels: Labels of the pixels, 0 for free ones, changed in place.
        front: Pixels from which to grow, in the order of the queue.
        allowed: Pixels that may get a label.
        neighbors: Steps to the neighbors, in the order in which they are reached.
        accepts: Which of some pixels may join some labels.

    Returns:
        Pixels that gave no label to a neighbor, in the order of the queue.
    """
    edges = []
    while len(front):
        reached = (front[:, None] + neighbors).ravel()
        source = np.repeat(np.arange(len(front)), len(neighbors))
        free = allowed[reached] & (labels[reached] == 0)
        reached, source = reached[free], source[free]
        if accepts is not None:
            joins = accepts(reached, labels[front[source]])
            reached, source = reached[joins], source[joins]
        first = np.sort(np.unique(reached, return_index=True)[1])
        labels[reached[first]] = labels[front[source[first]]]
        edges.append(np.delete(front, source[first]))
        front = reached[first]
    return np.concatenate(edges) if edges else front
