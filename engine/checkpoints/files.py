"""Checkpoint files: atomic writes, verification, and safe loading; sharded checkpoints where those are read."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright.engine.checkpoints import folder_reader
from trainwright.engine.checkpoints.durable import disk_errors, replacing
from trainwright.engine.checkpoints.loader import CheckpointLoader
from trainwright.engine.checkpoints.safe_load import damage_of, load_file
from trainwright.engine.errors import CheckpointError
from trainwright.engine.strategy.shards import is_sharded, shard_all_like
from trainwright.engine.trees import with_versions

LAST = "last_checkpoint"
REVISE_KEYS: tuple[tuple[str, str], ...] = ((r"^module\.", ""),)
_REGULAR = re.compile(r"(epoch|iter)_\d+\.(pth|dist)")


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint atomically: either the old file or the complete new one exists at any time.

    It is written to a temporary file in the same folder, flushed to disk, and renamed. The file is a zip archive whose
    entries have CRC-32 checksums, which :func:`verify` checks.

    Args:
        checkpoint: tensors, numbers, strings and containers of these, as read by ``torch.load(weights_only=True)``.
        path: file to write; its folder is created.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(target), replacing(target) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    return target


def write_last_checkpoint(work_dir: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
    """Record the newest checkpoint in ``work_dir/last_checkpoint``.

    A path inside ``work_dir`` is stored relative to it, so that ``work_dir`` can be moved.
    """
    folder = Path(work_dir).absolute()
    target = Path(name) if Path(name).is_absolute() else folder / name
    text = str(target.relative_to(folder)) if target.is_relative_to(folder) else str(target)
    with replacing(folder / LAST) as temporary, temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def verify(path: str | os.PathLike[str]) -> str | None:
    """Return why a checkpoint is unusable, or None if every checksum matches and PyTorch can read it."""
    if Path(path).is_dir():
        return folder_reader.verify_folder(Path(path))
    return damage_of(Path(path))


def read_last_checkpoint(work_dir: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint that ``work_dir/last_checkpoint`` names, or None if that file does not exist.

    A checkpoint that no longer exists is looked up by its name in ``work_dir``.

    Raises:
        CheckpointError: the file does not name a checkpoint, or points outside ``work_dir`` with ``..``.
    """
    folder = Path(work_dir)
    try:
        text = (folder / LAST).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from error
    if not text or not text.isprintable():
        raise CheckpointError("it does not name a file")
    if ".." in Path(text).parts:
        raise CheckpointError(f"it points outside its folder ({text})")
    named = folder / text
    try:
        return named if named.exists() else folder / named.name
    except OSError as error:
        raise CheckpointError(f"it does not name a file ({error.strerror})") from error


def find_latest_checkpoint(
    work_dir: str | os.PathLike[str], since: Path | None = None
) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint of a run.

    Tried are the one that ``last_checkpoint`` names, then all others in ``work_dir`` and in the folder of that one,
    newest first: files and, ending in ``.dist`` instead of ``.pth``, sharded checkpoints. Those not named
    ``epoch_*.pth`` or ``iter_*.pth``, such as ``best_*.pth``, are considered only if there is a ``last_checkpoint`` and
    they contain optimizer state.

    Args:
        work_dir: folder of the run.
        since: a file; checkpoints older than it are ignored.

    Returns:
        The file or folder, or None; and a line for each that was skipped, with the reason.
    """
    folder = Path(work_dir)
    skipped: list[str] = []
    named = None
    try:
        named = read_last_checkpoint(folder)
    except CheckpointError as error:
        skipped.append(f"{folder / LAST}: {error}")
    is_run = (folder / LAST).exists()
    places = {folder, named.parent if named else folder}
    found = [path for place in places for path in place.glob("*.pth") if path.is_file()]
    found += [path for place in places for path in place.glob(f"*{folder_reader.SUFFIX}") if path.is_dir()]
    others = [path for path in found if is_run or _REGULAR.fullmatch(path.name)]
    oldest = since.stat().st_mtime_ns if since is not None and since.exists() else 0
    for path in dict.fromkeys([*([named] if named else []), *sorted(others, key=_age, reverse=True)]):
        if oldest and path.exists() and path.stat().st_mtime_ns < oldest:
            continue
        problem = verify(path)
        if problem is None and path != named and not _REGULAR.fullmatch(path.name):
            problem = _why_not_resumable(path)
        if problem is None:
            return path, skipped
        skipped.append(f"{path}: {problem}")
    return None, skipped


def _age(path: Path) -> tuple[int, int, str]:
    """Return a sort key: the modification time, then the number in the name."""
    numbers = re.findall(r"\d+", path.name)
    return path.stat().st_mtime_ns, int(numbers[-1]) if numbers else -1, path.name


def _why_not_resumable(path: Path) -> str | None:
    try:
        contents = folder_reader.read_run(path) if path.is_dir() else load_checkpoint_file(path)
        return None if "optimizer" in contents else "it has no optimizer state"
    except CheckpointError as error:
        return str(error)


def load_checkpoint_file(
    path: str | os.PathLike[str],
    map_location: Any = "cpu",
    trusted: bool = False,
    like: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """Load a checkpoint without executing code in it.

    Checkpoints of Trainwright contain only tensors, numbers, strings and containers. Files of MMEngine can be loaded
    without MMEngine: the few classes in them are replaced by plain stand-ins.

    Args:
        path: a file, or the folder of a sharded checkpoint, from which whole tensors are loaded; ``http(s)://…``,
            downloaded once to torch's cache; ``torchvision://resnet18``; ``open-mmlab://resnet50_v1c``,
            ``mmdet://retinanet_r50_fpn_1x_coco`` and the like; or another scheme of :class:`CheckpointLoader`.
        map_location: device for the tensors, as in ``torch.load``.
        trusted: allow the file to execute code. Only for files from a source you trust.
        like: a sharded model; of a sharded checkpoint, only the parts of this rank are loaded.

    Raises:
        CheckpointError: the file is missing, corrupt, or contains classes that are not allowed.
    """
    if (loader := CheckpointLoader.find(str(path))) is not None:
        return _as_checkpoint(loader(str(path), map_location, **({"trusted": True} if trusted else {})), path)
    file = Path(path)
    if file.is_dir():
        return folder_reader.load_folder(file, map_location, like=like)
    return _as_checkpoint(load_file(file, map_location=map_location, trusted=trusted), path)


def _as_checkpoint(loaded: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} contains a {type(loaded).__name__}, not a checkpoint")
    return loaded


def get_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights in a checkpoint: under ``state_dict``, ``model``, ``state_dict_ema``, or the whole mapping."""
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(checkpoint.get(key), Mapping):
            return with_versions(checkpoint[key], checkpoint[key])
    return with_versions(checkpoint, checkpoint)


