"""The functions of ``mmengine.runner.checkpoint`` that the engine has under no public name."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.compat.mmengine.fileio import get_file_backend
from trainwright.engine import CheckpointLoader, load_state_dict
from trainwright.engine import save_checkpoint as save_to_file
from trainwright.engine.checkpoints.files import REVISE_KEYS, get_state_dict, revised
from trainwright.engine.errors import CheckpointError


def save_checkpoint(
    checkpoint: Mapping[str, Any], filename: str | Path, file_client_args: Any = None, backend_args: Any = None
) -> None:
    """Save a checkpoint as a file, durably, or to a storage backend."""
    text, arguments = os.fspath(filename), backend_args or file_client_args
    if arguments is None and "://" not in text:
        save_to_file(checkpoint, text)
        return
    with io.BytesIO() as stream:
        torch.save(dict(checkpoint), stream)
        get_file_backend(text, backend_args=arguments).put(stream.getvalue(), text)


def _load_checkpoint(filename: str | Path, map_location: Any = None, logger: Any = None) -> Any:
    return CheckpointLoader.load_checkpoint(str(filename), map_location, logger)


def _load_checkpoint_with_prefix(prefix: str, filename: str | Path, map_location: Any = None) -> dict[str, Any]:
    weights = get_state_dict(_load_checkpoint(filename, map_location))
    start = prefix.removesuffix(".") + "."
    part = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    if not part:
        raise CheckpointError(f"no weight in {filename} begins with {start!r}")
    return part


def _load_checkpoint_to_model(
    model: nn.Module,
    checkpoint: dict[str, Any],
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = REVISE_KEYS,
) -> dict[str, Any]:
    load_state_dict(model, revised(get_state_dict(checkpoint), revise_keys), strict, logger)
    return checkpoint
