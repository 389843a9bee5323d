"""Tensor parallelism: single layers are split over processes by a plan of name patterns."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from trainwright.engine.errors import ConfigError, did_you_mean

_PATH = "strategy.tensor_parallel"
_STYLES = ("colwise", "rowwise", "sequence")
_LAYOUTS = ("input", "output")


def check_tensor_parallel(cfg: Mapping[str, Any]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the size and the plan in a config, which maps patterns to the options of styles.

    Raises:
        ConfigError: a key or style is unknown, or a value is invalid.
    """
    for key in cfg:
        if key not in ("size", "plan"):
            raise ConfigError(f"{_PATH}.{key}", "unknown setting", did_you_mean(key, ["size", "plan"]))
    size, plan = cfg.get("size"), cfg.get("plan")
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{_PATH}.size", f"must be a number of processes, not {size!r}")
    if not isinstance(plan, Mapping) or not plan:
        raise ConfigError(f"{_PATH}.plan", "missing", "plan={'*.fc1': 'colwise', '*.fc2': 'rowwise'}")
    styles: dict[str, dict[str, Any]] = {}
    for pattern, style in plan.items():
        options = dict(style) if isinstance(style, Mapping) else {"style": style}
        path = f"{_PATH}.plan.{pattern}"
        if options.get("style") not in _STYLES:
            hint = did_you_mean(str(options.get("style")), _STYLES) or f"one of {', '.join(_STYLES)}"
            raise ConfigError(path, f"unknown style {options.get('style')!r}", hint)
        known = ("style", "dim") if options["style"] == "sequence" else ("style", *_LAYOUTS)
        for key, value in options.items():
            if key not in known:
                raise ConfigError(f"{path}.{key}", "unknown setting", f"one of {', '.join(known)}")
            if key in _LAYOUTS and value != "replicate" and not isinstance(value, int):
                raise ConfigError(f"{path}.{key}", f"must be 'replicate' or a dimension, not {value!r}")
        styles[str(pattern)] = options
    return size, styles


def parallelize(model: nn.Module, mesh: Any, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Split the layers of a model by a plan, in place.

    Args:
        model: the model.
        mesh: the mesh of the processes that share the layers, with one dimension.
        styles: the options of a style by name pattern, from :func:`check_tensor_parallel`.

    Raises:
        ConfigError: a pattern matches no layer, or a layer cannot be split in this way.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    names = [name for name, _ in model.named_modules() if name]
    for pattern, options in styles.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        path = f"{_PATH}.plan.{pattern}"
        if not matching:
            raise ConfigError(path, "no module of the model has such a name", did_you_mean(pattern, names))
        for name in matching:
            layer = model.get_submodule(name)
            for param_name, param in layer.named_parameters(recurse=False):
                dim = _split_dim(options["style"], layer, param_name)
                if dim is not None and param.shape[dim] % mesh.size():
                    what = f"{name}.{param_name} has {param.shape[dim]} {'columns' if dim else 'rows'}"
                    raise ConfigError(path, f"{what}, not a multiple of {mesh.size()}", "choose other layers")
            try:
                parallelize_module(model, mesh, {name: _style(options)})
            except NotImplementedError as error:
                raise ConfigError(path, f"{name} ({type(layer).__name__}): {error}") from error


def _split_dim(style: str, layer: nn.Module, param_name: str) -> int | None:
    """Return the dimension in which a parameter is split, or None if it is not."""
    dims = {"colwise": {"weight": 0, "bias": 0}, "rowwise": {"weight": 1}}
    if isinstance(layer, nn.Embedding):
        dims = {"colwise": {"weight": 1}, "rowwise": {"weight": 0}}
    return dims.get(style, {}).get(param_name)


def _style(options: Mapping[str, Any]) -> Any:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    if options["style"] == "sequence":
        return SequenceParallel(sequence_dim=options.get("dim", 1))
    layouts: dict[str, Any] = {
        f"{key}_layouts": Replicate() if options[key] == "replicate" else Shard(options[key])
        for key in _LAYOUTS
        if key in options
    }
    return (ColwiseParallel if options["style"] == "colwise" else RowwiseParallel)(**layouts)
