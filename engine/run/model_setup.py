"""From a model's config to the module that a run trains: built, on its device, wrapped, initialised, compiled."""

from collections.abc import Callable, Collection, Mapping, Sized
from contextvars import ContextVar
from logging import Logger
from typing import Any

import torch
from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODEL_WRAPPERS, MODELS
from trainwright.engine.run.model_surgery import convert_sync_batchnorm, is_model_wrapper, revert_sync_batchnorm

_LONE_SAMPLE = "drop_last=True leaves out an incomplete last batch; or choose another batch_size, 2 at least"
_PENDING = "_load_pretrained"
_deferred: ContextVar[bool] = ContextVar("deferred", default=False)
_lacking: ContextVar[frozenset[int] | None] = ContextVar("lacking", default=None)


def build_model(model: Any, data_preprocessor: Any = None, *, weights_follow: bool = False) -> nn.Module:
    """Builds a model that has ``train_step``.

    Args:
        model: a config or a module; one without ``train_step`` is wrapped in ``ModuleWrapper``.
        data_preprocessor: given to a model that is built from a config and names none.
        weights_follow: a checkpoint is going to be loaded, so pretrained weights are left to
            :func:`initialize_model`, which loads those that the checkpoint does not replace.

    Raises:
        ConfigError: it is not a module.
    """
    token = _deferred.set(weights_follow)
    try:
        return _build(model, data_preprocessor)
    finally:
        _deferred.reset(token)


def _build(model: Any, data_preprocessor: Any) -> nn.Module:
    if isinstance(model, Mapping):
        default = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
        model = MODELS.build(model, path="model", **default)
    if not isinstance(model, nn.Module):
        raise ConfigError("model", f"a {type(model).__name__} is not a torch.nn.Module")
    if hasattr(model, "train_step"):
        return model
    default = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
    return MODELS.build({"type": "ModuleWrapper", "module": model, **default}, path="model")  # type: ignore[no-any-return]


def place_model(model: nn.Module, cfg: Mapping[str, Any], device: torch.device, distributed: bool) -> nn.Module:
    """Moves a model to its device and, where several processes train, wraps it.

    Args:
        model: the model.
        cfg: switches: ``sync_bn``, ``model_wrapper_cfg``, ``find_unused_parameters``.
        device: where to train.
        distributed: whether several processes train together.
    """
    if not distributed:
        return revert_sync_batchnorm(model).to(device)
    if cfg.get("sync_bn"):
        model = convert_sync_batchnorm(model)
    wrapper = cfg.get("model_wrapper_cfg") or {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
    }
    device_ids = {"device_ids": [device.index]} if device.type == "cuda" else {}
    return MODEL_WRAPPERS.build(  # type: ignore[no-any-return]
        wrapper, path="model_wrapper_cfg", module=model.to(device),
        find_unused_parameters=cfg.get("find_unused_parameters", False), **device_ids,
    )  # fmt: skip


def warn_of_lone_sample(model: nn.Module, loader: Any, logger: Logger) -> None:
    """Warns where the last batch of an epoch has one sample, which batch normalisation over vectors cannot train on."""
    size = getattr(loader, "batch_size", None)
    sampler = getattr(loader, "sampler", None)
    if not size or getattr(loader, "drop_last", False) or not isinstance(sampler, Sized):
        return
    if len(sampler) % size == 1 % size and any(
        isinstance(module, nn.BatchNorm1d) and module.training for module in model.modules()
    ):
        which = "The last batch of an epoch" if size > 1 else "Each batch"
        logger.warning("%s has one sample. BatchNorm1d cannot train on it: %s", which, _LONE_SAMPLE)


def lone_sample_error() -> ConfigError:
    """Returns the error to raise for PyTorch's of a batch of one sample, or of one pixel, before BatchNorm."""
    message = "a batch has one value per channel where the model normalises over the batch, which cannot be trained on"
    return ConfigError("train_dataloader", message, _LONE_SAMPLE)


def unwrap(model: Any) -> nn.Module:
    """Returns the model inside a wrapper such as ``DistributedDataParallel``."""
    return model.module if is_model_wrapper(model) else model  # type: ignore[no-any-return]  # a wrapper's module


def compile_forward(model: Any, options: Any) -> None:
    """Compiles a model's forward, and nothing else of the step.

    Args:
        model: the model; it may decide itself what is worth compiling, in ``compile_forward(**options)``.
        options: arguments of ``torch.compile``, or True.
    """
    if options:
        compile_ = getattr(model, "compile_forward", model.compile)
        compile_(**(options if isinstance(options, Mapping) else {}))


def load_pretrained(module: nn.Module, load: Callable[[nn.Module], Any]) -> None:
    """Load a network's pretrained weights: now, or if a checkpoint follows, only what turns out to be missing in it.

    So nothing is fetched for a model that is resumed, tested or predicts.

    Args:
        module: the network.
        load: fetches the weights and loads them into the network (or into a copy of it).
    """
    if _deferred.get():
        object.__setattr__(module, _PENDING, load)
    else:
        load(module)


def defers_pretrained() -> bool:
    """Return whether :func:`load_pretrained` waits for a checkpoint that is going to be loaded."""
    return _deferred.get()


def initialize_model(model: nn.Module, missing: Collection[str] | None = None) -> None:
    """Initialise a model, or those parts of it that a checkpoint did not give.

    Modules that have all their tensors are not visited, and their pretrained weights not fetched. A module that has
    some of them is initialised as a whole: load the checkpoint again afterwards.

    Args:
        model: the model, of any class; one with ``init_weights`` knows how it is initialised.
        missing: names of the tensors that have no value yet; all if None.

    Raises:
        ValueError: ``init_weights`` created a parameter.
    """
    modules = dict(model.named_modules())
    lacking = set()
    for name in missing or ():
        path = name.rpartition(".")[0]
        while path not in modules:  # a module with a state dict of its own layout
            path = path.rpartition(".")[0]
        lacking.add(id(modules[path]))
    token = _lacking.set(None if missing is None else frozenset(lacking))
    try:
        for module in modules.values():
            load = module.__dict__.pop(_PENDING, None)
            if load is not None and needs_weights(module):
                load(module)
        if hasattr(model, "init_weights") and needs_weights(model):
            _log_init_cfgs(modules)
            before = set(model.parameters())
            model.init_weights()  # type: ignore[operator]
            if new := [name for name, parameter in model.named_parameters() if parameter not in before]:
                raise ValueError(
                    f"init_weights of {type(model).__name__} created the parameters {', '.join(new)}, which no "
                    "optimizer trains: it must change parameters in place"
                )
    finally:
        _lacking.reset(token)


def _log_init_cfgs(modules: Mapping[str, nn.Module]) -> None:
    """Log which ``init_cfg`` applies to which modules, one line for each distinct one."""
    names: dict[str, list[str]] = {}
    for name, module in modules.items():
        if getattr(module, "init_cfg", None) and needs_weights(module):
            names.setdefault(str(module.init_cfg), []).append(name or type(module).__name__)
    for init_cfg, (first, *others) in names.items():
        more = f" and {len(others)} more" if others else ""
        get_logger().info("%s%s: initialized by %s", first, more, init_cfg)


def needs_weights(module: nn.Module, *, itself: bool = False) -> bool:
    """Return whether a module, or one inside it, has tensors that are still to be initialised.

    Args:
        module: a module of the model that is being initialised; elsewhere the answer is yes.
        itself: look at the tensors of the module alone.
    """
    lacking = _lacking.get()
    if lacking is None or id(module) in lacking:
        return True
    return not itself and any(id(inner) in lacking for inner in module.modules())
