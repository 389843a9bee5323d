"""Focal losses and the Chamfer distance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.compat.mmcv_ops.sampling import wide


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss of independent classes, from `Focal Loss <https://arxiv.org/abs/1708.02002>`_.

    Args:
        input: Logits of shape (N, C).
        target: Class of each row, of shape (N,); one without a column, such as C, is background.
        weight: Weight of the rows of each class, of shape (C,), 1 for background; empty for none.
        output: Takes the losses, of shape (N, C).
        gamma: Power by which easy cases count less.
        alpha: Weight of the class, beside 1 - alpha for the others.
    """
    toward, factor = _toward_target(wide(input), target, alpha)
    loss = -factor * (-toward).sigmoid().pow(gamma) * F.logsigmoid(toward)
    output.copy_(loss * _row_weights(target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the derivatives of ``sigmoid_focal_loss_forward`` for the logits into ``grad_input``."""
    toward, factor = _toward_target(wide(input), target, alpha)
    miss = (-toward).sigmoid()
    slope = factor * miss.pow(gamma) * (gamma * (1 - miss) * F.logsigmoid(toward) - miss)
    grad_input.copy_(torch.where(_is_class(target, input), slope, -slope) * _row_weights(target, weight))


def _toward_target(logits: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the logits with the sign by which larger ones are better, and the factor of each loss."""
    own = _is_class(target, logits)
    return torch.where(own, logits, -logits), torch.where(own, alpha, 1 - alpha).to(logits.dtype)


def _is_class(target: Tensor, logits: Tensor) -> Tensor:
    return torch.eq(target[:, None], torch.arange(logits.shape[1], device=logits.device))


def _row_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    """Return the weight of each row, of shape (N, 1)."""
    if not weight.numel():
        return 1.0
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, wide(weight)[torch.where(known, target, 0)], 1)[:, None]


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss of exclusive classes.

    Args:
        softmax: Probabilities of shape (N, C).
        target: Class of each row, of shape (N,); a negative one is ignored.
        weight: Weight of each class, of shape (C,); empty for none.
        output: Takes the losses, of shape (N,).
        gamma: Power by which easy cases count less.
        alpha: Factor of the loss.
    """
    probability = _of_class(softmax, target)
    loss = -alpha * (1 - probability).pow(gamma) * _log(probability)
    output.copy_(torch.where(target >= 0, loss * _class_weights(target, weight), 0))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the derivatives of ``softmax_focal_loss_forward`` for the logits into ``grad_input``.

    ``buff`` takes the derivatives for the logarithm of the probability of each row's class, of shape (N,).
    """
    p = _of_class(softmax, target)
    slope = alpha * (gamma * (1 - p).pow(gamma - 1) * p * _log(p) - (1 - p).pow(gamma))
    buff.copy_(torch.where(target >= 0, slope * _class_weights(target, weight), 0))
    grad_input.copy_(wide(buff)[:, None] * (_is_class(target, softmax).to(wide(softmax).dtype) - wide(softmax)))


def _of_class(softmax: Tensor, target: Tensor) -> Tensor:
    return wide(softmax).gather(1, target.clamp(min=0)[:, None])[:, 0]


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _class_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    return wide(weight)[target.clamp(min=0)] if weight.numel() else 1.0


def chamfer_distance_forward(
    xyz1: Tensor, xyz2: Tensor, dist1: Tensor, dist2: Tensor, idx1: Tensor, idx2: Tensor
) -> None:
    """Compute the squared distance of each point to the nearest of the other set, both ways.

    From `A Point Set Generation Network for 3D Object Reconstruction <https://arxiv.org/abs/1612.00603>`_.

    Args:
        xyz1: Points of shape (B, N, 2).
        xyz2: Points of shape (B, M, 2).
        dist1: Takes the squared distances of the first set, of shape (B, N).
        dist2: Takes those of the second, of shape (B, M).
        idx1: Takes the index of the nearest point, of shape (B, N).
        idx2: Takes that of the second, of shape (B, M).
    """
    apart = (wide(xyz1)[:, :, None] - wide(xyz2)[:, None]).square().sum(-1)
    for distances, nearest, axis in ((dist1, idx1, 2), (dist2, idx2, 1)):
        if apart.shape[axis]:
            least, where = apart.min(axis)
            distances.copy_(least)
            nearest.copy_(where)


def chamfer_distance_backward(
    xyz1: Tensor,
    xyz2: Tensor,
    idx1: Tensor,
    idx2: Tensor,
    grad_dist1: Tensor,
    grad_dist2: Tensor,
    grad_xyz1: Tensor,
    grad_xyz2: Tensor,
) -> None:
    """Add the gradients of ``chamfer_distance_forward`` for both sets to ``grad_xyz1`` and ``grad_xyz2``."""
    for here, there, idx, grad, grad_here, grad_there in (
        (xyz1, xyz2, idx1, grad_dist1, grad_xyz1, grad_xyz2),
        (xyz2, xyz1, idx2, grad_dist2, grad_xyz2, grad_xyz1),
    ):
        nearest = idx.long()[..., None].expand(-1, -1, here.shape[2])
        step = 2 * grad[..., None] * (here - there.gather(1, nearest))
        grad_here.add_(step)
        grad_there.scatter_add_(1, nearest, -step)
