"""Points in the plane: data small enough to see through."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainwright.datasets.in_memory import InMemoryDataset
from trainwright.engine.registry import DATASETS

_LARGEST_DEVIATION = 0.75


class _PointClouds(InMemoryDataset):
    """Round clouds of points, of equal size up to one point.

    A deviation from a center is normal, but never larger than 0.75 in each direction, so that clouds whose
    centres lie 2 apart never touch.
    """

    centres: tuple[tuple[float, float], ...]
    centre_labels: tuple[int, ...]

    def __init__(self, num_samples: int = 200, seed: int = 0, noise: float = 0.3) -> None:
        if num_samples < len(self.centres):
            raise ValueError(f"num_samples must be at least {len(self.centres)}, not {num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.noise = noise
        super().__init__()

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the points (N, 2), float32, and the labels (N,), int64."""
        generator = torch.Generator().manual_seed(self.seed)
        cloud = torch.arange(self.num_samples) % len(self.centres)
        deviation = self.noise * torch.randn(self.num_samples, 2, generator=generator)
        points = torch.tensor(self.centres)[cloud] + deviation.clamp(-_LARGEST_DEVIATION, _LARGEST_DEVIATION)
        return points, torch.tensor(self.centre_labels)[cloud]


@DATASETS.register_module()
class TwoClouds(_PointClouds):
    """Two clouds of points around (-1, -1) and (1, 1), which the line x + y = 0 separates.

    Inputs are float32 of shape (2,); labels are 0 and 1 in turn.

    Args:
        num_samples: number of points, at least 2.
        seed: seed of the points; another one gives other points of the same clouds.
        noise: standard deviation of each cloud; no point lies further than 0.75 from its center in x or in y.
    """

    METAINFO: Mapping[str, Any] = {"classes": ("lower left", "upper right")}
    centres = ((-1.0, -1.0), (1.0, 1.0))
    centre_labels = (0, 1)


@DATASETS.register_module()
class XOR(_PointClouds):
    """Four clouds of points around (±1, ±1); the class says whether the signs of x and y differ.

    Inputs are float32 of shape (2,); labels are 0 and 1.

    Args:
        num_samples: number of points, at least 4.
        seed: seed of the points; another one gives other points of the same clouds.
        noise: standard deviation of each cloud; no point lies further than 0.75 from its center in x or in y.
    """

    METAINFO: Mapping[str, Any] = {"classes": ("equal signs", "different signs")}
    centres = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    centre_labels = (0, 1, 0, 1)
