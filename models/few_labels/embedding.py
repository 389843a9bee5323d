"""Models that learn embeddings in which images of one class are close to each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel
from trainwright.models.classification.neighbors import pooled
from trainwright.models.classification.samples import gather_labels
from trainwright.models.module import InitCfg


@MODELS.register_module()
class EmbeddingModel(BaseModel):
    """A network trained by a loss between embeddings and labels, for retrieval and re-identification.

    The losses and miners of pytorch-metric-learning (``pip install 'trainwright[metric-learning]'``) can be named by
    their paths. Batches should have several images of each class: see ``PKBatchSampler``.

    Example:
        >>> EmbeddingModel(
        ...     backbone=dict(type="TorchvisionModel", name="resnet50", num_classes=0),
        ...     head=dict(type="torch.nn.Linear", in_features=2048, out_features=128),
        ...     loss=dict(type="pytorch_metric_learning.losses.TripletMarginLoss", margin=0.2),
        ...     miner=dict(type="pytorch_metric_learning.miners.BatchHardMiner"),
        ... )

    Args:
        backbone: module or config; returns features (N, C), or feature maps, which are averaged over all positions.
        loss: module or config, called with embeddings (N, D) and labels (N,), and with what the miner returns. Its
            arguments may be configs, too, such as ``distance=dict(type="pytorch_metric_learning.distances...")``.
        head: module or config that turns features into embeddings; the features themselves if None.
        miner: module or config, called with embeddings and labels.
        normalized: whether embeddings have unit length.
        data_preprocessor: module or config; the type defaults to ``ImgDataPreprocessor``.
        init_cfg: one or more initializer configs.
    """

    any_classes = True

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        loss: Mapping[str, Any] | nn.Module,
        head: Mapping[str, Any] | nn.Module | None = None,
        miner: Mapping[str, Any] | nn.Module | None = None,
        normalized: bool = True,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "ImgDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.backbone: Any = MODELS.build(backbone)
        self.head: Any = None if head is None else MODELS.build(head)
        self.loss_module: Any = _with_parts(loss)
        self.miner: Any = None if miner is None else _with_parts(miner)
        self.normalized = normalized

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions or embeddings.

        Args:
            inputs: float images of shape (N, C, H, W).
            data_samples: their labels.
            mode: ``loss`` for a dict with ``loss``; ``predict`` for data samples with ``embedding``; ``tensor`` for
                embeddings of shape (N, D).
        """
        features = pooled(self.backbone(inputs))
        embeddings = features if self.head is None else self.head(features)
        if self.normalized:
            embeddings = F.normalize(embeddings, dim=1)
        if mode == "loss":
            labels = gather_labels(data_samples)
            mined = () if self.miner is None else (self.miner(embeddings, labels),)
            return {"loss": self.loss_module(embeddings, labels, *mined)}
        if mode == "predict":
            return _with_embeddings(embeddings, data_samples)
        if mode == "tensor":
            return embeddings
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: ``embedding`` (N, D)."""
        return ExportForm(self, self.forward, ("embedding",), {"type": "EmbeddingDecoder"})


@MODELS.register_module()
class EmbeddingDecoder:
    """Write the output ``embedding`` of an exported model to data samples."""

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        """Return the data samples with ``embedding``; see :class:`ExportForm`."""
        return _with_embeddings(outputs["embedding"], data_samples)


def _with_embeddings(embeddings: Tensor, data_samples: Any) -> Any:
    if isinstance(data_samples, Sequence) and data_samples and isinstance(data_samples[0], BaseDataElement):
        for sample, embedding in zip(data_samples, embeddings):
            sample.embedding = embedding
        return list(data_samples)
    if not isinstance(data_samples, BaseDataElement):
        data_samples = DataSample() if data_samples is None else DataSample(gt_label=gather_labels(data_samples))
    data_samples.embedding = embeddings
    return data_samples


def _with_parts(config: Any) -> Any:
    """Build a module from a config whose arguments may be configs."""
    if not isinstance(config, Mapping) or "type" not in config:
        return config
    return MODELS.build({key: value if key == "type" else _with_parts(value) for key, value in config.items()})
