"""Checkpoints on disk: written so that a crash leaves a good one, verified before they are trusted, read safely."""

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

LAST = "last_checkpoint"
REVISE_KEYS: tuple[tuple[str, str], ...] = ((r"^module\.", ""),)
_NUMBERS = count()
_IS_FOLDER = 0x10  # for a part with this bit, PyTorch returns memory that it has not written to
_REGULAR = re.compile(r"(epoch|iter)_\d+\.pth")


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint so that at every moment either the old file or the whole new one is there.

    It is written beside its place, flushed to the disk, and renamed. The file is a zip archive whose parts carry
    CRC-32 sums; :func:`verify` reads them.

    Args:
        checkpoint: tensors, numbers, strings and containers of these: what ``torch.load(weights_only=True)`` reads.
        path: where to; its folder is made.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    outer = sys.exc_info()[1]
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # PyTorch's writer hides what the disk said
            cause = error.__context__
            if isinstance(cause, OSError) and cause is not outer:
                raise cause from error
            if "write" in str(error):
                raise OSError(f"cannot write {target}: {error}") from error
        raise
    sync_folder(target.parent)
    return target


def temporary_path(target: Path) -> Path:
    """Returns where to write what is going to be ``target``: beside it, and for one writer alone."""
    return target.with_name(f".{target.name}.{next(_NUMBERS)}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> list[str]:
    """Remove the temporary files that killed processes left in a folder of checkpoints, and return their names.

    Call it before this process saves anything there: one with its own number was left by another one before, as in
    containers, where a program has the same number each time.
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
    except OSError:  # somebody else's
        return True
    return True


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes the names in a folder as durable as the files (a no-op where the system cannot)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a checkpoint a second name in one step; a copy where the disk has no hard links."""
    temporary = temporary_path(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def write_last_checkpoint(work_dir: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
    """Notes the newest checkpoint in ``work_dir/last_checkpoint``, by a path that survives moving ``work_dir``.

    Args:
        work_dir: the run's folder.
        name: the checkpoint; inside ``work_dir`` it is noted relative to it.
    """
    folder = Path(work_dir).absolute()
    target = Path(name) if Path(name).is_absolute() else folder / name
    text = str(target.relative_to(folder)) if target.is_relative_to(folder) else str(target)
    temporary = temporary_path(folder / LAST)
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / LAST)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)


def verify(path: str | os.PathLike[str]) -> str | None:
    """Returns what is wrong with a checkpoint file, or None: each part agrees with its sum, and PyTorch can read it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "it is no PyTorch file"
            folders = (info.filename for info in archive.infolist() if info.external_attr & _IS_FOLDER)
            damaged = next(folders, None) or archive.testzip()
        if damaged:
            return f"its part {damaged} is damaged"
        with suppress(pickle.UnpicklingError):  # classes that it does not know: it is whole all the same
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return None
    except FileNotFoundError:
        return "it does not exist"
    except Exception as error:  # a damaged archive raises what it likes: BadZipFile, zlib.error, RuntimeError, …
        return f"it is incomplete or damaged ({str(error).partition('. ')[0]})"


def read_last_checkpoint(work_dir: str | os.PathLike[str]) -> Path | None:
    """Returns the file that ``work_dir/last_checkpoint`` names, or None where there is no such note.

    One that no longer exists is looked for in ``work_dir``, by its name.

    Raises:
        CheckpointError: the note names no file, or leads out of ``work_dir`` by ``..``.
    """
    folder = Path(work_dir)
    try:
        text = (folder / LAST).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from error
    if not text or not text.isprintable():
        raise CheckpointError("it names no file")
    if ".." in Path(text).parts:
        raise CheckpointError(f"it leads out of its folder ({text})")
    named = folder / text
    try:
        return named if named.exists() else folder / named.name
    except OSError as error:
        raise CheckpointError(f"it names no file ({error.strerror})") from error


def find_latest_checkpoint(work_dir: str | os.PathLike[str]) -> tuple[Path | None, list[str]]:
    """Finds the newest checkpoint of a run that is whole.

    First the one that ``last_checkpoint`` names, then every other one in ``work_dir`` and beside that one, newest
    first. Those that are named neither ``epoch_*.pth`` nor ``iter_*.pth``, such as ``best_*.pth``, are taken if there
    is a ``last_checkpoint`` and they hold the state of an optimizer.

    Returns:
        The file, or None; and for each one that was passed over a line that says why.
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
    for path in dict.fromkeys([*([named] if named else []), *sorted(others, key=_age, reverse=True)]):
        problem = verify(path)
        if problem is None and path != named and not _REGULAR.fullmatch(path.name):
            problem = _why_not_resumable(path)
        if problem is None:
            return path, skipped
        skipped.append(f"{path}: {problem}")
    return None, skipped


def _age(path: Path) -> tuple[int, int, str]:
    """Returns what sorts checkpoints by age: the time, and where that is the same the number in the name."""
    numbers = re.findall(r"\d+", path.name)
    return path.stat().st_mtime_ns, int(numbers[-1]) if numbers else -1, path.name


def _why_not_resumable(path: Path) -> str | None:
    try:
        return None if "optimizer" in load_checkpoint_file(path) else "it has no state of an optimizer"
    except CheckpointError as error:
        return str(error)


@contextmanager
def downloading(url: str, what: str = "") -> Iterator[None]:
    """Turns what goes wrong with a download to torch's cache into an error that names the place for the file.

    Args:
        url: from where.
        what: what is downloaded, if the address does not say it.

    Raises:
        CheckpointError: in place of any ``OSError``, or of a wrong digest.
    """
    try:
        yield
    except (OSError, HTTPException, RuntimeError) as error:
        place = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
        what = f"{what} ({url})" if what else url
        raise CheckpointError(
            f"{what} cannot be downloaded: {error}. Where there is no network, put the file at {place} "
            "(TORCH_HOME says where this cache is)"
        ) from error


def load_checkpoint_file(
    path: str | os.PathLike[str], map_location: Any = "cpu", trusted: bool = False
) -> dict[str, Any]:
    """Reads a checkpoint without running code that may hide in it.

    Our own files hold nothing but tensors, numbers, strings and containers. Files of MMEngine are read too: the few
    classes in them are replaced by plain stand-ins, MMEngine need not be installed.

    Args:
        path: a file; or ``http(s)://…``, downloaded once to torch's cache; or ``torchvision://resnet18``.
        map_location: where tensors go.
        trusted: run whatever code the file brings. Only for files whose makers you trust.

    Raises:
        CheckpointError: the file is missing, damaged, or holds classes that are not on the list.
    """
    text = str(path)
    if text.startswith("torchvision://"):
        return _load_torchvision(text.removeprefix("torchvision://"))
    if urlparse(text).scheme in ("http", "https"):
        with downloading(text):
            loaded = torch.hub.load_state_dict_from_url(text, map_location=map_location, weights_only=not trusted)
        return dict(loaded)
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}")
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            loaded = torch.load(file, map_location=map_location, weights_only=not trusted)
    except pickle.UnpicklingError as error:
        what = ", ".join(get_unsafe_globals_in_checkpoint(file)) or str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} was refused: it holds {what}, which could run code. If you trust whoever made the file, load it "
            "once with load_checkpoint_file(path, trusted=True) and save it again with its weights alone"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(f"{file} cannot be read: {verify(file) or error}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} holds a {type(loaded).__name__}, not a checkpoint")
    return loaded