def revised(state_dict: Mapping[str, Any], revise_keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return weights with other names.

    Args:
        state_dict: weights by name.
        revise_keys: pairs of (regular expression, replacement) for the names.
    """
    renamed = state_dict
    for pattern, replacement in revise_keys:
        renamed = {re.sub(pattern, replacement, key): value for key, value in renamed.items()}
    return with_versions(renamed, state_dict)


@dataclass(frozen=True)
class Fit:
    """The mismatches found when loading weights into a module; false if there are none.

    Args:
        report: the mismatches as lines for the log, grouped by module; empty if there are none.
        missing: names of the module's tensors that were not loaded.
    """

    report: str = ""
    missing: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.report)

    def __str__(self) -> str:
        return self.report


def load_state_dict(
    module: torch.nn.Module,
    state_dict: Mapping[str, Any],
    *,
    strict: bool = False,
    revise_keys: Sequence[tuple[str, str]] = REVISE_KEYS,
    optional: Collection[str] = (),
) -> Fit:
    """Load the matching weights into a module, and return the mismatches.

    Args:
        module: the module.
        state_dict: weights by name.
        strict: raise an error on any mismatch.
        revise_keys: pairs of (regular expression, replacement) for the names.
        optional: names of weights that the file may lack: that is not a mismatch.

    Raises:
        CheckpointError: there is a mismatch and ``strict`` is set, or no weight matches.
    """
    state_dict = revised(state_dict, revise_keys)
    own = module.state_dict()
    wrong_shape: dict[str, str] = {}
    for key in _wrong_shapes(module, state_dict, own):
        shape = f"{tuple(state_dict[key].shape)} in the file" if key in state_dict else "another shape in the file"
        wrong_shape[key] = f"{shape}, {tuple(own[key].shape)} in the model"
    fitting = {key: value for key, value in state_dict.items() if key not in wrong_shape}
    result = module.load_state_dict(with_versions(shard_all_like(fitting, own), state_dict), strict=False)
    missing = [key for key in result.missing_keys if key not in wrong_shape and not key.endswith("num_batches_tracked")]
    parts = []
    if wrong_shape:
        parts.append("not loaded, shapes differ:\n" + "\n".join(f"  {k}: {v}" for k, v in wrong_shape.items()))
    if result.unexpected_keys:
        parts.append("in the file but not in the model:\n" + _grouped(result.unexpected_keys))
    if needed := [key for key in missing if key not in optional]:
        parts.append("in the model but not in the file:\n" + _grouped(needed))
    report = "\n".join(parts)
    nothing_fits = own and not (set(own) & set(fitting))
    if report and (strict or nothing_fits):
        reason = "none of the weights match the model" if nothing_fits else "the weights do not match the model"
        raise CheckpointError(f"{reason}:\n{report}")
    return Fit(report, frozenset([*missing, *wrong_shape]))


def _wrong_shapes(module: torch.nn.Module, state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return the weights that do not fit because of their shapes.

    Modules may reshape or rename what they load, such as position embeddings. Therefore, those that seem not to fit are
    tried, except on sharded models.
    """
    different = [
        key
        for key, value in state_dict.items()
        if isinstance(value, torch.Tensor) and isinstance(own.get(key), torch.Tensor) and value.shape != own[key].shape
    ]
    if not different or any(is_sharded(tensor) for tensor in own.values() if isinstance(tensor, torch.Tensor)):
        return different
    try:
        module.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        return re.findall(r"size mismatch for (\S+):", str(error)) or different
    return []


def _grouped(keys: Iterable[str]) -> str:
    """Format names grouped by module, e.g. ``head.fc: weight, bias``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        owner, _, name = key.rpartition(".")
        groups[owner].append(name)
    return "\n".join(f"  {owner + ': ' if owner else ''}{', '.join(names)}" for owner, names in groups.items())
