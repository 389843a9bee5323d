"""Changes to any model: synchronized batch norms, activation checkpointing, memory formats, wrappers."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils.checkpoint import checkpoint

from trainwright.engine import distributed
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODEL_WRAPPERS, Registry


def is_model_wrapper(model: nn.Module, registry: Registry = MODEL_WRAPPERS) -> bool:
    """Return whether a module wraps the actual model, as its attribute ``module``, for parallel training.

    Args:
        model: the module.
        registry: the known wrappers, including those in its children.
    """
    if isinstance(model, DataParallel | DistributedDataParallel):
        return True
    classes = tuple(member for member in registry.module_dict.values() if isinstance(member, type))
    return isinstance(model, classes) or any(is_model_wrapper(model, child) for child in registry.children.values())


class _BatchNormXd(_BatchNorm):
    """A batch norm for inputs of any dimension, since a synchronized one does not record which it replaced."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a batch norm needs an input with at least 2 dimensions, not {input.dim()}")


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class CPUSyncBatchNorm(_BatchNormXd):
    """``torch.nn.SyncBatchNorm`` for the CPU, where PyTorch's cannot be used.

    While it is trained, it normalizes by the mean and the variance over the batches of all processes, computed in two
    passes, and at least in float32.
    """

    process_group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a batch."""
        self._check_input_dim(input)
        if not self.training or distributed.get_world_size() == 1:
            return super().forward(input)
        values = input if input.dtype is torch.float64 else input.float()
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        sums = torch.cat([values.sum(dims), values.new_tensor([input.numel() // input.shape[1]])])
        *totals, count = _SumOverProcesses.apply(sums, self.process_group).split([self.num_features, 1])
        mean = totals[0] / count
        centered = values - mean.view(shape)
        variance = _SumOverProcesses.apply(centered.square().sum(dims), self.process_group) / count
        self._track(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        output = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        normalized: Tensor = output.to(input.dtype)
        return normalized

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


def sync_batchnorm_on_cpu(module: nn.Module) -> nn.Module:
    """Replace PyTorch's synchronized batch norms, which need an accelerator, by those for the CPU.

    Args:
        module: the model, which is changed in place unless it is a batch norm itself.

    Returns:
        The model.
    """
    return _replace(module, lambda part: isinstance(part, nn.SyncBatchNorm), CPUSyncBatchNorm)


def convert_sync_batchnorm(module: nn.Module, implementation: str = "torch") -> nn.Module:
    """Replace every batch norm by one that computes its statistics over all processes.

    Args:
        module: the model, which is changed in place unless it is a batch norm itself.
        implementation: ``torch``, or ``mmcv`` for mmcv's layer.

    Returns:
        The model.

    Raises:
        ConfigError: ``implementation`` is unknown.
    """
    if implementation == "torch":
        layer: Any = nn.SyncBatchNorm
    elif implementation == "mmcv":
        from mmcv.ops import SyncBatchNorm as layer  # type: ignore[no-redef]
    else:
        raise ConfigError("sync_bn", f"must be 'torch' or 'mmcv', not {implementation!r}")
    return _replace(module, lambda part: isinstance(part, _BatchNorm) and not isinstance(part, layer), layer)


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every synchronized batch norm by one for a single process.

    Args:
        module: the model, which is changed in place unless it is a batch norm itself.

    Returns:
        The model.
    """
    # By name, because mmcv may not be installed.
    return _replace(module, lambda part: type(part).__name__.endswith("SyncBatchNorm"), _BatchNormXd)


def turn_on_activation_checkpointing(model: nn.Module, modules: str | Iterable[str]) -> None:
    """Recompute the activations of submodules in the backward pass, which trades time for memory.

    Random numbers are the same in both passes. A batch norm inside such a submodule sees each batch twice, so its
    running statistics change as with a larger momentum.

    Args:
        model: the model.
        modules: names of the submodules, as in :meth:`torch.nn.Module.named_modules`.

    Raises:
        ConfigError: a submodule does not exist.
    """
    by_name = {name: submodule for name, submodule in model.named_modules() if name}
    for name in [modules] if isinstance(modules, str) else modules:
        if name not in by_name:
            raise ConfigError(
                "activation_checkpointing",
                f"{type(model).__name__} has no submodule {name!r}",
                did_you_mean(name, by_name) or f"its children are {', '.join(n for n, _ in model.named_children())}",
            )
        submodule = by_name[name]
        # Unlike a closure, a bound method is rebound when the module is copied.
        submodule.forward = MethodType(_checkpointed_forward, submodule)


def to_channels_last(model: nn.Module) -> None:
    """Store the weights of 2-d convolutions channels-last; the layers between them follow.

    Values, names and shapes stay the same. Models without such layers are not changed.
    """
    for weight in _convolution_weights(model):
        # Unlike `to`, which skips 1×1 convolutions, this gives weights the strides of their gradients.
        weight.data = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight.detach())


@contextmanager
def contiguous_weights(model: nn.Module) -> Iterator[None]:
    """Undo :func:`to_channels_last` in this context, because some initializers require contiguous weights."""
    stored = [(weight, weight.data) for weight in _convolution_weights(model) if not weight.is_contiguous()]
    for weight, data in stored:
        weight.data = data.contiguous()
    try:
        yield
    finally:
        for weight, data in stored:
            weight.data = data.copy_(weight.data)


def _convolution_weights(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield from (each for each in module.parameters() if not is_lazy(each) and each.dim() == 4)


def _checkpointed_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(self).forward, self, **kwargs)
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)


def _replace(module: nn.Module, matches: Callable[[nn.Module], bool], layer: Any) -> nn.Module:
    if matches(module):
        return _like(module, layer)
    for name, child in module.named_children():
        new = _replace(child, matches, layer)
        if new is not child:
            setattr(module, name, new)
    return module


def _like(old: Any, layer: Any) -> nn.Module:
    """Return a batch norm of another class that has the same settings and shares the tensors."""
    new: nn.Module = layer(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    if isinstance(new, CPUSyncBatchNorm):
        new.process_group = getattr(old, "process_group", None)
    if hasattr(old, "qconfig"):  # quantized models
        new.qconfig = old.qconfig
    return new.train(old.training)
