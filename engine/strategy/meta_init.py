"""Models without memory for their parameters, which are allocated and initialized once they are sharded."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from trainwright.engine.distributed import all_gather_object, value_of_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.model_setup import PENDING
from trainwright.engine.strategy.shards import local, whole_weights

_PATH = "strategy.meta"


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put parameters on the meta device as they are registered; buffers are real."""

    def to_meta(module: nn.Module, name: str, param: Any) -> Any:
        if param is None or param.is_meta:
            return None
        if is_lazy(param):
            raise ConfigError(_PATH, f"{type(module).__name__}.{name} gets its shape later", "set meta=False")
        return nn.Parameter(param.detach().to("meta"), param.requires_grad)

    handle = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()


def own_initialization(model: nn.Module) -> frozenset[str]:
    """Return the names of meta parameters whose constructors initialized them other than by ``reset_parameters``.

    The number of changes in place shows it: it differs from that of calling ``reset_parameters`` again.
    """
    params = dict(model.named_parameters())
    before = {name: param._version for name, param in params.items()}
    for module in _in_construction_order(model):
        if (reset := _reset_of(module)) is not None:
            reset()
    return frozenset(name for name, param in params.items() if before[name] == 0 or param._version != 2 * before[name])


def allocate(model: nn.Module, device: torch.device) -> None:
    """Allocate the parameters of a sharded model, uninitialized."""
    apply: Any = model._apply
    apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)


def initialize(
    model: nn.Module, missing: Collection[str] | None, unknown: Collection[str], state: torch.Tensor
) -> None:
    """Initialize the parameters of a model by ``reset_parameters`` of its modules, one of them in memory at a time.

    Args:
        model: the sharded model.
        missing: names of the tensors to initialize; all if None.
        unknown: names of parameters that this does not initialize as their constructor does; they are set to NaN.
        state: the state of the CPU's random generator before the construction; that of rank 0 is used.
    """
    lacking = None if missing is None else {name.rpartition(".")[0] for name in missing}
    names = {module: name for name, module in model.named_modules()}
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(value_of_main_process(state))
        for module in _in_construction_order(model):
            reset = _reset_of(module)
            if reset is None and not module._parameters:
                continue
            prefix = f"{names[module]}." if names[module] else ""
            with whole_weights(module, empty=True, keep=lacking is None or names[module] in lacking):
                if reset is not None:
                    reset()
                for name, param in module.named_parameters():
                    if prefix + name in unknown:
                        nn.init.constant_(param, torch.nan)


def refuse_uninitialized(model: nn.Module, names: Collection[str]) -> None:
    """Raise a ``ConfigError`` for parameters that still are NaN, in all processes alike.

    Args:
        model: the model.
        names: the parameters to look at.
    """
    params = dict(model.named_parameters())
    own = [name for name in names if name in params and bool(local(params[name]).isnan().any())]
    if found := sorted({name for part in all_gather_object(own) for name in part}):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        message = f"the constructor of the model initializes {', '.join(found[:3])}{more} itself, which is not repeated"
        raise ConfigError(_PATH, message, "set an init_cfg for them, or load_from, or meta=False")


def has_initializers(model: nn.Module) -> bool:
    """Return whether a model has ``init_cfg``, its own ``init_weights``, or pretrained weights to load."""
    functions = set()
    for module in model.modules():
        if getattr(module, "init_cfg", None) or PENDING in vars(module):
            return True
        if (function := getattr(type(module), "init_weights", None)) is not None:
            if not hasattr(module, "init_cfg"):
                return True
            functions.add(function)
    return len(functions) > 1  # not only that of the base class, which applies init_cfg


def _in_construction_order(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _in_construction_order(child)
    yield module


def _reset_of(module: nn.Module) -> Any:
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
