"""The accuracy over episodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.registry import METRICS


@METRICS.register_module()
class EpisodeAccuracy(BaseMetric):
    """The mean accuracy over episodes in percent, with its 95 % confidence interval.

    Each batch is an episode; only samples with ``is_query`` count. The interval is 1.96 standard errors of the mean,
    as few-shot learning reports it.

    Args:
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.
    """

    default_prefix = "episode"

    higher_is_better = {"accuracy": True, "interval": False}  # noqa: RUF012  # as in the base class

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the accuracy of an episode."""
        queries = [sample for sample in data_samples if bool(sample["is_query"])]
        correct = [int(sample["pred_label"]) == int(sample["gt_label"]) for sample in queries]
        self.results.append(100 * sum(correct) / len(correct))

    def compute_metrics(self, results: Sequence[float]) -> dict[str, float]:
        """Return ``accuracy``, and ``interval``, half the width of the confidence interval."""
        values = torch.tensor(results, dtype=torch.float64)
        deviation = float(values.std()) if len(values) > 1 else float("nan")
        return {"accuracy": float(values.mean()), "interval": 1.96 * deviation / len(values) ** 0.5}
