"""Loading a file of PyTorch without executing code in it, and saying what is wrong with one that cannot be loaded."""

import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from trainwright.engine.checkpoints.known_classes import known_classes, stand_in
from trainwright.engine.errors import CheckpointError, MissingCheckpointError, MissingExtraError

_IS_FOLDER = 0x10  # PyTorch returns uninitialized memory for entries with this bit set
_CLASS_IN_ERROR = re.compile(r"Unsupported global: GLOBAL (?!torch\.)([\w.]+)")


def load_file(file: Path, *, map_location: Any = "cpu", mmap: bool = False, trusted: bool = False) -> Any:
    """Load a file written by ``torch.save``, or weights in the format of safetensors (``.safetensors``).

    The classes of MMEngine in its checkpoints are replaced by ours, and all others of OpenMMLab by inert objects.

    Args:
        file: the file.
        map_location: device for the tensors, as in ``torch.load``.
        mmap: read tensors from the disk only when they are used.
        trusted: allow the file to execute code. Only for files from a source you trust.

    Raises:
        CheckpointError: the file is missing, corrupt or of another kind, or contains classes that are not allowed.
        MissingExtraError: the package for files in the format of safetensors is not installed.
    """
    if not file.is_file():
        raise MissingCheckpointError(f"checkpoint not found: {file}")
    if file.suffix == ".safetensors":
        return _load_safetensors(file, map_location)
    options: dict[str, Any] = {"map_location": map_location, "mmap": mmap}
    try:
        return _load_trusted(file, options) if trusted else _load_safely(file, options)
    except Exception as error:  # a corrupt file can raise almost anything
        if classes := [name for name in _unknown_classes(file, error) if stand_in(name) is None]:
            raise CheckpointError(
                f"{file} was not loaded: it contains {', '.join(classes)}, which could execute code. If you trust its "
                "source, load it with load_checkpoint_file(path, trusted=True) and save only its weights to a new file"
            ) from error
        raise CheckpointError(f"{file} cannot be read: {damage_of(file) or _first_sentence(error)}") from error


def _load_safetensors(file: Path, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_tensors
    except ModuleNotFoundError as error:
        raise MissingExtraError("safetensors", "timm", str(file)) from error
    try:
        return load_tensors(file, device="cpu" if callable(map_location) else str(map_location or "cpu"))
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _load_safely(file: Path, options: dict[str, Any]) -> Any:
    allowed = dict(known_classes())
    while True:
        try:
            with torch.serialization.safe_globals([(value, name) for name, value in allowed.items()]):
                return torch.load(file, weights_only=True, **options)
        except pickle.UnpicklingError as error:
            found = {name: stand_in(name) for name in _unknown_classes(file, error) if name not in allowed}
            if not found or None in found.values():
                raise
            allowed |= found


def _load_trusted(file: Path, options: dict[str, Any]) -> Any:
    """Load a file that may execute code. MMEngine, if it contains classes of it, need not be installed."""
    own_pickle = SimpleNamespace(__name__=__name__, Unpickler=_TrustingUnpickler, load=_TrustingUnpickler.load_from)
    return torch.load(file, pickle_module=own_pickle, weights_only=False, **options)


class _TrustingUnpickler(pickle.Unpickler):
    @classmethod
    def load_from(cls, stream: Any, **options: Any) -> Any:
        return cls(stream, **options).load()

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        inert = stand_in(full_name)
        if inert is not None and full_name in known_classes():
            return known_classes()[full_name]
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            if inert is None:
                raise
            return inert


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


def _unknown_classes(file: Path, error: Exception) -> list[str]:
    """Return the classes in a file that are not known; none if they are not the reason why it was not loaded."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except Exception:  # it can read only the zip archives of PyTorch 1.6 and later
        found = _CLASS_IN_ERROR.search(str(error))
        names = [found[1]] if found else []
    return sorted(set(names) - known_classes().keys())


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
    text = str(error)
    text = (
        text.partition("WeightsUnpickler error: ")[2] or text
    ).strip()  # PyTorch's reason comes after a page of advice
    return text.partition(". ")[0].partition("\n")[0] or type(error).__name__
