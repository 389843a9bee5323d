"""Metrics for pose estimation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BatchMetric
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
        counts = [_count_keypoints(sample, self.thr) for sample in data_samples]
        self.results.append((torch.stack(counts),))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the results, which are NaN without labeled keypoints."""
        correct, labeled = results[0].sum(0)
        shares = correct / labeled
        metrics = {"PCK": shares.nanmean().item()}
        if self.classwise:
            names = (self.dataset_meta or {}).get("keypoints") or range(len(shares))
            metrics |= {f"PCK.{name}": share for name, share in zip(names, shares.tolist())}
        return metrics


def _count_keypoints(sample: Mapping[str, Any], thr: float) -> Tensor:
    """Return the number of correct and of labeled keypoints of each type, of shape (2, K)."""
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
    near = (found - true).norm(dim=-1) <= thr * length
    visible = truth.get("keypoints_visible")
    labeled = torch.ones_like(near) if visible is None else visible.to(found.device) > 0
    return torch.stack([(near & labeled).sum(0), labeled.sum(0)]).float()
