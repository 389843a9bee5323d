"""Registries: lookup of classes and functions by the name in a config."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from types import FunctionType, ModuleType
from typing import Any, TypeVar, overload

from rich.console import Console
from rich.table import Table

from trainwright.engine.building import build, import_if_there, import_object
from trainwright.engine.errors import did_you_mean

ROOT_SCOPE = "trainwright"
T = TypeVar("T", bound=Callable[..., Any])

_default_scope: ContextVar[str | None] = ContextVar("default_scope", default=None)


@contextmanager
def default_scope(scope: str | None) -> Iterator[None]:
    """Context manager in which names are looked up in the registries of ``scope`` first."""
    token = _default_scope.set(scope)
    try:
        yield
    finally:
        _default_scope.reset(token)


class Registry:
    """A mapping from names to classes or functions of one kind.

    A name is looked up here, then in the parents, then in the scope that it names (``mmdet.ResNet``), and finally as a
    dotted Python path, so ``torch.nn.Linear`` always works.

    Example:
        >>> from trainwright.engine import MODELS
        >>> @MODELS.register_module()
        ... class MyNet(torch.nn.Module): ...
        >>> MODELS.build(dict(type="MyNet"))

    Args:
        name: the kind of its members, for messages, such as ``model``.
        build_func: called as ``build_func(cfg, *args, registry=registry, **kwargs)`` by :meth:`build`; if None, that
            of the parent, or :func:`~trainwright.engine.building.build`.
        parent: the registry to search after this one, which becomes its child.
        scope: short name of the library that owns this registry; if None, the top-level package of the caller.
        locations: modules that register the members, imported when an unknown name is looked up. Of a lazy
            package, only the module of that name is imported.

    Raises:
        ValueError: the parent already has a child of this scope.
    """

    def __init__(
        self,
        name: str,
        build_func: Callable[..., Any] | None = None,
        parent: "Registry | None" = None,
        scope: str | None = None,
        locations: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.parent = parent
        self.scope = scope if scope is not None else _calling_package()
        self.children: dict[str, Registry] = {}
        self._module_dict: dict[str, Any] = {}
        self._locations = list(locations)
        self._imported: dict[str, ModuleType] = {}
        self._own: set[str] = set()  # names registered by the library that owns this registry
        self._forced: set[str] = set()
        self._build_func = build_func
        if parent is not None:
            if self.scope in parent.children:
                raise ValueError(f"the registry {parent.name!r} already has a child of scope {self.scope!r}")
            parent.children[self.scope] = self

    @property
    def module_dict(self) -> dict[str, Any]:
        """The members of this registry, by name."""
        return self._module_dict

    @property
    def root(self) -> "Registry":
        """The topmost ancestor of this registry."""
        return self if self.parent is None else self.parent.root

    def __len__(self) -> int:
        return len(self._module_dict)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __repr__(self) -> str:
        table = Table("Name", "Object", title=f"Registry of {self.name}")
        for name, member in sorted(self._module_dict.items()):
            table.add_row(name, f"{member.__module__}.{member.__qualname__}")
        console = Console(width=120)
        with console.capture() as capture:
            console.print(table)
        return capture.get()

    @overload
    def register_module(self, name: str | Sequence[str] | None = None, force: bool = False) -> Callable[[T], T]: ...

    @overload
    def register_module(self, name: str | Sequence[str] | None = None, force: bool = False, *, module: T) -> T: ...

    def register_module(self, name: str | Sequence[str] | None = None, force: bool = False, module: Any = None) -> Any:
        """Register a class or function. Without ``module``, return a decorator.

        Args:
            name: one or several names; by default ``__name__``.
            force: replace a member of the same name.
            module: the class or function.

        Raises:
            KeyError: the name is taken. However, a member registered by the library of this registry is replaced with a
                warning, no matter which of the two is imported first.
            TypeError: ``module`` is not callable, or ``name`` is not a string.
        """
        if callable(name):
            raise TypeError("write the decorator with parentheses: @REGISTRY.register_module()")
        if not isinstance(force, bool):
            raise TypeError(f"force must be a bool, not {force!r}")

        own = str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0] == self.scope

        def register(member: Any) -> Any:
            if not callable(member):
                raise TypeError(f"only classes and functions can be registered, not {member!r}")
            names = [member.__name__] if name is None else [name] if isinstance(name, str) else list(name)
            for key in names:
                if not isinstance(key, str):
                    raise TypeError(f"a name must be a string, not {key!r}")
                known = self._module_dict.get(key)
                if known is not None and known is not member and not force:
                    if (key in self._own) == own:
                        raise KeyError(
                            f"{key} is already registered in {self.name} at {known.__module__}; "
                            "choose another name, or set force=True"
                        )
                    if own:  # the library's own modules are imported on demand, so possibly later
                        self._warn_of_replacement(key, known, member)
                        continue
                    self._warn_of_replacement(key, member, known)
                self._module_dict[key] = member
                (self._own.add if own else self._own.discard)(key)
                if force:
                    self._forced.add(key)
            return member

        return register if module is None else register(module)

    def get(self, key: str) -> Any:
        """Return the member of this name, or None.

        Args:
            key: a name, a name with scope (``mmdet.ResNet``), or a dotted path (``torch.nn.Linear``).

        Raises:
            TypeError: ``key`` is not a string.
        """
        if not isinstance(key, str):
            raise TypeError(f"a name must be a string, not {key!r}")
        scoped = self._of_scope(_default_scope.get())
        if scoped is not None and scoped is not self and (found := scoped._get_upwards(key)) is not None:
            return found
        if (found := self._get_upwards(key)) is not None:
            return found
        scope, _, rest = key.partition(".")
        if rest:
            if (registry := self._of_scope(scope)) is not None and (found := registry._get_upwards(rest)) is not None:
                return found
            return import_object(key) if _trusted.get() else _import_harmless(key)
        return None

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the object that ``cfg`` describes. Keyword arguments are defaults that ``cfg`` can override."""
        registry: Registry | None = self
        while registry is not None:
            if registry._build_func is not None:
                return registry._build_func(cfg, *args, registry=self, **kwargs)
            registry = registry.parent
        return build(cfg, self, *args, **kwargs)

    def names(self) -> list[str]:
        """Return all names known to this registry and its parents. This imports all locations."""
        found: set[str] = set()
        registry: Registry | None = self
        while registry is not None:
            registry.load_all()
            found.update(registry._module_dict)
            registry = registry.parent
        return sorted(found)

    def load_all(self) -> None:
        """Import all locations, including every module of lazy packages."""
        for location in self._locations:
            module = import_module(location)
            for name in getattr(module, "__all__", ()):
                getattr(module, name, None)

    def suggest(self, key: str) -> str:
        """Return ``"did you mean 'ResNet'?"`` for the closest names, or an empty string."""
        return did_you_mean(key, self.names())

    def others_with(self, key: str) -> list[str]:
        """Return the names of the other root registries that contain ``key``."""
        return [other.name for other in ROOT_REGISTRIES.values() if other is not self.root and other._get_upwards(key)]

    @contextmanager
    def switch_scope(self, scope: str | None) -> Iterator["Registry"]:
        """Context manager in which names are looked up in ``scope`` first; yields the registry of that scope."""
        if scope is None:
            yield self
            return
        with default_scope(scope):
            yield self._of_scope(scope) or self

    def _warn_of_replacement(self, key: str, theirs: Any, own: Any) -> None:
        if key not in self._forced:
            warnings.warn(
                f"the {self.name} {key!r} is now {_full_name(theirs)} instead of {_full_name(own)}: "
                "set force=True where it is registered to silence this warning",
                stacklevel=4,
            )

    def _get_upwards(self, key: str) -> Any:
        registry: Registry | None = self
        while registry is not None:
            if key not in registry._module_dict:
                registry._import_locations(key)
            if key in registry._module_dict:
                return registry._module_dict[key]
            registry = registry.parent
        return None

    def _import_locations(self, key: str) -> None:
        for location in self._locations:
            if key in self._module_dict:
                return
            if location not in self._imported:
                self._imported[location] = import_module(location)
            if key.isidentifier():
                getattr(self._imported[location], key, None)  # a lazy package imports the module that defines it

    def _of_scope(self, scope: str | None) -> "Registry | None":
        if scope is None:
            return None
        root = self.root
        if scope == root.scope:
            return root
        if scope not in root.children and _trusted.get() and _is_package(scope):
            import_if_there(f"{scope}.registry")
        return root.children.get(scope)


