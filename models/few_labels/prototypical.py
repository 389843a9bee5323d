"""Prototypical networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel
from trainwright.models.classification.neighbors import pooled
from trainwright.models.classification.samples import gather_labels
from trainwright.models.module import InitCfg

DISTANCES = ("euclidean", "cosine")


@MODELS.register_module()
class PrototypicalNetwork(BaseModel):
    """Classify images by the nearest mean of the features of a few examples of each class (Snell et al. 2017).

    The batches are episodes of ``EpisodeBatchSampler``, in training and validation: of each class, first the examples,
    then the images to classify. Validation may have other classes, numbers of classes and examples than training.
    Source: https://arxiv.org/abs/1703.05175.

    Args:
        backbone: module or config; returns features (N, C), or feature maps, which are averaged over all positions.
        num_shots: number of examples of each class.
        num_ways: number of classes in an episode; None to find it from the labels.
        distance: ``euclidean`` for squared distances, or ``cosine``.
        temperature: divisor of the distances; positive.
        data_preprocessor: module or config; the type defaults to ``ImgDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: a value is out of range.
    """

    any_classes = True

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        num_shots: int = 1,
        num_ways: int | None = None,
        distance: str = "euclidean",
        temperature: float = 1.0,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "ImgDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        if num_shots < 1 or temperature <= 0:
            raise ConfigError("model.num_shots", "num_shots must be at least 1 and temperature positive")
        if distance not in DISTANCES:
            raise ConfigError("model.distance", f"must be one of {', '.join(DISTANCES)}, not {distance!r}")
        self.backbone: Any = MODELS.build(backbone)
        self.num_shots = num_shots
        self.num_ways = num_ways
        self.distance = distance
        self.temperature = temperature

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions or features.

        Args:
            inputs: float images of one episode, of shape (ways × (shots + queries), C, H, W).
            data_samples: their labels.
            mode: ``loss`` for a dict with ``loss`` and ``accuracy``; ``predict`` for data samples with ``pred_label``
                and ``is_query``, of which only the queries are predicted; ``tensor`` for the features.
        """
        features = pooled(self.backbone(inputs))
        if mode == "tensor":
            return features
        if mode not in ("loss", "predict"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")
        labels = gather_labels(data_samples)
        ways = self._ways(labels)
        logits = self.classify(features.view(ways, -1, features.shape[1]))
        if mode == "loss":
            wanted = torch.arange(ways, device=logits.device).repeat_interleave(len(logits) // ways)
            found = logits.detach().argmax(1)
            return {"loss": F.cross_entropy(logits, wanted), "accuracy": 100 * (found == wanted).float().mean()}
        return self._predictions(logits, labels.view(ways, -1), data_samples)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of the queries, of shape (ways × queries, ways).

        Args:
            features: shape (ways, shots + queries, C).
        """
        if self.distance == "cosine":
            features = F.normalize(features, dim=-1)
        prototypes = features[:, : self.num_shots].mean(1)
        queries = features[:, self.num_shots :].flatten(0, 1)
        if self.distance == "cosine":
            return queries @ F.normalize(prototypes, dim=-1).T / self.temperature
        return -(queries[:, None] - prototypes[None]).square().sum(-1) / self.temperature

    def _ways(self, labels: Tensor) -> int:
        ways = self.num_ways or len(torch.unique_consecutive(labels))
        if len(labels) % ways or len(labels) // ways <= self.num_shots:
            raise TrainingError(
                f"a batch of {len(labels)} images is not an episode of {ways} classes with {self.num_shots} examples "
                "and at least one query of each: set batch_sampler=dict(type='EpisodeBatchSampler', num_ways=…, "
                "num_shots=…, num_queries=…) in the data loader"
            )
        return ways

    def _predictions(self, logits: Tensor, labels: Tensor, data_samples: Any) -> Any:
        is_query = torch.zeros_like(labels, dtype=torch.bool)
        is_query[:, self.num_shots :] = True
        found = labels.clone()
        found[is_query] = labels[:, 0][logits.argmax(1)]
        found, is_query = found.flatten(), is_query.flatten()
        if isinstance(data_samples, Sequence) and data_samples and isinstance(data_samples[0], BaseDataElement):
            for sample, label, query in zip(data_samples, found, is_query):
                sample.pred_label, sample.is_query = label, query
            return list(data_samples)
        if not isinstance(data_samples, BaseDataElement):
            data_samples = DataSample(gt_label=labels.flatten())
        data_samples.pred_label, data_samples.is_query = found, is_query
        return data_samples
