"""A multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg


@MODELS.register_module()
class MLP(BaseModule):
    """Linear layers with ReLU activations in between; a linear classifier if there are no hidden layers.

    Args:
        in_features: number of values of a flattened sample.
        num_classes: number of classes.
        hidden_features: sizes of the hidden layers.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_features: Sequence[int] = (),
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        for size, next_size in pairwise((in_features, *hidden_features)):
            layers += [nn.Linear(size, next_size), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear((in_features, *hidden_features)[-1], num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes) for samples of shape (N, ...)."""
        logits: Tensor = self.layers(inputs.flatten(1))
        return logits
