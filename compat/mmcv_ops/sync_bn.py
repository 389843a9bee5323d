"""Steps of batch normalization whose statistics are exchanged between processes.

From `Batch Normalization <https://arxiv.org/abs/1502.03167>`_ and `MegDet <https://arxiv.org/abs/1711.07240>`_. mmcv
exchanges between the steps. Inputs have the shape (N, C, pixels).
"""

from __future__ import annotations

from torch import Tensor

from trainwright.compat.mmcv_ops.sampling import wide


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Compute the mean of each channel into ``mean``."""
    mean.copy_(wide(input).mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Compute the mean square around ``mean`` of each channel into ``var``."""
    var.copy_((wide(input) - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalize, and update the running statistics.

    Args:
        input: Input of shape (N, C, pixels).
        mean: Mean of each channel over all processes.
        var: Variance of each channel over all processes.
        weight: Factor of each channel.
        bias: Bias of each channel.
        running_mean: Running mean, updated.
        running_var: Running unbiased variance, updated.
        norm: Takes the normalized input.
        std: Takes the standard deviation of each channel.
        output: Takes the result.
        eps: What is added to the variance.
        momentum: Weight of this batch in the running statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((wide(input) - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * (count / (count - 1)) if count > 1 else var
    running_mean.copy_(running_mean + momentum * (mean - running_mean))
    running_var.copy_(running_var + momentum * (unbiased - running_var))


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Compute the gradients for factor and bias of each channel."""
    grad = wide(grad_output)
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Compute the gradient for the input, from the gradients for factor and bias as means over processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (wide(grad_output) - shared))
