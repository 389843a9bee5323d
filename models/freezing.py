"""Freezing parts of a model."""

from collections.abc import Sequence

from torch import nn

from trainwright.engine.errors import ConfigError, did_you_mean


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze submodules: disable the gradients of their parameters and put them into evaluation mode.

    ``model.train()`` reverts the latter; call :func:`keep_frozen` after it.

    Args:
        model: the model.
        names: names of submodules, such as ``backbone`` or ``backbone.layer1``.

    Raises:
        ConfigError: a submodule does not exist.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"its submodules are {', '.join(dict(model.named_children()))}"
            raise ConfigError("frozen", f"{type(model).__name__} has no submodule {name!r}", hint)
        model.get_submodule(name).requires_grad_(False)
    keep_frozen(model, names)


def keep_frozen(model: nn.Module, names: Sequence[str]) -> None:
    """Put submodules into evaluation mode: no dropout and no updates of normalization statistics."""
    for name in names:
        model.get_submodule(name).eval()
