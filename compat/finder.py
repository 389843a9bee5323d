"""Imports of ``mmengine`` and of mmcv's compiled module, answered by this package."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

VERSION = "0.10.7"  # the MMEngine whose names these are, and whose behavior the tests compare with
_HERE = "trainwright.compat.mmengine"

# Packages of MMEngine, and their modules. The names of all of them are in one module of trainwright.compat.mmengine.
_MODULES = {
    "_strategy": "base colossalai deepspeed distributed fsdp single_device utils",
    "analysis": "complexity_analysis jit_analysis jit_handles print_helper",
    "config": "config lazy utils",
    "dataset": "base_dataset dataset_wrapper sampler utils",
    "device": "utils",
    "dist": "dist utils",
    "evaluator": "evaluator metric utils",
    "fileio": "file_client io parse",
    "fileio.backends": "base http_backend lmdb_backend local_backend memcached_backend petrel_backend registry_utils",
    "fileio.handlers": "base json_handler pickle_handler registry_utils yaml_handler",
    "hooks": "checkpoint_hook early_stopping_hook ema_hook empty_cache_hook hook iter_timer_hook logger_hook"
    " naive_visualization_hook param_scheduler_hook profiler_hook runtime_info_hook sampler_seed_hook"
    " sync_buffer_hook test_time_aug_hook",
    "hub": "hub",
    "infer": "infer",
    "logging": "history_buffer logger message_hub",
    "model": "averaged_model base_module efficient_conv_bn_eval test_time_aug utils weight_init",
    "model.base_model": "base_model data_preprocessor",
    "model.wrappers": "distributed fully_sharded_distributed seperate_distributed utils",
    "optim": "",
    "optim.optimizer": "amp_optimizer_wrapper apex_optimizer_wrapper base builder default_constructor"
    " optimizer_wrapper optimizer_wrapper_dict zero_optimizer",
    "optim.scheduler": "lr_scheduler momentum_scheduler param_scheduler",
    "registry": "build_functions default_scope registry root utils",
    "runner": "_flexible_runner activation_checkpointing amp base_loop checkpoint log_processor loops priority"
    " runner utils",
    "structures": "base_data_element instance_data label_data pixel_data",
    "testing": "compare runner_test_case",
    "testing._internal": "distributed",
    "utils": "manager misc package_utils path progressbar progressbar_rich timer version_utils",
    "utils.dl_utils": "collect_env hub misc parrots_wrapper setup_env time_counter torch_ops trace visualize",
    "visualization": "utils vis_backend visualizer",
}
_OWN_ROOM = {"utils.dl_utils": "dl_utils"}
_AT_TOP = ("config", "fileio", "logging", "registry", "utils", "version")  # their names are also those of mmengine


def _rooms() -> dict[str, tuple[str, ...]]:
    """Return the modules of this package that have the names of each module of MMEngine, without its prefix."""
    rooms: dict[str, tuple[str, ...]] = {"": _AT_TOP, "version": ("version",)}
    for package, modules in _MODULES.items():
        room = _OWN_ROOM.get(package, package.partition(".")[0])
        rooms[package] = (room,)
        rooms.update({f"{package}.{name}": (room,) for name in modules.split()})
    return rooms


ROOMS = _rooms()


class MMEngineFinder(MetaPathFinder, Loader):
    """Imports each module of MMEngine as a module with the names of its counterpart in this package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of MMEngine."""
        top, _, name = fullname.partition(".")
        if top != "mmengine" or name not in ROOMS:
            return None
        return ModuleSpec(fullname, self, origin=_HERE, is_package=name == "" or name in _MODULES)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module, whose names are looked up on first use."""
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Set what has no counterpart."""
        if module.__name__ in ("mmengine", "mmengine.version"):
            module.__version__ = VERSION  # type: ignore[attr-defined]


class _Module(ModuleType):
    """A module of MMEngine."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self.__dir__()
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        inner = f"{self.__name__}.{name}".partition(".")[2]
        for room in self._modules():
            value = getattr(room, name, None)
            if hasattr(room, name) and not isinstance(value, ModuleType):  # one that the room imports for its own use
                break
        else:
            if inner in ROOMS:
                value = import_module(f"mmengine.{inner}")
            elif self.__name__.partition(".")[2] in (*_MODULES, "") or (value := _elsewhere(name)) is None:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets submodules. One of them shares its name with a function, which comes first in MMEngine.
        if isinstance(value, _Module) and name == "collect_env":
            value = self.__getattr__(name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({name for room in self._modules() for name in public_names(room)})

    def _modules(self) -> list[ModuleType]:
        return [import_module(f"{_HERE}.{room}") for room in ROOMS[self.__name__.partition(".")[2]]]


def _elsewhere(name: str) -> Any:
    """Return what the other modules have under this name, since some code imports it from a module that only uses it.

    None if it is unknown. An object that is defined in one of them comes before those that they import.
    """
    names = dict.fromkeys(room for rooms in ROOMS.values() for room in rooms)
    modules = [import_module(f"{_HERE}.{room}") for room in names]
    found = [room for room in modules if not isinstance(vars(room).get(name), ModuleType | None)]
    found.sort(key=lambda room: getattr(vars(room)[name], "__module__", "") != room.__name__)
    return vars(found[0])[name] if found else None


def public_names(room: ModuleType) -> list[str]:
    """Return the names in a module of this package that are MMEngine's, rather than imported for its own use."""
    return [
        name
        for name, value in vars(room).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and str(getattr(value, "__module__", "trainwright")).partition(".")[0] in ("trainwright", "torch")
    ]


class OperatorFinder(MetaPathFinder, Loader):
    """Imports ``mmcv._ext``, unless mmcv was compiled and has its own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of ``mmcv._ext``."""
        return ModuleSpec(fullname, self) if fullname == "mmcv._ext" else None

    def exec_module(self, module: ModuleType) -> None:
        """Look up all names in the operators of this package."""
        operators = import_module("trainwright.compat.mmcv_ops")
        module.__getattr__ = lambda name: getattr(operators, name)  # type: ignore[method-assign]
        import_module("trainwright.compat.mmcv_ops.devices").follow_arguments()


def is_installed() -> bool:
    """Return whether the finders are active."""
    return any(isinstance(finder, MMEngineFinder) for finder in sys.meta_path)


def install() -> None:
    """Add the finders.

    Raises:
        ImportError: the real MMEngine was imported before.
    """
    if is_installed():
        return
    if (loaded := sys.modules.get("mmengine")) is not None:
        place = getattr(loaded, "__file__", "an unknown place")
        raise ImportError(
            f"mmengine was already imported from {place}: call trainwright.compat.install() before importing mmengine "
            "or a library that uses it"
        )
    sys.meta_path.insert(0, MMEngineFinder())
    sys.meta_path.append(OperatorFinder())
