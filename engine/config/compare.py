"""Comparing configs value by value, with the file and line that set each value."""

from collections.abc import Iterator, Mapping
from typing import Any

from trainwright.engine.building import origin_of
from trainwright.engine.config.config import Config
from trainwright.engine.config.dump import plain_data
from trainwright.engine.errors import Origin


def what_changed(saved: Mapping[str, Any], current: Config) -> list[str]:
    """Compare the config in a checkpoint with the current one, except for settings of a single start like ``resume``.

    Returns:
        ``key: old → new (file:line)`` for every value that differs.
    """
    before, now = dict(flattened(saved)), dict(flattened(plain_data(current.to_dict())))
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, "(not set)"), now.get(key, "(not set)")
        if old != new and key.partition(".")[0] not in ("resume", "load_from", "work_dir", "launcher"):
            origin = origin_of_path(current, key)
            lines.append(f"{key}: {old!r} → {new!r}" + (f" ({origin})" if origin else ""))
    return lines


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested containers with their dotted paths."""
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    if items is None or not value:
        yield path, value
        return
    for key, item in items:
        yield from flattened(item, f"{path}.{key}" if path else str(key))


def origin_of_path(config: Config, path: str) -> Origin | None:
    """Return the place that set the value at a dotted path, or the innermost container around it."""
    here: Any = config
    origin = None
    for key in path.split("."):
        if isinstance(here, list | tuple) and key.isdecimal():
            here = here[int(key)] if int(key) < len(here) else None
            continue
        if not isinstance(here, Mapping) or key not in here:
            break
        origin = origin_of(here, key) or origin
        here = here[key]
    return origin
