"""Toy datasets of points in the plane."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainwright.datasets.in_memory import InMemoryDataset
from trainwright.engine.registry import DATASETS

_MAX_DEVIATION = 0.75


class _PointClouds(InMemoryDataset):
    """Base class of datasets of round point clouds, whose sizes differ by at most one point.

    Deviations from the center are normally distributed and clamped to 0.75 in each direction, so that clouds whose
    centers are 2 apart never touch.
    """

    centres: tuple[tuple[float, float], ...]
    centre_labels: tuple[int, ...]

    def __init__(self, num_samples: int = 200, seed: int = 0, noise: float = 0.3) -> None:
        if num_samples < len(self.centres):
            raise ValueError(f"num_samples must be at least {len(self.centres)}, got {num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.noise = noise
        super().__init__()

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the points (N, 2), float32, and the labels (N,), int64."""
        generator = torch.Generator().manual_seed(self.seed)
        cloud = torch.arange(self.num_samples) % len(self.centres)
        deviation = self.noise * torch.randn(self.num_samples, 2, generator=generator)
        points = torch.tensor(self.centres)[cloud] + deviation.clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
        return points, torch.tensor(self.centre_labels)[cloud]


@DATASETS.register_module()
class TwoClouds(_PointClouds):
    """Two clouds of points around (-1, -1) and (1, 1), separated by the line x + y = 0.

    Inputs are float32 of shape (2,); labels alternate between 0 and 1.

    Args:
        num_samples: number of points, at least 2.
        seed: random seed of the points.
        noise: standard deviation of each cloud; deviations are clamped to 0.75 in x and y.
    """

    METAINFO: Mapping[str, Any] = {"classes": ("lower left", "upper right")}
    centres = ((-1.0, -1.0), (1.0, 1.0))
    centre_labels = (0, 1)


@DATASETS.register_module()
class XOR(_PointClouds):
    """Four clouds of points around (±1, ±1); the class is 1 if the signs of x and y differ.

    Inputs are float32 of shape (2,); labels are 0 and 1.

    Args:
        num_samples: number of points, at least 4.
        seed: random seed of the points.
        noise: standard deviation of each cloud; deviations are clamped to 0.75 in x and y.
    """

    METAINFO: Mapping[str, Any] = {"classes": ("equal signs", "different signs")}
    centres = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    centre_labels = (0, 1, 0, 1)
