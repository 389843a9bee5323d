"""Mean average precision of boxes, as Pascal VOC defines it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS
from trainwright.models.detection.metric import require_original_size


@METRICS.register_module()
class VOCMetric(BaseMetric):
    """Pascal VOC's mean average precision of boxes, with values from 0 to 1 (Everingham et al. 2010).

    Results are ``pascal_voc/mAP``, the mean over ``iou_thrs``, and ``pascal_voc/AP50`` for each of these. The truth are
    ``gt_instances`` of the samples; predictions that hit ``ignored_instances`` (the difficult ones) do not count. Of
    several predictions of one instance the one with the highest score is right, the others are wrong. A class without
    instances does not count in the mean.

    Args:
        iou_thrs: overlap from which on a prediction is right, or several.
        eval_mode: ``area`` under the curve of precision over recall, as from 2010 on; ``11points`` for the mean at 11
            values of recall, as in 2007.
        classwise: return the results of each class too, as ``pascal_voc/car_AP50``.
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
        """Record boxes and classes of each sample, predicted and true."""
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
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        if not classes:
            raise ValueError("VOCMetric cannot tell the classes: the dataset's metainfo must name them")
        table = torch.stack([self._precisions(results, label) for label in range(len(classes))])  # classes, thresholds
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

    def _precisions(self, results: list[dict[str, Any]], label: int) -> Tensor:
        """Return the average precision of a class for each threshold; NaN without instances."""
        scores, hits, counts = [], [], []
        number = 0
        for result in results:
            boxes, labels, confidence = result["predicted"]
            true_boxes, true_labels, difficult = result["true"]
            mine, theirs = labels == label, true_labels == label
            order = confidence[mine].argsort(descending=True, stable=True)
            right, counted = self._match(boxes[mine][order], true_boxes[theirs], difficult[theirs])
            scores.append(confidence[mine][order])
            hits.append(right)
            counts.append(counted)
            number += int((~difficult[theirs]).sum())
        if not number:
            return torch.full((len(self.iou_thrs),), torch.nan, dtype=torch.float64)
        order = torch.cat(scores).argsort(descending=True, stable=True)
        hit, counted = torch.cat(hits)[order], torch.cat(counts)[order]
        return torch.stack([self._average(hit[counted[:, i], i], number) for i in range(len(self.iou_thrs))])

    def _match(self, boxes: Tensor, true: Tensor, difficult: Tensor) -> tuple[Tensor, Tensor]:
        """Return of predictions, the best first, whether they are right, and whether they count.

        Both are booleans of shape (predictions, thresholds).
        """
        from torchvision.ops import box_iou

        shape = (len(boxes), len(self.iou_thrs))
        right, counted = torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
        if not len(boxes) or not len(true):
            return right, counted
        overlaps, owners = box_iou(boxes, true).max(1)
        for column, threshold in enumerate(self.iou_thrs):
            found = set()
            for row, (overlap, owner) in enumerate(zip(overlaps.tolist(), owners.tolist())):
                if overlap < threshold:
                    continue
                if difficult[owner]:
                    counted[row, column] = False
                elif owner not in found:
                    found.add(owner)
                    right[row, column] = True
        return right, counted

    def _average(self, right: Tensor, number: int) -> Tensor:
        """Return the average precision of predictions in the order of their scores, of so many instances."""
        hits = right.double().cumsum(0)
        recall = torch.cat([hits.new_zeros(1), hits / number, hits.new_ones(1)])
        precision = hits / torch.arange(1, len(right) + 1)
        # At each recall the best precision from there on.
        best = torch.cat([precision, hits.new_zeros(1)]).flip(0).cummax(0).values.flip(0)
        if self.eval_mode == "area":
            return (recall.diff() * best).sum()
        steps = torch.linspace(0, 1, 11, dtype=torch.float64)
        at = torch.searchsorted((hits / number).contiguous(), steps - 1e-12)
        return best[at].mean()
