"""Reading labels from data samples, and writing classification predictions to them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample


def gather_labels(data_samples: Any) -> Tensor:
    """Return the labels of a batch.

    Args:
        data_samples: a list of data samples, numbers or tensors; one batched data sample; or a tensor.

    Returns:
        int64 labels of shape (N,), or float probabilities of shape (N, C) if the data samples have a ``gt_score``,
        which takes precedence over ``gt_label``.

    Raises:
        ValueError: there are no labels.
    """
    if isinstance(data_samples, Tensor):
        return data_samples
    if isinstance(data_samples, BaseDataElement):
        name = "gt_score" if "gt_score" in data_samples else "gt_label"
        if name not in data_samples:
            raise ValueError(f"the data samples have no gt_label, only {', '.join(data_samples.keys()) or 'no fields'}")
        return torch.as_tensor(getattr(data_samples, name))
    if isinstance(data_samples, list | tuple) and data_samples:
        if isinstance(data_samples[0], BaseDataElement):
            return _stack([gather_labels(sample) for sample in data_samples])
        return _stack(data_samples) if isinstance(data_samples[0], Tensor) else torch.as_tensor(data_samples)
    raise ValueError(f"the batch has no labels: its data samples are {data_samples!r}")


def add_predictions(logits: Tensor, data_samples: Any = None) -> Any:
    """Return the data samples with ``pred_score`` (probabilities) and ``pred_label``.

    Args:
        logits: shape (N, C).
        data_samples: a list of data samples; one batched data sample; or a tensor of labels or None, in which case a
            batched data sample is created.
    """
    return add_scores(logits.detach().softmax(1), data_samples)


def add_scores(scores: Tensor, data_samples: Any = None) -> Any:
    """Return the same as :func:`add_predictions`, given probabilities of shape (N, C)."""
    labels = scores.argmax(1)
    if isinstance(data_samples, list | tuple) and data_samples and isinstance(data_samples[0], BaseDataElement):
        for sample, score, label in zip(data_samples, scores, labels):
            sample.pred_score, sample.pred_label = score, label
        return list(data_samples)
    if not isinstance(data_samples, BaseDataElement):
        truth = None if data_samples is None else gather_labels(data_samples)
        data_samples = DataSample() if truth is None else DataSample(gt_label=truth)
    data_samples.pred_score, data_samples.pred_label = scores, labels
    return data_samples


def _stack(labels: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack(tuple(labels))
    return stacked.flatten() if stacked.dim() == 2 and stacked.shape[1] == 1 else stacked
