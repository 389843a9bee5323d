"""Multi-task models."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.model_traits import DECLARED_NUMBERS, declared_number
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel
from trainwright.models.module import InitCfg


@MODELS.register_module()
class MultiTaskModel(BaseModel):
    """A model with several heads on one backbone, which sums their losses and merges their predictions.

    A head has ``loss(features, data_samples)``, which returns a dict of losses, and ``predict(features,
    data_samples)``, which adds its predictions to the data samples, for example ``LinearClsHead``,
    ``SegmentationHead`` or a custom head. A head whose methods also accept ``input_size`` receives the height and width
    of the images. One dataset provides data samples with the annotations of all tasks.

    Example:
        >>> MultiTaskModel(
        ...     backbone=dict(type="TorchvisionFeatures", name="resnet18", layers=("layer2", "layer4")),
        ...     necks=dict(kind=dict(type="GlobalAveragePooling")),
        ...     heads=dict(
        ...         kind=dict(type="LinearClsHead", num_classes=3, in_channels=512),
        ...         parts=dict(type="SegmentationHead", num_classes=4, in_channels=(128, 512)),
        ...     ),
        ...     loss_weights=dict(kind=0.5),
        ... )

    Args:
        backbone: module or config; returns one or more feature maps.
        heads: module or config of each task's head, by name.
        necks: modules or configs between the backbone and a single head, by the name of the head.
        neck: module or config between the backbone and all heads.
        loss_weights: weights of the losses, by the name of the head, at least 0; 1 for heads not named.
        data_preprocessor: module or config; the type defaults to ``SegDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``heads`` is empty, or ``necks`` or ``loss_weights`` names an unknown head.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        heads: Mapping[str, Any],
        necks: Mapping[str, Any] | None = None,
        neck: Mapping[str, Any] | nn.Module | None = None,
        loss_weights: Mapping[str, float] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not heads:
            raise ConfigError("heads", "must not be empty", "set heads=dict(name=dict(type=...))")
        for argument, by_head in (("necks", necks or {}), ("loss_weights", loss_weights or {})):
            for name in by_head:
                if name not in heads:
                    hint = did_you_mean(name, heads) or f"the heads are {', '.join(heads)}"
                    raise ConfigError(f"{argument}.{name}", f"there is no head {name!r}", hint)
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "SegDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.backbone: nn.Module = MODELS.build(backbone)
        self.neck: nn.Module | None = None if neck is None else MODELS.build(neck)
        self.necks = nn.ModuleDict({name: MODELS.build(cfg) for name, cfg in (necks or {}).items()})
        self.heads = nn.ModuleDict({name: MODELS.build(cfg) for name, cfg in heads.items()})
        for attribute in DECLARED_NUMBERS:
            numbers = {declared_number(head, attribute) for head in self.heads.values()} - {None}
            if len(numbers) == 1:
                setattr(self, attribute, numbers.pop())
        self.loss_weights = {name: float((loss_weights or {}).get(name, 1)) for name in heads}
        self._takes_input_size = {
            name: "input_size" in signature(head.predict).parameters  # type: ignore[arg-type]
            for name, head in self.heads.items()
        }

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or the outputs of all heads.

        Args:
            inputs: float images of shape (N, C, H, W).
            data_samples: a list of data samples with the annotations that the heads need.
            mode: ``loss`` for the losses of all heads, as ``name.loss``; ``predict`` for data samples with the
                predictions of all heads; ``tensor`` for a dict of the outputs of all heads.
        """
        features = self.backbone(inputs)
        if self.neck is not None:
            features = self.neck(features)
        head_inputs = {name: self.necks[name](features) if name in self.necks else features for name in self.heads}
        if mode == "tensor":
            return {name: head(head_inputs[name]) for name, head in self.heads.items()}
        if mode == "loss":
            return self._losses(head_inputs, data_samples, inputs)
        if mode == "predict":
            samples = [DataSample() for _ in range(len(inputs))] if data_samples is None else data_samples
            for name, head in self.heads.items():
                size = self._size_argument(name, inputs)
                samples = head.predict(head_inputs[name], samples, **size)  # type: ignore[operator]
            return samples
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def _losses(self, head_inputs: Mapping[str, Any], data_samples: Any, inputs: Tensor) -> dict[str, Any]:
        losses = {}
        for name, head in self.heads.items():
            weight = self.loss_weights[name]
            size = self._size_argument(name, inputs)
            head_losses = head.loss(head_inputs[name], data_samples, **size)  # type: ignore[operator]
            for key, value in head_losses.items():
                losses[f"{name}.{key}"] = _weighted(value, weight) if "loss" in key and weight != 1 else value
        return losses

    def _size_argument(self, name: str, inputs: Tensor) -> dict[str, Any]:
        return {"input_size": inputs.shape[-2:]} if self._takes_input_size[name] else {}


def _weighted(value: Tensor | list[Tensor], weight: float) -> Tensor | list[Tensor]:
    return value * weight if isinstance(value, Tensor) else [part * weight for part in value]