def get_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights in a checkpoint, which lie under ``state_dict``, ``model`` or ``state_dict_ema``, or bare."""
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(checkpoint.get(key), Mapping):
            return dict(checkpoint[key])
    return dict(checkpoint)


@dataclass(frozen=True)
class Fit:
    """How far weights fitted a module. It is true if anything was left out, and its text says what.

    Args:
        report: what was left out, grouped by module, as lines for the log; empty if everything fitted.
        missing: names of the module's tensors that got no weight.
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
    """Load weights into a module, those that fit.

    Args:
        module: what is loaded into.
        state_dict: weights by name.
        strict: raise if anything does not fit.
        revise_keys: pairs of (regular expression, replacement) for the names.

    Returns:
        What was left out.

    Raises:
        CheckpointError: something does not fit and ``strict`` is set, or nothing at all fits.
    """
    for pattern, replacement in revise_keys:
        state_dict = {re.sub(pattern, replacement, key): value for key, value in state_dict.items()}
    own = module.state_dict()
    wrong_shape = {
        key: f"{tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model"
        for key, value in state_dict.items()
        if key in own
        and isinstance(value, torch.Tensor)
        and isinstance(own[key], torch.Tensor)
        and value.shape != own[key].shape
    }
    fitting = {key: value for key, value in state_dict.items() if key not in wrong_shape}
    result = module.load_state_dict(fitting, strict=False)
    missing = [key for key in result.missing_keys if key not in wrong_shape and not key.endswith("num_batches_tracked")]
    parts = []
    if wrong_shape:
        parts.append("of another shape, not loaded:\n" + "\n".join(f"  {k}: {v}" for k, v in wrong_shape.items()))
    if result.unexpected_keys:
        parts.append("in the file but not in the model:\n" + _grouped(result.unexpected_keys))
    if missing:
        parts.append("in the model but not in the file:\n" + _grouped(missing))
    report = "\n".join(parts)
    nothing_fits = own and not (set(own) & set(fitting))
    if report and (strict or nothing_fits):
        reason = "none of the weights fits the model" if nothing_fits else "the weights do not fit the model"
        raise CheckpointError(f"{reason}:\n{report}")
    return Fit(report, frozenset([*missing, *wrong_shape]))


def _grouped(keys: Iterable[str]) -> str:
    """Returns names grouped by the module that holds them: ``head.fc: weight, bias``."""
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
    """Stands in for an object of another framework that was pickled: its attributes, nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _method_name(owner: Any, name: str) -> str:
    return name


def _safe_globals() -> list[Any]:
    """The classes beyond tensors and containers that files of MMEngine hold; none of them runs code when it is made."""
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    names = [
        "mmengine.logging.history_buffer.HistoryBuffer",
        "mmengine.logging.message_hub.HistoryBuffer",
        "mmengine.config.config.ConfigDict",
    ]
    stand_ins: list[Any] = [(_method_name, "builtins.getattr")]  # a HistoryBuffer holds methods of its own
    stand_ins += [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in names]
    arrays: list[Any] = [np.ndarray, np.dtype, multiarray.scalar]
    arrays += [(multiarray._reconstruct, f"{core}.multiarray._reconstruct") for core in ("numpy._core", "numpy.core")]
    arrays += [(multiarray.scalar, f"{core}.multiarray.scalar") for core in ("numpy._core", "numpy.core")]
    arrays += [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "u1", "?")]
    return stand_ins + arrays
