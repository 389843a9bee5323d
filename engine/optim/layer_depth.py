"""The depth of each parameter in a model, for layer-wise settings."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layer_depths(model: nn.Module, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the depth of each parameter, starting at 0, and the number of depths.

    See :class:`~trainwright.engine.optim.constructor.LearningRateDecayOptimWrapperConstructor`. Blocks are consecutive
    modules of one class in a list. In a model without blocks, each layer with parameters is a separate depth.
    """
    for module, prefix in ((getattr(model, "backbone", None), ("backbone.",)), (model, ())):
        offered: Any = getattr(module, "get_layer_depth", None)
        if offered is not None:
            return {name: offered(name, *prefix) for name in names}
    block_classes = _block_classes(model)
    layers = list(_layers(model, "", block_classes))
    if block_classes:
        depths = _depths_by_block(layers, block_classes)
        count = max(depths.values()) + 1
    else:
        with_params = [name for name, layer in layers if next(layer.parameters(), None) is not None]
        depths = {name: depth for depth, name in enumerate(with_params)}
        count = max(len(depths), 1)
    return {name: (_depth_of(name, depths), count) for name in names}


def _block_classes(model: nn.Module) -> set[type[nn.Module]]:
    """Return the classes of the outermost modules that follow a module of the same class in a list."""
    level = [model]
    while level:
        found = {
            type(first)
            for module in level
            if isinstance(module, _CONTAINERS)
            for first, second in pairwise(module.children())
            if type(first) is type(second) and type(first) not in _CONTAINERS and any(True for _ in first.children())
        }
        if found:
            return found
        level = [child for module in level for child in module.children()]
    return set()


def _layers(module: nn.Module, prefix: str, block_classes: set[type[nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in order, descending into lists and modules that contain blocks."""
    is_block = type(module) in block_classes
    holds_blocks = any(type(inner) in block_classes for inner in module.modules())
    if prefix and (is_block or not (holds_blocks or type(module) in _CONTAINERS)):
        yield prefix, module
        return
    for name, child in module.named_children():
        yield from _layers(child, f"{prefix}.{name}" if prefix else name, block_classes)


def _depths_by_block(layers: list[tuple[str, nn.Module]], block_classes: set[type[nn.Module]]) -> dict[str, int]:
    depths: dict[str, int] = {}
    passed = 0
    for name, layer in layers:
        is_block = type(layer) in block_classes
        depths[name] = passed + 1 if passed or is_block else 0
        passed += is_block
    return depths


def _depth_of(name: str, depths: Mapping[str, int]) -> int:
    """Return the depth of the layer that contains a parameter; 0 if no layer does, as for a class token."""
    prefix = name
    while prefix:
        prefix = prefix.rpartition(".")[0]
        if prefix in depths:
            return depths[prefix]
    return 0
