"""Work on all pairs of two sets of points or boxes, in pieces whose memory is bounded."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Pairs that are compared at a time. Larger pieces are no faster on a GPU, and fall out of the cache of a CPU.
PAIRS = 1 << 20


def blocks(shape: Sequence[int], columns: int, pairs: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cut matrices of shape (batches, rows, columns) into pieces of at most ``pairs`` elements, or one row.

    Args:
        shape: number of matrices, and of their rows.
        columns: columns of each, which are never cut.
        pairs: elements of a piece. Default: ``PAIRS``.

    Yields:
        A range of matrices and a range of rows.
    """
    batches, rows = shape
    pairs = pairs or PAIRS
    height = max(1, pairs // max(columns, 1))
    depth = max(1, pairs // max(rows * columns, 1))
    for batch in range(0, batches, depth):
        for row in range(0, rows, height):
            yield slice(batch, batch + depth), slice(row, row + height)


def ranks(groups: Tensor, sizes: Tensor) -> Tensor:
    """Return the position of each element within its group: 0, 1, 2, ...

    Args:
        groups: group of each element, in ascending order; shape (N,).
        sizes: number of elements of each group; shape (G,).
    """
    return torch.arange(len(groups), device=groups.device) - (sizes.cumsum(0) - sizes)[groups]


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the first true elements of each row.

    Args:
        mask: boolean tensor of shape (..., N).
        count: number of elements to look for.

    Returns:
        Their indices in ascending order, shape (..., count), zero beyond those that there are; and their number in
        each row, shape (...).
    """
    size = mask.shape[-1]
    candidates = torch.where(mask, torch.arange(size, dtype=torch.int32, device=mask.device), size)
    first = candidates.topk(min(count, size), largest=False).values.long()
    first = torch.nn.functional.pad(first, (0, count - first.shape[-1]), value=size)
    exists = first < size
    return torch.where(exists, first, 0), exists.sum(-1)


def unique_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group equal rows of integers, as ``torch.unique(rows, dim=0)`` does in more time.

    Args:
        rows: non-negative integers below 2**31, shape (N, D).

    Returns:
        For each of the distinct rows, in lexicographic order, the index of its first occurrence, shape (M,); the
        distinct row of each row, shape (N,); how often each occurs, shape (M,).
    """
    group = rows.new_zeros(len(rows), dtype=torch.long)
    sizes = group[:0]
    for column in rows.long().unbind(1):
        span = column.max() + 1 if len(rows) else 1
        _, group, sizes = torch.unique(group * span + column, return_inverse=True, return_counts=True)
    order = torch.arange(len(rows), device=rows.device)
    first = order.new_full((len(sizes),), len(rows)).scatter_reduce_(0, group, order, "amin")
    return first, group, sizes
