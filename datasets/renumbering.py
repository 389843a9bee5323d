"""Replacing the labels in annotations."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def renumber_labels(info: dict[str, Any], new_labels: Sequence[int], number: int) -> bool:
    """Replace the labels in the annotation of a sample and of its ``instances``.

    Args:
        info: the annotation, changed in place.
        new_labels: the new label of each old one.
        number: the new number of classes.

    Returns:
        Whether the annotation has any of the keys that contain labels.
    """
    found = "instances" in info
    for owner in (info, *info.get("instances", ())):
        for key in ("gt_label", "bbox_label", "label"):
            if key in owner:
                found = True
                value = owner[key]
                several = isinstance(value, list | tuple | np.ndarray)
                owner[key] = (
                    sorted(_new_label(label, new_labels) for label in value)
                    if several
                    else _new_label(value, new_labels)
                )
    if "gt_score" in info:
        scores = np.asarray(info["gt_score"])
        info["gt_score"] = np.zeros(number, scores.dtype)
        info["gt_score"][list(new_labels)] = scores
        found = True
    return found


def _new_label(label: Any, new_labels: Sequence[int]) -> Any:
    """Return the new label; -1 for one that is out of range, which must not become valid."""
    if not isinstance(label, int | np.integer):
        return label
    return new_labels[int(label)] if 0 <= label < len(new_labels) else -1
