"""Checkpoint files: atomic writes, verification, and safe loading."""

import os
import pickle
import re
import shutil
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from trainwright.engine.errors import CheckpointError
from trainwright.engine.strategy.shards import shard_all_like

LAST = "last_checkpoint"
REVISE_KEYS: tuple[tuple[str, str], ...] = ((r"^module\.", ""),)
_temporary_numbers = count()
_IS_FOLDER = 0x10  # PyTorch returns uninitialized memory for entries with this bit set
_REGULAR = re.compile(r"(epoch|iter)_\d+\.pth")


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
    outer = sys.exc_info()[1]
    try:
        with _replacing(target) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # PyTorch's writer hides the OSError
        cause = error.__context__
        if isinstance(cause, OSError) and cause is not outer:
            raise cause from error
        if "write" in str(error):
            raise OSError(f"cannot write {target}: {error}") from error
        raise
    return target


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; its file replaces ``target`` if no error occurs."""
    temporary = temporary_path(target)
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def temporary_path(target: Path) -> Path:
    """Return a path next to ``target`` that no other writer uses."""
    return target.with_name(f".{target.name}.{next(_temporary_numbers)}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> list[str]:
    """Remove temporary files that killed processes left in a folder of checkpoints, and return their names.

    Call it before this process saves anything there: files with its own process id are assumed to be left over too,
    since in a container a program gets the same id each time.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found and (int(found.group(1)) == os.getpid() or not _is_alive(int(found.group(1)))):
            with suppress(OSError):  # harmless if left behind
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return True


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush the entries of a folder to disk; a no-op on systems other than POSIX."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_checkpoint(source: Path, target: Path) -> None:
    """Atomically give a checkpoint a second name; falls back to a copy if the disk does not support hard links."""
    with _replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
    temporary.unlink(missing_ok=True)  # left by the rename if the target was already a link to the source


def write_last_checkpoint(work_dir: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
    """Record the newest checkpoint in ``work_dir/last_checkpoint``.

    A path inside ``work_dir`` is stored relative to it, so that ``work_dir`` can be moved.
    """
    folder = Path(work_dir).absolute()
    target = Path(name) if Path(name).is_absolute() else folder / name
    text = str(target.relative_to(folder)) if target.is_relative_to(folder) else str(target)
    with _replacing(folder / LAST) as temporary, temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def verify(path: str | os.PathLike[str]) -> str | None:
    """Return why a checkpoint is unusable, or None if every checksum matches and PyTorch can read it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "it is not a PyTorch file"
            folders = (info.filename for info in archive.infolist() if info.external_attr & _IS_FOLDER)
            corrupt = next(folders, None) or archive.testzip()
        if corrupt:
            return f"its entry {corrupt} is corrupt"
        with suppress(pickle.UnpicklingError):  # unknown classes do not mean corruption
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return None
    except FileNotFoundError:
        return "it does not exist"
    except Exception as error:  # a corrupt archive can raise almost anything: BadZipFile, zlib.error, RuntimeError, …
        return f"it is incomplete or corrupt ({str(error).partition('. ')[0]})"


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
    newest first. Files not named ``epoch_*.pth`` or ``iter_*.pth``, such as ``best_*.pth``, are considered only if
    there is a ``last_checkpoint`` and they contain optimizer state.

    Args:
        work_dir: folder of the run.
        since: a file; checkpoints older than it are ignored.

    Returns:
        The file, or None; and a line for each skipped file with the reason.
    """
    folder = Path(work_dir)
    skipped: list[str] = []
    named = None
    try:
        named = read_last_checkpoint(folder)
    except CheckpointError as error:
        skipped.append(f"{folder / LAST}: {error}")
    is_run = (folder / LAST).exists()
    found = (path for place in {folder, named.parent if named else folder} for path in place.glob("*.pth"))
    others = [path for path in found if path.is_file() and (is_run or _REGULAR.fullmatch(path.name))]
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
        return None if "optimizer" in load_checkpoint_file(path) else "it has no optimizer state"
    except CheckpointError as error:
        return str(error)


@contextmanager
def downloading(url: str, what: str = "") -> Iterator[None]:
    """Convert errors of a download to torch's cache to one that names the path for the file.

    Raises:
        CheckpointError: the download failed, or the file has a wrong digest. Its message starts with ``what``.
    """
    try:
        yield
    except (OSError, HTTPException, RuntimeError) as error:
        place = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
        what = f"{what} ({url})" if what else url
        raise CheckpointError(
            f"{what} cannot be downloaded: {error}. Without network access, put the file at {place} "
            "(TORCH_HOME sets the location of this cache)"
        ) from error


def load_checkpoint_file(
    path: str | os.PathLike[str], map_location: Any = "cpu", trusted: bool = False
) -> dict[str, Any]:
    """Load a checkpoint without executing code in it.

    Checkpoints of Trainwright contain only tensors, numbers, strings and containers. Files of MMEngine can be loaded
    without MMEngine: the few classes in them are replaced by plain stand-ins.

    Args:
        path: a file; or ``http(s)://…``, downloaded once to torch's cache; or ``torchvision://resnet18``.
        map_location: device for the tensors, as in ``torch.load``.
        trusted: allow the file to execute code. Only for files from a source you trust.

    Raises:
        CheckpointError: the file is missing, corrupt, or contains classes that are not allowed.
    """
    text = str(path)
    if text.startswith("torchvision://"):
        return _load_torchvision(text.removeprefix("torchvision://"))
    if urlparse(text).scheme in ("http", "https"):
        with downloading(text):
            return dict(torch.hub.load_state_dict_from_url(text, map_location=map_location, weights_only=not trusted))
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint not found: {file}")
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            loaded = torch.load(file, map_location=map_location, weights_only=not trusted)
    except pickle.UnpicklingError as error:
        what = ", ".join(get_unsafe_globals_in_checkpoint(file)) or str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} was not loaded: it contains {what}, which could execute code. If you trust its source, load it "
            "with load_checkpoint_file(path, trusted=True) and save only its weights to a new file"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(f"{file} cannot be read: {verify(file) or error}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} contains a {type(loaded).__name__}, not a checkpoint")
    return loaded


