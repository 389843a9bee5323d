"""Parts of a model that are not trained."""

from collections.abc import Sequence

from torch import nn

from trainwright.engine.errors import ConfigError, did_you_mean


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Make submodules stay as they are: their weights get no gradients, and they are put into evaluation mode.

    ``model.train()`` ends the latter: see :func:`keep_frozen`.

    Args:
        model: the model.
        names: names of its submodules, such as ``backbone`` or ``backbone.layer1``.

    Raises:
        ConfigError: there is no submodule of a name.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(dict(model.named_children()))}"
            raise ConfigError("frozen", f"{type(model).__name__} has no part {name!r}", hint)
        model.get_submodule(name).requires_grad_(False)
    keep_frozen(model, names)


def keep_frozen(model: nn.Module, names: Sequence[str]) -> None:
    """Put submodules into evaluation mode: no dropout, and the statistics of normalization layers stay."""
    for name in names:
        model.get_submodule(name).eval()
