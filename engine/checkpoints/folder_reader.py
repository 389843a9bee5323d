"""Sharded checkpoints: their layout on disk, verification and loading.

A sharded checkpoint is a folder, to which every rank has written its part::

    epoch_3.dist/
        .metadata, __0_0.distcp, __1_0.distcp    weights, averaged weights and optimizer state
        rank_0.pth, rank_1.pth                   what each rank alone knows, if there are several
        run.pth                                  everything else, with meta tensors in place of the former
        files.json                               written last: sizes and CRC-32 checksums of all others
"""

import json
import zlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.safe_load import load_file
from trainwright.engine.errors import CheckpointError
from trainwright.engine.strategy.shards import is_sharded, reshard
from trainwright.engine.trees import Place, map_leaves_at

SUFFIX = ".dist"
RUN, RANK, FILES = "run.pth", "rank_{}.pth", "files.json"
_OURS = "trainwright"
_CHUNK = 1 << 20


def tensor_name(place: Place) -> str:
    """Return the name under which DCP stores the tensor at a place in a checkpoint."""
    return "/".join(map(str, place))


def fingerprint(file: Path) -> list[int]:
    """Return the size of a file and its CRC-32 checksum."""
    size, checksum = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]


def verify_folder(folder: Path, *, checksums: bool = True) -> str | None:
    """Return why a sharded checkpoint is unusable, or None if all of its files are as they were written.

    Args:
        folder: the checkpoint.
        checksums: also read all files; otherwise only their sizes are compared.
    """
    try:
        files: dict[str, list[int]] = json.loads((folder / FILES).read_text())["files"]
        for name, expected in files.items():
            if Path(name).name != name:
                return f"{FILES} names {name}, which is not in the folder"
            if not (folder / name).is_file():
                return f"it is incomplete: {name} is missing"
            if (size := (folder / name).stat().st_size) != expected[0]:
                return f"{name} has {size} bytes instead of {expected[0]}"
            if checksums and fingerprint(folder / name) != expected:
                return f"{name} is corrupt"
    except FileNotFoundError:
        return f"it is incomplete: {FILES} is missing"
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return f"{FILES} is corrupt ({error})"
    missing = {RUN, ".metadata"} - files.keys()
    return f"it is incomplete: {FILES} does not list {', '.join(sorted(missing))}" if missing else None


def read_run(folder: Path) -> dict[str, Any]:
    """Load everything of a sharded checkpoint except the tensors.

    Raises:
        CheckpointError: the file is missing, corrupt, or contains classes that are not allowed.
    """
    run = load_file(folder / RUN, mmap=True)
    if not isinstance(run, dict):
        raise CheckpointError(f"{folder / RUN} contains a {type(run).__name__}, not a checkpoint")
    return run


def load_folder(
    folder: Path, map_location: Any = "cpu", *, like: nn.Module | None = None, verified: bool = False
) -> dict[str, Any]:
    """Load a sharded checkpoint, without executing code in it and without communication.

    The result is that of a checkpoint file with the same contents.

    Args:
        folder: the checkpoint.
        map_location: device for whole tensors.
        like: a sharded model: tensors of its parameters, such as their optimizer state, are loaded sharded like them,
            so that only the parts of this rank are read. Without it, tensors are whole.
        verified: another process has just compared the checksums.

    Raises:
        CheckpointError: the folder is incomplete or corrupt.
    """
    if problem := verify_folder(folder, checksums=not verified):
        raise CheckpointError(f"{folder} cannot be read: {problem}")
    run = read_run(folder)
    device = map_location if isinstance(map_location, str | torch.device) else "cpu"
    shards = {} if like is None else _shards_of(like)
    tensors: dict[str, Tensor] = {}

    def allocate(value: Any, place: Place) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta:
            return value
        shard = shards.get(_parameter_of(place, run))
        if shard is not None and shard.shape == value.shape:
            target = torch.empty_like(shard, dtype=value.dtype)
        else:
            target = torch.empty_like(value, device=device)
        tensors[tensor_name(place)] = target
        return target

    checkpoint: dict[str, Any] = map_leaves_at(run, allocate)
    from trainwright.engine.checkpoints.dcp import load_tensors

    load_tensors(tensors, folder)
    if "ranks" in (ours := checkpoint.get(_OURS, {})):
        files = [folder / RANK.format(rank) for rank in range(ours["ranks"]["world_size"])]
        ours["ranks"] = {**ours["ranks"], "states": [load_file(file, mmap=True) for file in files]}
    return checkpoint


def _shards_of(model: nn.Module) -> dict[str, Tensor]:
    reshard(model)
    return {name: value for name, value in model.state_dict().items() if is_sharded(value)}


def _parameter_of(place: Place, run: Mapping[str, Any]) -> str:
    """Return the name of the parameter to which the tensor at a place belongs, as far as it can be told."""
    owner: Any = run
    optimizer: Mapping[str, Any] | None = None
    for depth, key in zip(count(1), place[:-1]):
        if isinstance(owner, Mapping) and "param_names" in owner:
            optimizer = owner
        owner, following = owner[key], place[depth]
        if optimizer is not None and key in ("state", "grads") and isinstance(following, int):
            order = optimizer.get("param_order")
            return str(optimizer["param_names"][order[following] if order else following])
    return str(place[-1]).removeprefix("module.")
