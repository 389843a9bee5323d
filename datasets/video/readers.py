"""Readers of video frames from a folder of images, or an array."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DataError, MissingFileError
from trainwright.engine.images.reader import ImageReader
from trainwright.engine.inference.images import IMAGE_SUFFIXES


class FrameFolder:
    """The frames of a video as image files in a folder, in the order of their names.

    Args:
        path: path of the folder.

    Raises:
        OSError: the folder does not exist or contains no images.
    """

    fps: float | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path).is_dir():
            raise MissingFileError(f"frame folder {os.fspath(path)!r} not found")
        self._paths = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self._paths:
            raise OSError(
                f"no images found in the folder {os.fspath(path)!r} (extensions: {', '.join(IMAGE_SUFFIXES)})"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W)."""
        return read_images([self._paths[index] for index in indices])

    def close(self) -> None:
        """Do nothing, because no file is open."""


class FrameArray:
    """The frames of a video in memory.

    Args:
        array: uint8 RGB of shape (frames, H, W, 3).
    """

    fps: float | None = None

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W)."""
        return stacked(self._array[list(indices)])

    def close(self) -> None:
        """Do nothing, because no file is open."""


def stacked(pictures: Any) -> Tensor:
    """Stack images (H, W, C) to one tensor (frames, C, H, W), in channels-last memory: resizing it is faster."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def read_images(paths: Sequence[Path]) -> Tensor:
    """Read image files as uint8 RGB of shape (len(paths), 3, H, W); repeated paths are read once.

    Raises:
        DamagedFileError: a file cannot be decoded.
        DataError: the images differ in size.
        OSError: a file is missing or cannot be accessed.
    """
    reader = ImageReader()
    pictures = {path: reader.read(path).permute(1, 2, 0).numpy() for path in dict.fromkeys(paths)}
    if len(sizes := {picture.shape[:2]: path for path, picture in pictures.items()}) > 1:
        named = ", ".join(f"{path}: {width}x{height}" for (height, width), path in sizes.items())
        raise DataError(f"the frames of a video must have one size, not {named}")
    return stacked([pictures[path] for path in paths])
