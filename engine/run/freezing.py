"""Frozen parts of a model: not trained, in evaluation mode, and left out of checkpoints if wanted."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError, ConfigError, did_you_mean
from trainwright.engine.strategy.shards import is_sharded
from trainwright.engine.trees import with_versions

_UNSAVED = "_is_not_saved"


def freeze(model: nn.Module, names: str | Iterable[str], *, saved: bool = True, path: str = "frozen") -> None:
    """Freeze parts of a model: disable their gradients, and keep modules in evaluation mode.

    ``model.train()`` does not change the mode of frozen modules: no dropout, no updates of normalization statistics.

    Args:
        model: the model.
        names: names of submodules or parameters, such as ``backbone.layer1``, or shell patterns such as
            ``backbone.layer*``.
        saved: whether checkpoints contain the frozen modules.
        path: dotted path of the names in the config, for messages.

    Raises:
        ConfigError: a name matches nothing.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    parameters = dict(model.named_parameters())
    for pattern in [names] if isinstance(names, str) else names:
        matching = [name for name in modules if fnmatchcase(name, pattern)]
        single = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching and not single:
            known = [*modules, *parameters]
            hint = did_you_mean(pattern, known) or f"its submodules are {', '.join(dict(model.named_children()))}"
            raise ConfigError(path, f"{type(model).__name__} has no submodule or parameter {pattern!r}", hint)
        for name in single:
            parameters[name].requires_grad_(False)
        for name in matching:
            module = modules[name]
            module.requires_grad_(False)
            # Unlike a closure, a bound method is rebound when the module is copied.
            module.train = MethodType(_stay_in_evaluation, module)
            module.eval()
            if not saved:
                setattr(module, _UNSAVED, True)


def freeze_as_configured(model: nn.Module, frozen: Any, path: str = "model.frozen") -> None:
    """Freeze the parts of a model that its config names; see :func:`freeze`.

    Args:
        model: the model.
        frozen: the names, or ``dict(names=…, in_checkpoint=False)``.
        path: dotted path of the config, for messages.

    Raises:
        ConfigError: a key is unknown, or a name matches nothing.
    """
    if not isinstance(frozen, Mapping):
        freeze(model, frozen, path=path)
        return
    if mistake := next(wrong_keys(frozen, path), None):
        raise mistake
    freeze(model, frozen["names"], saved=frozen.get("in_checkpoint", True), path=f"{path}.names")


def wrong_keys(frozen: Any, path: str) -> Iterator[ConfigError]:
    """Yield an error for each unknown or missing key of ``frozen`` in a config."""
    keys = ("names", "in_checkpoint")
    for key in frozen if isinstance(frozen, Mapping) else ():
        if key not in keys:
            yield ConfigError(
                f"{path}.{key}", "unknown key", did_you_mean(key, keys) or f"it takes {' and '.join(keys)}"
            )
    if isinstance(frozen, Mapping) and "names" not in frozen:
        yield ConfigError(f"{path}.names", "missing", "names=['backbone']")


def _stay_in_evaluation(self: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(self, False)


def unsaved_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors in the state dict of a model that checkpoints leave out."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, _UNSAVED, False))
    return frozenset(name for name in model.state_dict() if name.startswith(prefixes)) if prefixes else frozenset()


class UnsavedWeights:
    """The frozen weights that checkpoints leave out. A digest in the checkpoint shows whether a resumed run has them.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._digest: int | None = None
        self.names = unsaved_names(model)

    def without(self, state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """Return a state dict, whose names begin with ``prefix``, without these weights."""
        kept = {name: value for name, value in state_dict.items() if name.removeprefix(prefix) not in self.names}
        return with_versions(kept, state_dict)

    def copy_to(self, other: nn.Module) -> None:
        """Copy these weights to another module of the same structure."""
        if self.names:
            source, target = self._model.state_dict(), other.state_dict()
            with torch.no_grad():
                for name in self.names:
                    target[name].copy_(source[name])

    def state_dict(self) -> dict[str, int] | None:
        """Return the digest of the weights; None without any, or if they are sharded."""
        tensors = [tensor for name, tensor in self._model.state_dict().items() if name in self.names]
        if not tensors or any(is_sharded(tensor) for tensor in tensors):
            return None
        if self._digest is None:  # they do not change
            self._digest = _digest(tensors)
        return {"digest": self._digest}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Compare the weights with those of the run that wrote the checkpoint.

        Raises:
            CheckpointError: they differ.
        """
        own = self.state_dict()
        if own is not None and own["digest"] != state["digest"]:
            raise CheckpointError(
                f"the frozen weights that the checkpoint leaves out ({min(self.names)}, …) are not those of the run "
                "that wrote it: load the same ones again"
            )


def _digest(tensors: Iterable[Tensor]) -> int:
    digest = 0
    for tensor in tensors:
        digest = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, digest)
    return digest