def get_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights in a checkpoint: under ``state_dict``, ``model``, ``state_dict_ema``, or the whole mapping."""
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(checkpoint.get(key), Mapping):
            return dict(checkpoint[key])
    return dict(checkpoint)


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
) -> Fit:
    """Load the matching weights into a module, and return the mismatches.

    Args:
        module: the module.
        state_dict: weights by name.
        strict: raise an error on any mismatch.
        revise_keys: pairs of (regular expression, replacement) for the names.

    Raises:
        CheckpointError: there is a mismatch and ``strict`` is set, or no weight matches.
    """
    for pattern, replacement in revise_keys:
        state_dict = {re.sub(pattern, replacement, key): value for key, value in state_dict.items()}
    own = module.state_dict()
    wrong_shape: dict[str, str] = {}
    for key, value in state_dict.items():
        mine = own.get(key)
        if isinstance(value, torch.Tensor) and isinstance(mine, torch.Tensor) and value.shape != mine.shape:
            wrong_shape[key] = f"{tuple(value.shape)} in the file, {tuple(mine.shape)} in the model"
    fitting = {key: value for key, value in state_dict.items() if key not in wrong_shape}
    fitting = shard_all_like(fitting, own)
    result = module.load_state_dict(fitting, strict=False)
    missing = [key for key in result.missing_keys if key not in wrong_shape and not key.endswith("num_batches_tracked")]
    parts = []
    if wrong_shape:
        parts.append("not loaded, shapes differ:\n" + "\n".join(f"  {k}: {v}" for k, v in wrong_shape.items()))
    if result.unexpected_keys:
        parts.append("in the file but not in the model:\n" + _grouped(result.unexpected_keys))
    if missing:
        parts.append("in the model but not in the file:\n" + _grouped(missing))
    report = "\n".join(parts)
    nothing_fits = own and not (set(own) & set(fitting))
    if report and (strict or nothing_fits):
        reason = "none of the weights match the model" if nothing_fits else "the weights do not match the model"
        raise CheckpointError(f"{reason}:\n{report}")
    return Fit(report, frozenset([*missing, *wrong_shape]))


def _grouped(keys: Iterable[str]) -> str:
    """Format names grouped by module, e.g. ``head.fc: weight, bias``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        owner, _, name = key.rpartition(".")
        groups[owner].append(name)
    return "\n".join(f"  {owner + ': ' if owner else ''}{', '.join(names)}" for owner, names in groups.items())


def _load_torchvision(name: str) -> dict[str, Any]:
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError as error:
        raise CheckpointError(f"torchvision has no weights for {name!r}: {error}") from error
    with downloading(weights.url, f"torchvision://{name}"):
        return dict(weights.get_state_dict(progress=False, weights_only=True))


class StandIn:
    """A replacement for a pickled object of another framework that only has its attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _safe_globals() -> list[Any]:
    """Return replacements for the classes in files of MMEngine; none of them executes code when created."""
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    names = [
        "mmengine.logging.history_buffer.HistoryBuffer",
        "mmengine.logging.message_hub.HistoryBuffer",
        "mmengine.config.config.ConfigDict",
    ]
    stand_ins: list[Any] = [(lambda owner, name: name, "builtins.getattr")]  # a HistoryBuffer contains its own methods
    stand_ins += [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in names]
    arrays: list[Any] = [np.ndarray, np.dtype, multiarray.scalar]
    arrays += [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "u1", "?")]
    for core in ("numpy._core", "numpy.core"):
        arrays.append((multiarray._reconstruct, f"{core}.multiarray._reconstruct"))
        arrays.append((multiarray.scalar, f"{core}.multiarray.scalar"))
    return stand_ins + arrays
