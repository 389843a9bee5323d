"""Where config files are: paths, installed packages, and the modules that pure-Python configs import."""

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
    """Return the file of a config that a user names.

    Args:
        name: its path, ``package::path``, or its name among the configs that ship with Trainwright. The suffix may be
            left out.

    Raises:
        ConfigFileError: there is none, with the closest names.
    """
    if "::" in name:
        return find_config(name, Path())[0]
    for folder in (Path(), _package_folder(SHIPPED)):
        for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
            if candidate.is_file():
                return candidate
    shipped = shipped_configs()
    nearby = [str(path) for path in sorted(Path(name).parent.glob("*")) if path.suffix in SUFFIXES]
    hint = did_you_mean(name, [*nearby, *shipped]) or "\n  ".join(["these ship with Trainwright:", *shipped])
    raise ConfigFileError("", f"there is no config {name!r}", hint)


def shipped_configs() -> list[str]:
    """Return the names of the configs that ship with Trainwright, without those that only serve as bases."""
    folder = _package_folder(SHIPPED)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES)
    return [str(file.with_suffix("")) for file in files if not any(part.startswith("_") for part in file.parts)]


def find_config(name: str, folder: Path, origin: Origin | None = None) -> tuple[Path, str | None]:
    """Returns the absolute path of a config file, and the scope of its package.

    Args:
        name: a path, relative to ``folder``, or ``package::path`` for a config of an installed package.
        folder: where relative paths begin.
        origin: the place that names the file, for messages.

    Raises:
        ConfigFileError: no such file, package, or kind of file.
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
    """Returns the file of a config that is imported inside ``with read_base():``. Nothing is imported.

    Args:
        module: what stands behind the dots.
        level: number of leading dots.
        folder: folder of the importing config.
        origin: the import statement.

    Raises:
        ConfigFileError: no such package or file.
    """
    parts = module.split(".")
    if level > 0:
        start = folder.joinpath(*[".."] * (level - 1))
    elif parts[0] == OWN_PACKAGE and len(parts) > 1:
        start, parts = _package_folder(".".join(parts[:2]), origin), parts[2:]
    else:
        start, parts = _package_folder(parts[0], origin), parts[1:]
    if not parts:
        raise ConfigFileError(
            "", f"{module!r} is a package, not a config", "import a config file of that package", origin
        )
    return existing_file(start.joinpath(*parts).with_suffix(PYTHON_SUFFIX), origin)


def existing_file(path: Path, origin: Origin | None = None) -> Path:
    """Returns the absolute, normalised path of a config file.

    Raises:
        ConfigFileError: there is no such file, or it is none of a known kind.
    """
    path = Path(os.path.normpath(Path.cwd() / path))
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ConfigFileError(
                "", f"{path} is no config: its name must end with {', '.join(SUFFIXES)}", origin=origin
            )
        return path
    if path.is_dir():
        raise ConfigFileError("", f"{path} is a folder, not a config file", origin=origin)
    folder = path.parent
    if not folder.is_dir():
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
        message = f"there is no package {package!r} to take a config from"
        raise ConfigFileError("", message, f"is it installed? pip install {package.partition('.')[0]}", origin)
    return Path(next(iter(spec.submodule_search_locations)))