def _is_package(name: str) -> bool:
    try:
        spec = find_spec(name) if name.isidentifier() else None
    except ValueError:  # __main__, or another module without an import
        return False
    return spec is not None and spec.submodule_search_locations is not None


def _full_name(member: Any) -> str:
    return f"{member.__module__}.{getattr(member, '__qualname__', member)}"


_HARMLESS = ("torch.nn.modules", "torchvision.models", "torchvision.ops", "torchvision.transforms")
_trusted: ContextVar[bool] = ContextVar("trusted", default=True)


@contextmanager
def untrusted() -> Iterator[None]:
    """Context manager for configs from untrusted sources, in which dotted paths cannot import or call arbitrary code.

    Registered names are found, and so are the layers of PyTorch and the networks and transforms of torchvision.
    """
    token = _trusted.set(False)
    try:
        yield
    finally:
        _trusted.reset(token)


def _import_harmless(key: str) -> Any:
    if not key.startswith(("torch.nn.", "torchvision.")):
        return None
    found = import_object(key)
    module = str(getattr(found, "__module__", ""))
    is_harmless = isinstance(found, type | FunctionType) and any(
        f"{module}.".startswith(f"{name}.") for name in _HARMLESS
    )
    return found if is_harmless else None


def _calling_package() -> str:
    frame = sys._getframe(2)
    module = str(frame.f_globals.get("__name__", ROOT_SCOPE))
    return module.partition(".")[0]


