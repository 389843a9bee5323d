"""Switching the doorway on."""

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from trainwright.compat import finder, libraries
from trainwright.engine import parts
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.fidelity import reproduce_mmengine, reproduces_mmengine
from trainwright.engine.records.current import CurrentMixin
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import (
    LOG_PROCESSORS,
    OPTIM_WRAPPERS,
    RUNNERS,
    STRATEGIES,
    VISUALIZERS,
    prefer_libraries,
)
from trainwright.engine.run.device_settings import DeviceSettings

_PACKAGES = {"mmengine", "mmcv", *libraries.LIBRARIES}


def install(fidelity: bool = False) -> None:
    """Let OpenMMLab's libraries run on this engine, in this process and those that it starts with ``multiprocessing``.

    Calling it again changes nothing.

    Call it before the first import of ``mmengine`` or of a library that uses it. A real MMEngine is neither needed nor
    loaded.

    Args:
        fidelity: reproduce MMEngine's randomness and arithmetic, see :mod:`trainwright.engine.fidelity`. Runs can then
            only be resumed exactly at the end of an epoch, and only without randomness in the data.

    Raises:
        ImportError: the real MMEngine was imported before.
    """
    finder.install()
    libraries.install()
    prefer_libraries()
    CurrentMixin.outlives_runs = True
    DeviceSettings.channels_last_by_default = False
    for registry in (RUNNERS, STRATEGIES, OPTIM_WRAPPERS):
        registry.add_location("trainwright.compat.mmengine._strategy")
    visualization = import_module("trainwright.compat.mmengine.visualization")
    VISUALIZERS._register_module(visualization.Visualizer, owner="mmengine")
    log_processor = import_module("trainwright.compat.mmengine.log_processor")
    LOG_PROCESSORS._register_module(log_processor.LogProcessor, owner="mmengine")
    if "mmcv.ops" not in parts.FOREIGN_MODULES:
        parts.FOREIGN_MODULES.append("mmcv.ops")
    _install_in_spawned_processes()
    if fidelity:
        reproduce_mmengine()
        get_logger().warning(
            "With fidelity, random numbers are drawn as in MMEngine: a run that is resumed differs from one that was "
            "not interrupted."
        )


def _install_in_spawned_processes() -> None:
    """Let data workers and other processes that are spawned, not forked, install before they load their objects.

    What a new process is told about its parent comes first, as a pickled dictionary: one more value in it installs when
    it is loaded. Python has no public hook for this.
    """
    prepare = spawn.get_preparation_data
    if getattr(prepare, "__wrapped__", None) is not None:
        return

    @functools.wraps(prepare)
    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**prepare(name), "trainwright.compat": _Installation(reproduces_mmengine())}

    spawn.get_preparation_data = get_preparation_data


class _Installation:
    """Installs when it is unpickled."""

    def __init__(self, fidelity: bool) -> None:
        if fidelity:
            reproduce_mmengine()
        install()
        self.fidelity = fidelity

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fidelity,)


def read_config(file: str | Path) -> Config:
    """Read a config, and call :func:`install` if it, or a module in its ``custom_imports``, uses an OpenMMLab library.

    Args:
        file: the path of the config.

    Raises:
        ConfigFileError: the file, or one of its bases, is missing or invalid.
        ConfigError: the config does not fit its bases, or a module in ``custom_imports`` cannot be imported.
    """
    cfg = Config.fromfile(file, import_custom_modules=False)
    used = next((name for name in _packages_of(cfg.to_dict()) if name in _PACKAGES), None)
    if used is not None:
        _install_for(f"the config uses {used}")
    if "custom_imports" not in cfg:
        return cfg
    try:
        return Config.fromfile(file)
    except ConfigError as error:
        missing = getattr(error.__cause__, "name", None) or ""
        if used is not None or missing.partition(".")[0] not in _PACKAGES:
            raise
        _install_for(f"a module in custom_imports imports {missing}")
        return Config.fromfile(file)


def _install_for(reason: str) -> None:
    if not finder.is_installed():
        get_logger().info("OpenMMLab's libraries run on this engine (trainwright.compat), since %s", reason)
    install()


def _packages_of(value: Any) -> Iterator[str]:
    """Yield the scopes, and the first parts of the dotted types, in a config."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("type", "_scope_", "default_scope") and isinstance(inner, str):
                yield inner.partition(".")[0]
            else:
                yield from _packages_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _packages_of(inner)
