"""How well classes of pixels are predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS

_OF_EACH_CLASS = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}


@METRICS.register_module()
class IoUMetric(BatchMetric):
    """Overlap of predicted and true classes of pixels, over all pixels of the dataset, in percent.

    With ``mIoU`` the results are ``seg/mIoU``, ``seg/mAcc`` (mean share of each class that is found) and
    ``seg/aAcc`` (share of all pixels); with ``mDice`` ``seg/mDice`` and ``seg/mAcc``; with ``mFscore``
    ``seg/mFscore``, ``seg/mPrecision`` and ``seg/mRecall``. A class that is neither true nor predicted anywhere does
    not count in the means (NaN by class). Pixels are counted on the device; the numbers of each class are logged.

    Args:
        iou_metrics: any of ``mIoU``, ``mDice`` and ``mFscore``.
        ignore_index: true label of pixels that do not count.
        num_classes: by default as many as the dataset has ``seg_classes``, or else ``classes``.
        beta: how much more recall counts than precision in the F score; positive.
        classwise: return the results of each class too, as ``seg/IoU.car``.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: no such metric.
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
                hint = did_you_mean(name, _OF_EACH_CLASS) or f"there are {', '.join(_OF_EACH_CLASS)}"
                raise ValueError(f"no metric {name!r}: {hint}")
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.beta = beta
        self.classwise = classwise

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count for each sample and class the pixels that are true, predicted, and both."""
        classes = self._class_names()
        counts = [
            pixel_counts(_plane(sample, "pred_sem_seg"), _plane(sample, "gt_sem_seg"), len(classes), self.ignore_index)
            for sample in data_samples
        ]
        self.results.append(tuple(torch.stack(column) for column in zip(*counts)))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the results in percent.

        Raises:
            ValueError: there were classes beyond the number of classes.
        """
        classes = self._class_names()
        if outside := int(results[1].sum()):
            raise ValueError(
                f"{outside} pixels have a true or predicted class beyond the {len(classes)} that IoUMetric counts: "
                "the model's num_classes, the dataset's classes and ignore_index must agree"
            )
        both, predicted, true = results[0].sum(0).double()
        columns = self._columns(both, predicted, true)
        metrics: dict[str, float] = {}
        for name in self.iou_metrics:
            for column in _OF_EACH_CLASS[name]:
                metrics[f"m{column}"] = columns[column].nanmean().item()
        metrics["aAcc"] = 100 * (both.sum() / true.sum()).item()
        print_log(_table(classes, columns, metrics), logger="current")
        if self.classwise:
            for column, values in columns.items():
                metrics |= {f"{column}.{name}": value for name, value in zip(classes, values.tolist())}
        return metrics

    def _columns(self, both: Tensor, predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Return the numbers of each class that are asked for, in percent."""
        precision, recall = both / predicted, both / true
        weight = self.beta**2
        known = {
            "IoU": both / (predicted + true - both),
            "Acc": recall,
            "Dice": 2 * both / (predicted + true),
            "Fscore": (1 + weight) * both / (weight * true + predicted),
            "Precision": precision,
            "Recall": recall,
        }
        return {column: 100 * known[column] for name in self.iou_metrics for column in _OF_EACH_CLASS[name]}

    def _class_names(self) -> list[str]:
        meta = self.dataset_meta or {}
        names = list(meta.get("seg_classes") or meta.get("classes") or ())
        number = self.num_classes or len(names)
        if not number:
            raise ValueError("IoUMetric cannot tell the number of classes: give it num_classes")
        return [str(name) for name in names] if len(names) == number else [str(index) for index in range(number)]


def pixel_counts(prediction: Tensor, truth: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Count the pixels of each class that are predicted rightly, predicted, and true.

    Args:
        prediction: classes, of any shape.
        truth: classes, of the same shape.
        num_classes: number of classes.
        ignore_index: true label of pixels that do not count.

    Returns:
        int64 of shape (3, num_classes), and of shape () how many pixels have a class beyond these; both on the
        device of the prediction.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction has the shape {tuple(prediction.shape)}, the truth {tuple(truth.shape)}")
    truth = truth.to(prediction.device, torch.int64)
    cells = num_classes**2
    pairs = truth * num_classes + prediction
    # What does not count, and what is beyond, go to two more cells: picking them out would wait for the device.
    inside = (truth >= 0) & (truth < num_classes) & (prediction >= 0) & (prediction < num_classes)
    pairs = pairs.where(inside, cells + 1).where(truth != ignore_index, cells)
    count = torch.bincount(pairs.flatten(), minlength=cells + 2)
    matrix = count[:cells].view(num_classes, num_classes)
    return torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]), count[cells + 1]


def _plane(sample: Mapping[str, Any], field: str) -> Tensor:
    pixels = sample.get(field)
    if pixels is None:
        cause = "the dataset must give it (LoadSegMap)" if field == "gt_sem_seg" else "the model must predict it"
        raise ValueError(f"{sample.get('img_path', 'a sample')} has no {field}: {cause}")
    plane: Tensor = pixels["sem_seg"]
    return plane.squeeze(0)


def _table(classes: Sequence[str], columns: Mapping[str, Tensor], metrics: Mapping[str, float]) -> str:
    width = max(map(len, [*classes, "all pixels"]))
    lines = ["class".ljust(width) + "".join(f"{column:>11}" for column in columns)]
    for index, name in enumerate(classes):
        lines.append(name.ljust(width) + "".join(f"{values[index].item():11.2f}" for values in columns.values()))
    lines.append("mean".ljust(width) + "".join(f"{metrics[f'm{column}']:11.2f}" for column in columns))
    return "\n".join([f"{metrics['aAcc']:.2f} % of all pixels are right", *lines])
