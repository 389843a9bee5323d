"""Necks and heads for classification."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.samples import add_predictions, gather_labels
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class GlobalAveragePooling(nn.Module):
    """A neck that averages feature maps over all positions."""

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the mean over all positions, of shape (N, C).

        Args:
            features: shape (N, C, ...), or a sequence of feature maps whose last one is used.
        """
        last = features if isinstance(features, Tensor) else features[-1]
        return last.flatten(2).mean(2)


@MODELS.register_module()
class LinearClsHead(BaseModule):
    """A linear classification head.

    Args:
        num_classes: number of classes.
        in_channels: size of the features.
        loss: module or config of the loss on the logits; ``dict(type='CrossEntropyLoss')`` if None.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__({"type": "Normal", "layer": "Linear", "std": 0.01} if init_cfg is None else init_cfg)
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)
        self.loss_module = MODELS.build({"type": "CrossEntropyLoss"} if loss is None else loss)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits of shape (N, num_classes).

        Args:
            features: shape (N, in_channels), or a sequence of features whose last item is used.
        """
        logits: Tensor = self.fc(features if isinstance(features, Tensor) else features[-1])
        return logits

    def loss(self, features: Tensor | Sequence[Tensor], data_samples: Any) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        return {"loss": self.loss_module(self(features), gather_labels(data_samples))}

    def predict(self, features: Tensor | Sequence[Tensor], data_samples: Any = None) -> Any:
        """Return the data samples of a batch with their predictions."""
        return add_predictions(self(features), data_samples)

    def export_form(self) -> ExportForm:
        """Return the form for features: scores and labels."""
        return classification_form(self, self)
