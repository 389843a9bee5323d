"""Loading a file of PyTorch without executing code in it, and saying what is wrong with one that cannot be loaded."""

import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from trainwright.engine.errors import CheckpointError

_IS_FOLDER = 0x10  # PyTorch returns uninitialized memory for entries with this bit set
_CLASS_IN_ERROR = re.compile(r"Unsupported global: GLOBAL (?!torch\.)([\w.]+)")


def load_file(file: Path, *, map_location: Any = "cpu", mmap: bool = False, trusted: bool = False) -> Any:
    """Load a file written by ``torch.save``.

    The few classes of MMEngine that its checkpoints contain are replaced by plain stand-ins.

    Args:
        file: the file.
        map_location: device for the tensors, as in ``torch.load``.
        mmap: read tensors from the disk only when they are used.
        trusted: allow the file to execute code. Only for files from a source you trust.

    Raises:
        CheckpointError: the file is missing, corrupt or of another kind, or contains classes that are not allowed.
    """
    if not file.is_file():
        raise CheckpointError(f"checkpoint not found: {file}")
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(file, map_location=map_location, mmap=mmap, weights_only=not trusted)
    except Exception as error:  # a corrupt file can raise almost anything
        if classes := _unsafe_classes(file, error):
            raise CheckpointError(
                f"{file} was not loaded: it contains {classes}, which could execute code. If you trust its source, "
                "load it with load_checkpoint_file(path, trusted=True) and save only its weights to a new file"
            ) from error
        raise CheckpointError(f"{file} cannot be read: {damage_of(file) or _first_sentence(error)}") from error


def damage_of(file: Path) -> str | None:
    """Return why a file is unusable, or None if every checksum matches and PyTorch can read it."""
    try:
        with zipfile.ZipFile(file) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "it is not a PyTorch file"
            folders = (info.filename for info in archive.infolist() if info.external_attr & _IS_FOLDER)
            corrupt = next(folders, None) or archive.testzip()
        if corrupt:
            return f"its entry {corrupt} is corrupt"
        with suppress(pickle.UnpicklingError):  # unknown classes do not mean corruption
            torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return None
    except FileNotFoundError:
        return "it does not exist"
    except Exception as error:  # BadZipFile, zlib.error, RuntimeError, …
        return _kind_of(file) or f"it is incomplete or corrupt ({_first_sentence(error)})"


def _unsafe_classes(file: Path, error: Exception) -> str:
    """Return the classes because of which a file was not loaded, or an empty string if that was not the cause."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    try:
        return ", ".join(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # it can read only the zip archives of PyTorch 1.6 and later
        found = _CLASS_IN_ERROR.search(str(error))
        return found[1] if found else ""


def _kind_of(file: Path) -> str | None:
    """Return what a file is, if it is one of those that often take the place of a checkpoint."""
    with suppress(OSError), file.open("rb") as stream:
        begin = stream.read(64)
        if not begin:
            return "it is empty"
        if begin.startswith(b"version https://git-lfs"):
            return "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"
        if begin.lstrip().startswith(b"<"):
            return "it is a web page: the download has failed"
    return None


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__


class _StandIn:
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
    stand_ins += [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in names]
    arrays: list[Any] = [np.ndarray, np.dtype, multiarray.scalar]
    arrays += [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "u1", "?")]
    for core in ("numpy._core", "numpy.core"):
        arrays.append((multiarray._reconstruct, f"{core}.multiarray._reconstruct"))
        arrays.append((multiarray.scalar, f"{core}.multiarray.scalar"))
    return stand_ins + arrays
