"""Metrics for pose estimation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.evaluation.report import Samples, Section, Table, class_names
from trainwright.engine.registry import METRICS


@METRICS.register_module()
class PCKAccuracy(BatchMetric):
    """Percentage of correct keypoints: the share of keypoints predicted close to the true ones.

    The result ``PCK``, in [0, 1], is the mean over keypoint types of the share of labeled keypoints that are correct.
    Predicted instances must correspond to the true ones in the same order, as with a top-down model.

    Args:
        thr: maximum distance of a correct keypoint, as a fraction of the longer side of the true box; positive.
        classwise: return the result of each keypoint type too, such as ``PCK.nose``.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`; ``pose`` by default.

    Raises:
        ValueError: ``thr`` is not positive.
    """

    default_prefix = "pose"
    higher_is_better = True
    accepts_batches = False

    def __init__(
        self, thr: float = 0.05, classwise: bool = False, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        if thr <= 0:
            raise ValueError(f"thr must be positive, not {thr}")
        super().__init__(collect_device, prefix)
        self.thr = thr
        self.classwise = classwise

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count the labeled and the correct keypoints of each sample."""
        found = [_keypoint_distances(sample) for sample in data_samples]
        counts = [
            torch.stack([((distance <= self.thr * length) & labeled).sum(0), labeled.sum(0)]).float()
            for distance, length, labeled in found
        ]
        columns = [torch.stack(counts)]
        if self.reporting:
            errors = [(distance / length).where(labeled, 0).sum(0) for distance, length, labeled in found]
            columns.append(torch.stack(errors))
        self.results.append(tuple(columns))

    def report(self, results: list[Tensor], num_samples: int) -> list[Section]:
        """Return the results of each keypoint type, and the samples of the largest mean error."""
        counts, distances = results
        correct, labeled = counts.unbind(1)
        names = class_names(self.dataset_meta, labeled.shape[1], "keypoints")
        shares, errors = correct.sum(0) / labeled.sum(0), distances.sum(0) / labeled.sum(0)
        columns = ["keypoint", "PCK", "mean error", "labeled"]
        rows: list[list[Any]] = [
            [name, *values]
            for name, *values in zip(names, shares.tolist(), errors.tolist(), labeled.sum(0).int().tolist())
        ]
        rows.append(["mean", shares.nanmean().item(), errors.nanmean().item(), int(labeled.sum())])
        note = f"PCK at {self.thr:g} of the longer side of the box; errors as fractions of it."
        sections: list[Section] = [Table("Results per keypoint", columns, rows, note, digits=3)]
        means = (distances.sum(1) / labeled.sum(1)).nan_to_num(-1)
        worst = means.argsort(descending=True, stable=True)[:num_samples].tolist()
        captions = [f"mean error {means[index]:.3f}" for index in worst]
        return [*sections, Samples("Largest errors", worst, captions, note)] if worst else sections

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the results, which are NaN without labeled keypoints."""
        correct, labeled = results[0].sum(0)
        shares = correct / labeled
        metrics = {"PCK": shares.nanmean().item()}
        if self.classwise:
            names = (self.dataset_meta or {}).get("keypoints") or range(len(shares))
            metrics |= {f"PCK.{name}": share for name, share in zip(names, shares.tolist())}
        return metrics


def _keypoint_distances(sample: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances of keypoints (N, K), the longer sides of boxes (N, 1), and which are labeled (N, K)."""
    truth, prediction = sample.get("gt_instances"), sample.get("pred_instances")
    name = sample.get("img_path") or f"sample {sample.get('sample_idx', '(without number)')}"
    for field, instances in (("gt_instances", truth), ("pred_instances", prediction)):
        if instances is None or "keypoints" not in instances:
            raise ValueError(f"{name} has no keypoints in {field}")
    assert truth is not None and prediction is not None
    found = prediction["keypoints"]
    true = truth["keypoints"].to(found)
    if found.shape != true.shape:
        raise ValueError(
            f"{name} has true keypoints of shape {tuple(true.shape)}, but predicted ones of {tuple(found.shape)}: "
            "PCKAccuracy is for top-down models, which predict the true instances in order; otherwise use "
            "CocoKeypointMetric"
        )
    boxes = truth["bboxes"].to(found)
    length = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    distance = (found - true).norm(dim=-1)
    visible = truth.get("keypoints_visible")
    labeled = torch.ones_like(distance, dtype=torch.bool) if visible is None else visible.to(found.device) > 0
    return distance, length, labeled
