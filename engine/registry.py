"""Registries: lookup of classes and functions by the name in a config."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from types import FrameType, FunctionType, ModuleType
from typing import Any, TypeVar, overload

from rich.console import Console
from rich.table import Table

from trainwright.engine.building import (
    build,
    build_model_from_cfg,
    build_runner_from_cfg,
    build_scheduler_from_cfg,
    import_if_there,
    import_object,
)
from trainwright.engine.errors import did_you_mean

ROOT_SCOPE = "trainwright"
ROOT_ALIASES = ("mmengine",)
"""Other names of the root scope, under which parts of OpenMMLab's libraries come first, as in other scopes."""

LIBRARIES = frozenset([
    "mmengine", "mmcv", "mmcls", "mmpretrain", "mmselfsup", "mmfewshot", "mmdet", "mmdet3d", "mmyolo", "mmrotate",
    "mmtrack", "mmseg", "mmpose", "mmaction", "mmocr", "mmagic", "mmedit", "mmgen", "mmflow", "mmhuman3d", "mmrazor",
    "mmdeploy",
])  # fmt: skip
"""The packages of OpenMMLab. They may register parts under our names in the root registries, as ``mmcv`` does; in a
scope, theirs are found, and elsewhere ours."""

T = TypeVar("T", bound=Callable[..., Any])

_default_scope: ContextVar[str | None] = ContextVar("default_scope", default=None)


@contextmanager
def default_scope(scope: str | None) -> Iterator[None]:
    """Context manager in which names are looked up in the registries of ``scope`` first; None changes nothing."""
    token = _default_scope.set(_default_scope.get() if scope is None else scope)
    try:
        yield
    finally:
        _default_scope.reset(token)


def get_default_scope() -> str | None:
    """Return the scope in which names are looked up first."""
    return _default_scope.get()


def set_default_scope(scope: str | None) -> None:
    """Look up names in the registries of ``scope`` first from now on. A run uses its own ``default_scope``."""
    _default_scope.set(scope)


_unscoped: str | None = None


def scope_of_run(scope: str | None) -> str | None:
    """Return the scope of a run whose ``default_scope`` is given, or None."""
    return _unscoped if scope is None else scope


