"""How well keypoints are predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.registry import METRICS


@METRICS.register_module()
class PCKAccuracy(BatchMetric):
    """Percentage of correct keypoints: those that lie near enough to the true ones.

    The result ``PCK`` is the mean over the kinds of keypoints of the share that is correct, from 0 to 1. A keypoint
    counts where it is labeled. Predicted instances must be those of the truth in the same order, as a top-down model
    gives them.

    Args:
        thr: largest distance that is correct, as a share of the longer side of the true box; positive.
        classwise: return the share of each kind of keypoint too, as ``PCK.nose``.
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
        """Count for each sample the keypoints that are labeled, and those that are correct."""
        counts = [_counts(sample, self.thr) for sample in data_samples]
        self.results.append((torch.stack(counts),))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the results; NaN where no keypoint is labeled."""
        correct, labeled = results[0].sum(0)
        shares = correct / labeled
        metrics = {"PCK": shares.nanmean().item()}
        if self.classwise:
            names = (self.dataset_meta or {}).get("keypoints") or range(len(shares))
            metrics |= {f"PCK.{name}": share for name, share in zip(names, shares.tolist())}
        return metrics


def _counts(sample: Mapping[str, Any], thr: float) -> Tensor:
    """Return how many keypoints of each kind are correct, and labeled: shape (2, K)."""
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
            f"{name} has true keypoints of shape {tuple(true.shape)}, predicted ones of {tuple(found.shape)}: "
            "PCKAccuracy compares them one by one, as a top-down model gives them; use CocoKeypointMetric for others"
        )
    boxes = truth["bboxes"].to(found)
    length = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    near = (found - true).norm(dim=-1) <= thr * length
    visible = truth.get("keypoints_visible")
    labeled = torch.ones_like(near) if visible is None else visible.to(found.device) > 0
    return torch.stack([(near & labeled).sum(0), labeled.sum(0)]).float()
