"""Building objects from configs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, Origin, UnknownTypeError, with_article

if TYPE_CHECKING:
    from trainwright.engine.registry import Registry

_FSDP2 = "use strategy=dict(type='FSDP2')"
REPLACEMENTS = {
    "ApexOptimWrapper": "use 'AmpOptimWrapper', mixed precision by PyTorch itself",
    "DeepSpeedOptimWrapper": f"use 'OptimWrapper' or 'AmpOptimWrapper', and {_FSDP2.removeprefix('use ')}",
    "ColossalAIOptimWrapper": f"use 'OptimWrapper' or 'AmpOptimWrapper', and {_FSDP2.removeprefix('use ')}",
    "FlexibleRunner": "use 'Runner', whose config has the keys strategy and compile, too",
    "SingleDeviceStrategy": "use 'Single', or leave strategy out",
    "DDPStrategy": "use 'DDP', or leave strategy out",
    "FSDPStrategy": "use 'FSDP2', PyTorch's fully_shard",
    "DeepSpeedStrategy": "use 'FSDP2', which shards parameters, gradients and optimizer state, too",
    "ColossalAIStrategy": "use 'FSDP2', which shards parameters, gradients and optimizer state, too",
    "MMFullyShardedDataParallel": _FSDP2,
    "MMDeepSpeedEngineWrapper": _FSDP2,
    "ColossalAIModelWrapper": _FSDP2,
    "ZeroRedundancyOptimizer": f"{_FSDP2}, which shards the state of any optimizer",
    "NPUProfilerHook": "use 'ProfilerHook'",
}
"""What to use instead of parts of MMEngine, by name."""

_building: ContextVar[tuple[str, Mapping[str, Any]] | None] = ContextVar("building", default=None)


def build(cfg: Any, registry: "Registry", *args: Any, path: str = "", **runtime: Any) -> Any:
    """Build the object that a config describes.

    ``type`` is a registered name, a full dotted path (``torch.nn.Linear``) or the class itself; all other keys are
    arguments. Nested configs are passed unchanged: the class builds its own parts.

    Args:
        cfg: a mapping with ``type``; anything but a mapping is returned unchanged.
        registry: the registry in which ``type`` is looked up.
        *args: positional arguments, such as the model's parameters for an optimizer.
        path: dotted path of ``cfg`` in the whole config, for messages; determined automatically for nested parts.
        **runtime: additional arguments, such as the dataset for a sampler. Values in the config take precedence.

    Raises:
        UnknownTypeError: ``type`` is neither registered nor importable.
        ConfigError: ``type`` is missing, or neither a string nor callable.
        Exception: any exception of the component, with a note that names the part being built.
    """
    if not isinstance(cfg, Mapping):
        return cfg
    path = path or _path_inside_current(cfg)
    arguments = {**runtime, **cfg}
    scope = arguments.pop("_scope_", None)
    if "type" not in arguments:
        raise missing_type(cfg, registry.name, path)
    type_ = arguments.pop("type")
    with registry.switch_scope(scope) as scoped:
        component = resolve(type_, scoped, path=path, origin=origin_of(cfg, "type"))
        with note_errors(path, component, origin_of(cfg, "type")):
            token = _building.set((path, arguments))
            try:
                return component(*args, **arguments)
            finally:
                _building.reset(token)


def build_from_cfg(
    cfg: Mapping[str, Any], registry: "Registry", default_args: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Build the object that a config describes, as :func:`build` does, with MMEngine's arguments.

    Args:
        cfg: a mapping with ``type``, unless ``default_args`` has it.
        registry: the registry in which ``type`` is looked up.
        default_args: arguments that ``cfg`` can override.
        **options: further arguments of :func:`build`.

    Raises:
        TypeError: ``cfg`` or ``default_args`` is not a mapping.
    """
    for name, value in (("cfg", cfg), ("default_args", {} if default_args is None else default_args)):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping, not a {type(value).__name__}")
    return build(cfg, registry, **{**(default_args or {}), **options})


def build_model_from_cfg(cfg: Any, registry: "Registry", *args: Any, **options: Any) -> Any:
    """Build a model, or of a list of configs a ``Sequential`` of several; see :func:`build_from_cfg`."""
    if not isinstance(cfg, list):
        return registry.build_part(cfg, *args, **options)
    modules = (registry.build_part(each, *args, **options) for each in cfg)
    return resolve("trainwright.models.Sequential", registry.root)(*modules)


def build_scheduler_from_cfg(cfg: Any, registry: "Registry", *args: Any, **options: Any) -> Any:
    """Build a scheduler; with ``convert_to_iter_based``, one that steps by iteration, from settings in epochs."""
    if isinstance(cfg, Mapping) and cfg.get("convert_to_iter_based"):
        with registry.switch_scope(cfg.get("_scope_")) as scoped:
            scheduler: Any = resolve(cfg["type"], scoped, origin=origin_of(cfg, "type"))
        cfg = {key: value for key, value in cfg.items() if key != "convert_to_iter_based"}
        cfg["type"] = scheduler.build_iter_from_epoch
    elif isinstance(cfg, Mapping) and "convert_to_iter_based" in cfg:
        cfg = {key: value for key, value in cfg.items() if key not in ("convert_to_iter_based", "epoch_length")}
    return registry.build_part(cfg, *args, **options)


