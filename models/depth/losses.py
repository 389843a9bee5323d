"""Losses for depth estimation."""

import torch
from torch import Tensor, nn

from trainwright.engine.registry import MODELS


@MODELS.register_module()
class SiLogLoss(nn.Module):
    """The scale-invariant loss of logarithms of depth (Eigen et al. 2014), https://arxiv.org/abs/1406.2283.

    The square root of ``mean(d²) - lambd * mean(d)²`` over the pixels of the batch with known depth, where ``d`` is the
    difference of the logarithms.

    Args:
        lambd: share of the error in scale that is forgiven, in [0, 1].
        eps: smallest depth; smaller true depths are unknown.
        loss_weight: factor of the loss.
        loss_name: name in the log; must contain ``loss``.
    """

    def __init__(
        self, lambd: float = 0.5, eps: float = 1e-3, loss_weight: float = 1.0, loss_name: str = "loss_silog"
    ) -> None:
        super().__init__()
        self.lambd = lambd
        self.eps = eps
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss; 1e-6 if no depth is known.

        Args:
            pred: depths, of shape (N, H, W).
            target: true depths, 0 if unknown, of the same shape.
        """
        known = target > self.eps
        difference = pred.float().clamp(min=self.eps).log() - target.float().clamp(min=self.eps).log()
        difference = difference.where(known, 0.0)
        number = known.sum().clamp(min=1)
        variance = difference.square().sum() / number - self.lambd * (difference.sum() / number).square()
        # The derivative of the root would be infinite at 0.
        return self.loss_weight * torch.sqrt(variance.clamp(min=1e-12))
