"""The models that an installed library lists in its ``model-index.yml``."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainwright.engine.fileio import load


def find_model_index(scope: str) -> Path:
    """Return the path of the file in which a library lists its models."""
    spec = find_spec(scope) if scope.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the library {scope!r} is not installed")
    package = Path(next(iter(spec.submodule_search_locations)))
    for folder in (package.parent, package / ".mim"):
        if (folder / "model-index.yml").is_file():
            return folder / "model-index.yml"
    raise ValueError(f"the library {scope!r} does not list models: model-index.yml not found")


def listed_models(scope: str) -> Iterator[dict[str, Any]]:
    index = find_model_index(scope)
    for metafile in load(index)["Import"]:
        yield from load(index.parent / metafile)["Models"]


def names_of(entry: Mapping[str, Any]) -> list[str]:
    aliases = entry.get("Alias") or []
    return [entry["Name"], *([aliases] if isinstance(aliases, str) else aliases)]
