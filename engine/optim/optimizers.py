"""Optimizers by name: all of ``torch.optim``, and those of a few other packages where they are installed."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.parts import OPTIMIZER
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import OPTIMIZERS

_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
_OTHER_PACKAGES = {
    "DAdaptAdaGrad": "dadaptation",
    "DAdaptAdam": "dadaptation",
    "DAdaptSGD": "dadaptation",
    "Lion": "lion_pytorch",
    "Sophia": "Sophia",
    "SophiaG": "Sophia",
}


def _register_torch_optimizers() -> None:
    for name, member in vars(torch.optim).items():
        if inspect.isclass(member) and issubclass(member, Optimizer) and member is not Optimizer:
            names = ["Adafactor", "TorchAdafactor"] if name == "Adafactor" else name
            OPTIMIZERS.register_module(names, module=member)


_register_torch_optimizers()


def __getattr__(name: str) -> Any:
    """Imports and registers an optimizer of another package when the registry first asks for it."""
    package, attribute = _OTHER_PACKAGES.get(name), name
    if name.startswith("bnb_"):
        package, attribute = "bitsandbytes.optim", name.removeprefix("bnb_")
    if package is None or find_spec(package.partition(".")[0]) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    member = getattr(import_module(package), attribute)
    OPTIMIZERS.register_module(name, module=member)
    return member


def build_optimizer(
    params: Iterable[Any], cfg: Mapping[str, Any], *, path: str = "optimizer", allow_fused: bool = True
) -> Optimizer:
    """Builds an optimizer, with PyTorch's fused implementation where there is one.

    ``fused=True`` is set if the config says nothing about the implementation (none of ``fused``, ``foreach``,
    ``capturable``, ``differentiable``) and the optimizer takes a step with it on the devices and dtypes of
    the parameters. It is not set for SGD, whose fused step is unsafe with momentum (see
    :func:`has_unsafe_fused_momentum`), and a momentum may also come from a schedule or a checkpoint.

    Args:
        params: parameters, or dictionaries of parameter groups.
        cfg: ``type`` and arguments of the optimizer.
        path: dotted path of ``cfg``, for messages.
        allow_fused: False if gradients will be sparse, which fused implementations refuse.

    Raises:
        UnknownTypeError: no such optimizer.
        ConfigError: the optimizer takes no argument of some name.
    """
    groups = list(params)
    if "type" not in cfg:
        raise ConfigError(path, "this optimizer has no 'type'", f"its keys: {', '.join(map(str, cfg))}")
    with OPTIMIZERS.switch_scope(cfg.get("_scope_")) as registry:
        optimizer_class = resolve(cfg["type"], registry, path=path, origin=origin_of(cfg, "type"))
    parameters = inspect.signature(optimizer_class).parameters
    refuse_unknown_arguments(cfg, parameters, getattr(optimizer_class, "__name__", "this optimizer"), path)
    runtime: dict[str, Any] = {}
    chosen = any(key in cfg for key in _IMPLEMENTATION)
    is_sgd = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.SGD)
    if allow_fused and "fused" in parameters and not chosen and not is_sgd:
        settings = {key: value for key, value in cfg.items() if key not in ("type", "_scope_")}
        if all(_fused_works(optimizer_class, settings, *kind) for kind in _kinds_of(groups)):
            runtime["fused"] = True
    optimizer: Optimizer = OPTIMIZER.build(cfg, groups, path=path, **runtime)
    if has_unsafe_fused_momentum(optimizer):
        get_logger().warning(
            "%s: fused=True with a momentum fails when a parameter gets its first gradient later than others; "
            "without 'fused' it trains",
            path,
        )
    return optimizer


def has_unsafe_fused_momentum(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is a fused SGD with momentum.

    In PyTorch (2.14), its momentum buffers stay uninitialized memory if a loss scaler skips the first step,
    and the step raises a ``TypeError`` if some of the parameters with a gradient have a buffer and others none.
    """
    return isinstance(optimizer, torch.optim.SGD) and any(
        group["fused"] and group["momentum"] for group in optimizer.param_groups
    )


def refuse_unknown_arguments(
    cfg: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], name: str, path: str
) -> None:
    """Refuses the first key that is no parameter of a signature.

    Raises:
        ConfigError: with the path of the key and the closest names.
    """
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in cfg:
        if key not in parameters and key not in ("type", "_scope_"):
            hint = did_you_mean(key, parameters) or f"it takes {', '.join(parameters)}"
            raise ConfigError(f"{path}.{key}", f"{name} takes no such argument", hint, origin_of(cfg, key))


def _kinds_of(groups: Iterable[Any]) -> set[tuple[torch.device, torch.dtype]]:
    return {(param.device, param.dtype) for param in _tensors_of(groups)}


def _tensors_of(groups: Iterable[Any]) -> Iterator[Tensor]:
    for item in groups:
        if isinstance(item, dict):
            params = item["params"]
            yield from _tensors_of([params] if isinstance(params, Tensor) else params)
        else:
            yield item[1] if isinstance(item, tuple) else item


def _fused_works(optimizer_class: Any, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Tries one step on a parameter of this kind: what is supported differs from version to version."""
    param = torch.zeros(2, device=device, dtype=dtype, requires_grad=dtype.is_floating_point)
    param.grad = torch.zeros_like(param)
    try:
        optimizer_class([param], **settings, fused=True).step()
    except Exception:  # a mistake in the settings shows when the optimizer itself is built
        return False
    return dtype.is_floating_point
