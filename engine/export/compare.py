"""How far the outputs of an exported model differ from PyTorch's."""

from collections.abc import Mapping

import torch
from torch import Tensor

UNMATCHED = "unmatched instances"
_UNMATCHED_ALLOWED = 0.01  # rounding may decide which of two boxes is suppressed


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], instances: bool) -> dict[str, float]:
    """Return for each output how far it differs.

    For numbers, this is the largest difference as a fraction of the largest number, or absolute if that is below 1; for
    classes, the fraction that differs. A different shape or a value that is not finite differs by infinity.

    Args:
        expected: outputs of PyTorch.
        found: outputs of the exported model.
        instances: the outputs have one row per instance. Each one is compared with the most similar one, since equal
            scores have no order; ``unmatched instances`` is the fraction without any similar one.
    """
    if not instances:
        return {name: _difference(value, found[name]) for name, value in expected.items()}
    pairs = _matches(expected, found)
    number = max(len(expected["scores"]), len(found["scores"]))
    result = {UNMATCHED: 1 - len(pairs) / number if number else 0.0}
    rows, others = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    for name, value in expected.items():
        result[name] = _difference(value[rows], found[name][others], _scale(value))
    return result


def is_too_far(difference: Mapping[str, float], tolerance: float) -> bool:
    """Return whether any output differs by more than allowed."""
    return any(
        not value <= (max(tolerance, _UNMATCHED_ALLOWED) if name == UNMATCHED else tolerance)
        for name, value in difference.items()
    )


def _scale(value: Tensor) -> float:
    return max(1.0, float(value.abs().max())) if value.numel() else 1.0


def _difference(expected: Tensor, found: Tensor, scale: float | None = None) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return float((expected != found).double().mean())
    largest = float((expected.double() - found.double()).abs().max())
    finite = largest == largest  # NaN is not
    return largest / (_scale(expected) if scale is None else scale) if finite else float("inf")


def _matches(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], reach: float = 0.01) -> list[tuple[int, int]]:
    """Return pairs of the indices of instances whose numbers differ by less than a fraction ``reach``."""
    free = torch.ones(len(found["scores"]), dtype=torch.bool)
    pairs = []
    for index in range(len(expected["scores"]) if len(free) else 0):
        distance = torch.zeros(len(free), dtype=torch.double)
        for name, value in expected.items():
            if value.dim() > 2:  # masks and keypoints follow the boxes
                continue
            others, own = found[name].double(), value[index].double()
            apart = (others - own).abs().reshape(len(free), own.numel()).amax(1)
            distance = torch.maximum(distance, apart / (_scale(value) if value.is_floating_point() else 1.0))
        distance[~free] = torch.inf
        if float(distance.min()) < reach:
            best = int(distance.argmin())
            free[best] = False
            pairs.append((index, best))
    return pairs
