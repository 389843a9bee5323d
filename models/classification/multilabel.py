"""Heads for multi-label classification."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class MultiLabelClsHead(BaseModule):
    """A multi-label classification head for a backbone that returns logits.

    Args:
        loss: module or config of the loss on the logits; ``dict(type='BinaryCrossEntropyLoss')`` if None.
        thr: predict classes whose score is at least this threshold, in [0, 1]; 0.5 if ``topk`` is also None.
        topk: predict the ``topk`` classes with the highest scores instead.
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
            raise ConfigError("topk", "thr and topk are mutually exclusive", "remove one of them")
        super().__init__(init_cfg)
        self.loss_module = MODELS.build({"type": "BinaryCrossEntropyLoss"} if loss is None else loss)
        self.thr = 0.5 if thr is None else thr
        self.topk = topk

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the features, or the last item of a sequence, as logits of shape (N, num_classes)."""
        return features if isinstance(features, Tensor) else features[-1]

    def loss(self, features: Any, data_samples: Any) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        logits = self(features)
        return {"loss": self.loss_module(logits, gather_multi_hot(data_samples, logits.shape[1]))}

    def predict(self, features: Any, data_samples: Any = None) -> list[DataSample]:
        """Return the data samples of a batch with scores ``pred_score`` (C,) and classes ``pred_label`` (L,)."""
        return add_multi_label_scores(self(features).detach().sigmoid(), data_samples, self.thr, self.topk)

    def predicted_labels(self, scores: Tensor) -> list[Tensor]:
        """Return the predicted classes of each sample, in ascending order, for scores of shape (N, C)."""
        return _predicted_labels(scores, self.thr, self.topk)

    def export_form(self) -> ExportForm:
        """Return the form for features: the scores, whose threshold is in the metadata of the file."""
        decoder = {"type": "MultiLabelDecoder", "thr": self.thr, "topk": self.topk}
        return ExportForm(self, lambda features: self(features).sigmoid(), ("pred_score",), decoder)


@MODELS.register_module()
class MultiLabelLinearClsHead(MultiLabelClsHead):
    """A linear multi-label classification head.

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
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits of shape (N, num_classes) for features of shape (N, in_channels)."""
        logits: Tensor = self.fc(super().forward(features))
        return logits


def add_multi_label_scores(
    scores: Tensor, data_samples: Any = None, thr: float = 0.5, topk: int | None = None
) -> list[DataSample]:
    """Return the data samples of a batch with ``pred_score`` (C,) and the predicted classes ``pred_label`` (L,).

    Args:
        scores: shape (N, C).
        data_samples: see :func:`gather_multi_hot`; new ones are created if None.
        thr: predict classes whose score is at least this threshold.
        topk: predict the classes with the highest scores instead.
    """
    labels = _predicted_labels(scores, thr, topk)
    if isinstance(data_samples, DataSample):
        data_samples = data_samples.unbatch()
    if not isinstance(data_samples, list | tuple) or not isinstance(data_samples[0], BaseDataElement):
        truth = [None] * len(scores) if data_samples is None else gather_multi_hot(data_samples, scores.shape[1])
        data_samples = [DataSample() if row is None else DataSample(gt_score=row) for row in truth]
    for sample, score, label in zip(data_samples, scores, labels):
        sample.pred_score, sample.pred_label = score, label
    return list(data_samples)


def _predicted_labels(scores: Tensor, thr: float, topk: int | None) -> list[Tensor]:
    if topk is not None:
        return list(scores.topk(min(topk, scores.shape[1])).indices.sort().values)
    chosen = scores >= thr
    return list(torch.split(chosen.nonzero()[:, 1], chosen.sum(1).tolist()))


def gather_multi_hot(data_samples: Any, num_classes: int) -> Tensor:
    """Return the multi-hot labels of a batch.

    Args:
        data_samples: a list of data samples with ``gt_score`` (C,) or with class indices ``gt_label`` (L,); one batched
            data sample; or a tensor of multi-hot labels (N, C) or of class indices (N,).
        num_classes: number of classes.

    Returns:
        float32 of shape (N, C): 1 for the classes of a sample, 0 for other classes, -1 for ignored classes.

    Raises:
        ValueError: a sample has no labels, or (on the CPU only) a label out of range.
    """
    if isinstance(data_samples, Tensor):
        return _as_multi_hot(data_samples, num_classes)
    if isinstance(data_samples, BaseDataElement):
        return _as_multi_hot(_ground_truth(data_samples), num_classes)
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no labels: its data samples are {data_samples!r}")
    rows = []
    for sample in data_samples:
        truth = _ground_truth(sample)
        if not truth.is_floating_point():
            try:
                truth = torch.zeros(num_classes, device=truth.device).index_fill_(0, truth.flatten(), 1.0)
            except IndexError as error:
                raise ValueError(
                    f"{sample_name(sample)} has labels {truth.tolist()}, but the model has {num_classes} classes"
                ) from error
        rows.append(truth.float())
    return torch.stack(rows)


def _as_multi_hot(truth: Tensor, num_classes: int) -> Tensor:
    return truth.float() if truth.dim() == 2 else nn.functional.one_hot(truth, num_classes).float()


def _ground_truth(sample: Any) -> Tensor:
    for name in ("gt_score", "gt_label"):
        if name in sample:
            return torch.as_tensor(sample[name] if isinstance(sample, Mapping) else getattr(sample, name))
    raise ValueError(f"{sample_name(sample)} has neither gt_score nor gt_label: the dataset must provide one of them")
