"""Predictions as numbers, strings, lists and dictionaries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.masks import encode_mask
from trainwright.engine.structures.pixel_data import PixelData


def as_plain(prediction: Any, dataset_meta: Mapping[str, Any]) -> Any:
    """Return the prediction for one sample as plain data.

    Args:
        prediction: a data sample, whose labels, scores and other ``pred_*`` fields are returned; anything else is
            returned completely.
        dataset_meta: contains the names of ``classes``, and of ``seg_classes`` if those of pixels differ.
    """
    if not isinstance(prediction, BaseDataElement):
        return _plain(prediction)
    classes = dataset_meta.get("classes") or ()
    pixel_classes = dataset_meta.get("seg_classes") or classes
    result = {
        name: _segments(value, pixel_classes) if isinstance(value, PixelData) else _plain(value)
        for name, value in prediction.items()
        if name.startswith("pred_") and name not in ("pred_label", "pred_score")
    }
    if "img_path" in prediction:
        result["img_path"] = prediction.img_path
    label, scores = prediction.get("pred_label"), prediction.get("pred_score")
    if label is not None:
        result["pred_label"] = label.tolist()  # a list if a sample may have several labels
        if classes and label.ndim:
            result["pred_class"] = [classes[index] for index in result["pred_label"]]
        elif classes:
            result["pred_class"] = classes[result["pred_label"]]
    if scores is not None:
        result["pred_scores"] = scores.tolist()
        result["pred_score"] = scores.max().item() if scores.numel() else None
    return result


def _segments(pixels: PixelData, classes: Sequence[str]) -> Any:
    """Return an entry for each class in the pixels; pixels whose values are not classes are returned unchanged."""
    plane = pixels.get("sem_seg")
    if not isinstance(plane, Tensor) or plane.is_floating_point() or plane.dim() != 3 or plane.shape[0] != 1:
        return _plain(pixels)
    labels = plane[0].cpu().numpy()
    segments = []
    for label in np.unique(labels).tolist():
        mask = labels == label
        name = {"class": classes[label]} if 0 <= label < len(classes) else {}
        segments.append({"label": label, **name, "area": int(mask.sum()), "mask": encode_mask(mask)})
    return segments


def _plain(value: Any) -> Any:
    if isinstance(value, BaseDataElement | Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Tensor) and value.dtype == torch.bool and value.dim() == 3:
        return [encode_mask(mask) for mask in value.cpu().numpy()]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
