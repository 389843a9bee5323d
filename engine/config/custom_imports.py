"""Importing the modules that a config names in ``custom_imports``."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trainwright.engine.building import import_if_there, is_absent, origin_of
from trainwright.engine.config.config_dict import DELETE_KEY, ConfigDict
from trainwright.engine.errors import ConfigError

KEY = "custom_imports"


def join_imports(base: Mapping[str, Any], child: Mapping[str, Any]) -> None:
    """Puts the modules that a base imports in front of those that ``child`` imports, unless it has ``_delete_=True``.

    Other lists replace what they inherit. Here that would leave names of the base unregistered.
    """
    inherited, given = base.get(KEY), child.get(KEY)
    if not isinstance(inherited, dict) or not isinstance(given, dict) or given is inherited or given.get(DELETE_KEY):
        return
    lists = [_as_list(inherited.get("imports")), _as_list(given.get("imports"))]
    if all(isinstance(modules, list | tuple) for modules in lists):  # else reading it is what finds the mistake
        joined = list(dict.fromkeys([*lists[0], *lists[1]]))
        dict.update(given, {**inherited, **given, "imports": joined})


def import_custom_modules(keys: ConfigDict, files: Sequence[Path]) -> None:
    """Imports ``custom_imports=dict(imports=["my.module"], allow_failed_imports=False)``.

    A module that Python does not find by itself is looked for in the current folder, then in the folder of
    the config that names it, then in those of the whole config and of its bases: these are appended to
    ``sys.path``, as far as they are needed.

    Args:
        keys: the config.
        files: its file, and those that it inherits from.

    Raises:
        ConfigError: there is no such module, or ``custom_imports`` is of another form.
        Exception: whatever a module raises while it is imported, with a note that says who names it.
    """
    wanted = keys.get(KEY)
    if not wanted:
        return
    origin = keys.origin(KEY)
    modules, allow_failed = _checked(wanted, keys)
    origins = (origin_of(wanted, "imports"), origin)
    folders = [Path.cwd(), *(Path(place.file).parent for place in origins if place), *(file.parent for file in files)]
    for module in modules:
        try:
            _import_from(module, folders)
        except ImportError as error:
            if not allow_failed:
                message, hint = f"{module!r} fails while it is imported: {error}", ""
                if is_absent(module, error):
                    message = f"there is no module {module!r}"
                    hint = f"looked for it in sys.path, {', '.join(dict.fromkeys(map(str, folders)))}"
                raise ConfigError(f"{KEY}.imports", message, hint, origin) from error
            warnings.warn(f"custom_imports: {module} failed to import: {error}", stacklevel=3)
        except Exception as error:
            error.add_note(f"while importing {module!r}, {KEY} of {origin or 'the config'}")
            raise


def _checked(wanted: Any, keys: ConfigDict) -> tuple[list[str], bool]:
    form = f"{KEY} = dict(imports=['my_package.my_module'], allow_failed_imports=False)"
    if not isinstance(wanted, Mapping) or not set(wanted) <= {"imports", "allow_failed_imports"}:
        raise ConfigError(KEY, f"{wanted!r:.60} names no modules", f"write {form}", keys.origin(KEY))
    imports = wanted.get("imports") or []
    modules = _as_list(imports)
    if not isinstance(modules, list | tuple) or not all(isinstance(module, str) for module in modules):
        raise ConfigError(f"{KEY}.imports", f"{imports!r:.60} names no modules", f"write {form}", keys.origin(KEY))
    return list(modules), bool(wanted.get("allow_failed_imports", False))


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
