"""Metrics of retrieval and re-identification."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError, DataError, did_you_mean
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.registry import METRICS

_CHUNK = 1024
_DISTANCES = ("cosine", "euclidean")


@METRICS.register_module()
class RetrievalMetric(BaseMetric):
    """Mean average precision, and the percentage of queries with a match among the first k (rank-k, or recall@k).

    Each image is compared with all others by the cosine or distance of their ``embedding``. If samples have
    ``is_query``, those where it is true are compared with those where it is false. Matches have the same ``gt_label``.
    Queries without any match do not count. Results are named ``retrieval/mAP``, ``retrieval/rank1`` and so on, in
    percent.

    Args:
        topk: one or more values of k.
        other: a field of the samples, such as ``camera``: matches with the same value are left out, as in person
            re-identification (Zheng et al. 2015, the protocol of Market-1501).
        distance: ``"cosine"``, or ``"euclidean"`` for embeddings whose length has a meaning.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.

    Raises:
        ConfigError: an unknown ``distance``.
    """

    default_prefix = "retrieval"
    higher_is_better = True

    def __init__(
        self,
        topk: int | Sequence[int] = (1, 5, 10),
        other: str | None = None,
        distance: str = "cosine",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        self.other = other
        if distance not in _DISTANCES:
            raise ConfigError("distance", f"unknown distance {distance!r}", did_you_mean(distance, _DISTANCES))
        self.distance = distance

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the embedding, the label and the other fields of each sample."""
        for sample in data_samples:
            if self.other is not None and self.other not in sample:
                raise DataError(f"RetrievalMetric: the samples have no field {self.other!r}, only {', '.join(sample)}")
            embedding = torch.as_tensor(sample["embedding"]).detach().float().cpu()
            other = -1 if self.other is None else int(sample[self.other])
            query = sample.get("is_query")
            self.results.append((embedding, int(sample["gt_label"]), other, -1 if query is None else int(query)))

    def compute_metrics(self, results: Sequence[tuple[Tensor, int, int, int]]) -> dict[str, float]:
        """Return the mean average precision and the rank-k accuracies in percent."""
        embeddings = torch.stack([embedding for embedding, *_ in results])
        if self.distance == "cosine":
            embeddings = F.normalize(embeddings, dim=1)
        labels, others, roles = (torch.tensor(column) for column in list(zip(*results))[1:])
        split = bool((roles >= 0).all())
        queries = (roles == 1).nonzero().flatten() if split else torch.arange(len(results))
        gallery = (roles == 0).nonzero().flatten() if split else torch.arange(len(results))
        precisions: list[Tensor] = []
        first_matches: list[Tensor] = []
        for chunk in torch.split(queries, _CHUNK):
            if self.distance == "cosine":
                similarity = embeddings[chunk] @ embeddings[gallery].T
            else:
                similarity = -torch.cdist(embeddings[chunk], embeddings[gallery])
            match = labels[chunk][:, None] == labels[gallery]
            ignored = chunk[:, None] == gallery
            if self.other is not None:
                ignored |= match & (others[chunk][:, None] == others[gallery])
            order = similarity.masked_fill(ignored, float("-inf")).sort(dim=1, descending=True, stable=True).indices
            hits = (match & ~ignored).gather(1, order)
            hits = hits[hits.any(1)].double()
            ranks = torch.arange(1, len(gallery) + 1)
            precisions.append(((hits.cumsum(1) / ranks) * hits).sum(1) / hits.sum(1))
            first_matches.append(hits.argmax(1))
        precision, first = torch.cat(precisions), torch.cat(first_matches)
        if not len(precision):
            return {name: float("nan") for name in ("mAP", *(f"rank{k}" for k in self.topk))}
        found = {f"rank{k}": 100 * float((first < k).double().mean()) for k in self.topk}
        return {"mAP": 100 * float(precision.mean()), **found}