def prefer_libraries() -> None:
    """Find the libraries' parts before ours of the same name where no default scope is set, too."""
    global _unscoped
    _unscoped = "mmengine"


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
            of the parent, or :meth:`build_part`.
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
        self._owners: dict[str, str] = {}  # the packages that have registered the members
        self._of_libraries: dict[str, Any] = {}  # parts of OpenMMLab's libraries under our names
        self._forced: set[str] = set()
        self._asked_library = False
        self._build_func = build_func
        if parent is not None:
            parent._add_child(self)

    @staticmethod
    def infer_scope() -> str:
        """Return the top-level package of the caller's caller."""
        return _calling_package()

    @staticmethod
    def split_scope_key(key: str) -> tuple[str | None, str]:
        """Split a name such as ``mmdet.ResNet`` into its scope, None if it has none, and the rest."""
        scope, dot, rest = key.partition(".")
        return (scope, rest) if dot else (None, key)

    @property
    def build_func(self) -> Callable[..., Any]:
        """The function that :meth:`build` calls."""
        registry: Registry | None = self
        while registry is not None:
            if registry._build_func is not None:
                return registry._build_func
            registry = registry.parent
        return _build_part

    @property
    def module_dict(self) -> dict[str, Any]:
        """The members of this registry, by name."""
        return self._module_dict

    @property
    def root(self) -> "Registry":
        """The topmost ancestor of this registry."""
        return self if self.parent is None else self.parent.root

    def _get_root_registry(self) -> "Registry":
        return self.root

    def _add_child(self, registry: "Registry") -> None:
        if registry.scope in self.children:
            raise ValueError(f"the registry {self.name!r} already has a child of scope {registry.scope!r}")
        self.children[registry.scope] = registry

    def _search_child(self, scope: str) -> "Registry | None":
        if scope == self.scope or (self.parent is None and scope in ROOT_ALIASES):
            return self
        found = (child._search_child(scope) for child in self.children.values())
        return next((registry for registry in found if registry is not None), None)

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

        owner = _package_of(sys._getframe(1))
        if module is not None:
            self._register_module(module, name, force, owner)
            return module

        def register(member: T) -> T:
            self._register_module(member, name, force, owner)
            return member

        return register

    def _register_module(
        self, module: Any, module_name: str | Sequence[str] | None = None, force: bool = False, owner: str | None = None
    ) -> None:
        """Register a class or function, for the package ``owner``; by default, that of the caller."""
        if not callable(module):
            raise TypeError(f"only classes and functions can be registered, not {module!r}")
        owner = owner or _package_of(sys._getframe(1))
        names = [module.__name__] if module_name is None else module_name
        for key in [names] if isinstance(names, str) else names:
            if not isinstance(key, str):
                raise TypeError(f"a name must be a string, not {key!r}")
            known = self._module_dict.get(key)
            if known is None or known is module or force or self._makes_room(key, module, owner):
                self._module_dict[key], self._owners[key] = module, owner
            if force:
                self._forced.add(key)

    def _makes_room(self, key: str, module: Any, owner: str) -> bool:
        """Return whether a part replaces the known one of its name. Neither has precedence: ``KeyError``."""
        known, its_owner = self._module_dict[key], self._owners[key]
        if (owner == self.scope) == (its_owner == self.scope):
            raise KeyError(
                f"{key} is already registered in {self.name} at {known.__module__}; "
                "choose another name, or set force=True"
            )
        own, theirs = (module, known) if owner == self.scope else (known, module)
        if {owner, its_owner} & LIBRARIES:
            self._of_libraries[key] = theirs
            return module is own
        # the library's own modules are imported on demand, so possibly later
        self._warn_of_replacement(key, theirs, own)
        return module is theirs

    def get(self, key: str) -> Any:
        """Return the member of this name, or None.

        A root registry looks into the registry of the default scope first.

        Args:
            key: a name, a name with scope (``mmdet.ResNet``), or a dotted path (``torch.nn.Linear``).

        Raises:
            TypeError: ``key`` is not a string.
        """
        return self._find(key, [self] if self.parent is not None else [self._of_scope(_default_scope.get()), self])

    def look_up(self, key: str) -> Any:
        """Return what ``type=key`` means in a config, or None: as :meth:`get`, with the default scope always first.

        Raises:
            TypeError: ``key`` is not a string.
        """
        return self._find(key, [self._of_scope(_default_scope.get()), self])

    def _find(self, key: str, registries: Sequence["Registry | None"]) -> Any:
        if not isinstance(key, str):
            raise TypeError(f"a name must be a string, not {key!r}")
        default = _default_scope.get()
        for registry in registries:
            if registry is not None:
                scope = registry.scope if registry.parent is not None else default or _unscoped
                if (found := registry._get_upwards(key, scope)) is not None:
                    return found
        scope, _, rest = key.partition(".")
        if rest:
            named = self._of_scope(scope)
            if named is not None and (found := named._get_upwards(rest, scope)) is not None:
                return found
            return import_object(key) if _trusted.get() else _import_harmless(key)
        return None

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the object that ``cfg`` describes.

        Args:
            cfg: a mapping with ``type``; anything but a mapping is returned unchanged.
            *args: positional arguments of the object; a single mapping is taken for ``default_args``.
            **kwargs: arguments that ``cfg`` can override; also ``default_args``, a mapping of such arguments.
        """
        if len(args) == 1 and isinstance(args[0], Mapping):
            kwargs["default_args"], args = args[0], ()
        return self.build_func(cfg, *args, registry=self, **kwargs)

    def build_part(self, cfg: Any, *args: Any, default_args: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Build the object that ``cfg`` describes, as :meth:`build` does without a ``build_func``."""
        return build(cfg, self, *args, **{**(default_args or {}), **kwargs})

    def names(self) -> list[str]:
        """Return all names known to this registry and its parents. This imports all locations."""
        found: set[str] = set()
        registry: Registry | None = self
        while registry is not None:
            registry.load_all()
            found.update(registry._module_dict)
            registry = registry.parent
        return sorted(found)

    def add_location(self, location: str) -> None:
        """Add a module that registers members, imported when an unknown name is looked up."""
        if location not in self._locations:
            self._locations.append(location)

    def import_from_location(self) -> None:
        """Import the modules that register the members."""
        self.load_all()

    def load_all(self) -> None:
        """Import all locations, including every module of lazy packages."""
        for location in self._locations:
            module = self._import(location)
            for name in getattr(module, "__all__", ()):
                getattr(module, name, None)

    def suggest(self, key: str) -> str:
        """Return ``"did you mean 'ResNet'?"`` for the closest names, or an empty string."""
        return did_you_mean(key, self.names())

    def others_with(self, key: str) -> list[str]:
        """Return the names of the other root registries that contain ``key``."""
        return [
            other.name
            for other in ROOT_REGISTRIES.values()
            if other is not self.root and other._get_upwards(key, other.scope)
        ]

    @contextmanager
    def switch_scope(self, scope: str | None) -> Iterator["Registry"]:
        """Context manager in which names are looked up in ``scope`` first; yields the registry of that scope."""
        if scope is None:
            yield self
            return
        with default_scope(scope):
            yield self._of_scope(scope) or self

    @contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Iterator["Registry"]:
        """As :meth:`switch_scope`, but without ``scope``, yield the registry of the default scope."""
        with self.switch_scope(_default_scope.get() if scope is None else scope) as registry:
            yield registry

    def _warn_of_replacement(self, key: str, theirs: Any, own: Any) -> None:
        if key not in self._forced:
            warnings.warn(
                f"the {self.name} {key!r} is now {_full_name(theirs)} instead of {_full_name(own)}: "
                "set force=True where it is registered to silence this warning",
                stacklevel=4,
            )

    def _get_upwards(self, key: str, scope: str | None) -> Any:
        """Return a member of this registry or its parents; outside the root scope, those of libraries come first."""
        in_root_scope = scope in (None, self.root.scope)
        registry: Registry | None = self
        while registry is not None:
            if key not in registry._module_dict or registry._owners[key] in LIBRARIES:
                registry._import_locations(key)
            if not in_root_scope and key in registry._of_libraries:
                return registry._of_libraries[key]
            if key in registry._module_dict:
                return registry._module_dict[key]
            registry = registry.parent
        return None

    def _import_locations(self, key: str) -> None:
        if not self._locations and self.scope in LIBRARIES and not self._asked_library:
            self._asked_library = True
            register = getattr(import_if_there(f"{self.scope}.utils"), "register_all_modules", lambda init_scope: None)
            register(False)
        for location in self._locations:
            if self._owners.get(key) == self.scope:
                return
            if location not in self._imported:
                self._imported[location] = self._import(location)
            if key.isidentifier():
                getattr(self._imported[location], key, None)  # a lazy package imports the module that defines it

    def _import(self, location: str) -> Any:
        """Import a location. The libraries name some that they do not have, as mmaction2 does for functions."""
        return import_if_there(location) if self.scope in LIBRARIES else import_module(location)

    def _of_scope(self, scope: str | None) -> "Registry | None":
        if scope is None:
            return None
        root = self.root
        if (found := root._search_child(scope)) is None and _trusted.get() and _is_package(scope):
            import_if_there(f"{scope}.registry")
            found = root._search_child(scope)
        return found


