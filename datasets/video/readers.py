"""The frames of a video: from a video file, a folder of images, or an array."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.inference.images import IMAGE_SUFFIXES


class VideoFile:
    """The frames of a video file, decoded by PyAV (``pip install 'trainwright[video]'``).

    Args:
        path: of the file.

    Raises:
        MissingExtraError: PyAV is not installed.
        OSError: the file is missing, damaged or has no video; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", "video", "reading video files") from error
        self.path = os.fspath(path)
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"there is no video file {self.path!r}")
        try:
            self._container = av.open(self.path)
        except av.FFmpegError as error:
            raise OSError(f"{self.path} cannot be read as a video: {error}") from error
        if not self._container.streams.video:
            self.close()
            raise OSError(f"{self.path} has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        # Some containers do not say how many frames they have.
        self._length = self._stream.frames or self._count()

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float | None:
        """Frames in a second, in the mean, where the file says it."""
        rate = self._stream.average_rate
        return None if rate is None else float(rate)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W).

        Frames that the file announces but does not have are replaced by the last one.

        Raises:
            OSError: no frame can be decoded.
        """
        import av

        wanted = set(indices)
        pictures: dict[int, np.ndarray[Any, Any]] = {}
        last, number = None, -1
        self._container.seek(0, stream=self._stream)
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                last = frame
                if number in wanted:
                    pictures[number] = frame.to_ndarray(format="rgb24")
                    if len(pictures) == len(wanted):
                        break
        except av.FFmpegError as error:
            if last is None:
                raise OSError(f"{self.path}: no frame can be decoded: {error}") from error
        if last is None:
            raise OSError(f"{self.path} has no frames")
        if len(pictures) < len(wanted):
            picture = last.to_ndarray(format="rgb24")
            pictures |= {index: picture for index in wanted if index not in pictures}
        return stacked([pictures[index] for index in indices])

    def count(self) -> int:
        """Return how many frames can be decoded; takes long."""
        import av

        number = 0
        self._container.seek(0, stream=self._stream)
        try:
            for _ in self._container.decode(self._stream):
                number += 1
        except av.FFmpegError:
            pass
        return number

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _count(self) -> int:
        number = sum(packet.size > 0 for packet in self._container.demux(self._stream))
        if not number:
            raise OSError(f"{self.path} has no frames")
        return number


class FrameFolder:
    """The frames of a video as image files in a folder, in the order of their names.

    Args:
        path: of the folder.

    Raises:
        OSError: there is no such folder, or it has no images.
    """

    fps: float | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path).is_dir():
            raise FileNotFoundError(f"there is no folder of frames {os.fspath(path)!r}")
        self._paths = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self._paths:
            raise OSError(f"the folder {os.fspath(path)!r} has no images ({', '.join(IMAGE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self._paths)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W)."""
        return read_images([self._paths[index] for index in indices])

    def close(self) -> None:
        """Do nothing: no file is open."""


class FrameArray:
    """The frames of a video in memory.

    Args:
        array: uint8, (frames, H, W, 3).
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
        """Do nothing: no file is open."""


def stacked(pictures: Any) -> Tensor:
    """Return pictures (H, W, C) as one tensor (frames, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))


def read_images(paths: Sequence[Path]) -> Tensor:
    from PIL import Image

    pictures: dict[Path, np.ndarray[Any, Any]] = {}
    for path in paths:
        if path not in pictures:
            try:
                with Image.open(path) as picture:
                    pictures[path] = np.array(picture.convert("RGB"))
            except OSError as error:
                error.add_note(f"while reading the frame {os.fspath(path)!r}")
                raise
    return stacked([pictures[path] for path in paths])
