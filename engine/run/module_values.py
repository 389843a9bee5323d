"""Numbers that modules keep as plain attributes and change in training: no ``state_dict`` contains them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from trainwright.engine.fidelity import reproduces_mmengine

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_LONGEST = 64  # longer lists are data


class ModuleValues:
    """The numbers, and short lists of numbers, that training has changed in a model's modules.

    Examples are a counter, a threshold that follows the training, and the size to which the next batch is resized. A
    module that has got other new attributes, too, is left out: its numbers may describe these, such as the size for
    which it has computed a mask, and these are not saved. So is a flag that a module has newly got: it says that
    something was set up, such as the hooks that transformers adds in the first forward pass. MMEngine restores none of
    them.

    Args:
        model: the model, on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._initial: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def start(self) -> None:
        """Note the values from which changes count: those of the model with its initial weights."""
        self._initial = {name: (_numbers(module), _others(module)) for name, module in self._model.named_modules()}

    def state_dict(self) -> dict[str, dict[str, Any]] | None:
        """Return the changed values of each module, by its name; None if nothing has changed."""
        changed = {}
        for name, module in self._model.named_modules():
            if name not in self._initial:
                continue
            numbers, others = self._initial[name]
            now = {
                key: value
                for key, value in _numbers(module).items()
                if (key, value) not in numbers.items() and not (type(value) is bool and key not in numbers)
            }
            if now and _same(others, _others(module)):
                changed[name] = now
        return changed or None

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the values in the modules that the model has."""
        modules = {} if reproduces_mmengine() else dict(self._model.named_modules())
        for name, values in state.items():
            for key, value in values.items() if name in modules else ():
                setattr(modules[name], key, list(value) if isinstance(value, list) else value)


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in vars(module).items() if key not in _OF_EVERY_MODULE)


def _numbers(module: nn.Module) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, list) else value for key, value in _own(module) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return len(value) <= _LONGEST and all(type(one) in (int, float, bool) for one in value)
    return value is None or type(value) in (int, float, bool)


def _others(module: nn.Module) -> dict[str, Any]:
    """Return what else a module has and does not save: objects, and how many items are in those that can change."""
    found = {
        key: (value, len(value) if isinstance(value, list | dict | set) else 0)
        for key, value in _own(module)
        if not _is_plain(value) and not callable(value) and not isinstance(value, str)
    }
    for name, buffer in module._buffers.items():
        found[f"buffer {name}"] = (buffer if name in module._non_persistent_buffers_set else buffer is None, 0)
    return found | {f"module {name}": (child, 0) for name, child in module._modules.items()}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        value is other[key][0] and length == other[key][1] for key, (value, length) in one.items()
    )
