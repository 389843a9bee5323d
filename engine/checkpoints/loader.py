"""Checkpoints by name: ``https://…``, ``torchvision://resnet50``, and schemes that others register."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload
from urllib.parse import urlparse

import torch

from trainwright.engine.checkpoints.safe_load import load_file
from trainwright.engine.errors import CheckpointError, did_you_mean
from trainwright.engine.records.logger import get_logger

Loader = Callable[..., Any]
F = TypeVar("F", bound=Loader)
# torchvision names these networks differently since version 0.13.
_RENAMED = {"inception_v3_google": "inception_v3"}
_RENAMED |= {
    f"shufflenetv2_x{size}": f"shufflenet_v2_x{size.replace('.', '_')}" for size in ("0.5", "1.0", "1.5", "2.0")
}


class CheckpointLoader:
    """The loaders of checkpoints that are given by name, found by the scheme at the start of the name.

    Example:
        >>> @CheckpointLoader.register_scheme("store://")
        ... def load_from_store(filename, map_location=None):
        ...     return load_checkpoint_file(f"/mnt/store/{filename.removeprefix('store://')}", map_location)
    """

    _schemes: ClassVar[dict[str, Loader]] = {}
    _locations: ClassVar[list[str]] = ["trainwright.compat.model_zoo"]

    @overload
    @classmethod
    def register_scheme(cls, prefixes: str | Sequence[str], loader: Loader, force: bool = False) -> None: ...

    @overload
    @classmethod
    def register_scheme(
        cls, prefixes: str | Sequence[str], loader: None = None, force: bool = False
    ) -> Callable[[F], F]: ...

    @classmethod
    def register_scheme(cls, prefixes: str | Sequence[str], loader: Loader | None = None, force: bool = False) -> Any:
        """Register the loader of a scheme, also as a decorator.

        Args:
            prefixes: regular expressions for the start of a name, such as ``"store://"``.
            loader: called with the name and ``map_location``; returns a checkpoint or a state dict.
            force: replace the loader of a prefix that has one.

        Raises:
            KeyError: a prefix has a loader, and ``force`` is not set.
        """
        if loader is None:
            return lambda function: cls.register_scheme(prefixes, function, force) or function
        names = [prefixes] if isinstance(prefixes, str) else list(prefixes)
        if not force and (known := [name for name in names if name in cls._schemes]):
            raise KeyError(f"{', '.join(known)} is already registered: use force=True to replace its loader")
        cls._schemes.update(dict.fromkeys(names, loader))
        return None

    @classmethod
    def find(cls, name: str) -> Loader | None:
        """Return the loader for a name, or None if it is a local path.

        Raises:
            CheckpointError: the name has a scheme, but no loader is registered for it.
        """
        if "://" not in name:
            return cls._match(name)
        while (loader := cls._match(name)) is None and cls._locations:
            import_module(cls._locations.pop())
        if loader is None:
            known = ", ".join(sorted(cls._schemes))
            raise CheckpointError(
                f"{name} cannot be loaded: its scheme is none of {known}. Register a loader for it with "
                "CheckpointLoader.register_scheme"
            )
        return loader

    @classmethod
    def load_checkpoint(cls, filename: str, map_location: Any = None, logger: Any = None) -> Any:
        """Load a checkpoint by name; the arguments are those of ``load_checkpoint_file``. ``logger`` is not used."""
        from trainwright.engine.checkpoints.files import load_checkpoint_file

        return load_checkpoint_file(filename, map_location)

    @classmethod
    def _match(cls, name: str) -> Loader | None:
        """Return the loader with the longest matching prefix."""
        matching = [prefix for prefix in cls._schemes if re.match(prefix, name)]
        return cls._schemes[max(matching, key=len)] if matching else None


def download(url: str, what: str = "") -> Path:
    """Return the file of a URL, downloaded to torch's cache unless it is there.

    Raises:
        CheckpointError: the download failed. Its message starts with ``what`` and names the path for the file.
    """
    file = cached(url)
    if not file.exists():
        with downloading(url, what):
            file.parent.mkdir(parents=True, exist_ok=True)
            get_logger().info("Downloading %s to %s", url, file)
            torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    return file


def cached(url: str) -> Path:
    """Return the path in torch's cache for the file of a URL."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


@contextmanager
def downloading(url: str, what: str = "") -> Iterator[None]:
    """Convert errors of a download to torch's cache to one that names the path for the file.

    Raises:
        CheckpointError: the download failed, or the file has a wrong digest. Its message starts with ``what``.
    """
    try:
        yield
    except (OSError, HTTPException, RuntimeError) as error:
        what = f"{what} ({url})" if what else url
        raise CheckpointError(
            f"{what} cannot be downloaded: {error}. Without network access, put the file at {cached(url)} "
            "(TORCH_HOME sets the location of this cache)"
        ) from error


@CheckpointLoader.register_scheme(("http://", "https://"))
def load_from_http(filename: str, map_location: Any = None, trusted: bool = False) -> Any:
    """Load a checkpoint from the web."""
    return load_file(download(filename), map_location=map_location, trusted=trusted)


@CheckpointLoader.register_scheme(("torchvision://", "modelzoo://"))
def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Load weights of torchvision: ``torchvision://resnet50`` for the first that were published, as in MMEngine.

    Others have their name at the end: ``torchvision://resnet50.imagenet1k_v2``, or ``.default`` for the best.
    """
    from torchvision.models import get_model_weights

    name = filename.partition("://")[2]
    name, _, version = (name, "", "") if name in _RENAMED else name.lower().partition(".")
    try:
        known = get_model_weights(_RENAMED.get(name, name))
    except ValueError as error:
        raise CheckpointError(f"torchvision has no weights for {name!r}: {error}") from error
    versions = {key.lower(): weights for key, weights in known.__members__.items()}
    if not versions or (version and version not in versions):
        hint = did_you_mean(version, versions) or f"available: {', '.join(versions) or 'none'}"
        raise CheckpointError(f"torchvision has no weights {version!r} for {name!r}: {hint}")
    weights = versions[version or next(iter(versions))]
    return load_file(download(weights.url, filename), map_location=map_location)
