"""Changes to a model that needs no knowledge of what it is: batch norms, activation checkpoints, wrappers."""

import functools
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODEL_WRAPPERS, Registry


def is_model_wrapper(model: nn.Module, registry: Registry = MODEL_WRAPPERS) -> bool:
    """Whether a module wraps the model proper, as ``module``, to train it in parallel.

    Args:
        model: the module.
        registry: the wrappers; those of its children count too.
    """
    if isinstance(model, DataParallel | DistributedDataParallel):
        return True
    classes = tuple(member for member in registry.module_dict.values() if isinstance(member, type))
    return isinstance(model, classes) or any(is_model_wrapper(model, child) for child in registry.children.values())


class _BatchNormXd(_BatchNorm):
    """A batch norm for inputs of any number of dimensions: a synchronised one does not say which it had."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a batch norm needs an input of at least 2 dimensions, not of {input.dim()}")


def convert_sync_batchnorm(module: nn.Module, implementation: str = "torch") -> nn.Module:
    """Replaces every batch norm by one that computes its statistics over all processes.

    Args:
        module: the model; changed in place, unless it is a batch norm itself.
        implementation: ``torch``, or ``mmcv`` for mmcv's layer.

    Returns:
        The model.

    Raises:
        ConfigError: ``implementation`` is something else.
    """
    if implementation == "torch":
        layer: Any = nn.SyncBatchNorm
    elif implementation == "mmcv":
        from mmcv.ops import SyncBatchNorm as layer  # type: ignore[import-not-found,no-redef,unused-ignore]
    else:
        raise ConfigError("sync_bn", f"must be 'torch' or 'mmcv', not {implementation!r}")
    return _replace(module, lambda part: isinstance(part, _BatchNorm) and not isinstance(part, layer), layer)


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every synchronised batch norm by one that needs no other process.

    Args:
        module: the model; changed in place, unless it is a batch norm itself.

    Returns:
        The model.
    """
    # mmcv's layer is known by name: whoever has one in the model has imported mmcv already.
    return _replace(module, lambda part: type(part).__name__ == "SyncBatchNorm", _BatchNormXd)


def turn_on_activation_checkpointing(model: nn.Module, modules: str | Iterable[str]) -> None:
    """Lets submodules compute their activations again in the backward pass: less memory, more time.

    Random numbers are the same in both passes. A batch norm inside sees each batch twice, so that its running
    statistics move as with a larger momentum.

    Args:
        model: the model.
        modules: names of the submodules, as :meth:`torch.nn.Module.named_modules` gives them.

    Raises:
        ConfigError: the model has no submodule of this name.
    """
    by_name = {name: submodule for name, submodule in model.named_modules() if name}
    for name in [modules] if isinstance(modules, str) else modules:
        if name not in by_name:
            raise ConfigError(
                "activation_checkpointing",
                f"{type(model).__name__} has no submodule {name!r}",
                did_you_mean(name, by_name) or f"its parts are {', '.join(n for n, _ in model.named_children())}",
            )
        submodule = by_name[name]
        # A bound method, unlike a closure, follows the module when it is copied.
        submodule.forward = MethodType(_checkpointed_forward, submodule)


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
    """Returns a batch norm of another class with the same settings and the very same tensors."""
    new: nn.Module = layer(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    if hasattr(old, "qconfig"):  # quantised models
        new.qconfig = old.qconfig
    return new.train(old.training)
