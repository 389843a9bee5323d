"""Reading any frames of a video file, without decoding it from its start."""

import bisect
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DamagedFileError, MissingExtraError, MissingFileError

_MAX_REORDER = 16  # H.264 and H.265 move a frame by at most 16 places
_SHORT_OF_DURATION = 0.5  # seconds


class _Key(NamedTuple):
    """The packet of a key frame: its place among the frames in the file, its time, and the timestamp to seek to."""

    number: int
    time: int
    seek: int


class _Times(NamedTuple):
    """The presentation times of consecutive frames, in the time base of the stream."""

    first: int  # the frame number of the first one
    times: list[int]
    keys: list[_Key]


class VideoFile:
    """The frames of a video file, decoded with PyAV (``pip install 'trainwright[video]'``).

    Frames are numbered in the order in which they are shown, however long each is shown. Their number is that in the
    file, not the one that the file announces: those of MP4 and MOV files are found in their index, those of other files
    by reading the packets. Frames are upright: a rotation in the file's metadata is applied.

    Frames are decoded from the last key frame before them; those of AVI files with B-frames and MPEG program streams
    from the start, because these files do not store when each frame is shown.

    Args:
        path: path of the file.

    Raises:
        MissingExtraError: PyAV is not installed.
        FileNotFoundError: the file is missing.
        DamagedFileError: the file cannot be opened, has no frames, or has fewer than it announces.
    """

    _container: Any = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import av  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", "video", "reading video files") from error
        self.path = os.fspath(path)
        if not Path(self.path).is_file():
            raise MissingFileError(f"video file {self.path!r} not found")
        with self._damage():
            self._open()
            entries = self._stream.index_entries
            if self._stream.frames and "mov" in self._container.format.name:
                self._read_index(entries)
            else:
                self._read_packets(len(entries))
        if not self._length:
            raise DamagedFileError(self.path, "it has no frames")

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float | None:
        """Average frame rate in frames per second; None if unknown."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Return frames as uint8 RGB of shape (len(indices), 3, H, W), in channels-last memory.

        A frame that shows nothing new, for which some encoders store an empty packet, equals the one before it.

        Raises:
            IndexError: an index is negative or not less than the number of frames.
            DamagedFileError: a frame cannot be decoded.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        wanted = sorted(places)
        if not 0 <= wanted[0] <= wanted[-1] < self._length:
            raise IndexError(f"{self.path} has {self._length} frames, so there is no frame {wanted[0]} or {wanted[-1]}")
        stacked: Any = None
        with self._damage():
            for number, frame in self._in_order(wanted) if self._by_order else self._by_seeking(wanted):
                picture = self._picture(frame)
                if stacked is None:
                    stacked = np.empty((len(indices), *picture.shape), dtype=np.uint8)
                stacked[places[number]] = picture
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def count(self) -> int:
        """Decode all frames, and return their number.

        Raises:
            DamagedFileError: a frame cannot be decoded.
        """
        number = 0
        with self._damage():
            for _, frame in self._decoded():
                self._require_intact(frame)
                number += 1
        return number

    def close(self) -> None:
        """Close the video file."""
        if self._container is not None:
            self._container.close()

    def _open(self) -> None:
        import av
        from av.stream import Disposition
        from av.video.reformatter import VideoReformatter

        self.close()
        # With the prefix, a colon in the path does not end the name of a protocol.
        self._container = av.open(f"file:{self.path}", metadata_errors="replace")
        streams = [one for one in self._container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise DamagedFileError(self.path, "it has no video stream")
        self._stream = streams[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count = torch.get_num_threads()  # one in a data worker
        self._codec.thread_type = "AUTO"
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Raise a DamagedFileError for any exception of the decoder."""
        try:
            yield
        except (DamagedFileError, FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or error
            if log := getattr(error, "log", None):  # the last message of FFmpeg, if any
                reason = f"{reason} ({log[2]})"
            raise DamagedFileError(self.path, reason) from error

    # ----------------------------------------------------------------------------------- the number of frames, and keys

    def _read_index(self, entries: Any) -> None:
        """Count the frames in the index of an MP4 or MOV file; their times are read where they are needed."""
        self._by_order = False
        self._table: _Times | None = None
        self._numbers: list[int] = []  # of the frame of each packet in decoding order, by its timestamp in
        self._stamps: list[int] = []
        self._keys: list[_Key] = []
        end, number = 0, 0
        for entry in entries:
            stamp = entry.timestamp
            if entry.is_keyframe:
                self._keys.append(_Key(number, 0, stamp))
            self._stamps.append(stamp)
            self._numbers.append(number)
            number += not entry.is_discard and entry.size > 0
            end = max(end, entry.pos + entry.size)
        self._length = number
        if end > (size := Path(self.path).stat().st_size):
            raise DamagedFileError(self.path, f"it ends after {size} of {end} bytes: copy or download it again")

    def _read_packets(self, indexed: int) -> None:
        """Count the frames by reading all packets; those before the first key frame cannot be decoded."""
        times: list[int | None] = []
        keys: list[_Key] = []
        end = 0
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise DamagedFileError(self.path, f"the data of frame {len(times)} are incomplete")
            if packet.size and (packet.is_keyframe or times):
                if packet.is_keyframe and packet.pts is not None:
                    stamp = packet.pts if packet.dts is None else packet.dts
                    keys.append(_Key(len(times), packet.pts, stamp))
                if not packet.is_discard:
                    times.append(packet.pts)
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
        is_avi = self._container.format.name == "avi"
        self._length = len(times)
        self._require_announced(is_avi, indexed, end)
        known = [time for time in times if time is not None]
        # AVI files do not store the times of frames, and MPEG program streams not all of them.
        is_guessed = (is_avi and self._codec.has_b_frames) or self._container.format.name == "mpeg"
        self._by_order = is_guessed or not keys or len(set(known)) < len(times)
        self._table = _Times(0, sorted(known), keys)

    def _require_announced(self, is_avi: bool, indexed: int, end: int) -> None:
        """Refuse a file that announces more than it contains."""
        # The header of an AVI file may be wrong. Its index is right, but missing where the file was truncated.
        announced = indexed if is_avi and indexed > 1 else self._stream.frames
        if self._length < announced:
            message = f"{self._length} of {announced} frames are in the file: copy or download it again"
            raise DamagedFileError(self.path, message)
        duration = _seconds(self._stream.metadata.get("DURATION", ""))  # Matroska and WebM
        if duration is not None and duration - end * float(self._stream.time_base) > _SHORT_OF_DURATION:
            found = f"{end * float(self._stream.time_base):.2f} of {duration:.2f} seconds"
            raise DamagedFileError(self.path, f"{found} are in the file: copy or download it again")

    def _times_of(self, first: int, last: int) -> _Times:
        """Return the times of all frames, or of the frames from ``first`` to ``last`` and the key frames before."""
        if self._table is not None:
            return self._table
        # The frames that follow a key frame in the file may be shown before it: go back by two.
        place = bisect.bisect_right(self._keys, first, key=lambda key: key.number)
        begin = self._keys[max(0, place - 2)] if self._keys else _Key(0, 0, self._stamps[0])
        number, times, keys, offset = begin.number, [], [], None
        self._seek(begin.seek)
        for packet in self._container.demux(self._stream):
            if packet.dts is None or number > last + _MAX_REORDER:
                break
            place = bisect.bisect_left(self._stamps, packet.dts)
            number = self._numbers[place]
            offset = number if offset is None else offset
            if packet.is_keyframe:
                keys.append(_Key(number, packet.pts, packet.dts))
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
        return _Times(offset or 0, sorted(times), keys)

    # --------------------------------------------------------------------------------------------------------- decoding

    def _by_seeking(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Yield the number and content of each frame, decoded from the last key frame before it."""
        first, times, keys = self._times_of(wanted[0], wanted[-1])
        if wanted[-1] - first >= len(times):
            raise DamagedFileError(self.path, "its index does not match its frames")
        number_of = {times[number - first]: number for number in wanted}
        for key, group in _by_key(list(number_of), keys):
            for time, frame in self._decoded(key, set(group)):
                if time in group:
                    yield number_of.pop(time), frame
                if time >= group[-1]:
                    break
        if number_of:
            yield from self._in_order(list(number_of.values()))

    def _in_order(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Yield the number and content of each frame, decoded from the start.

        A frame that is not decoded equals the one before it.
        """
        first, times = 0, None
        if not self._by_order:
            first, times, _ = self._times_of(0, wanted[-1])
        remaining, last = deque(wanted), None
        for number, (time, frame) in enumerate(self._decoded()):
            while (
                last is not None
                and remaining
                and (remaining[0] < number if times is None else times[remaining[0] - first] < time)
            ):
                yield remaining.popleft(), last
            if not remaining:
                return
            last = frame
        if last is None:
            raise DamagedFileError(self.path, "no frame can be decoded")
        for number in remaining:
            yield number, last

    def _decoded(self, key: _Key | None = None, wanted: set[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the time and content of each frame from a key frame, or the start, on.

        Frames that no other frame refers to are not decoded, unless their time is in ``wanted``.
        """
        is_reached = False
        self._seek(None if key is None else key.seek)
        for packet in self._container.demux(self._stream):
            is_end = packet.dts is None and packet.size == 0
            is_reached |= packet.is_keyframe and (key is None or packet.pts == key.time)
            if not is_end and (not is_reached or packet.size == 0):
                continue
            self._codec.skip_frame = "NONREF" if wanted is not None and packet.pts not in wanted else "DEFAULT"
            for frame in packet.decode():
                if key is None or (frame.pts is not None and frame.pts >= key.time):
                    yield frame.pts, frame

    def _seek(self, stamp: int | None) -> None:
        """Go to the last key frame before a timestamp, or to the start."""
        if stamp is not None:
            try:
                self._container.seek(stamp, stream=self._stream)
                return
            except OSError:  # not all formats can seek
                pass
        self._open()

    def _picture(self, frame: Any) -> np.ndarray[Any, Any]:
        """Return a frame as upright RGB of shape (H, W, 3), with the size of the first one."""
        self._require_intact(frame)
        self._size = self._size or (frame.width, frame.height)
        # A new reformatter for each frame, as in frame.to_ndarray(), takes ten times as long.
        rgb = self._reformatter.reformat(frame, *self._size, format="rgb24", threads=1)
        picture: np.ndarray[Any, Any] = rgb.to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.rot90(picture, turns)

    def _require_intact(self, frame: Any) -> None:
        if frame.is_corrupt:
            raise DamagedFileError(self.path, f"the frame at {frame.time:.2f} seconds cannot be decoded completely")


def _by_key(times: list[int], keys: list[_Key]) -> Iterator[tuple[_Key, list[int]]]:
    """Group sorted times by the last key frame before each."""
    key_times = [key.time for key in keys]
    for place, group in groupby(times, lambda time: max(0, bisect.bisect_right(key_times, time) - 1)):
        yield keys[place], list(group)


def _seconds(duration: str) -> float | None:
    """Return the seconds of ``00:01:02.500000000``, or None for another text."""
    parts = duration.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds
