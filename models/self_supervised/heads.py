"""Projection and prediction heads."""

from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS


@MODELS.register_module()
class ProjectionMLP(nn.Sequential):
    """A multi-layer perceptron after a backbone, with batch norm and ReLU between its layers.

    Args:
        in_channels: size of the features.
        hidden_channels: size of the hidden layers.
        out_channels: size of the output.
        num_layers: number of linear layers, at least 1.
        last_norm: a batch norm without affine parameters after the last layer, as in SimCLR and MoCo v3.

    Raises:
        ValueError: ``num_layers`` is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 2048,
        out_channels: int = 128,
        num_layers: int = 2,
        last_norm: bool = False,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, not {num_layers}")
        layers: list[nn.Module] = []
        size = in_channels
        for _ in range(num_layers - 1):
            layers += [nn.Linear(size, hidden_channels, bias=False), nn.BatchNorm1d(hidden_channels), nn.ReLU(True)]
            size = hidden_channels
        layers.append(nn.Linear(size, out_channels, bias=not last_norm))
        if last_norm:
            layers.append(nn.BatchNorm1d(out_channels, affine=False))
        super().__init__(*layers)


@MODELS.register_module()
class DINOHead(nn.Module):
    """The head of DINO: a perceptron with a bottleneck of unit length, and a layer of unit-length prototypes.

    Source: Caron et al. 2021, https://arxiv.org/abs/2104.14294.

    Args:
        in_channels: size of the features.
        hidden_channels: size of the hidden layers.
        bottleneck_channels: size of the bottleneck.
        num_prototypes: size of the output.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
        num_prototypes: int = 65536,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden_channels), nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels), nn.GELU(),
            nn.Linear(hidden_channels, bottleneck_channels),
        )  # fmt: skip
        self.prototypes = nn.Linear(bottleneck_channels, num_prototypes, bias=False)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, trains_prototypes: bool = True) -> Tensor:
        """Return the cosines with the prototypes, of shape (N, P).

        Args:
            features: shape (N, C).
            trains_prototypes: whether the gradients of the prototypes are not zero.
        """
        weight = self.prototypes.weight
        if not trains_prototypes:
            weight = weight.detach() + 0 * weight  # DDP waits for a gradient
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(weight, dim=-1))
