"""Readers of video frames from a video file, a folder of images, or an array."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.images import ImageReader
from trainwright.engine.inference.images import IMAGE_SUFFIXES


class VideoFile:
    """The frames of a video file, decoded with PyAV (``pip install 'trainwright[video]'``).

    Args:
        path: path of the file.

    Raises:
        MissingExtraError: PyAV is not installed.
        OSError: the file is missing, corrupt, or has no video stream or frames; the message contains its path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", "video", "reading video files") from error
        self.path = os.fspath(path)
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"video file {self.path!r} not found")
        try:
            self._container = av.open(self.path)
        except av.FFmpegError as error:
            raise OSError(f"{self.path} cannot be read as a video: {error}") from error
        if not self._container.streams.video:
            self.close()
            raise OSError(f"{self.path} has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        # Some containers do not store the number of frames.
        self._length = self._stream.frames or self._count_packets()

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float | None:
        """Average frame rate in frames per second; None if unknown."""
        rate = self._stream.average_rate
        return None if rate is None else float(rate)

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W).

        Frames that cannot be decoded, because the file has fewer than it states, are replaced by the last one decoded.

        Raises:
            OSError: no frame can be decoded; the message contains the path.
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
                raise OSError(f"{self.path}: cannot decode any frame: {error}") from error
        if last is None:
            raise OSError(f"{self.path} has no frames")
        if len(pictures) < len(wanted):
            picture = last.to_ndarray(format="rgb24")
            pictures |= {index: picture for index in wanted if index not in pictures}
        return stacked([pictures[index] for index in indices])

    def count(self) -> int:
        """Count the frames that can be decoded, by decoding all of them."""
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
        """Close the video file."""
        self._container.close()

    def _count_packets(self) -> int:
        number = sum(packet.size > 0 for packet in self._container.demux(self._stream))
        if not number:
            raise OSError(f"{self.path} has no frames")
        return number


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
            raise FileNotFoundError(f"frame folder {os.fspath(path)!r} not found")
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
    """Stack images (H, W, C) to one tensor (frames, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))


def read_images(paths: Sequence[Path]) -> Tensor:
    """Read image files as uint8 RGB of shape (len(paths), 3, H, W); repeated paths are read once.

    Raises:
        DamagedFileError: a file cannot be decoded.
        OSError: a file is missing or cannot be accessed.
    """
    reader = ImageReader()
    pictures = {path: reader.read(path).permute(1, 2, 0).numpy() for path in dict.fromkeys(paths)}
    return stacked([pictures[path] for path in paths])
