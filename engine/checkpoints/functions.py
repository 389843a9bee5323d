"""Loading and saving of weights in scripts, with the names and arguments of MMEngine's functions."""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trainwright.engine.checkpoints import files
from trainwright.engine.records.logger import print_log
from trainwright.engine.run.model_setup import unwrap


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: Any = "cpu",
    strict: bool = False,
    logger: logging.Logger | str | None = None,
    revise_keys: Sequence[tuple[str, str]] = files.REVISE_KEYS,
) -> dict[str, Any]:
    """Load the weights in a checkpoint into a model, and return the checkpoint. No code in it is executed.

    Args:
        model: the model, possibly wrapped for parallel training.
        filename: whatever :func:`load_checkpoint_file` loads.
        map_location: the device to load tensors to.
        strict: raise an error on mismatches.
        logger: where mismatches are reported; see :func:`print_log`.
        revise_keys: pairs of (regular expression, replacement) applied to the names.

    Raises:
        CheckpointError: the file is missing, corrupt or unsafe; no weight matches; or ``strict`` is set and not all do.
    """
    checkpoint = files.load_checkpoint_file(filename, "cpu" if map_location is None else map_location)
    weights = files.get_state_dict(checkpoint)
    _report(files.load_state_dict(unwrap(model), weights, strict=strict, revise_keys=revise_keys), logger)
    return checkpoint


def load_state_dict(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    strict: bool = False,
    logger: logging.Logger | str | None = None,
) -> None:
    """Load the matching weights into a module, possibly wrapped for parallel training.

    Args:
        module: the module.
        state_dict: weights by name.
        strict: raise an error on mismatches.
        logger: where mismatches are reported; see :func:`print_log`.

    Raises:
        CheckpointError: no weight matches, or ``strict`` is set and not all do.
    """
    _report(files.load_state_dict(unwrap(module), state_dict, strict=strict, revise_keys=()), logger)


def get_state_dict(
    module: nn.Module, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
) -> dict[str, Any]:
    """Return the weights of a module, without the names of wrappers for parallel training.

    The other arguments are those of ``torch.nn.Module.state_dict``.
    """
    options: dict[str, Any] = {} if destination is None else {"destination": destination}
    return unwrap(module).state_dict(**options, prefix=prefix, keep_vars=keep_vars)


def weights_to_cpu(state_dict: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    """Return a copy of weights on the CPU."""
    copied = OrderedDict((name, value.cpu() if hasattr(value, "cpu") else value) for name, value in state_dict.items())
    copied._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return copied


def save_checkpoint(checkpoint: Mapping[str, Any], filename: str | os.PathLike[str]) -> None:
    """Save a checkpoint durably: a crash leaves the complete file, or the one that was there before.

    Args:
        checkpoint: tensors, numbers, strings and containers of them, so that it can be loaded safely.
        filename: the file; its folder is created if necessary.
    """
    Path(filename).parent.mkdir(parents=True, exist_ok=True)
    files.save_checkpoint(checkpoint, filename)


def find_latest_checkpoint(path: str | os.PathLike[str]) -> str | None:
    """Return the newest intact checkpoint in a work dir, or None if there is none."""
    newest, _ = files.find_latest_checkpoint(path)
    return None if newest is None else str(newest)


def _report(fit: files.Fit, logger: logging.Logger | str | None) -> None:
    if fit:
        print_log(f"Not all weights were loaded:\n{fit}", logger, logging.WARNING)