def _build_part(cfg: Any, *args: Any, registry: Registry, **kwargs: Any) -> Any:
    return registry.build_part(cfg, *args, **kwargs)


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
    return _package_of(sys._getframe(2))


def _package_of(frame: FrameType) -> str:
    """Return the top-level package of the module that a frame belongs to."""
    return str(frame.f_globals.get("__name__", ROOT_SCOPE)).partition(".")[0]


ROOT_REGISTRIES: dict[str, Registry] = {}


def _root(
    variable: str, name: str, locations: Iterable[str] = (), build_func: Callable[..., Any] | None = None
) -> Registry:
    registry = Registry(name, build_func, scope=ROOT_SCOPE, locations=tuple(locations))
    ROOT_REGISTRIES[variable] = registry
    return registry


RUNNERS = _root("RUNNERS", "runner", ["trainwright.engine.run.runner"], build_runner_from_cfg)
RUNNER_CONSTRUCTORS = _root("RUNNER_CONSTRUCTORS", "runner constructor")
LOOPS = _root("LOOPS", "loop", ["trainwright.engine.run.train_loops", "trainwright.engine.run.eval_loops"])
HOOKS = _root("HOOKS", "hook", ["trainwright.hooks"])
DATASETS = _root("DATASETS", "dataset", ["trainwright.datasets"])
DATA_SAMPLERS = _root("DATA_SAMPLERS", "data sampler", ["trainwright.datasets"])
TRANSFORMS = _root("TRANSFORMS", "transform", ["trainwright.datasets", "trainwright.datasets.vision_transforms"])
MODELS = _root("MODELS", "model", ["trainwright.models"], build_model_from_cfg)
MODEL_WRAPPERS = _root("MODEL_WRAPPERS", "model_wrapper", ["trainwright.models"])
STRATEGIES = _root(
    "STRATEGIES", "strategy", [f"trainwright.engine.strategy.{file}" for file in ("base", "ddp", "fsdp")]
)
WEIGHT_INITIALIZERS = _root("WEIGHT_INITIALIZERS", "weight initializer", ["trainwright.models.initializers"])
OPTIMIZERS = _root("OPTIMIZERS", "optimizer", ["trainwright.engine.optim.optimizers"])
OPTIM_WRAPPERS = _root(
    "OPTIM_WRAPPERS",
    "optim_wrapper",
    [f"trainwright.engine.optim.{file}" for file in ("wrapper", "wrapper_dict", "amp")],
)
OPTIM_WRAPPER_CONSTRUCTORS = _root(
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "optimizer wrapper constructor",
    ["trainwright.engine.optim.constructor", "trainwright.engine.optim.multi_constructor"],
)
PARAM_SCHEDULERS = _root(
    "PARAM_SCHEDULERS", "parameter scheduler", ["trainwright.engine.optim.schedulers"], build_scheduler_from_cfg
)
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
