"""Pascal VOC's mean average precision for boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.evaluation.report import Curves, Section, Table
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS
from trainwright.models.detection.metric import require_original_size


@METRICS.register_module()
class VOCMetric(BaseMetric):
    """Pascal VOC's mean average precision for boxes, in [0, 1] (Everingham et al. 2010).

    Results are named ``pascal_voc/mAP``, the mean over ``iou_thrs``, and ``pascal_voc/AP50`` etc. for each threshold.
    The ground truth is the ``gt_instances`` of the samples; predictions that match ``ignored_instances`` (difficult
    objects) are ignored. If several predictions match the same instance, the one with the highest score is correct and
    the others are false positives. Classes without instances are excluded from the mean.

    Args:
        iou_thrs: one or more IoU thresholds for a correct prediction.
        eval_mode: ``area`` for the area under the precision-recall curve, as used since 2010; ``11points`` for the mean
            precision at 11 recall values, as used in 2007.
        classwise: return the results of each class too, such as ``pascal_voc/car_AP50``.
        collect_device, prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown ``eval_mode``.
    """

    default_prefix = "pascal_voc"
    higher_is_better = True

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        eval_mode: str = "area",
        classwise: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        if eval_mode not in ("area", "11points"):
            raise ValueError(f"eval_mode must be 'area' or '11points', not {eval_mode!r}")
        self.iou_thrs = (iou_thrs,) if isinstance(iou_thrs, int | float) else tuple(iou_thrs)
        self.eval_mode = eval_mode
        self.classwise = classwise

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the predicted and true boxes and classes of each sample."""
        for sample in data_samples:
            for field in ("pred_instances", "gt_instances"):
                if sample.get(field) is None:
                    raise ValueError(f"{sample.get('img_path', 'a sample')} has no {field}")
            require_original_size(sample)
            predicted, true = sample["pred_instances"], sample["gt_instances"]
            ignored = sample.get("ignored_instances") or {"bboxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
            difficult = torch.arange(len(true["labels"]) + len(ignored["labels"])) >= len(true["labels"])
            self.results.append(
                {
                    "predicted": tuple(predicted[name].detach().cpu() for name in ("bboxes", "labels", "scores")),
                    "true": (*(torch.cat([true[n].cpu(), ignored[n].cpu()]) for n in ("bboxes", "labels")), difficult),
                }
            )

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the results."""
        classes = self._classes()
        table = self._table(results, len(classes))
        names = [f"AP{round(100 * threshold)}" for threshold in self.iou_thrs]
        metrics = {"mAP": table.nanmean().item()}
        metrics |= {name: column.nanmean().item() for name, column in zip(names, table.T)}
        width = max(map(len, [*classes, "class"]))
        lines = ["class".ljust(width) + "".join(f"{name:>9}" for name in names)]
        lines += [name.ljust(width) + "".join(f"{x:9.3f}" for x in row) for name, row in zip(classes, table.tolist())]
        print_log("\n".join(lines), logger="current")
        if self.classwise:
            for column, threshold_name in zip(table.T.tolist(), names):
                metrics |= {f"{name}_{threshold_name}": value for name, value in zip(classes, column)}
        return metrics

    def report(self, results: list[dict[str, Any]], num_samples: int) -> list[Section]:
        """Return the results of each class, curves, the confusion matrix, and the worst samples."""
        from trainwright.models.detection.report import THRESHOLDS, box_sections, f1_over_score, f1_section

        classes = self._classes()
        matches = [self._matches(results, label) for label in range(len(classes))]
        table = self._table(results, len(classes))
        rows: list[list[Any]] = [[name, *row, match[3]] for name, row, match in zip(classes, table.tolist(), matches)]
        rows.append(["all", *table.nanmean(0).tolist(), sum(match[3] for match in matches)])
        columns = ["class", *(f"AP{round(100 * threshold)}" for threshold in self.iou_thrs), "objects"]
        curves, f1 = {}, {}
        for name, (scores, correct, counted, number) in zip(classes, matches):
            kept = counted[:, 0]
            if number:
                hits = correct[kept, 0].double().cumsum(0)
                precision = hits / torch.arange(1, len(hits) + 1)
                curves[name] = ((hits / number).tolist(), precision.tolist())
                f1[name] = (THRESHOLDS, f1_over_score(scores[kept].numpy(), correct[kept, 0].numpy(), number))
        at = f"At an IoU of {self.iou_thrs[0]:g}."
        pairs = [(_as_arrays(result["predicted"]), _as_arrays(result["true"])) for result in results]
        return [
            Table("Results per class (boxes)", columns, rows, "Average precision.", digits=3),
            Curves("Precision and recall (boxes)", curves, ("recall", "precision"), note=at),
            f1_section(f1, " (boxes)", at),
            *box_sections(pairs, range(len(pairs)), classes, num_samples),
        ]

    def _classes(self) -> list[str]:
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        if not classes:
            raise ValueError("VOCMetric cannot determine the classes: the dataset's metainfo must contain them")
        return classes

    def _table(self, results: list[dict[str, Any]], num_classes: int) -> Tensor:
        """Return the average precisions, of shape (classes, thresholds)."""
        return torch.stack([self._precisions(results, label) for label in range(num_classes)])

    def _precisions(self, results: list[dict[str, Any]], label: int) -> Tensor:
        """Return the average precision of a class for each threshold; NaN without instances."""
        _, correct, counted, number = self._matches(results, label)
        if not number:
            return torch.full((len(self.iou_thrs),), torch.nan, dtype=torch.float64)
        return torch.stack(
            [self._average_precision(correct[counted[:, i], i], number) for i in range(len(self.iou_thrs))]
        )

    def _matches(self, results: list[dict[str, Any]], label: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return the predictions of a class by decreasing score, and the number of its instances.

        The scores have the shape (N,); whether a prediction is correct, and whether it is counted, (N, thresholds).
        """
        scores, matches, counts = [], [], []
        num_instances = 0
        for result in results:
            boxes, labels, confidence = result["predicted"]
            true_boxes, true_labels, difficult = result["true"]
            of_class, true_of_class = labels == label, true_labels == label
            order = confidence[of_class].argsort(descending=True, stable=True)
            correct, counted = self._match(boxes[of_class][order], true_boxes[true_of_class], difficult[true_of_class])
            scores.append(confidence[of_class][order])
            matches.append(correct)
            counts.append(counted)
            num_instances += int((~difficult[true_of_class]).sum())
        order = torch.cat(scores).argsort(descending=True, stable=True)
        return torch.cat(scores)[order], torch.cat(matches)[order], torch.cat(counts)[order], num_instances

    def _match(self, boxes: Tensor, true_boxes: Tensor, difficult: Tensor) -> tuple[Tensor, Tensor]:
        """Return which predictions, sorted by decreasing score, are correct, and which are not ignored.

        Both are boolean tensors of shape (predictions, thresholds).
        """
        from torchvision.ops import box_iou

        shape = (len(boxes), len(self.iou_thrs))
        correct, counted = torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
        if not len(boxes) or not len(true_boxes):
            return correct, counted
        overlaps, nearest = box_iou(boxes, true_boxes).max(1)
        for column, threshold in enumerate(self.iou_thrs):
            matched = set()
            for row, (overlap, instance) in enumerate(zip(overlaps.tolist(), nearest.tolist())):
                if overlap < threshold:
                    continue
                if difficult[instance]:
                    counted[row, column] = False
                elif instance not in matched:
                    matched.add(instance)
                    correct[row, column] = True
        return correct, counted

    def _average_precision(self, correct: Tensor, num_instances: int) -> Tensor:
        """Return the average precision of predictions sorted by decreasing score."""
        hits = correct.double().cumsum(0)
        recall = torch.cat([hits.new_zeros(1), hits / num_instances, hits.new_ones(1)])
        precision = hits / torch.arange(1, len(correct) + 1)
        # Interpolated precision: the maximum at this recall or higher.
        best = torch.cat([precision, hits.new_zeros(1)]).flip(0).cummax(0).values.flip(0)
        if self.eval_mode == "area":
            return (recall.diff() * best).sum()
        steps = torch.linspace(0, 1, 11, dtype=torch.float64)
        indices = torch.searchsorted((hits / num_instances).contiguous(), steps - 1e-12)
        return best[indices].mean()


def _as_arrays(values: Sequence[Tensor]) -> tuple[np.ndarray[Any, Any], ...]:
    return tuple(value.double().numpy() for value in values)
