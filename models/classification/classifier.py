"""Image classification."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm, form_of
from trainwright.engine.model_traits import declared_number
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.samples import add_predictions, gather_labels
from trainwright.models.module import InitCfg
from trainwright.models.pretrained import check_torchvision_name
from trainwright.models.timm_networks import check_timm_name

_TIMM = "timm/"
_PREDICT_WITH_LOSS = "predict with loss"


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """An image classifier: a backbone that returns logits, or a backbone, an optional neck and a head.

    Example:
        >>> ImageClassifier("resnet18", num_classes=10)
        >>> ImageClassifier(dict(type="TorchvisionModel", name="resnet18", small_input=True), num_classes=10)
        >>> ImageClassifier("timm/vit_tiny_patch16_224", num_classes=10)
        >>> ImageClassifier(
        ...     backbone=dict(type="MyBackbone"),
        ...     neck=dict(type="GlobalAveragePooling"),
        ...     head=dict(type="LinearClsHead", num_classes=10, in_channels=512),
        ... )

    Args:
        backbone: name of a torchvision classification network, name of a timm network with the prefix ``timm/``, or a
            module or its config. Without ``head`` it must return logits of shape (N, C).
        neck: module or config between the backbone and the head.
        head: module or config with ``loss(features, data_samples)`` and ``predict(features, data_samples)``.
        num_classes: number of classes, for a backbone given by name, for a ``TorchvisionModel`` or ``TimmModel`` config
            that does not set it, and for the batch augmentations of the preprocessor.
        loss: config of the loss on the logits if there is no head; ``dict(type='CrossEntropyLoss')`` if None.
        data_preprocessor: module or config; the type defaults to ``ClsDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: there is a neck without a head, or ``loss`` in addition to a head.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | nn.Module,
        neck: Mapping[str, Any] | nn.Module | None = None,
        head: Mapping[str, Any] | nn.Module | None = None,
        num_classes: int | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if head is None and neck is not None:
            raise ConfigError("neck", "a neck requires a head", "set `head`, or remove the neck")
        if head is not None and loss is not None:
            raise ConfigError("loss", "the head computes the loss", "move it to `head.loss`")
        super().__init__(_preprocessor_config(data_preprocessor, num_classes), init_cfg)
        self.backbone = _build_backbone(backbone, num_classes)
        self.neck: nn.Module | None = None if neck is None else MODELS.build(neck)
        self.head: Any = None if head is None else MODELS.build(head)
        if head is None:
            self.loss_module = MODELS.build({"type": "CrossEntropyLoss"} if loss is None else loss)
        # What the logits come from declares the number of classes; other heads may take any number of features.
        declared = declared_number(self.backbone if head is None else self.head, "num_classes")
        self.num_classes = num_classes if declared is None else declared

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistake in the name of the backbone."""
        name = cfg.get("backbone")
        try:
            if isinstance(name, str) and name.startswith(_TIMM):
                check_timm_name(name.removeprefix(_TIMM), argument="backbone", prefix=_TIMM)
            elif isinstance(name, str):
                check_torchvision_name(name, "backbone")
        except ConfigError as mistake:
            yield mistake

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self.neck is not None

    @property
    def with_head(self) -> bool:
        """Whether there is a head."""
        return self.head is not None

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or the output of the network.

        Args:
            inputs: float images of shape (N, C, H, W).
            data_samples: a list of data samples, one batched data sample, or a tensor of labels.
            mode: ``loss`` for a dict with ``loss``; ``predict`` for data samples with ``pred_score`` and
                ``pred_label``; ``tensor`` for the logits, of shape (N, num_classes), or the output of the head.
        """
        features = self.extract_feat(inputs)
        if mode == "loss":
            return self._losses(features, data_samples)
        if mode == "predict":
            return self._predictions(features, data_samples)
        if mode == _PREDICT_WITH_LOSS:
            losses = self._losses(features, data_samples)
            return self._predictions(features, data_samples), losses
        if mode == "tensor":
            return features if self.head is None else self.head(features)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the output of the backbone and neck, which is the logits if there is no head."""
        features = self.backbone(inputs)
        return features if self.neck is None else self.neck(features)

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs.

        Raises:
            ConfigError: the head has no ``export_form``.
        """
        if self.head is None:
            return classification_form(self, self.extract_feat)
        form = form_of(self.head, "model.head")
        return replace(form, model=self, function=lambda inputs: form.function(self.extract_feat(inputs)))

    def val_step(self, data: Any, with_loss: bool = False) -> Any:
        """Predict a batch, see :meth:`BaseModel.val_step`; the losses need no second forward pass."""
        if not with_loss:
            return super().val_step(data)
        # By `forward`, which gathers the weights of a sharded model.
        predictions, losses = self._run_forward(self.data_preprocessor(data, False), _PREDICT_WITH_LOSS)
        return predictions, self.parse_losses(losses)[1]

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone and neck; the rest handles data samples and would not benefit.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.backbone.compile(**options)
        if self.neck is not None:
            self.neck.compile(**options)

    def _losses(self, features: Any, data_samples: Any) -> dict[str, Tensor]:
        if self.head is not None:
            losses: dict[str, Tensor] = self.head.loss(features, data_samples)
            return losses
        # GoogLeNet and Inception also return auxiliary logits in training.
        logits = getattr(features, "logits", features)
        return {"loss": self.loss_module(logits, gather_labels(data_samples))}

    def _predictions(self, features: Any, data_samples: Any) -> Any:
        if self.head is not None:
            return self.head.predict(features, data_samples)
        return add_predictions(features, data_samples)


def _preprocessor_config(config: Mapping[str, Any] | nn.Module | None, num_classes: int | None) -> Any:
    if isinstance(config, nn.Module):
        return config
    config = {"type": "ClsDataPreprocessor", **(config or {})}
    if config["type"] == "ClsDataPreprocessor":
        config.setdefault("num_classes", num_classes)
    return config


def _build_backbone(backbone: str | Mapping[str, Any] | nn.Module, num_classes: int | None) -> nn.Module:
    if isinstance(backbone, str):
        source = "TimmModel" if backbone.startswith(_TIMM) else "TorchvisionModel"
        backbone = {"type": source, "name": backbone.removeprefix(_TIMM)}
    defaults = {}
    if isinstance(backbone, Mapping) and backbone.get("type") in ("TorchvisionModel", "TimmModel"):
        defaults = {} if num_classes is None else {"num_classes": num_classes}
    module: nn.Module = MODELS.build(backbone, **defaults)
    return module
