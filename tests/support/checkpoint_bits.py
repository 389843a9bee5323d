"""Bitwise comparison of checkpoints."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainwright.engine.checkpoints.files import load_checkpoint_file

_MOMENTARY = (
    "meta.time",
    "meta.experiment_name",
    "meta.cfg",  # contains the work_dir and resume options
    "meta.config",
    "trainwright.hooks.CheckpointHook.keep_ckpts",  # the names of files, which are compared themselves: a stop in
    "trainwright.hooks.CheckpointHook.obsolete",  # between leaves one of its own for a while
    "message_hub.runtime_info.experiment_name",
    "message_hub.runtime_info.cfg",
    "message_hub.runtime_info.eta",
    *(f"message_hub.log_scalars.{mode}/{what}" for mode in ("train", "val") for what in ("time", "data_time")),
)
"""Entries that differ even between identical runs."""


def different_bits(file: Path, reference: Path) -> list[str]:
    """Return a line for each difference between two checkpoints, except times and the name of the folder.

    Args:
        file: a checkpoint.
        reference: the expected checkpoint.
    """
    found, expected = (
        dict(_leaves(_without_folder(load_checkpoint_file(path), path.parent))) for path in (file, reference)
    )
    different = [f"{path} is in one of them only" for path in found.keys() ^ expected.keys()]
    return different + [
        f"{path}: {_short(value)}, not {_short(expected[path])}"
        for path, value in found.items()
        if path in expected and not _same(value, expected[path])
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of every leaf, except those that differ even between identical runs."""
    if path in _MOMENTARY:
        return
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _without_folder(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace(str(folder), "WORK_DIR")
    if isinstance(value, Mapping):
        return {key: _without_folder(item, folder) for key, item in value.items()}
    return [_without_folder(item, folder) for item in value] if isinstance(value, list) else value


def _same(one: Any, other: Any) -> bool:
    """Return whether two leaves are bit-identical: NaN equals itself, and 0.0 differs from -0.0."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    return type(one) is type(other) and repr(one) == repr(other)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else f"{text[:60]} …"
