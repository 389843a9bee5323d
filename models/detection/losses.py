"""Losses of detectors that compute them only in training mode, under names of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import TrainingError
from trainwright.engine.evaluation.samples import describe


@contextmanager
def computing_losses(network: nn.Module) -> Iterator[None]:
    """Make a network in evaluation mode compute losses, which some detectors only do in training mode.

    Only modules that decide what to compute are switched. The layers of PyTorch, such as batch normalization and
    dropout, and the submodule ``backbone`` stay in evaluation mode.
    """
    if network.training:
        yield
        return
    backbone = getattr(network, "backbone", None)
    fixed = set(backbone.modules()) if isinstance(backbone, nn.Module) else set()
    switched = [module for module in network.modules() if module not in fixed and not _is_layer(module)]
    for module in switched:
        module.training = True
    try:
        yield
    finally:
        for module in switched:
            module.training = False


def named_losses(losses: Any, network: nn.Module) -> dict[str, Any]:
    """Return the losses of a network under names that contain ``loss``, and what it only logs under others.

    If the name of an entry contains ``loss``, so do those of all losses, and the other entries are only logged.
    Otherwise, all entries are losses.

    Raises:
        TrainingError: these are not losses, or an entry that would only be logged has a gradient.
    """
    if not isinstance(losses, Mapping) or not losses or not all(isinstance(name, str) for name in losses):
        raise TrainingError(
            f"{type(network).__name__} must return a dict of losses in training mode, not {describe(losses)}"
        )
    if not any("loss" in name for name in losses):
        return {f"loss_{name}": value for name, value in losses.items()}
    for name, value in losses.items():
        if "loss" not in name and isinstance(value, Tensor) and value.requires_grad:
            raise TrainingError(
                f"{type(network).__name__} returned {name!r} with a gradient, beside losses whose names contain "
                f"'loss': rename it to 'loss_{name}', or detach it if it is only to be logged"
            )
    return dict(losses)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of PyTorch, or derived from one."""
    bases = type(module).__mro__
    return any(base.__module__.startswith("torch.nn.modules") and base not in _NO_LAYERS for base in bases)


_NO_LAYERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