ROOT_REGISTRIES: dict[str, Registry] = {}


def _root(variable: str, name: str, locations: Iterable[str] = ()) -> Registry:
    registry = Registry(name, scope=ROOT_SCOPE, locations=tuple(locations))
    ROOT_REGISTRIES[variable] = registry
    return registry


RUNNERS = _root("RUNNERS", "runner", ["trainwright.engine.run.runner"])
RUNNER_CONSTRUCTORS = _root("RUNNER_CONSTRUCTORS", "runner constructor")
LOOPS = _root("LOOPS", "loop", ["trainwright.engine.run.train_loops", "trainwright.engine.run.eval_loops"])
HOOKS = _root("HOOKS", "hook", ["trainwright.hooks"])
DATASETS = _root("DATASETS", "dataset", ["trainwright.datasets"])
DATA_SAMPLERS = _root("DATA_SAMPLERS", "data sampler", ["trainwright.datasets"])
TRANSFORMS = _root("TRANSFORMS", "transform", ["trainwright.datasets", "trainwright.datasets.vision_transforms"])
MODELS = _root("MODELS", "model", ["trainwright.models"])
MODEL_WRAPPERS = _root("MODEL_WRAPPERS", "model_wrapper", ["trainwright.models"])
STRATEGIES = _root(
    "STRATEGIES", "strategy", [f"trainwright.engine.strategy.{file}" for file in ("base", "ddp", "fsdp")]
)
WEIGHT_INITIALIZERS = _root("WEIGHT_INITIALIZERS", "weight initializer", ["trainwright.models.initializers"])
OPTIMIZERS = _root("OPTIMIZERS", "optimizer", ["trainwright.engine.optim.optimizers"])
OPTIM_WRAPPERS = _root(
    "OPTIM_WRAPPERS", "optim_wrapper", ["trainwright.engine.optim.wrapper", "trainwright.engine.optim.amp"]
)
OPTIM_WRAPPER_CONSTRUCTORS = _root(
    "OPTIM_WRAPPER_CONSTRUCTORS", "optimizer wrapper constructor", ["trainwright.engine.optim.constructor"]
)
PARAM_SCHEDULERS = _root("PARAM_SCHEDULERS", "parameter scheduler", ["trainwright.engine.optim.schedulers"])
# The metrics of a task are in its models package.
METRICS = _root("METRICS", "metric", ["trainwright.engine.evaluation.metrics", "trainwright.models"])
EVALUATOR = _root("EVALUATOR", "evaluator", ["trainwright.engine.evaluation.evaluator"])
TASK_UTILS = _root("TASK_UTILS", "task util")
VISUALIZERS = _root("VISUALIZERS", "visualizer", ["trainwright.engine.visualization.visualizer"])
VISBACKENDS = _root(
    "VISBACKENDS",
    "vis_backend",
    [
        f"trainwright.engine.visualization.backends.{file}"
        for file in ("local", "tensorboard", "wandb", "mlflow", "clearml", "neptune", "dvclive", "aim")
    ],
)
LOG_PROCESSORS = _root("LOG_PROCESSORS", "log_processor", ["trainwright.engine.records.log_processor"])
INFERENCERS = _root(
    "INFERENCERS",
    "inferencer",
    ["trainwright.engine.inference.inferencer", "trainwright.engine.inference.tiled", "trainwright.models"],
)
FUNCTIONS = _root("FUNCTIONS", "function", ["trainwright.datasets"])
