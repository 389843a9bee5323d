"""The base class of the backends, and the checks that they share."""

import functools
import numbers
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config

Image = np.ndarray[Any, Any]
Method = TypeVar("Method", bound=Callable[..., Any])


def force_init_env(method: Method) -> Method:
    """Make a method of a backend open what it writes to at the first call, and again after ``close``."""

    @functools.wraps(method)
    def opened(self: "BaseVisBackend", *args: Any, **kwargs: Any) -> Any:
        if not self._env_initialized:
            self._init_env()
            self._env_initialized = True
        return method(self, *args, **kwargs)

    return cast(Method, opened)


class BaseVisBackend:
    """Base of the backends. Nothing is opened or created before something is written.

    Args:
        save_dir: folder for its files; created when needed.
    """

    def __init__(self, save_dir: str | None) -> None:
        self._save_dir = save_dir
        self._env_initialized = False

    @property
    def experiment(self) -> Any:
        """What the backend writes to, for your own calls."""
        raise NotImplementedError

    def _init_env(self) -> None:
        """Open what the backend writes to. Called by :func:`force_init_env`."""

    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Write the config of the run."""

    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Write the structure of the model."""

    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Write an image.

        Args:
            name: its name.
            image: RGB, uint8, (height, width, 3).
            step: epoch or iteration.
            **kwargs: for the backend.
        """

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a number: an int, a float, or a tensor or array of one element.

        Args:
            name: its name.
            value: the number.
            step: epoch or iteration.
            **kwargs: for the backend.
        """

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write several numbers.

        Args:
            scalar_dict: numbers by name. A backend leaves out what it cannot show.
            step: epoch or iteration.
            file_path: name of a second file for them, for backends that write files.
            **kwargs: for the backend.
        """

    def close(self) -> None:
        """Close what is open. Writing again opens it again."""

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
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"an image is uint8 of (height, width, 3), not {image.dtype} of {image.shape}")
    return np.ascontiguousarray(image)
