"""The base class of backends, and shared helpers."""

import functools
import numbers
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from trainwright.engine.errors import MissingExtraError

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config

Image = np.ndarray[Any, Any]
Method = TypeVar("Method", bound=Callable[..., Any])


def force_init_env(method: Method) -> Method:
    """Decorate a method of a backend to initialize the backend on the first call, and again after ``close``."""

    @functools.wraps(method)
    def opened(self: "BaseVisBackend", *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, "_env_initialized", False):  # a subclass may not call our __init__
            self._init_env()
            self._env_initialized = True
        return method(self, *args, **kwargs)

    return cast(Method, opened)


class BaseVisBackend:
    """Base class of backends. Files and connections are opened on the first write.

    Args:
        save_dir: folder for files, created when needed.
    """

    def __init__(self, save_dir: str | None) -> None:
        self._save_dir = save_dir
        self._env_initialized = False

    @property
    def experiment(self) -> Any:
        """The underlying object, for custom calls."""
        raise NotImplementedError

    def _init_env(self) -> None:
        """Open files or connections. Called by :func:`force_init_env`."""

    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Write the config of the run."""

    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Write the structure of the model."""

    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Write an image, RGB, uint8, (height, width, 3); ``step`` is an epoch or iteration."""

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a scalar: an int, a float, or a tensor or array with one element."""
        self.add_scalars({name: value}, step, **kwargs)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write several scalars.

        Args:
            scalar_dict: scalars by name. Unsupported values are left out.
            step: epoch or iteration.
            file_path: name of an additional file, for backends that write files.
            **kwargs: arguments of the backend.
        """

    def close(self) -> None:
        """Close files and connections. Writing reopens them."""

    def _import(self, module: str) -> Any:
        """Import a module of an optional package, which is also the name of the extra."""
        try:
            return import_module(module)
        except ImportError as error:
            package = module.partition(".")[0]
            raise MissingExtraError(package, package, type(self).__name__) from error

    def _make_save_dir(self) -> Path:
        assert self._save_dir is not None
        path = Path(self._save_dir)
        path.mkdir(parents=True, exist_ok=True)
        return path


def scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Tensor | np.ndarray | np.generic):
            if (value.numel() if isinstance(value, Tensor) else value.size) == 1:
                yield key, value.item()
        elif isinstance(value, numbers.Real):
            yield key, float(value)


def checked_image(image: Image) -> Image:
    if image.dtype.kind in "iu" and image.size and image.min() >= 0 and image.max() <= 255:
        image = image.astype(np.uint8, copy=False)  # of np.random.randint, for example
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"an image must be uint8 of (height, width, 3), not {image.dtype} of {image.shape}")
    return np.ascontiguousarray(image)
