"""Locating config files: by path, in installed packages, and by the imports of pure-Python configs."""

import os.path
from importlib.util import find_spec
from pathlib import Path

from trainwright.engine.errors import ConfigFileError, Origin, did_you_mean

PYTHON_SUFFIX = ".py"
YAML_SUFFIXES = (".yaml", ".yml")
JSON_SUFFIX = ".json"
SUFFIXES = (PYTHON_SUFFIX, *YAML_SUFFIXES, JSON_SUFFIX)

OWN_PACKAGE = "trainwright"
SHIPPED = f"{OWN_PACKAGE}.configs"


def find_named_config(name: str) -> Path:
    """Return the file of a config given by the user.

    Args:
        name: a path, ``package::path``, or the name of a config that ships with Trainwright. The suffix is optional.

    Raises:
        ConfigFileError: the config is not found; the message suggests the closest names.
    """
    if "::" in name:
        return find_config(name, Path())[0]
    for folder in (Path(), _package_folder(SHIPPED)):
        for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
            if candidate.is_file():
                return candidate
    shipped = shipped_configs()
    nearby = [str(path) for path in sorted(Path(name).parent.glob("*")) if path.suffix in SUFFIXES]
    hint = did_you_mean(name, [*nearby, *shipped]) or "\n  ".join(["available configs:", *shipped])
    raise ConfigFileError("", f"there is no config {name!r}", hint)


def shipped_configs() -> list[str]:
    """Return the names of the configs that ship with Trainwright, excluding bases."""
    folder = _package_folder(SHIPPED)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES)
    return [str(file.with_suffix("")) for file in files if not any(part.startswith("_") for part in file.parts)]


def find_config(name: str, folder: Path, origin: Origin | None = None) -> tuple[Path, str | None]:
    """Return the absolute path of a config file, and the scope of its package (None for a path).

    Args:
        name: a path relative to ``folder``, or ``package::path`` for a config of an installed package.
        folder: the folder that relative paths start from.
        origin: where the file name is set, for messages.

    Raises:
        ConfigFileError: the file or package is not found, or the file is not a config.
    """
    package, separator, inside = name.partition("::")
    if not separator:
        return existing_file(folder / Path(name).expanduser(), origin), None
    if package == OWN_PACKAGE:
        return existing_file(_package_folder(SHIPPED, origin) / inside, origin), None
    root = _package_folder(package, origin)
    files = [root / folder / inside for folder in (".mim/configs", ".mim", "configs")]
    return existing_file(next((file for file in files if file.is_file()), files[-1]), origin), package


def find_module(module: str, level: int, folder: Path, origin: Origin) -> Path:
    """Return the file of a config that is imported inside ``with read_base():``, without importing it.

    Args:
        module: the module name without leading dots.
        level: number of leading dots.
        folder: folder of the importing config.
        origin: the import statement.

    Raises:
        ConfigFileError: the package or file is not found.
    """
    parts = module.split(".")
    if level > 0:
        start = folder.joinpath(*[".."] * (level - 1))
    elif parts[0] == OWN_PACKAGE and len(parts) > 1:
        start, parts = _package_folder(".".join(parts[:2]), origin), parts[2:]
    else:
        start, parts = _package_folder(parts[0], origin), parts[1:]
    if not parts:
        hint = "import one of its config files"
        raise ConfigFileError("", f"{module!r} is a package, not a config", hint, origin)
    return existing_file(start.joinpath(*parts).with_suffix(PYTHON_SUFFIX), origin)


def existing_file(path: Path, origin: Origin | None = None) -> Path:
    """Return the absolute, normalized path of a config file.

    Raises:
        ConfigFileError: the file does not exist, or its suffix is unknown.
    """
    path = Path(os.path.normpath(Path.cwd() / path))
    if path.is_file():
        if path.suffix not in SUFFIXES:
            message = f"{path} is not a config: its name must end with {', '.join(SUFFIXES)}"
            raise ConfigFileError("", message, origin=origin)
        return path
    if path.is_dir():
        raise ConfigFileError("", f"{path} is a folder, not a config file", origin=origin)
    if not (folder := path.parent).is_dir():
        while not folder.is_dir():
            missing, folder = folder, folder.parent
        hint = did_you_mean(missing.name, (entry.name for entry in folder.iterdir() if entry.is_dir()))
        raise ConfigFileError("", f"there is no file {path}: no folder {missing}", hint, origin)
    configs = sorted(entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES)
    raise ConfigFileError("", f"there is no file {path}", did_you_mean(path.name, configs), origin)


def _package_folder(package: str, origin: Origin | None = None) -> Path:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = f"is it installed? pip install {package.partition('.')[0]}"
        raise ConfigFileError("", f"there is no package {package!r}", hint, origin)
    return Path(next(iter(spec.submodule_search_locations)))
