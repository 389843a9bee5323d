"""Video classification with 3D networks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.model_traits import declared_number
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.samples import add_predictions, gather_labels
from trainwright.models.module import InitCfg


@MODELS.register_module()
class Recognizer3D(BaseModel):
    """A video classifier with a 3D network, which averages its predictions over the clips and crops of a video.

    Example:
        >>> Recognizer3D("r2plus1d_18", num_classes=400)
        >>> Recognizer3D(dict(type="TorchvisionVideoModel", name="swin3d_t", weights="KINETICS400_V1"), num_classes=10)
        >>> Recognizer3D(
        ...     backbone=dict(type="MyBackbone"),
        ...     cls_head=dict(type="LinearClsHead", num_classes=400, in_channels=512),
        ...     average_clips="score",
        ... )

    Args:
        backbone: name of a torchvision video network, or a module or its config. Without ``cls_head`` it must return
            logits of shape (N, C) for clips of shape (N, c, T, H, W).
        cls_head: module or config that converts the backbone's output to logits.
        num_classes: number of classes, for a backbone given by name, for a ``TorchvisionVideoModel`` config that does
            not set it, and for the batch augmentations of the preprocessor.
        loss: module or config of the loss on the logits; ``dict(type='CrossEntropyLoss')`` if None.
        average_clips: ``prob`` to average the probabilities of a video's clips, ``score`` to average their logits.
        test_cfg: ``dict(max_testing_views=4)`` limits the number of clips predicted at once, to save memory.
        data_preprocessor: module or config; the type defaults to ``ActionDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: an unknown ``average_clips`` or key of ``test_cfg``.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | nn.Module,
        cls_head: Mapping[str, Any] | nn.Module | None = None,
        num_classes: int | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        average_clips: str = "prob",
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if average_clips not in ("prob", "score"):
            raise ConfigError("average_clips", f"must be 'prob' or 'score', not {average_clips!r}")
        if unknown := (test_cfg or {}).keys() - {"max_testing_views"}:
            hint = "the only option is max_testing_views"
            raise ConfigError(f"test_cfg.{min(unknown)}", "unknown option", hint)
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "ActionDataPreprocessor", **(data_preprocessor or {})}
            if data_preprocessor["type"] == "ActionDataPreprocessor":
                data_preprocessor = {"num_classes": num_classes, **data_preprocessor}
        super().__init__(data_preprocessor, init_cfg)
        self.average_clips = average_clips
        self.max_testing_views = (test_cfg or {}).get("max_testing_views")
        self.backbone = _build_backbone(backbone, num_classes)
        self.cls_head: nn.Module | None = None if cls_head is None else MODELS.build(cls_head)
        declared = declared_number(self.backbone if self.cls_head is None else self.cls_head, "num_classes")
        self.num_classes = num_classes if declared is None else declared
        self.loss_module: nn.Module = MODELS.build({"type": "CrossEntropyLoss"} if loss is None else loss)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or logits.

        Args:
            inputs: float clips of shape (N, clips, C, T, H, W).
            data_samples: a list of data samples, one batched data sample, or a tensor of labels.
            mode: ``loss`` for a dict with ``loss``, the loss over all clips; ``predict`` for data samples with
                ``pred_score`` and ``pred_label``; ``tensor`` for the logits, of shape (N, clips, num_classes).
        """
        if mode == "loss":
            target = gather_labels(data_samples).repeat_interleave(inputs.shape[1], 0)
            return {"loss": self.loss_module(self.logits(inputs.flatten(0, 1)), target)}
        if mode == "predict":
            return add_predictions(self._average_clips(self._clip_logits(inputs)), data_samples)
        if mode == "tensor":
            return torch.unflatten(self.logits(inputs.flatten(0, 1)), 0, inputs.shape[:2])
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs, for uint8 clips of shape (N, clips, C, T, H, W)."""
        return classification_form(self, lambda clips: self._average_clips(self._clip_logits(clips)), size_axes=(4, 5))

    def logits(self, clips: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes).

        Args:
            clips: float, of shape (N, C, T, H, W).
        """
        features: Tensor = self.backbone(clips)
        return features if self.cls_head is None else self.cls_head(features)

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone; the rest handles data samples and would not benefit.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.backbone.compile(**options)

    def _clip_logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of all clips, of shape (N, clips, num_classes), ``max_testing_views`` at a time."""
        clips = inputs.flatten(0, 1)
        if self.max_testing_views is None:
            logits = self.logits(clips)
        else:
            logits = torch.cat([self.logits(part) for part in torch.split(clips, self.max_testing_views)])
        return torch.unflatten(logits, 0, inputs.shape[:2])

    def _average_clips(self, logits: Tensor) -> Tensor:
        """Return logits (N, num_classes) whose softmax is the average over the clips."""
        if self.average_clips == "score":
            return logits.mean(1)
        return logits.float().log_softmax(2).logsumexp(1)


def _build_backbone(backbone: str | Mapping[str, Any] | nn.Module, num_classes: int | None) -> nn.Module:
    if isinstance(backbone, str):
        backbone = {"type": "TorchvisionVideoModel", "name": backbone}
    defaults = {}
    if isinstance(backbone, Mapping) and backbone.get("type") == "TorchvisionVideoModel":
        defaults = {} if num_classes is None else {"num_classes": num_classes}
    module: nn.Module = MODELS.build(backbone, **defaults)
    return module
