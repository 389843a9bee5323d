"""Metrics for multi-label classification."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.evaluation.report import Section
from trainwright.engine.registry import METRICS
from trainwright.models.classification.metrics import ENDINGS, check_items, precision_recall_f1
from trainwright.models.classification.multilabel import gather_multi_hot


class _ScoredMetric(BatchMetric):
    """Base class of metrics that need the scores (N, C) and multi-hot labels (N, C) of all samples."""

    default_prefix = "multi-label"
    higher_is_better = True
    accepts_batches = False

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Record the scores and labels.

        Raises:
            ValueError: a sample has no scores or no labels.
        """
        if any(sample.get("pred_score") is None for sample in data_samples):
            raise ValueError(f"{type(self).__name__} requires samples with pred_score: is the head a multi-label head?")
        scores = torch.stack([sample["pred_score"] for sample in data_samples])
        truth = gather_multi_hot(data_samples, scores.shape[1]).to(scores.device)
        self.results.append((scores, truth))

    def report(self, results: list[Tensor], num_samples: int) -> list[Section]:
        """Return the results, precision-recall and F1 curves of each class, and the worst predictions."""
        from trainwright.models.classification.report import multi_label_sections

        scores, truth = results
        precisions = _average_precisions(scores, truth)
        return multi_label_sections(scores, truth, self.predicted(scores), precisions, self.dataset_meta, num_samples)

    def predicted(self, scores: Tensor) -> Tensor:
        """Return which classes are predicted."""
        return scores >= 0.5


@METRICS.register_module()
class AveragePrecision(_ScoredMetric):
    """Average precision for multi-label classification, in percent.

    The result is named ``multi-label/mAP``, or ``multi-label/AP_classwise`` (a list) for ``average=None``. The average
    precision of a class is the sum of the precisions at each distinct score, weighted by the increase in recall, so the
    order of samples with equal scores does not matter. Classes without positive samples are excluded from the mean (NaN
    in the list).

    Args:
        average: ``"macro"`` for the mean over classes, None for one value per class.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown average.
    """

    def __init__(self, average: str | None = "macro", collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        if average not in ("macro", None):
            raise ValueError(f"average must be 'macro' or None, not {average!r}")
        self.average = average

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float | list[float]]:
        """Return the mean, or the value of each class."""
        values = _average_precisions(*results)
        return {"AP_classwise": values.tolist()} if self.average is None else {"mAP": values.nanmean().item()}


@METRICS.register_module()
class MultiLabelMetric(_ScoredMetric):
    """Precision, recall, F1 score (in percent) and support (in samples) for multi-label classification.

    Results are named ``multi-label/precision`` etc., with the suffix ``_thr-0.70`` for a threshold other than 0.5,
    ``_top2`` for ``topk=2``, and then ``_micro`` for ``average="micro"`` or ``_classwise`` (lists) for
    ``average=None``. The precision of a class that is never predicted and the recall of a class that never occurs are
    0.

    Args:
        thr: classes whose score is at least this threshold are predicted; 0.5 if ``topk`` is also None.
        topk: only the ``topk`` classes with the highest scores are predicted; if ``thr`` is also given, both apply.
        items: any of ``precision``, ``recall``, ``f1-score`` and ``support``.
        average: ``"macro"`` for the mean over classes, ``"micro"`` to pool all classes, None for one value per class.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown item or average.
    """

    def __init__(
        self,
        thr: float | None = None,
        topk: int | None = None,
        items: Sequence[str] = ("precision", "recall", "f1-score"),
        average: str | None = "macro",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        check_items(items, average)
        self.thr = 0.5 if thr is None and topk is None else thr
        self.topk = topk
        self.items = tuple(items)
        self.average = average

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float | list[float]]:
        """Return the selected items."""
        scores, truth = results
        positive = truth > 0
        predicted = self.predicted(scores) & (truth >= 0)
        correct = (positive & predicted).sum(0)
        values = precision_recall_f1(correct, predicted.sum(0), positive.sum(0), self.average)
        return {f"{name}{self._suffix()}{ENDINGS[self.average]}": values[name].tolist() for name in self.items}

    def predicted(self, scores: Tensor) -> Tensor:
        """Return which classes are predicted."""
        predicted = torch.ones_like(scores, dtype=torch.bool) if self.thr is None else scores >= self.thr
        if self.topk is None:
            return predicted
        best = scores.topk(min(self.topk, scores.shape[1])).indices
        return predicted & torch.zeros_like(predicted).scatter_(1, best, True)

    def _suffix(self) -> str:
        suffix = "" if self.thr in (None, 0.5) else f"_thr-{self.thr:.2f}"
        return suffix if self.topk is None else f"{suffix}_top{self.topk}"


def _average_precisions(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of each class, in percent."""
    return torch.stack([average_precision(score, true) for score, true in zip(scores.T, truth.T)]) * 100


def average_precision(score: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of one class, in [0, 1]; NaN if it has no positive samples.

    Args:
        score: shape (N,).
        truth: shape (N,): 1 for positive samples, 0 for negative samples, below 0 for ignored samples.
    """
    found, precision, total = hits_and_precision(score, truth)
    gained = found.diff(prepend=found.new_zeros(1))
    return (precision * gained).sum() / total


def hits_and_precision(score: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the true positives and the precision of a class at each distinct score, and its number of positives.

    Args:
        score: shape (N,).
        truth: as in :func:`average_precision`.
    """
    counted = truth >= 0
    order = score[counted].argsort(descending=True)
    score, true = score[counted][order], truth[counted][order].double()
    found = true.cumsum(0)
    # Keep the last sample of each distinct score.
    last = torch.cat([score[1:] != score[:-1], score.new_ones(1, dtype=torch.bool)])
    found, number = found[last], torch.arange(1, len(score) + 1)[last]
    return found, found / number, true.sum()
