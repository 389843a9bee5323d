"""The functions of ``mmengine.runner.checkpoint``, on the engine's safe loading and durable saving."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.engine import find_latest_checkpoint as _find_latest
from trainwright.engine.checkpoints import files
from trainwright.engine.errors import CheckpointError
from trainwright.engine.records.logger import print_log
from trainwright.engine.run.model_setup import unwrap

ENV_MMENGINE_HOME = "MMENGINE_HOME"
ENV_XDG_CACHE_HOME = "XDG_CACHE_HOME"
DEFAULT_CACHE_DIR = "~/.cache"


def load_checkpoint(
    model: nn.Module,
    filename: str | Path,
    map_location: Any = None,
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = files.REVISE_KEYS,
) -> dict[str, Any]:
    """Load the weights in a checkpoint into a model, report mismatches to ``logger``, and return the checkpoint.

    Raises:
        CheckpointError: the file is missing or unsafe; with ``strict``, there is a mismatch; no weight matches.
    """
    return _load_checkpoint_to_model(model, _load_checkpoint(filename, map_location), strict, logger, revise_keys)


def load_state_dict(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None) -> None:
    """Load the matching weights into a module, and report mismatches to ``logger``.

    Raises:
        CheckpointError: with ``strict``, there is a mismatch; no weight matches.
    """
    if fit := files.load_state_dict(unwrap(module), state_dict, strict=strict, revise_keys=()):
        print_log(fit.report, logger=logger, level=30)


def get_state_dict(module: nn.Module, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
    """Return the weights of a module, without the prefix of wrappers for parallel training."""
    return unwrap(module).state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)


def save_checkpoint(
    checkpoint: Mapping[str, Any], filename: str | Path, file_client_args: Any = None, backend_args: Any = None
) -> None:
    """Save a checkpoint as a file, durably, or to a storage backend.

    Unlike the checkpoints of a run, it may contain any object, so loading it may need trust.
    """
    from trainwright.compat.mmengine.fileio import get_file_backend

    text = os.fspath(filename)
    if file_client_args is None and backend_args is None and "://" not in text:
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        files.save_checkpoint(checkpoint, text)
        return
    import io

    with io.BytesIO() as stream:
        torch.save(dict(checkpoint), stream)
        get_file_backend(text, backend_args=backend_args or file_client_args).put(stream.getvalue(), text)


def weights_to_cpu(state_dict: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    """Return weights on the CPU."""
    copied = OrderedDict((key, value.cpu() if hasattr(value, "cpu") else value) for key, value in state_dict.items())
    copied._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return copied


def find_latest_checkpoint(path: str | Path) -> str | None:
    """Return the newest checkpoint in a work dir that can be resumed, or None."""
    found = _find_latest(path)
    newest = found[0] if isinstance(found, tuple) else found
    return None if newest is None else str(newest)


class CheckpointLoader:
    """Loading of checkpoints by name or URL."""

    @classmethod
    def load_checkpoint(cls, filename: str | Path, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
        """Return the contents of a checkpoint."""
        return files.load_checkpoint_file(filename, "cpu" if map_location is None else map_location)


def _load_checkpoint(filename: str | Path, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    return CheckpointLoader.load_checkpoint(filename, map_location, logger)


def _load_checkpoint_with_prefix(prefix: str, filename: str | Path, map_location: Any = None) -> dict[str, Any]:
    weights = files.get_state_dict(_load_checkpoint(filename, map_location))
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
    revise_keys: Sequence[tuple[str, str]] = files.REVISE_KEYS,
) -> dict[str, Any]:
    weights = files.get_state_dict(checkpoint)
    if fit := files.load_state_dict(unwrap(model), weights, strict=strict, revise_keys=revise_keys):
        print_log(fit.report, logger=logger, level=30)
    return checkpoint


def _get_mmengine_home() -> str:
    cache = os.getenv(ENV_XDG_CACHE_HOME, DEFAULT_CACHE_DIR)
    home = Path(os.getenv(ENV_MMENGINE_HOME, os.path.join(cache, "mmengine"))).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return str(home)
