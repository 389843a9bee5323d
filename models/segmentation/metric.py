"""Metrics for semantic segmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.distributed import gather_object, get_data_rank, get_data_size, one_per_data_rank
from trainwright.engine.errors import DataError, did_you_mean
from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.evaluation.report import Matrix, Samples, Section, Table
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS

_OF_EACH_CLASS = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}


@METRICS.register_module()
class IoUMetric(BatchMetric):
    """Overlap of predicted and true classes over all pixels of the dataset, in percent.

    The results are ``seg/aAcc`` (accuracy over all pixels) and, for ``mIoU``, ``seg/mIoU`` and ``seg/mAcc`` (mean
    recall of the classes); for ``mDice``, ``seg/mDice`` and ``seg/mAcc``; for ``mFscore``, ``seg/mFscore``,
    ``seg/mPrecision`` and ``seg/mRecall``. Classes that occur in neither the ground truth nor the predictions are
    excluded from the means (NaN in the results of each class). Pixels are counted on the device. The results of each
    class are logged.

    Args:
        iou_metrics: any of ``mIoU``, ``mDice`` and ``mFscore``.
        ignore_index: true label of ignored pixels.
        num_classes: number of classes; by default that of the dataset's ``seg_classes``, or else ``classes``.
        beta: weight of recall relative to precision in the F score; positive.
        classwise: return the results of each class too, such as ``seg/IoU.car``.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown metric.
    """

    default_prefix = "seg"
    higher_is_better = True
    accepts_batches = False

    def __init__(
        self,
        iou_metrics: str | Sequence[str] = ("mIoU",),
        ignore_index: int = 255,
        num_classes: int | None = None,
        beta: float = 1.0,
        classwise: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.iou_metrics = (iou_metrics,) if isinstance(iou_metrics, str) else tuple(iou_metrics)
        for name in self.iou_metrics:
            if name not in _OF_EACH_CLASS:
                hint = did_you_mean(name, _OF_EACH_CLASS) or f"the metrics are {', '.join(_OF_EACH_CLASS)}"
                raise ValueError(f"unknown metric {name!r}: {hint}")
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.beta = beta
        self.classwise = classwise
        self._matrix: Tensor | None = None
        self._last: Tensor | None = None
        self._number = 0

    def check_dataset_meta(self) -> None:
        """Check that ``num_classes`` is not smaller than the number of the dataset's classes."""
        meta = self.dataset_meta or {}
        number = len(meta.get("seg_classes") or meta.get("classes") or ())
        if self.num_classes is not None and self.num_classes < number:
            raise DataError(
                f"{type(self).__name__} has num_classes={self.num_classes}, but the dataset has {number} classes: "
                "leave num_classes out"
            )

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count the correct, predicted and true pixels of each sample and class."""
        classes = self._class_names()
        columns = []
        for sample in data_samples:
            prediction, truth = _plane(sample, "pred_sem_seg"), _plane(sample, "gt_sem_seg")
            matrix, outside = pixel_confusions(prediction, truth, len(classes), self.ignore_index)
            columns.append((torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]), outside))
            if self.reporting:
                self._matrix = self._matrix + matrix if self._number and self._matrix is not None else matrix
                self._last = matrix
                self._number += 1
        self.results.append(tuple(torch.stack(column) for column in zip(*columns)))

    def collect(self, size: int) -> list[Tensor] | None:
        """Return the counts of each sample and, for a report, sum up the confusion matrix over the ranks."""
        if self.reporting:
            own = self._matrix if self._number else None
            # The last sample of a rank may be one that the sampler repeated.
            place = get_data_rank() + get_data_size() * (self._number - 1)
            if own is not None and self._last is not None and get_data_size() > 1 and place >= size:
                own = own - self._last
            parts = gather_object(None if own is None else own.cpu()) or []
            counted = [part for part in one_per_data_rank(parts) if part is not None]
            self._matrix = torch.stack(counted).sum(0) if counted else None
        return super().collect(size)

    def reset(self) -> None:
        super().reset()
        self._last, self._number = None, 0

    def report(self, results: list[Tensor], num_samples: int) -> list[Section]:
        """Return the results of each class, the confusion matrix of pixels, and the samples of the lowest IoU."""
        classes = self._class_names()
        correct, predicted, true = results[0].sum(0).double()
        columns = self._class_results(correct, predicted, true)
        rows: list[list[Any]] = [
            [name, *(values[index].item() for values in columns.values()), 100 * (true[index] / true.sum()).item()]
            for index, name in enumerate(classes)
        ]
        rows.append(["mean", *(values.nanmean().item() for values in columns.values()), 100.0])
        sections: list[Section] = [
            Table("Results per class of pixels", ["class", *columns, "% of the pixels"], rows, "In percent.")
        ]
        if self._matrix is not None:
            note = "Numbers of pixels."
            sections.append(Matrix("Confusion matrix of pixels", self._matrix.tolist(), classes, classes, note=note))
        hits, found, wanted = results[0].double().unbind(1)
        means = (hits / (found + wanted - hits)).nanmean(1)
        worst = means.nan_to_num(torch.inf).argsort(stable=True)[:num_samples].tolist()
        captions = [f"mean IoU {100 * means[index]:.1f} %" for index in worst]
        note = "The mean is over the classes that occur in the sample."
        return [*sections, Samples("Lowest IoU", worst, captions, note)] if worst else sections

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the results in percent.

        Raises:
            ValueError: a true or predicted class is out of range.
        """
        classes = self._class_names()
        if outside := int(results[1].sum()):
            raise ValueError(
                f"IoUMetric has {len(classes)} classes, but {outside} pixels have a true or predicted class out of "
                "range: the model's num_classes, the dataset's classes and ignore_index must agree"
            )
        correct, predicted, true = results[0].sum(0).double()
        columns = self._class_results(correct, predicted, true)
        metrics: dict[str, float] = {}
        for name in self.iou_metrics:
            for column in _OF_EACH_CLASS[name]:
                metrics[f"m{column}"] = columns[column].nanmean().item()
        metrics["aAcc"] = 100 * (correct.sum() / true.sum()).item()
        print_log(_table(classes, columns, metrics), logger="current")
        if self.classwise:
            for column, values in columns.items():
                metrics |= {f"{column}.{name}": value for name, value in zip(classes, values.tolist())}
        return metrics

    def _class_results(self, correct: Tensor, predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Return the results of each class for ``iou_metrics``, in percent."""
        precision, recall = correct / predicted, correct / true
        weight = self.beta**2
        results = {
            "IoU": correct / (predicted + true - correct),
            "Acc": recall,
            "Dice": 2 * correct / (predicted + true),
            "Fscore": (1 + weight) * correct / (weight * true + predicted),
            "Precision": precision,
            "Recall": recall,
        }
        return {column: 100 * results[column] for name in self.iou_metrics for column in _OF_EACH_CLASS[name]}

    def _class_names(self) -> list[str]:
        meta = self.dataset_meta or {}
        names = list(meta.get("seg_classes") or meta.get("classes") or ())
        num_classes = self.num_classes or len(names)
        if not num_classes:
            raise ValueError("IoUMetric cannot determine the number of classes: set num_classes")
        return [str(name) for name in (names if len(names) == num_classes else range(num_classes))]


def pixel_confusions(prediction: Tensor, truth: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Count the pixels of each true and predicted class.

    Args:
        prediction: classes, of any shape.
        truth: classes, of the same shape.
        num_classes: number of classes.
        ignore_index: true label of ignored pixels.

    Returns:
        The counts by true class (row) and predicted class (column), int64 of shape (num_classes, num_classes), and the
        number of pixels with a class out of range, of shape (); both on the device of the prediction.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction and ground truth differ in shape: {tuple(prediction.shape)} and {tuple(truth.shape)}"
        )
    truth = truth.to(prediction.device, torch.int64)
    cells = num_classes**2
    pairs = truth * num_classes + prediction
    # Count ignored and out-of-range pixels in two extra cells: masking them out would synchronize with the device.
    inside = (truth >= 0) & (truth < num_classes) & (prediction >= 0) & (prediction < num_classes)
    pairs = pairs.where(inside, cells + 1).where(truth != ignore_index, cells)
    count = torch.bincount(pairs.flatten(), minlength=cells + 2)
    return count[:cells].view(num_classes, num_classes), count[cells + 1]


def _plane(sample: Mapping[str, Any], field: str) -> Tensor:
    pixels = sample.get(field)
    if pixels is None:
        cause = "the dataset must provide it (LoadSegMap)" if field == "gt_sem_seg" else "the model must predict it"
        raise ValueError(f"{sample.get('img_path', 'a sample')} has no {field}: {cause}")
    plane: Tensor = pixels["sem_seg"]
    return plane.squeeze(0)


def _table(classes: Sequence[str], columns: Mapping[str, Tensor], metrics: Mapping[str, float]) -> str:
    width = max(map(len, [*classes, "all pixels"]))
    lines = ["class".ljust(width) + "".join(f"{column:>11}" for column in columns)]
    for index, name in enumerate(classes):
        lines.append(name.ljust(width) + "".join(f"{values[index].item():11.2f}" for values in columns.values()))
    lines.append("mean".ljust(width) + "".join(f"{metrics[f'm{column}']:11.2f}" for column in columns))
    return "\n".join([f"{metrics['aAcc']:.2f} % of all pixels are correct", *lines])
