"""Importing the modules in ``custom_imports`` of a config."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trainwright.engine.building import import_if_there, is_absent, origin_of
from trainwright.engine.config.config_dict import DELETE_KEY, ConfigDict
from trainwright.engine.errors import ConfigError, Origin

KEY = "custom_imports"


def join_imports(base: Mapping[str, Any], child: Mapping[str, Any]) -> None:
    """Prepend the modules that a base imports to those of ``child``, unless it has ``_delete_=True``.

    Other lists replace inherited ones, but here that would leave names of the base unregistered.
    """
    inherited, given = base.get(KEY), child.get(KEY)
    if not isinstance(inherited, dict) or not isinstance(given, dict) or given is inherited or given.get(DELETE_KEY):
        return
    lists = [_as_list(inherited.get("imports")), _as_list(given.get("imports"))]
    if all(isinstance(modules, list | tuple) for modules in lists):  # or import_custom_modules reports it
        joined = list(dict.fromkeys([*lists[0], *lists[1]]))
        dict.update(given, {**inherited, **given, "imports": joined})


def import_custom_modules(keys: ConfigDict, files: Sequence[Path]) -> None:
    """Import ``custom_imports=dict(imports=["my.module"], allow_failed_imports=False)``.

    A module that is not on ``sys.path`` is searched for in the current folder, the folder of the config file that names
    it, and the folders of ``files``: the config and its bases. A folder that contains it is appended to ``sys.path``.

    Raises:
        ConfigError: a module is not found, or ``custom_imports`` is invalid.
        Exception: any exception of a module during import, with a note that names the config.
    """
    custom_imports = keys.get(KEY)
    if not custom_imports:
        return
    origin = keys.origin(KEY)
    modules, allow_failed = _checked(custom_imports, origin)
    origins = (origin_of(custom_imports, "imports"), origin)
    folders = [Path.cwd(), *(Path(place.file).parent for place in origins if place), *(file.parent for file in files)]
    for module in modules:
        try:
            _import_from(module, folders)
        except ImportError as error:
            if not allow_failed:
                message, hint = f"importing {module!r} failed: {error}", ""
                if is_absent(module, error):
                    message = f"there is no module {module!r}"
                    hint = f"searched sys.path, {', '.join(dict.fromkeys(map(str, folders)))}"
                raise ConfigError(f"{KEY}.imports", message, hint, origin) from error
            warnings.warn(f"custom_imports: {module} failed to import: {error}", stacklevel=3)
        except Exception as error:
            error.add_note(f"while importing {module!r}, {KEY} of {origin or 'the config'}")
            raise


def _checked(custom_imports: Any, origin: Origin | None) -> tuple[list[str], bool]:
    hint = f"write {KEY} = dict(imports=['my_package.my_module'], allow_failed_imports=False)"
    if not isinstance(custom_imports, Mapping) or not set(custom_imports) <= {"imports", "allow_failed_imports"}:
        raise ConfigError(KEY, f"must be a dict of imports, not {custom_imports!r:.60}", hint, origin)
    modules = _as_list(custom_imports.get("imports") or [])
    if not isinstance(modules, list | tuple) or not all(isinstance(module, str) for module in modules):
        raise ConfigError(f"{KEY}.imports", f"must be a list of module names, not {modules!r:.60}", hint, origin)
    return list(modules), bool(custom_imports.get("allow_failed_imports", False))


def _as_list(imports: Any) -> Any:
    return [imports] if isinstance(imports, str) else imports


def _import_from(module: str, folders: list[Path]) -> None:
    if import_if_there(module) is None:
        package = module.partition(".")[0]
        for folder in folders:
            is_there = (folder / package).is_dir() or (folder / f"{package}.py").is_file()
            if is_there and str(folder) not in sys.path:
                sys.path.append(str(folder))
        import_module(module)
