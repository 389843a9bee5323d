"""Helpers for tests of config files."""

import textwrap
from pathlib import Path
from typing import Any

from trainwright.engine import ConfigDict


def write(files: dict[str, str]) -> None:
    """Write dedented files, creating their folders."""
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


def origins(keys: Any, path: str = "") -> dict[str, str]:
    """Return the origin of every key of a config, as text, by dotted path."""
    found = {}
    for key in keys:
        here = f"{path}.{key}" if path else str(key)
        found[here] = str(keys.origin(key))
        value = keys[key]
        if isinstance(value, ConfigDict):
            found.update(origins(value, here))
        for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
            if isinstance(item, ConfigDict):
                found.update(origins(item, f"{here}.{index}"))
    return found
