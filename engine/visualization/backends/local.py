"""A backend that writes scalars, images and the config to files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from trainwright.engine.errors import ConfigError
from trainwright.engine.fileio import to_json
from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class LocalVisBackend(BaseVisBackend):
    """A backend that writes files: scalars as JSON lines, images as PNG, the config as Python.

    NaN and infinities, which JSON does not support, are written as null. Each line is flushed immediately, so none is
    lost if the process crashes.

    Args:
        save_dir: folder for the files.
        img_save_dir: subfolder for images.
        config_save_file: name of the config file, ending in ``.py``.
        scalar_save_file: name of the scalars file, ending in ``.json``.

    Raises:
        ConfigError: a file name has another ending.
    """

    def __init__(
        self,
        save_dir: str,
        img_save_dir: str = "vis_image",
        config_save_file: str = "config.py",
        scalar_save_file: str = "scalars.json",
    ) -> None:
        _check_ending("config_save_file", config_save_file, ".py")
        _check_ending("scalar_save_file", scalar_save_file, ".json")
        super().__init__(save_dir)
        self._img_save_dir = img_save_dir
        self._config_save_file = config_save_file
        self._scalar_save_file = scalar_save_file

    @property
    def experiment(self) -> "LocalVisBackend":
        """The backend itself."""
        return self

    def _init_env(self) -> None:
        self._root = self._make_save_dir()
        self._streams: dict[str, IO[str]] = {}

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        config.dump(str(self._root / self._config_save_file))

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Write ``{name}_{step}.png``."""
        import PIL.Image

        path = _inside(self._root / self._img_save_dir, f"{name}_{step}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(checked_image(image)).save(path)

    @force_init_env
    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a line ``{name: value, "step": step}``."""
        self._append(self._scalar_save_file, _json_line({name: value, "step": step}))

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write all scalars as one line, also to ``file_path`` if set.

        Raises:
            ValueError: ``file_path`` is the scalars file itself, or does not end in ``.json``.
        """
        line = _json_line({**scalar_dict, "step": scalar_dict.get("step", step)})
        if file_path is not None:
            _check_ending("file_path", file_path, ".json")
            if file_path == self._scalar_save_file:
                raise ValueError(f"file_path must differ from {file_path!r}, the file of all scalars")
            self._append(file_path, line)
        self._append(self._scalar_save_file, line)

    def close(self) -> None:
        if self._env_initialized:
            self._env_initialized = False
            for stream in self._streams.values():
                stream.close()

    def _append(self, file: str, line: str) -> None:
        if file not in self._streams:
            self._streams[file] = _inside(self._root, file).open("a")
        self._streams[file].write(line)
        self._streams[file].flush()


def _json_line(values: Mapping[str, Any]) -> str:
    try:
        return _JSON.encode(values) + "\n"
    except (TypeError, ValueError):  # an unsupported key, a NaN or an infinity
        return to_json(to_plain(values)) + "\n"


def to_plain(value: Any) -> Any:
    """Convert a value to JSON types: arrays to numbers or lists, and unknown objects to strings."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return str(value)


_JSON = json.JSONEncoder(default=to_plain, allow_nan=False)


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, or raise a ``ValueError`` if it points outside."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} points outside {folder}")
    return path


def _check_ending(argument: str, file: str, ending: str) -> None:
    if not file.endswith(ending):
        raise ConfigError(argument, f"{file!r} must end in {ending}")
