"""Metrics of single-label classification, for images, videos or anything else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.evaluation.metric import BatchMetric, column_of
from trainwright.engine.registry import METRICS

Thresholds = float | None | Sequence[float | None]
ITEMS = ("precision", "recall", "f1-score", "support")
ENDINGS: dict[str | None, str] = {"macro": "", "micro": "_micro", None: "_classwise"}
"""What each ``average`` adds to the name of a result."""


@METRICS.register_module()
class Accuracy(BatchMetric):
    """Share of the samples whose true label is among the k predictions with the highest scores, in percent.

    Results are ``accuracy/top1`` and so on; with several thresholds ``accuracy/top1_thr-0.50``, ``…_no-thr``.
    Samples without ``pred_score`` are judged by their ``pred_label``.

    Args:
        topk: the k, or several.
        thrs: a prediction counts only if its score is above this; None counts all. Several give a result for
            each.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.
    """

    default_prefix = "accuracy"
    higher_is_better = True

    def __init__(
        self,
        topk: int | Sequence[int] = (1,),
        thrs: Thresholds = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        self.thrs = _thresholds(thrs)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record for each sample, k and threshold whether the prediction is right."""
        target = _true_labels(data_samples)
        score = column_of(data_samples, "pred_score")
        if score is None:
            if self.topk != (1,) or self.thrs != (None,):
                raise ValueError("Accuracy with topk or thrs needs samples with pred_score")
            label = _predicted_labels(data_samples)
            self.results.append((label.eq(target.to(label.device)).unsqueeze(1),))
            return
        largest = max(self.topk)
        if largest > score.shape[1]:
            raise ValueError(f"there is no top-{largest} accuracy: there are only {score.shape[1]} classes")
        values, labels = score.max(1, keepdim=True) if largest == 1 else score.topk(largest)
        hits = labels.eq(target.to(labels.device).unsqueeze(1))
        flags = []
        for k in self.topk:
            for threshold in self.thrs:
                counted = hits if threshold is None else hits & (values > threshold)
                flags.append(counted[:, :k].any(1))
        self.results.append((torch.stack(flags, 1),))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the accuracies in percent."""
        (flags,) = results
        names = [f"top{k}{suffix}" for k in self.topk for suffix in _suffixes(self.thrs)]
        return {name: 100.0 * count / len(flags) for name, count in zip(names, flags.sum(0).tolist())}


@METRICS.register_module()
class SingleLabelMetric(BatchMetric):
    """Precision, recall, F1 score (in percent) and support (in samples) of single-label classification.

    Results are ``single-label/precision`` and so on; ``…_micro`` with ``average="micro"``, ``…_classwise``
    (lists) without an average. A class that is never predicted has precision 0, one that never occurs recall
    0.

    Args:
        thrs: as for :class:`Accuracy`; without ``pred_score`` only None.
        items: any of ``precision``, ``recall``, ``f1-score`` and ``support``.
        average: ``"macro"`` for the mean over the classes, ``"micro"`` to count all classes together, None
            for one number for each class.
        num_classes: by default as many as ``pred_score`` has, or the dataset's ``classes``.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: no such item or average.
    """

    default_prefix = "single-label"
    higher_is_better = True

    def __init__(
        self,
        thrs: Thresholds = None,
        items: Sequence[str] = ("precision", "recall", "f1-score"),
        average: str | None = "macro",
        num_classes: int | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        check_items(items, average)
        self.thrs = _thresholds(thrs)
        self.items = tuple(items)
        self.average = average
        self.num_classes = num_classes

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record the true label, the predicted one and its score."""
        target = _true_labels(data_samples)
        score = column_of(data_samples, "pred_score")
        if score is None:
            if self.thrs != (None,):
                raise ValueError("SingleLabelMetric with thrs needs samples with pred_score")
            self.results.append((target, _predicted_labels(data_samples)))
            return
        self.num_classes = self.num_classes or score.shape[1]
        best, label = score.max(1)
        self.results.append((target, label, best))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float | list[float]]:
        """Return the chosen items for each threshold."""
        target, label = results[:2]
        classes = _number_of_classes(self, target, label)
        ending = ENDINGS[self.average]
        metrics: dict[str, float | list[float]] = {}
        for threshold, suffix in zip(self.thrs, _suffixes(self.thrs)):
            kept = slice(None) if threshold is None else results[2] > threshold
            right = torch.bincount(label[kept][label[kept] == target[kept]], minlength=classes)
            predicted = torch.bincount(label[kept], minlength=classes)
            items = precision_recall_f1(right, predicted, torch.bincount(target, minlength=classes), self.average)
            metrics.update({f"{name}{suffix}{ending}": items[name].tolist() for name in self.items})
        return metrics


