"""Metrics for depth estimation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.errors import did_you_mean
from trainwright.engine.evaluation.metric import BatchMetric
from trainwright.engine.registry import METRICS

_NAMES = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")
_DIRECTIONS = {name: name in ("d1", "d2", "d3") for name in _NAMES}
_SMALLEST = 1e-3


@METRICS.register_module()
class DepthMetric(BatchMetric):
    """Errors of predicted depths, each the mean over the images, as in MMSegmentation.

    ``d1``, ``d2`` and ``d3`` are the shares of pixels whose prediction differs from the truth by a factor below 1.25,
    1.25² and 1.25³; ``abs_rel`` and ``sq_rel`` the mean absolute and squared errors relative to the truth; ``rmse`` and
    ``rmse_log`` the roots of the mean squared errors of the depth and of its logarithm; ``log10`` the mean absolute
    error of the decimal logarithm; ``silog`` 100 times the standard deviation of the error of the logarithm. Images
    without known depths are left out.

    Args:
        depth_metrics: any of these names; all if None.
        min_depth_eval: true depths up to this one are ignored, as are those of 0, which are unknown.
        max_depth_eval: true depths from this one on are ignored.
        collect_device, prefix: see :class:`BaseMetric`.

    Raises:
        ValueError: an unknown metric.
    """

    default_prefix = "depth"
    higher_is_better = _DIRECTIONS
    accepts_batches = False

    def __init__(
        self,
        depth_metrics: str | Sequence[str] | None = None,
        min_depth_eval: float = 0.0,
        max_depth_eval: float = float("inf"),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        names = _NAMES if depth_metrics is None else depth_metrics
        self.depth_metrics = (names,) if isinstance(names, str) else tuple(names)
        for name in self.depth_metrics:
            if name not in _NAMES:
                hint = did_you_mean(name, _NAMES) or f"the metrics are {', '.join(_NAMES)}"
                raise ValueError(f"unknown metric {name!r}: {hint}")
        self.min_depth_eval = min_depth_eval
        self.max_depth_eval = max_depth_eval

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compute the errors of each image; they stay on its device."""
        rows = [
            self._errors(_plane(sample, "pred_depth_map"), _plane(sample, "gt_depth_map")) for sample in data_samples
        ]
        self.results.append((torch.stack(rows),))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the mean of each error over the images."""
        return dict(zip(self.depth_metrics, results[0].nanmean(0).tolist()))

    def _errors(self, pred: Tensor, truth: Tensor) -> Tensor:
        if pred.shape != truth.shape:
            raise ValueError(
                f"the predicted depths have size {tuple(pred.shape)}, the true ones {tuple(truth.shape)}: load the "
                "depth map of a test sample after resizing the image"
            )
        known = (truth > self.min_depth_eval) & (truth < self.max_depth_eval)
        pred, truth = pred[known].double(), truth[known].double()
        log = pred.clamp(min=_SMALLEST).log() - truth.clamp(min=_SMALLEST).log()
        factor = log.abs().exp()
        errors = {
            **{f"d{power}": (factor < 1.25**power).double().mean() for power in (1, 2, 3)},
            "abs_rel": ((pred - truth).abs() / truth).mean(),
            "sq_rel": ((pred - truth).square() / truth).mean(),
            "rmse": (pred - truth).square().mean().sqrt(),
            "rmse_log": log.square().mean().sqrt(),
            "log10": log.abs().mean() / torch.tensor(10.0).log(),
            "silog": 100 * (log.square().mean() - log.mean().square()).clamp(min=0).sqrt(),
        }
        return torch.stack([errors[name] for name in self.depth_metrics])


def _plane(sample: Mapping[str, Any], field: str) -> Tensor:
    """Return the depths of a sample, of shape (H, W).

    Raises:
        ValueError: it has none.
    """
    pixels = sample.get(field)
    if pixels is None:
        hint = " (LoadDepthAnnotation)" if field.startswith("gt") else ""
        raise ValueError(f"a sample has no {field}: does the pipeline load it{hint}, and does the model predict it?")
    depths: Tensor = pixels.get("data")
    return depths.reshape(depths.shape[-2:])
