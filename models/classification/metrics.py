"""Metrics for single-label classification of images, videos or other data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.evaluation.metric import BatchMetric, column_of
from trainwright.engine.evaluation.report import Section
from trainwright.engine.registry import METRICS

Thresholds = float | None | Sequence[float | None]
ITEMS = ("precision", "recall", "f1-score", "support")
ENDINGS: dict[str | None, str] = {"macro": "", "micro": "_micro", None: "_classwise"}
"""Suffix of the result names for each ``average``."""


class _LabelMetric(BatchMetric):
    """Base class of metrics of single-label classification, which all report the same."""

    def record(self, data_samples: Any, *columns: Tensor) -> None:
        """Record columns of a batch and, for a report, the labels and scores after them."""
        if self.reporting:
            columns += label_columns(data_samples)
        self.results.append(columns)

    def report(self, results: list[Tensor], num_samples: int) -> list[Section]:
        """Return the confusion matrix, the results of each class, and the most confident errors."""
        from trainwright.models.classification.report import single_label_sections

        target, label, score, true_score = results[-4:]
        return single_label_sections(target, label, score, true_score, self.dataset_meta, num_samples)


@METRICS.register_module()
class Accuracy(_LabelMetric):
    """Percentage of samples whose true label is among the k classes with the highest scores.

    Results are named ``accuracy/top1`` etc., or ``accuracy/top1_thr-0.50`` and ``accuracy/top1_no-thr`` with multiple
    thresholds. For samples without ``pred_score``, ``pred_label`` is used.

    Args:
        topk: one or more values of k.
        thrs: one or more score thresholds; a prediction is correct only if its score is above the threshold. None means
            no threshold.
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
        """Record for each sample, k and threshold whether the prediction is correct."""
        target = _true_labels(data_samples)
        score = column_of(data_samples, "pred_score")
        if score is None:
            if self.topk != (1,) or self.thrs != (None,):
                raise ValueError("Accuracy with topk or thrs requires samples with pred_score")
            label = _predicted_labels(data_samples)
            self.record(data_samples, label.eq(target.to(label.device)).unsqueeze(1))
            return
        largest = max(self.topk)
        if largest > score.shape[1]:
            raise ValueError(f"cannot compute top-{largest} accuracy with only {score.shape[1]} classes")
        values, labels = score.max(1, keepdim=True) if largest == 1 else score.topk(largest)
        hits = labels.eq(target.to(labels.device).unsqueeze(1))
        flags = []
        for k in self.topk:
            for threshold in self.thrs:
                counted = hits if threshold is None else hits & (values > threshold)
                flags.append(counted[:, :k].any(1))
        self.record(data_samples, torch.stack(flags, 1))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the accuracies in percent."""
        flags = results[0]
        names = [f"top{k}{suffix}" for k in self.topk for suffix in _suffixes(self.thrs)]
        return {name: 100.0 * count / len(flags) for name, count in zip(names, flags.sum(0).tolist())}


@METRICS.register_module()
class SingleLabelMetric(_LabelMetric):
    """Precision, recall, F1 score (in percent) and support (in samples) for single-label classification.

    Results are named ``single-label/precision`` etc., with the suffix ``_micro`` for ``average="micro"`` and
    ``_classwise`` (lists) for ``average=None``. The precision of a class that is never predicted and the recall of a
    class that never occurs are 0.

    Args:
        thrs: see :class:`Accuracy`; must be None if samples have no ``pred_score``.
        items: any of ``precision``, ``recall``, ``f1-score`` and ``support``.
        average: ``"macro"`` for the mean over classes, ``"micro"`` to pool all classes, None for one value per class.
        num_classes: number of classes; by default that of ``pred_score``, or else of the dataset's ``classes``.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown item or average.
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
        """Record the true label, the predicted label and its score."""
        target = _true_labels(data_samples)
        score = column_of(data_samples, "pred_score")
        if score is None:
            if self.thrs != (None,):
                raise ValueError("SingleLabelMetric with thrs requires samples with pred_score")
            self.record(data_samples, target, _predicted_labels(data_samples))
            return
        self.num_classes = self.num_classes or score.shape[1]
        best, label = score.max(1)
        self.record(data_samples, target, label, best)

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float | list[float]]:
        """Return the selected items for each threshold."""
        target, label = results[:2]
        classes = _checked_num_classes(self, target, label)
        ending = ENDINGS[self.average]
        metrics: dict[str, float | list[float]] = {}
        for threshold, suffix in zip(self.thrs, _suffixes(self.thrs)):
            kept = slice(None) if threshold is None else results[2] > threshold
            matrix = confusion_matrix(target[kept], label[kept], classes)
            support = torch.bincount(target, minlength=classes)
            items = precision_recall_f1(matrix.diagonal(), matrix.sum(0), support, self.average)
            metrics.update({f"{name}{suffix}{ending}": items[name].tolist() for name in self.items})
        return metrics