@METRICS.register_module()
class ConfusionMatrix(BatchMetric):
    """How often each true class (row) was predicted as each class (column).

    The result ``confusion_matrix/result`` is a list of rows.

    Args:
        num_classes: by default as many as ``pred_score`` has, or the dataset's ``classes``.
        out_file: draw the matrix into this image file.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.
    """

    default_prefix = "confusion_matrix"

    def __init__(
        self,
        num_classes: int | None = None,
        out_file: str | Path | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.num_classes = num_classes
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record the true and the predicted label."""
        score = column_of(data_samples, "pred_score")
        if score is not None:
            self.num_classes = self.num_classes or score.shape[1]
        label = _predicted_labels(data_samples) if score is None else score.argmax(1)
        self.results.append((_true_labels(data_samples), label))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, list[list[int]]]:
        """Return the matrix, and draws it if asked to."""
        target, label = results
        classes = _number_of_classes(self, target, label)
        matrix: list[list[int]] = (
            torch.bincount(target * classes + label, minlength=classes**2).view(classes, classes).tolist()
        )
        if self.out_file is not None:
            self.plot(matrix, self.out_file, (self.dataset_meta or {}).get("classes"))
        return {"result": matrix}

    @staticmethod
    def plot(matrix: Sequence[Sequence[int]], out_file: str | Path, classes: Sequence[str] | None = None) -> None:
        """Draw a confusion matrix to a file; true classes are in rows."""
        from trainwright.models.classification.confusion_matrix import draw_confusion_matrix

        draw_confusion_matrix(matrix, out_file, classes)


def check_items(items: Sequence[str], average: str | None) -> None:
    """Raise a ``ValueError`` unless :func:`precision_recall_f1` can compute these items with this average."""
    for item in items:
        if item not in ITEMS:
            hint = did_you_mean(item, ITEMS) or f"these can be chosen: {', '.join(ITEMS)}"
            raise ValueError(f"no item {item!r}: {hint}")
    if average not in ENDINGS:
        raise ValueError(f"average is 'macro', 'micro' or None, not {average!r}")


def precision_recall_f1(right: Tensor, predicted: Tensor, support: Tensor, average: str | None) -> dict[str, Tensor]:
    """Return precision, recall and F1 score, in percent, and the support, each under its name.

    Args:
        right: number of samples of each class that were predicted correctly.
        predicted: number of samples that were predicted as each class.
        support: number of samples of each class.
        average: ``"macro"`` for the mean over the classes, ``"micro"`` to count all classes together, None for one
            number for each class.
    """
    if average == "micro":
        right, predicted, support = right.sum(), predicted.sum(), support.sum()
    precision = 100.0 * right.double() / predicted.clamp(min=1)
    recall = 100.0 * right.double() / support.clamp(min=1)
    total = precision + recall
    items = {
        "precision": precision,
        "recall": recall,
        "f1-score": torch.where(total > 0, 2 * precision * recall / total, 0.0),
    }
    if average == "macro":
        items = {name: values.mean() for name, values in items.items()}
        support = support.sum()
    return {**items, "support": support}


def _number_of_classes(metric: "SingleLabelMetric | ConfusionMatrix", target: Tensor, label: Tensor) -> int:
    classes = metric.num_classes or len((metric.dataset_meta or {}).get("classes") or ())
    if not classes:
        raise ValueError(f"{type(metric).__name__} cannot tell the number of classes: give it num_classes")
    largest = int(torch.cat([target, label]).max())
    if largest >= classes:
        raise ValueError(f"{type(metric).__name__} counts {classes} classes, but there is a label {largest}")
    return classes


def _thresholds(thrs: Thresholds) -> tuple[float | None, ...]:
    return (thrs,) if thrs is None or isinstance(thrs, int | float) else tuple(thrs)


def _suffixes(thrs: tuple[float | None, ...]) -> list[str]:
    """Return what each threshold adds to the name of a result: nothing, where there is only one."""
    if len(thrs) == 1:
        return [""]
    return ["_no-thr" if threshold is None else f"_thr-{threshold:.2f}" for threshold in thrs]


def _true_labels(data_samples: Any) -> Tensor:
    target = column_of(data_samples, "gt_label")
    if target is None:
        raise ValueError("the samples have no 'gt_label': the dataset must give it, and the model must pass it on")
    if target.ndim != 1:
        raise ValueError(f"one gt_label a sample is needed, not {tuple(target.shape)} for the batch")
    return target


def _predicted_labels(data_samples: Any) -> Tensor:
    label = column_of(data_samples, "pred_label")
    if label is None:
        raise ValueError("the samples have neither 'pred_score' nor 'pred_label': the model must predict one of them")
    return label
