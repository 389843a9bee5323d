"""Functions of mmcv that take a GPU for granted, made to run where their arguments are."""

from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from trainwright.compat.mmcv_ops.neighbors import furthest_point_sampling_forward


class _Torch(ModuleType):
    """``torch`` for modules that make the device of their arguments the current one, which is not necessary here."""

    cuda = SimpleNamespace(current_device=lambda: -1, set_device=lambda device: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _sample(ctx: Any, points_xyz: Tensor, num_points: int) -> Tensor:
    """Return the indices of points that are far from each other, shape (B, num_points), int32."""
    clouds, number = points_xyz.shape[:2]
    index = points_xyz.new_zeros((clouds, num_points), dtype=torch.int32)
    distances = points_xyz.new_full((clouds, number), 1e10, dtype=torch.float32)
    furthest_point_sampling_forward(points_xyz, distances, index, b=clouds, n=number, m=num_points)
    ctx.mark_non_differentiable(index)
    return index


def follow_arguments() -> None:
    """Let the functions of mmcv that only run on the current CUDA device run on the device of their arguments."""
    for name in ("knn", "points_in_boxes"):
        import_module(f"mmcv.ops.{name}").torch = _Torch("torch")  # type: ignore[attr-defined]
    import_module("mmcv.ops.furthest_point_sample").FurthestPointSampling.forward = staticmethod(_sample)
