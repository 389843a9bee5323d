"""From the config of a model to a trainable module: built, initialized, compiled. The strategy places it."""

from collections.abc import Callable, Collection, Mapping, Sized
from contextvars import ContextVar
from logging import Logger
from typing import Any

from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import MODEL
from trainwright.engine.records.logger import get_logger
from trainwright.engine.run.freezing import freeze_as_configured
from trainwright.engine.run.model_surgery import contiguous_weights, is_model_wrapper

_LONE_SAMPLE = "set drop_last=True to drop an incomplete last batch, or change batch_size (at least 2)"
PENDING = "_load_pretrained"
"""The attribute of a module that holds the function that loads its pretrained weights."""

_deferred: ContextVar[bool] = ContextVar("deferred", default=False)
_lacking: ContextVar[frozenset[int] | None] = ContextVar("lacking", default=None)


def build_model(model: Any, data_preprocessor: Any = None, *, weights_follow: bool = False) -> nn.Module:
    """Build a model that has ``train_step``.

    Args:
        model: a config or a module. One without ``train_step`` is wrapped in ``ModuleWrapper``.
        data_preprocessor: passed to a model that is built from a config without a preprocessor.
        weights_follow: a checkpoint will be loaded, so loading pretrained weights is left to :func:`initialize_model`,
            which skips those that the checkpoint replaces.

    Raises:
        ConfigError: the model is not a module.
    """
    token = _deferred.set(weights_follow)
    try:
        return _build(model, data_preprocessor)
    finally:
        _deferred.reset(token)


def _build(model: Any, data_preprocessor: Any) -> nn.Module:
    runtime = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
    frozen = MODEL.read(model, "frozen") if isinstance(model, Mapping) else ()
    model = MODEL.build(model, **runtime)
    if not isinstance(model, nn.Module):
        raise ConfigError("model", f"a {type(model).__name__} is not a torch.nn.Module")
    freeze_as_configured(model, frozen)
    if hasattr(model, "train_step"):
        return model
    return MODEL.build({"type": "ModuleWrapper", "module": model}, **runtime)  # type: ignore[no-any-return]


def warn_of_lone_sample(model: nn.Module, loader: Any, logger: Logger) -> None:
    """Warn if the last batch of an epoch has a single sample, on which ``BatchNorm1d`` cannot be trained."""
    size = getattr(loader, "batch_size", None)
    sampler = getattr(loader, "sampler", None)
    if not size or getattr(loader, "drop_last", False) or not isinstance(sampler, Sized):
        return
    if len(sampler) % size == 1 % size and any(
        isinstance(module, nn.BatchNorm1d) and module.training for module in model.modules()
    ):
        which = "The last batch of an epoch" if size > 1 else "Each batch"
        logger.warning("%s has a single sample, on which BatchNorm1d cannot be trained: %s", which, _LONE_SAMPLE)


def lone_sample_error() -> ConfigError:
    """Return the error that explains PyTorch's own one for a batch norm with a single value per channel."""
    message = "a batch norm cannot be trained on a batch with a single value per channel"
    return ConfigError("train_dataloader", message, _LONE_SAMPLE)


def unwrap(model: Any) -> nn.Module:
    """Return the model inside a wrapper such as ``DistributedDataParallel``."""
    return model.module if is_model_wrapper(model) else model  # type: ignore[no-any-return]  # a wrapper's module


def compile_forward(model: Any, options: Any) -> None:
    """Compile the forward pass of a model, and nothing else of the step.

    Args:
        model: the model, which may define ``compile_forward(**options)`` to compile only parts of itself.
        options: arguments of ``torch.compile``, or True.
    """
    if options:
        compile_ = getattr(model, "compile_forward", model.compile)
        compile_(**(options if isinstance(options, Mapping) else {}))


def load_pretrained(module: nn.Module, load: Callable[[nn.Module], Any]) -> None:
    """Load the pretrained weights of a network now, or later if a checkpoint turns out not to contain them.

    So nothing is downloaded to resume, test or predict.

    Args:
        module: the network.
        load: a function that loads the weights into the network (or into a copy of it).
    """
    if _deferred.get():
        object.__setattr__(module, PENDING, load)
    else:
        load(module)


def defers_pretrained() -> bool:
    """Return whether :func:`load_pretrained` waits for a checkpoint to be loaded."""
    return _deferred.get()


def initialize_model(model: nn.Module, missing: Collection[str] | None = None) -> None:
    """Initialize a model, or the parts of it that are missing from a checkpoint.

    Modules with all their tensors are not visited, nor are their pretrained weights downloaded. A module with some of
    them is initialized as a whole: load the checkpoint again afterwards.

    Args:
        model: the model. If it has ``init_weights``, that initializes it.
        missing: names of the tensors to initialize; all if None.

    Raises:
        ValueError: ``init_weights`` created a parameter.
    """
    modules = dict(model.named_modules())
    lacking = set()
    for name in missing or ():
        path = name.rpartition(".")[0]
        while path not in modules:  # a module with a custom layout of its state dict
            path = path.rpartition(".")[0]
        lacking.add(id(modules[path]))
    token = _lacking.set(None if missing is None else frozenset(lacking))
    try:
        for module in modules.values():
            load = module.__dict__.pop(PENDING, None)
            if load is not None and needs_weights(module):
                load(module)
        if hasattr(model, "init_weights") and needs_weights(model):
            _log_init_cfgs(modules)
            before = set(model.parameters())
            with contiguous_weights(model):
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
    """Return whether a module or one of its submodules has tensors to initialize.

    Args:
        module: a module of the model that is being initialized. Elsewhere, the result is True.
        itself: ignore the submodules.
    """
    lacking = _lacking.get()
    if lacking is None or id(module) in lacking:
        return True
    return not itself and any(id(inner) in lacking for inner in module.modules())
