"""Registration of optimizers: all of ``torch.optim``, and a few from optional packages."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainwright.engine.building import missing_type, origin_of, resolve
from trainwright.engine.errors import ConfigError
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.parts import OPTIMIZER, argument_hint
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import OPTIMIZERS
from trainwright.engine.strategy.shards import is_sharded

IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Settings that select the implementation of a step, but not its result."""

_OTHER_PACKAGES = {
    "DAdaptAdaGrad": "dadaptation",
    "DAdaptAdam": "dadaptation",
    "DAdaptSGD": "dadaptation",
    "Lion": "lion_pytorch",
    **dict.fromkeys(("Sophia", "Sophia2", "SophiaG", "DecoupledSophia"), "Sophia"),
    **dict.fromkeys(("AdEMAMix", "LAMB", "LARS"), "bitsandbytes.optim"),
}


def _register_torch_optimizers() -> None:
    for name, member in vars(torch.optim).items():
        if inspect.isclass(member) and issubclass(member, Optimizer) and member is not Optimizer:
            names = ["Adafactor", "TorchAdafactor"] if name == "Adafactor" else name
            OPTIMIZERS.register_module(names, module=member)


_register_torch_optimizers()


def __getattr__(name: str) -> Any:
    """Import and register an optimizer of an optional package on first lookup."""
    package, attribute = _OTHER_PACKAGES.get(name), name
    if name.startswith(("bnb_", "Paged")) or name.endswith("bit"):
        package, attribute = "bitsandbytes.optim", name.removeprefix("bnb_")
    if package is None or find_spec(package.partition(".")[0]) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    member = getattr(import_module(package), attribute)
    OPTIMIZERS.register_module(name, module=member)
    return member


def build_optimizer(
    params: Iterable[Any], cfg: Mapping[str, Any], *, path: str = "optimizer", allow_fused: bool = True
) -> Optimizer:
    """Build an optimizer, with PyTorch's fused implementation if available.

    ``fused=True`` is set if the config does not select an implementation (``fused``, ``foreach``, ``capturable`` or
    ``differentiable``) and a fused step works on the devices and dtypes of the parameters. It is not set for SGD,
    whose fused step is unsafe with momentum (see :func:`has_unsafe_fused_momentum`), which schedules and checkpoints
    can also set.

    Args:
        params: parameters, or dictionaries of parameter groups.
        cfg: ``type`` and arguments of the optimizer.
        path: dotted path of ``cfg``, for messages.
        allow_fused: False for sparse gradients, which fused implementations do not support.

    Raises:
        UnknownTypeError: the optimizer is not registered.
        ConfigError: the optimizer does not accept one of the arguments.
    """
    groups = list(params)
    if "type" not in cfg:
        raise missing_type(cfg, "optimizer", path)
    optimizer_class = optimizer_class_of(cfg, path)
    refuse_unknown_arguments(cfg, optimizer_class, path)
    parameters = inspect.signature(optimizer_class).parameters
    runtime: dict[str, Any] = {}
    chosen = any(key in cfg for key in IMPLEMENTATION)
    is_sgd = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.SGD)
    may_fuse = allow_fused and "fused" in parameters and not chosen and not is_sgd and not reproduces_mmengine()
    settings = {key: value for key, value in cfg.items() if key not in ("type", "_scope_")}
    if sharded := [param for param in _tensors_of(groups) if is_sharded(param)]:
        choices = [{"fused": True}] if may_fuse else []
        choices += [{}] if chosen or "foreach" not in parameters else [{"foreach": True}, {"foreach": False}]
        runtime = _sharded_implementation(optimizer_class, settings, choices, sharded)
    elif may_fuse:
        kinds = {(param.device, param.dtype) for param in _tensors_of(groups)}
        if all(_fused_works(optimizer_class, settings, *kind) for kind in kinds):
            runtime["fused"] = True
    optimizer: Optimizer = OPTIMIZER.build(cfg, groups, path=path, **runtime)
    if has_unsafe_fused_momentum(optimizer):
        get_logger().warning(
            "%s: fused=True with momentum fails if parameters start to get gradients later; remove 'fused'", path
        )
    return optimizer


def has_unsafe_fused_momentum(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is a fused SGD with momentum.

    In PyTorch (2.14), its momentum buffers remain uninitialized memory if a loss scaler skips the first step, and the
    step raises a ``TypeError`` if only some of the parameters with a gradient have a buffer.
    """
    return isinstance(optimizer, torch.optim.SGD) and any(
        group["fused"] and group["momentum"] for group in optimizer.param_groups
    )


def optimizer_class_of(cfg: Mapping[str, Any], path: str) -> Callable[..., Any]:
    """Return the class (or function) of an optimizer's config, or raise an ``UnknownTypeError``."""
    with OPTIMIZERS.switch_scope(cfg.get("_scope_")) as registry:
        return resolve(cfg["type"], registry, path=path, origin=origin_of(cfg, "type"))


def refuse_unknown_arguments(cfg: Mapping[str, Any], component: Callable[..., Any], path: str) -> None:
    """Raise a ``ConfigError`` for the first key of a config that is not an argument of its class."""
    parameters = inspect.signature(component).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    name = getattr(component, "__name__", "this part")
    for key in cfg:
        if key not in parameters and key not in ("type", "_scope_"):
            hint = argument_hint(name, key, parameters)
            raise ConfigError(f"{path}.{key}", f"{name} takes no such argument", hint, origin_of(cfg, key))


def _tensors_of(groups: Iterable[Any]) -> Iterator[Tensor]:
    for item in groups:
        if isinstance(item, dict):
            params = item["params"]
            yield from _tensors_of([params] if isinstance(params, Tensor) else params)
        else:
            yield item[1] if isinstance(item, tuple) else item


def _sharded_implementation(
    optimizer_class: Any, settings: Mapping[str, Any], choices: Iterable[dict[str, Any]], params: Iterable[Tensor]
) -> dict[str, Any]:
    """Return the first choice of an implementation that PyTorch has for sharded parameters, by trying them.

    Raises:
        ConfigError: there is none.
    """
    kinds = {(p.device_mesh, p.placements, p.dtype, p.ndim): p for p in params}  # type: ignore[attr-defined]
    problem: Exception | None = None
    for choice in choices:
        tried = [torch.zeros_like(param, requires_grad=param.requires_grad) for param in kinds.values()]
        for param in tried:
            param.grad = torch.zeros_like(param)
        try:
            optimizer = optimizer_class(tried, **settings, **choice)
        except Exception:  # raised again when the optimizer itself is built
            return {}
        try:
            optimizer.step()
        except Exception as error:
            problem = error
        else:
            return choice
    name = getattr(optimizer_class, "__name__", str(optimizer_class))
    message = f"{name} does not work with the sharded parameters of the strategy: {str(problem).splitlines()[0]}"
    raise ConfigError("optim_wrapper.optimizer", message, "use another optimizer or strategy") from problem


def _fused_works(optimizer_class: Any, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Try a fused step on a parameter of this kind, since support depends on the PyTorch version."""
    param = torch.zeros(2, device=device, dtype=dtype, requires_grad=dtype.is_floating_point)
    param.grad = torch.zeros_like(param)
    try:
        optimizer_class([param], **settings, fused=True).step()
    except Exception:  # wrong settings raise when the optimizer itself is built
        return False
    return dtype.is_floating_point
