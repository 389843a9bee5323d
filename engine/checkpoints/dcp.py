"""Tensors in a folder, written and read with ``torch.distributed.checkpoint`` (DCP). Importing it takes a second."""

import os
import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from trainwright.engine.checkpoints.durable import disk_errors
from trainwright.engine.errors import CheckpointError

METADATA = ".metadata"
_CLASSES: dict[str, Collection[str]] = {
    metadata.__name__: [
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "StorageMeta", "_MEM_FORMAT_ENCODING",
    ],
    filesystem.__name__: ["_StorageInfo"],
    "torch": ["Size"],
    "torch.serialization": ["_get_layout"],
}  # fmt: skip
"""The classes in the metadata of tensors. All of them, and ``_get_layout``, only hold or look up values."""


def save_tensors(tensors: Mapping[str, Tensor], folder: Path, group: "dist.ProcessGroup | None") -> None:
    """Write tensors to a folder and flush the files to disk. All ranks call it together with the same names.

    Of a sharded tensor, each rank writes its part; of another one, any of the ranks writes all.

    Args:
        tensors: tensors in CPU memory, by name.
        folder: an empty folder, the same for all ranks.
        group: a group of all ranks, or None in a single process.

    Raises:
        OSError: the disk of any rank is full or not writable.
    """
    try:
        with warnings.catch_warnings():
            if group is None:
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            state_dict_saver.save(dict(tensors), storage_writer=_Writer(folder), process_group=group)
    except CheckpointException as error:
        failures = {rank: failure for rank, (failure, _) in error.failures.items()}
        text = "; ".join(f"rank {rank}: {failure}" for rank, failure in failures.items())
        is_of_disk = all(isinstance(failure, OSError) for failure in failures.values())
        raise (OSError(text) if is_of_disk else CheckpointError(text)) from error


def load_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors from a folder, of sharded ones the part of this rank. Every process reads on its own.

    Raises:
        CheckpointError: the folder does not have these tensors.
    """
    reader = _Reader(folder)
    for name, tensor in tensors.items():
        found = reader.metadata.state_dict_metadata.get(name)
        if not isinstance(found, metadata.TensorStorageMetadata) or found.size != tensor.shape:
            raise CheckpointError(f"{folder} has no tensor {name} of shape {tuple(tensor.shape)}")
    try:
        # the function behind dcp.load, which in older releases of PyTorch cannot read without collectives
        state_dict_loader._load_state_dict(dict(tensors), reader, no_dist=True)
    except CheckpointException as error:
        failure, _ = next(iter(error.failures.values()))
        raise CheckpointError(f"{folder} cannot be read: {failure}") from error


def read_metadata(folder: Path) -> Any:
    """Read the description of the tensors in a folder, without executing anything in it.

    Raises:
        CheckpointError: the file is corrupt, or contains other classes than a description of tensors needs, or names
            files elsewhere.
    """
    file = folder / METADATA
    try:
        with file.open("rb") as stream:
            found = _Unpickler(stream).load()
        places = list(found.storage_data.values())
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except Exception as error:  # a corrupt pickle can raise almost anything
        raise CheckpointError(f"{file} is corrupt ({error})") from error
    for place in places:
        if place.relative_path != os.path.basename(place.relative_path):  # noqa: PTH119
            raise CheckpointError(f"{file} names a file in another folder, {place.relative_path}")
        if getattr(place, "transform_descriptors", None):
            raise CheckpointError(f"{file} names extensions, which could execute code")
    return found


class _Writer(filesystem.FileSystemWriter):
    def write_data(self, plan: Any, planner: Any) -> Any:
        with disk_errors(Path(self.path)):
            return super().write_data(plan, planner)


class _Reader(filesystem.FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metadata = read_metadata(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        return self.metadata


class _Unpickler(pickle.Unpickler):
    """An unpickler for the metadata alone, which PyTorch reads with plain ``pickle``."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib" and name.endswith("Path"):
            return os.path.join  # of the folder in which it was written, which may have another system
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise CheckpointError(f"it contains {module}.{name}, which could execute code")
