"""How well several classes an image are predicted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.registry import METRICS
from trainwright.models.classification.metrics import ENDINGS, check_items, precision_recall_f1
from trainwright.models.classification.multilabel import gather_multi_hot


class _ScoredMetric(BatchMetric):
    """Gathers the scores (N, C) and which classes are true (N, C) of all samples."""

    default_prefix = "multi-label"
    higher_is_better = True
    accepts_batches = False

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Record scores and truth.

        Raises:
            ValueError: there are no scores, or no labels.
        """
        if any(sample.get("pred_score") is None for sample in data_samples):
            raise ValueError(f"{type(self).__name__} needs samples with pred_score: is the head a multi-label one?")
        scores = torch.stack([sample["pred_score"] for sample in data_samples])
        truth = gather_multi_hot(data_samples, scores.shape[1]).to(scores.device)
        self.results.append((scores, truth))


@METRICS.register_module()
class AveragePrecision(_ScoredMetric):
    """Average precision of each class by itself, and its mean, in percent.

    Results are ``multi-label/mAP``, or without an average ``multi-label/AP_classwise``, a list. The average precision
    is the sum of the precisions at each distinct score, weighted by the recall gained there: samples of equal score
    count together, whatever their order. A class without a true sample does not count in the mean (NaN in the list).

    Args:
        average: ``"macro"`` for the mean over the classes, None for one number for each class.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: no such average.
    """

    def __init__(self, average: str | None = "macro", collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        if average not in ("macro", None):
            raise ValueError(f"average is 'macro' or None, not {average!r}")
        self.average = average

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float | list[float]]:
        """Return the mean, or the number of each class."""
        scores, truth = results
        values = torch.stack([average_precision(score, true) for score, true in zip(scores.T, truth.T)]) * 100
        return {"AP_classwise": values.tolist()} if self.average is None else {"mAP": values.nanmean().item()}


@METRICS.register_module()
class MultiLabelMetric(_ScoredMetric):
    """Precision, recall, F1 score (in percent) and support (in samples) of multi-label classification.

    Results are ``multi-label/precision`` and so on, with ``_thr-0.70`` or ``_top2`` behind it for other thresholds than
    0.5 or for ``topk``; then ``_micro`` with ``average="micro"``, ``_classwise`` (lists) without an average. A class
    that is never predicted has precision 0, one that never occurs recall 0.

    Args:
        thr: a class counts as predicted from this score on; 0.5 if neither this nor ``topk`` is given.
        topk: the classes with the highest scores count as predicted, this many, and those from ``thr`` on only.
        items: any of ``precision``, ``recall``, ``f1-score`` and ``support``.
        average: ``"macro"`` for the mean over the classes, ``"micro"`` to count all classes together, None for one
            number for each class.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: no such item or average.
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
        """Return the chosen items."""
        scores, truth = results
        true = truth > 0
        predicted = self._predicted(scores) & (truth >= 0)
        right, found, support = (part.sum(0) for part in (true & predicted, predicted, true))
        values = precision_recall_f1(right, found, support, self.average)
        return {f"{name}{self._suffix()}{ENDINGS[self.average]}": values[name].tolist() for name in self.items}

    def _predicted(self, scores: Tensor) -> Tensor:
        predicted = torch.ones_like(scores, dtype=torch.bool) if self.thr is None else scores >= self.thr
        if self.topk is None:
            return predicted
        best = scores.topk(min(self.topk, scores.shape[1])).indices
        return predicted & torch.zeros_like(predicted).scatter_(1, best, True)

    def _suffix(self) -> str:
        of_threshold = "" if self.thr in (None, 0.5) else f"_thr-{self.thr:.2f}"
        return of_threshold if self.topk is None else f"{of_threshold}_top{self.topk}"


def average_precision(score: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of one class, in [0, 1]; NaN if no sample has it.

    Args:
        score: shape (N,).
        truth: shape (N,): 1 for samples that have the class, 0 for others, negative for those that do not count.
    """
    counted = truth >= 0
    order = score[counted].argsort(descending=True)
    score, true = score[counted][order], truth[counted][order].double()
    found = true.cumsum(0)
    # The last sample of each distinct score stands for all of them.
    last = torch.cat([score[1:] != score[:-1], score.new_ones(1, dtype=torch.bool)])
    found, number = found[last], torch.arange(1, len(score) + 1)[last]
    gained = found.diff(prepend=found.new_zeros(1))
    return (found / number * gained).sum() / true.sum()
