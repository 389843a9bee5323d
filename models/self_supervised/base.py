"""What self-supervised models have in common: a backbone, views of images, and k-NN evaluation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.classification.neighbors import FeatureBank, pooled
from trainwright.models.classification.samples import gather_labels
from trainwright.models.module import InitCfg


class SelfSupervisedModel(BaseModel):
    """Base class of models that learn from several views of images without labels.

    A subclass implements :meth:`view_losses`. The inputs of a training step are a list of views, as ``MultiView`` makes
    them. The backbone is saved under the names that an ``ImageClassifier`` has, so ``--load-from`` and
    ``dict(type='Pretrained', checkpoint=..., prefix='backbone')`` give it to other models.

    With ``memory``, a validation classifies images by their nearest labeled neighbors; see ``KNNClassifier``.

    Args:
        backbone: module or config that returns features of shape (N, C), or feature maps, which are averaged over all
            positions. ``TorchvisionModel`` and ``TimmModel`` do with ``num_classes=0``.
        memory: data loader config for the labeled images of a k-NN evaluation.
        k: number of neighbors.
        knn_temperature: smaller values give more weight to the nearest neighbors.
        data_preprocessor: module or config; the type defaults to ``ImgDataPreprocessor``.
        init_cfg: one or more initializer configs.
    """

    any_classes = True

    num_views: ClassVar[int | None] = None
    """Number of views of an image; None for any number of them."""

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        memory: Mapping[str, Any] | None = None,
        k: int = 20,
        knn_temperature: float = 0.07,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "ImgDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.backbone: Any = MODELS.build(backbone)
        self._neighbors = None if memory is None else FeatureBank(memory, k, knn_temperature)

    def labeled_dataset(self) -> Any:
        """Return the labeled images of the k-NN evaluation, None without one."""
        return None if self._neighbors is None else self._neighbors.dataset

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode discards the features of the labeled images."""
        if mode and self._neighbors is not None:
            self._neighbors.discard()
        return super().train(mode)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions or features.

        Args:
            inputs: float images of shape (N, C, H, W); for ``loss`` a list of views, each of this shape.
            data_samples: labels of the images, only for ``predict``.
            mode: ``loss`` for a dict of losses; ``predict`` for data samples with the classes of a k-NN evaluation;
                ``tensor`` for features of shape (N, C).
        """
        if mode == "loss":
            if isinstance(inputs, Tensor) and self.num_views == 1:
                inputs = [inputs]
            if isinstance(inputs, Tensor):
                message = f"{type(self).__name__} is trained on several views of each image"
                raise ConfigError("train_dataloader.dataset.pipeline", message, "dict(type='MultiView', ...)")
            views = list(inputs)
            if self.num_views not in (None, len(views)):
                number = f"{self.num_views} view{'s' if self.num_views != 1 else ''}"
                raise TrainingError(f"{type(self).__name__} needs {number} of each image, but there are {len(views)}")
            return self.view_losses(views)
        features = pooled(self.backbone(inputs))
        if mode == "tensor":
            return features
        if mode != "predict":
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")
        if self._neighbors is None:
            message = f"{type(self).__name__} can only be validated by the nearest neighbors in labeled data"
            raise ConfigError("model.memory", message, "memory=dict(dataset=..., batch_size=...), or no validation")
        return self._neighbors.predict(features, self._embed_batch, data_samples)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self._neighbors is not None:
            self._neighbors.discard()

    @abstractmethod
    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            views: the views of the images, each of shape (N, C, H, W).
        """

    def _embed_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        data = self.data_preprocessor(batch, False)
        inputs, samples = (data["inputs"], data["data_samples"]) if isinstance(data, dict) else data
        return pooled(self.backbone(inputs)), gather_labels(samples).to(inputs.device)


def feature_size(backbone: Any, in_channels: int | None) -> int:
    """Return the size of a backbone's features: ``in_channels``, or else what the backbone declares.

    Raises:
        ConfigError: neither is known.
    """
    size = getattr(backbone, "num_features", None) if in_channels is None else in_channels
    if not isinstance(size, int):
        message = f"the size of the features of {type(backbone).__name__} is not known"
        raise ConfigError("model.in_channels", message, "set it")
    return size
