"""``mmengine.registry``."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from trainwright.engine import registry as engine
from trainwright.engine.building import build, resolve
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    INFERENCERS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    ROOT_REGISTRIES,
    RUNNER_CONSTRUCTORS,
    RUNNERS,
    STRATEGIES,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
    Registry,
)
from trainwright.models import Sequential

Cfg = Mapping[str, Any]


class DefaultScope:
    """The scope in which names are looked up first.

    It is the scope of the engine: the instances only remember which names were used.

    Args:
        name: name of the instance.
        scope_name: the scope.
    """

    _instances: ClassVar[dict[str, "DefaultScope"]] = {}

    def __init__(self, name: str, scope_name: str) -> None:
        self.instance_name = name
        self.scope_name = scope_name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> "DefaultScope":
        """Return the instance of a name; a new one with ``scope_name`` becomes the current one."""
        if name not in cls._instances:
            cls._instances[name] = cls(name, **kwargs)
            engine.set_default_scope(cls._instances[name].scope_name)
        return cls._instances[name]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether there is an instance of this name."""
        return name in cls._instances

    @classmethod
    def get_current_instance(cls) -> "DefaultScope | None":
        """Return the current scope, or None if there is none."""
        scope = engine.get_default_scope()
        return None if scope is None else cls(scope, scope)

    @classmethod
    @contextmanager
    def overwrite_default_scope(cls, scope_name: str | None) -> Iterator[None]:
        """Context manager in which another scope is the current one; None changes nothing."""
        if scope_name is None:
            yield
        else:
            with engine.default_scope(scope_name):
                yield


def init_default_scope(scope: str) -> None:
    """Set the scope in which names are looked up first."""
    DefaultScope._instances.setdefault(scope, DefaultScope(scope, scope))
    engine.set_default_scope(scope)


def build_from_cfg(cfg: Cfg, registry: Registry, default_args: Cfg | None = None) -> Any:
    """Build the object that a config describes. What ``cfg`` lacks is taken from ``default_args``.

    Raises:
        TypeError: ``cfg`` is not a mapping.
    """
    if not isinstance(cfg, Mapping):
        raise TypeError(f"a config must be a mapping, not {cfg!r}")
    return build(cfg, registry, **(default_args or {}))


def build_model_from_cfg(cfg: Cfg | list[Cfg], registry: Registry = MODELS, default_args: Cfg | None = None) -> Any:
    """Build a model, or a :class:`Sequential` of several."""
    if isinstance(cfg, list):
        return Sequential(*(build_from_cfg(each, registry, default_args) for each in cfg))
    return build_from_cfg(cfg, registry, default_args)


def build_optimizer_from_cfg(cfg: Cfg, registry: Registry = OPTIMIZERS, default_args: Cfg | None = None) -> Any:
    """Build an optimizer."""
    return build_from_cfg(cfg, registry, default_args)


def build_scheduler_from_cfg(cfg: Cfg, registry: Registry = PARAM_SCHEDULERS, default_args: Cfg | None = None) -> Any:
    """Build a scheduler; with ``convert_to_iter_based``, one by iteration from settings in epochs."""
    arguments = {**(default_args or {}), **cfg}
    converts = arguments.pop("convert_to_iter_based", False)
    if not converts:
        arguments.pop("epoch_length", None)
        return build(arguments, registry)
    with registry.switch_scope(arguments.pop("_scope_", None)) as scoped:
        scheduler: Any = resolve(arguments.pop("type"), scoped)
        return scheduler.build_iter_from_epoch(**arguments)


def build_runner_from_cfg(cfg: Cfg, registry: Registry = RUNNERS) -> Any:
    """Build the Runner of a whole config."""
    with registry.switch_scope(cfg.get("_scope_")) as scoped:
        runner: Any = resolve(cfg.get("runner_type", "Runner"), scoped)
        return runner.from_cfg(cfg)


def traverse_registry_tree(registry: Registry, verbose: bool = True) -> list[dict[str, Any]]:
    """Return the members of each registry in a tree: their number, the scope, and the names by folder."""
    found: list[dict[str, Any]] = []
    pending = [registry.root]
    while pending:
        here = pending.pop(0)
        members: dict[str, Any] = {"num_modules": len(here), "scope": here.scope}
        for name, member in here.module_dict.items():
            members.setdefault(member.__module__.rpartition(".")[0].replace(".", "/"), []).append(name)
        if verbose:
            print_log(f"{len(here)} members in the registry of {here.name} of {here.scope}", logger="current")
        found.append(members)
        pending = [*here.children.values(), *pending]
    return found


def count_registered_modules(save_path: str | None = None, verbose: bool = True) -> dict[str, Any]:
    """Return the members of all registries; with ``save_path``, also write them into a file there."""
    for registry in ROOT_REGISTRIES.values():
        registry.load_all()
    counted = {name: traverse_registry_tree(registry, verbose) for name, registry in ROOT_REGISTRIES.items()}
    result = {"scan_date": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "registries": counted}
    if save_path is not None:
        Path(save_path).mkdir(parents=True, exist_ok=True)
        Path(save_path, "modules_statistic_results.json").write_text(json.dumps(result, indent=2))
    return result
