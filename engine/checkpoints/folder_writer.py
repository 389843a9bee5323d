"""Writing sharded checkpoints: all ranks write their parts of a folder, and agree that it is complete."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainwright.engine.checkpoints.disk_space import bytes_of, check_space
from trainwright.engine.checkpoints.durable import link_checkpoint, remove, replace, sync_folder, temporary_path
from trainwright.engine.checkpoints.files import save_checkpoint, write_last_checkpoint
from trainwright.engine.checkpoints.folder_reader import FILES, RANK, RUN, fingerprint, tensor_name
from trainwright.engine.distributed import all_gather_object, is_main_process, value_of_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.strategy.shards import is_sharded
from trainwright.engine.trees import Place, map_leaves_at

FORMAT = 1
_OURS = "trainwright"
_REPLICATED = ("state_dict", "ema_state_dict", "optimizer")


def write_folders(
    state: Mapping[str, Any],
    paths: Sequence[Path],
    work_dir: str | None,
    then: Callable[[], None] | None,
    group: "dist.ProcessGroup | None",
) -> None:
    """Write a sharded checkpoint under one or several names. All ranks call it together.

    Args:
        state: the state of this rank, in CPU memory; sharded tensors with its part of them.
        paths: the folder, and further ones with links to its files.
        work_dir: where to record the last path as the newest checkpoint, or None.
        then: called on rank 0 when all is on disk.
        group: a group of all ranks, on which nothing else is sent meanwhile; None in a single process.

    Raises:
        OSError: the disk of any rank is full or not writable. It is raised on all ranks, and nothing is left behind.
    """
    ranks = _Ranks(group)
    new = [path for path in paths if not path.exists()]
    try:
        _write_folder(state, paths[0], ranks)
        ranks.on_first(partial(_name, paths, work_dir))
    except OSError:
        if ranks.rank == 0:
            for path in new:
                with suppress(OSError):
                    remove(path)  # otherwise it would be orphaned
        raise
    if then is not None and ranks.rank == 0:
        then()


def check_shared(folder: Path) -> None:
    """Check that all ranks see the files of rank 0 in a folder. All ranks call it together.

    Raises:
        CheckpointError: one of them does not, or rank 0 cannot write there.
    """
    probe, error = temporary_path(folder / "shared"), ""
    if is_main_process():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as caught:
            error = str(caught)
    probe, error = value_of_main_process((probe, error))
    if error:
        raise CheckpointError(f"cannot write checkpoints to {folder}: {error}")
    seen = all_gather_object(probe.exists())
    if is_main_process():
        probe.unlink()
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise CheckpointError(
            f"rank {blind} does not see the files of rank 0 in {folder}, so the checkpoints cannot be sharded: choose "
            "an out_dir on a file system that all of them share, or sharded=False"
        )


def _name(paths: Sequence[Path], work_dir: str | None) -> None:
    for path in paths[1:]:
        link_checkpoint(paths[0], path)
    if work_dir is not None:
        write_last_checkpoint(work_dir, paths[-1].absolute())


def _write_folder(state: Mapping[str, Any], target: Path, ranks: "_Ranks") -> None:
    from trainwright.engine.checkpoints.dcp import METADATA, save_tensors

    run, tensors = split(state)
    states: dict[int, Any] = dict(run.get(_OURS, {}).get("ranks", {}).pop("states", {}))
    temporary = target
    try:
        temporary = ranks.on_first(partial(_begin, target))
        ranks.together(partial(check_space, temporary.parent, bytes_of([state, states])))
        save_tensors(tensors, temporary, ranks.group)

        def complete() -> dict[str, list[int]]:
            for rank, own in states.items():
                save_checkpoint(own, temporary / RANK.format(rank))
            if ranks.rank == 0:
                save_checkpoint(run, temporary / RUN)
            own = [*temporary.glob(f"__{ranks.rank}_*.distcp"), *(temporary / RANK.format(rank) for rank in states)]
            own += [temporary / RUN, temporary / METADATA] if ranks.rank == 0 else []
            sync_folder(temporary)
            return {file.name: fingerprint(file) for file in own}

        files = {name: entry for part in ranks.together(complete) for name, entry in part.items()}
        ranks.on_first(partial(_finish, temporary, target, files))
    except BaseException:
        if temporary != target:
            shutil.rmtree(temporary, ignore_errors=True)  # all ranks at once, since some may have failed
        raise


def _begin(target: Path) -> Path:
    """Create the temporary folder."""
    temporary = temporary_path(target)
    temporary.mkdir(parents=True)
    return temporary


def _finish(temporary: Path, target: Path, files: Mapping[str, list[int]]) -> None:
    """Put the folder in place, once its list of files is on disk."""
    for name, (size, _) in files.items():
        file = temporary / name
        if not file.is_file() or file.stat().st_size != size:
            message = f"{file} was written by another rank but is not there: all ranks need the same file system"
            raise CheckpointError(message)
    with (temporary / FILES).open("w") as stream:
        json.dump({"format": FORMAT, "files": files}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(temporary)
    replace(temporary, target)


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a checkpoint with meta tensors in place of those for DCP, and the latter by name.

    These are sharded tensors, and others of which all ranks have the same: the weights and the optimizer state.
    """
    tensors: dict[str, Tensor] = {}

    def take(value: Any, place: Place) -> Any:
        if not isinstance(value, Tensor) or not (is_sharded(value) or _is_replicated(value, place)):
            return value
        tensors[tensor_name(place)] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return map_leaves_at(checkpoint, take), tensors


def _is_replicated(tensor: Tensor, place: Place) -> bool:
    is_plain = tensor.layout == torch.strided and tensor.is_floating_point() and not tensor.is_quantized
    return is_plain and tensor.ndim > 0 and place[0] in _REPLICATED and "accumulation" not in place


class _Ranks:
    """The ranks that write a checkpoint together.

    Args:
        group: a group of all ranks, or None in a single process.
    """

    def __init__(self, group: "dist.ProcessGroup | None") -> None:
        self.group = group
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))

    def together(self, function: Callable[[], Any]) -> list[Any]:
        """Call a function on every rank and return all results.

        Raises:
            OSError: it failed on any rank, because of the disk.
            CheckpointError: it failed on any rank, for another reason.
        """
        result = error = None
        try:
            result = function()
        except Exception as caught:
            error = caught
        reports: list[Any] = [(result, None if error is None else str(error), isinstance(error, OSError))]
        if self.group is not None:
            own, reports = reports[0], [None] * self.size
            dist.all_gather_object(reports, own, self.group)
        failed = {rank: text for rank, (_, text, _) in enumerate(reports) if text is not None}
        if failed:
            text = "; ".join(f"rank {rank}: {text}" for rank, text in failed.items()) if self.size > 1 else failed[0]
            is_of_disk = all(reports[rank][2] for rank in failed)
            raise (OSError(text) if is_of_disk else CheckpointError(text)) from error
        return [result for result, _, _ in reports]

    def on_first(self, function: Callable[[], Any]) -> Any:
        """Call a function on rank 0 while the others wait, and return its result on all; errors as above."""
        return self.together(lambda: function() if self.rank == 0 else None)[0]