def build_runner_from_cfg(cfg: Mapping[str, Any], registry: "Registry") -> Any:
    """Build the Runner of a whole config, of the class that ``runner_type`` names."""
    with registry.switch_scope(cfg.get("_scope_")) as scoped:
        runner: Any = resolve(cfg.get("runner_type", "Runner"), scoped, origin=origin_of(cfg, "runner_type"))
    return runner.from_cfg(cfg)


def resolve(type_: Any, registry: "Registry", *, path: str = "", origin: Origin | None = None) -> Callable[..., Any]:
    """Return the class or function for a ``type``.

    Raises:
        UnknownTypeError: the name is neither registered nor importable; the message suggests the closest names.
        ConfigError: ``type`` is neither a string nor callable.
    """
    if isinstance(type_, str):
        found = registry.look_up(type_)
        if found is None:
            hint = REPLACEMENTS.get(type_, "")
            if not hint and (registries := registry.others_with(type_)):
                hint = f"it is registered as {with_article(registries[0])}"
            hint = hint or registry.suggest(type_)
            raise UnknownTypeError(
                f"{path}.type" if path else "type",
                f"{type_!r} is not registered as {with_article(registry.name)}",
                hint
                or registry.suggest(type_)
                or "register it with a decorator, and add its module to `custom_imports`",
                origin,
            )
        return found  # type: ignore[no-any-return]  # a registry holds anything callable
    if not callable(type_):
        raise ConfigError(path, f"'type' must be a name or a class, not {type_!r}", origin=origin)
    return type_  # type: ignore[no-any-return]  # any callable


def build_function(cfg: Any, registry: "Registry", *, path: str = "") -> Any:
    """Return the function that a config describes: a name, or a ``type`` with keyword arguments to bind.

    None and functions are returned unchanged. Arguments and exceptions are those of :func:`build`.
    """
    if cfg is None or (callable(cfg) and not isinstance(cfg, Mapping)):
        return cfg
    arguments = dict(cfg) if isinstance(cfg, Mapping) else {"type": cfg}
    if "type" not in arguments:
        raise missing_type(cfg, registry.name, path)
    function = resolve(arguments.pop("type"), registry, path=path, origin=origin_of(cfg, "type"))
    return partial(function, **arguments) if arguments else function


def missing_type(cfg: Mapping[str, Any], name: str, path: str) -> ConfigError:
    """Return the error for the config of a part, such as a model, without ``type``."""
    if key := misspelled_type(cfg):
        return ConfigError(
            path, f"this {name} has no 'type'", f"did you mean 'type', not {key!r}?", origin_of(cfg, key)
        )
    return ConfigError(path, f"this {name} has no 'type'", f"its keys: {', '.join(map(str, cfg))}")


def misspelled_type(cfg: Mapping[str, Any]) -> str | None:
    """Return a key that resembles ``type``, such as ``typ``, if there is one."""
    keys = (key for key in cfg if isinstance(key, str) and len(key) <= 5 and key not in ("type", "dtype"))
    return next((key for key in keys if get_close_matches("type", [key.lower()], cutoff=0.7)), None)


def import_object(dotted: str) -> Any:
    """Return the object at a full dotted path such as ``torch.nn.Linear``, or None if it does not exist.

    An attribute takes precedence over a module of the same name: ``torchvision.models.alexnet`` is the function.
    Exceptions during an import propagate.
    """
    module_name, found = dotted, None
    attributes: list[str] = []
    while found is None and "." in module_name:
        module_name, _, attribute = module_name.rpartition(".")
        attributes.insert(0, attribute)
        found = import_if_there(module_name)
    for attribute in attributes if found is not None else ():
        found = getattr(found, attribute, None)
    return import_if_there(dotted) if found is None else found


def import_if_there(module: str) -> Any:
    """Import a module, or return None if it does not exist."""
    try:
        return import_module(module) if module.partition(".")[0] else None
    except ModuleNotFoundError as error:
        if is_absent(module, error):
            return None
        raise


def is_absent(module: str, error: ImportError) -> bool:
    """Return whether an import failed because the module or one of its parent packages does not exist."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def origin_of(cfg: Any, key: Any) -> Origin | None:
    """Return where a key of a config was set, or None if unknown."""
    origin = getattr(type(cfg), "origin", None)
    found = origin(cfg, key) if origin is not None else None
    return found if isinstance(found, Origin) else None


@contextmanager
def note_errors(path: str, component: Any, origin: Origin | None = None) -> Iterator[None]:
    """Add a note to exceptions, such as ``while building model.backbone (ResNet), configs/my_net.py:14``."""
    try:
        yield
    except Exception as error:
        name = getattr(component, "__name__", str(component))
        note = f"while building {path or name}" + (f" ({name})" if path else "") + (f", {origin}" if origin else "")
        error.add_note(note)
        raise


def _path_inside_current(cfg: Mapping[str, Any]) -> str:
    """Return the path of a config nested in the one being built (found by identity), or an empty string."""
    current = _building.get()
    if current is None:
        return ""
    outer, arguments = current
    for key, value in arguments.items():
        here = f"{outer}.{key}" if outer else key
        if value is cfg:
            return here
        nested = (
            enumerate(value) if isinstance(value, list | tuple) else value.items() if isinstance(value, Mapping) else ()
        )
        for inner, item in nested:
            if item is cfg:
                return f"{here}.{inner}"
    return ""
