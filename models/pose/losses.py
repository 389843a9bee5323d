"""Losses for pose estimation."""

from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS


@MODELS.register_module()
class KeypointMSELoss(nn.Module):
    """Mean squared error of heat maps.

    Args:
        use_target_weight: whether to weight heat maps by their target weights.
        loss_weight: weight of the loss.
    """

    def __init__(self, use_target_weight: bool = True, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.use_target_weight = use_target_weight
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, target: Tensor, target_weights: Tensor | None = None) -> Tensor:
        """Return the loss, averaged over all pixels including those of heat maps with weight 0.

        Args:
            output: predicted heat maps of shape (N, K, H, W).
            target: target heat maps of shape (N, K, H, W).
            target_weights: shape (N, K).

        Raises:
            ValueError: ``use_target_weight`` is True, but ``target_weights`` is None.
        """
        if not self.use_target_weight:
            return F.mse_loss(output, target) * self.loss_weight
        if target_weights is None:
            raise ValueError("KeypointMSELoss needs target_weights, or use_target_weight=False")
        error = (output - target).square().mean((2, 3))
        return (error * target_weights).mean() * self.loss_weight