@METRICS.register_module()
class ConfusionMatrix(_LabelMetric):
    """Number of samples of each true class (row) that were predicted as each class (column).

    The result ``confusion_matrix/result`` is a list of rows.

    Args:
        num_classes: number of classes; by default that of ``pred_score``, or else of the dataset's ``classes``.
        out_file: image file to draw the matrix to; not drawn if None.
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
        self.writes_files = out_file is not None

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Record the true and predicted labels."""
        score = column_of(data_samples, "pred_score")
        if score is not None:
            self.num_classes = self.num_classes or score.shape[1]
        label = _predicted_labels(data_samples) if score is None else score.argmax(1)
        self.record(data_samples, _true_labels(data_samples), label)

    def compute_metrics(self, results: list[Tensor]) -> dict[str, list[list[int]]]:
        """Return the matrix, and draw it to ``out_file`` if given."""
        target, label = results[:2]
        matrix: list[list[int]] = confusion_matrix(target, label, _checked_num_classes(self, target, label)).tolist()
        if self.out_file is not None:
            self.plot(matrix, self.out_file, (self.dataset_meta or {}).get("classes"))
        return {"result": matrix}

    @staticmethod
    def plot(matrix: Sequence[Sequence[int]], out_file: str | Path, classes: Sequence[str] | None = None) -> None:
        """Draw a confusion matrix, with true classes in rows, to an image file."""
        from trainwright.engine.visualization.charts import matrix_chart

        names = [str(name) for name in classes or range(len(matrix))]
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        matrix_chart(matrix, names, names, "Confusion matrix", ("true class", "predicted class")).save(out_file)


def confusion_matrix(target: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return the number of samples by true class (row) and predicted class (column)."""
    return torch.bincount(target * num_classes + label, minlength=num_classes**2).view(num_classes, num_classes)


def label_columns(data_samples: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each sample the true label, the predicted label, its score, and the score of the true label.

    Without ``pred_score``, the scores are NaN.
    """
    target, score = _true_labels(data_samples), column_of(data_samples, "pred_score")
    if score is None:
        label = _predicted_labels(data_samples)
        unknown = torch.full(label.shape, torch.nan, device=label.device)
        return target, label, unknown, unknown
    best, label = score.max(1)
    return target, label, best, score.gather(1, target.to(score.device).unsqueeze(1)).squeeze(1)


def check_items(items: Sequence[str], average: str | None) -> None:
    """Check the items and the average of :func:`precision_recall_f1`.

    Raises:
        ValueError: an unknown item or average.
    """
    for item in items:
        if item not in ITEMS:
            hint = did_you_mean(item, ITEMS) or f"the items are {', '.join(ITEMS)}"
            raise ValueError(f"unknown item {item!r}: {hint}")
    if average not in ENDINGS:
        raise ValueError(f"average must be 'macro', 'micro' or None, not {average!r}")


def precision_recall_f1(correct: Tensor, predicted: Tensor, support: Tensor, average: str | None) -> dict[str, Tensor]:
    """Return precision, recall and F1 score, in percent, and the support, by name.

    Args:
        correct: number of correctly predicted samples of each class.
        predicted: number of samples predicted as each class.
        support: number of samples of each class.
        average: ``"macro"`` for the mean over classes, ``"micro"`` to pool all classes, None for one value per class.
    """
    if average == "micro":
        correct, predicted, support = correct.sum(), predicted.sum(), support.sum()
    precision = 100.0 * correct.double() / predicted.clamp(min=1)
    recall = 100.0 * correct.double() / support.clamp(min=1)
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


def _checked_num_classes(metric: "SingleLabelMetric | ConfusionMatrix", target: Tensor, label: Tensor) -> int:
    classes = metric.num_classes or len((metric.dataset_meta or {}).get("classes") or ())
    if not classes:
        raise ValueError(f"{type(metric).__name__} cannot determine the number of classes: set num_classes")
    largest = int(torch.cat([target, label]).max())
    if largest >= classes:
        raise ValueError(f"{type(metric).__name__} has {classes} classes, but found the label {largest}")
    return classes


def _thresholds(thrs: Thresholds) -> tuple[float | None, ...]:
    return (thrs,) if thrs is None or isinstance(thrs, int | float) else tuple(thrs)


def _suffixes(thrs: tuple[float | None, ...]) -> list[str]:
    """Return the suffix of the result names for each threshold; empty if there is only one."""
    if len(thrs) == 1:
        return [""]
    return ["_no-thr" if threshold is None else f"_thr-{threshold:.2f}" for threshold in thrs]


def _true_labels(data_samples: Any) -> Tensor:
    target = column_of(data_samples, "gt_label")
    if target is None:
        raise ValueError("the samples have no 'gt_label': the dataset must provide it, and the model must keep it")
    if target.ndim != 1:
        raise ValueError(f"each sample must have one gt_label, but the batch has the shape {tuple(target.shape)}")
    return target


def _predicted_labels(data_samples: Any) -> Tensor:
    label = column_of(data_samples, "pred_label")
    if label is None:
        raise ValueError("the samples have neither 'pred_score' nor 'pred_label': the model must predict one of them")
    return label
