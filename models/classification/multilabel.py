"""Multi-label classification: each class by itself is there or not."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class MultiLabelClsHead(BaseModule):
    """Loss and predictions of several classes an image, for a backbone that gives logits.

    Args:
        loss: module or config of the loss of the logits; ``dict(type='BinaryCrossEntropyLoss')`` if None.
        thr: a class is predicted from this score on, in [0, 1]; 0.5 if neither this nor ``topk`` is given.
        topk: predict this many classes with the highest scores instead.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``thr`` and ``topk`` are both given.
    """

    def __init__(
        self,
        loss: Mapping[str, Any] | nn.Module | None = None,
        thr: float | None = None,
        topk: int | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if thr is not None and topk is not None:
            raise ConfigError("topk", "thr and topk exclude each other", "remove one of them")
        super().__init__(init_cfg)
        self.loss_module = MODELS.build({"type": "BinaryCrossEntropyLoss"} if loss is None else loss)
        self.thr = 0.5 if thr is None else thr
        self.topk = topk

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits of shape (N, num_classes): the features, or the last of several, as they are."""
        return features if isinstance(features, Tensor) else features[-1]

    def loss(self, features: Any, data_samples: Any) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        logits = self(features)
        return {"loss": self.loss_module(logits, gather_multi_hot(data_samples, logits.shape[1]))}

    def predict(self, features: Any, data_samples: Any = None) -> list[DataSample]:
        """Return the data samples of a batch with ``pred_score`` (C,) and the classes ``pred_label`` (L,)."""
        scores = self(features).detach().sigmoid()
        labels = self.predicted_labels(scores)
        if isinstance(data_samples, DataSample):
            data_samples = data_samples.unbatch()
        if not isinstance(data_samples, list | tuple) or not isinstance(data_samples[0], BaseDataElement):
            truth = [None] * len(scores) if data_samples is None else gather_multi_hot(data_samples, scores.shape[1])
            data_samples = [DataSample() if row is None else DataSample(gt_score=row) for row in truth]
        for sample, score, label in zip(data_samples, scores, labels):
            sample.pred_score, sample.pred_label = score, label
        return list(data_samples)

    def predicted_labels(self, scores: Tensor) -> list[Tensor]:
        """Return the classes that are predicted for scores of shape (N, C), in ascending order."""
        if self.topk is not None:
            return list(scores.topk(min(self.topk, scores.shape[1])).indices.sort().values)
        chosen = scores >= self.thr
        return list(torch.split(chosen.nonzero()[:, 1], chosen.sum(1).tolist()))


@MODELS.register_module()
class MultiLabelLinearClsHead(MultiLabelClsHead):
    """One linear layer from features to the logits of several classes an image.

    Args:
        num_classes: number of classes.
        in_channels: size of the features.
        loss, thr, topk: see :class:`MultiLabelClsHead`.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: Mapping[str, Any] | nn.Module | None = None,
        thr: float | None = None,
        topk: int | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        init_cfg = {"type": "Normal", "layer": "Linear", "std": 0.01} if init_cfg is None else init_cfg
        super().__init__(loss, thr, topk, init_cfg)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits of shape (N, num_classes) for features of shape (N, in_channels)."""
        logits: Tensor = self.fc(super().forward(features))
        return logits


def gather_multi_hot(data_samples: Any, num_classes: int) -> Tensor:
    """Return for each sample of a batch which classes it has.

    Args:
        data_samples: a list of data samples with ``gt_score`` (C,), or with the classes ``gt_label`` (L,); one batched
            data sample; or a tensor, (N, C) as below or (N,) with a class each.
        num_classes: number of classes.

    Returns:
        float32 of shape (N, C): 1 for a class that a sample has, 0 for others, -1 for what does not count.

    Raises:
        ValueError: there are no labels, or one beyond the classes (told on the CPU only); the sample is named.
    """
    if isinstance(data_samples, Tensor):
        return _rows(data_samples, num_classes)
    if isinstance(data_samples, BaseDataElement):
        return _rows(_truth(data_samples), num_classes)
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no labels: its data samples are {data_samples!r}")
    rows = []
    for sample in data_samples:
        truth = _truth(sample)
        if not truth.is_floating_point():
            try:
                truth = torch.zeros(num_classes, device=truth.device).index_fill_(0, truth.flatten(), 1.0)
            except IndexError as error:
                raise ValueError(
                    f"{sample_name(sample)} has a class beyond the {num_classes} of the model: {truth.tolist()}"
                ) from error
        rows.append(truth.float())
    return torch.stack(rows)


def _rows(truth: Tensor, num_classes: int) -> Tensor:
    if truth.dim() == 2:
        return truth.float()
    return nn.functional.one_hot(truth, num_classes).float()


def _truth(sample: Any) -> Tensor:
    for name in ("gt_score", "gt_label"):
        if name in sample:
            return torch.as_tensor(sample[name] if isinstance(sample, Mapping) else getattr(sample, name))
    raise ValueError(f"{sample_name(sample)} has neither gt_score nor gt_label: the dataset must give one of them")
