"""Transforms for videos, which sample frames, decode them and arrange them in clips.

A sample starts with the source of its frames: ``filename`` (a video file), ``frame_dir`` (a folder with an image per
frame) or ``array``. The transforms add ``total_frames``, ``frame_inds`` (the frame indices of all clips, concatenated),
``clip_len`` and ``num_clips``; decoding adds ``img``: ``tv_tensors.Video`` of shape (frames, C, H, W), uint8, RGB. A
transform of ``torchvision.transforms.v2`` applies the same parameters to all these frames, so that the clips of a video
are cropped, flipped and recolored consistently. :class:`FormatShape` is the last transform before ``PackInputs``.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainwright.datasets.video.readers import FrameArray, FrameFolder, read_images, stacked
from trainwright.datasets.video.video_file import VideoFile
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.sample import sample_name


@TRANSFORMS.register_module()
class PyAVInit:
    """Open the video and set ``video_reader``, ``total_frames`` and, if known, ``avg_fps`` (frames per second).

    ``filename`` is a video file or a folder with an image per frame. A sample without ``filename`` may contain its
    frames as ``array``: uint8 RGB of shape (frames, H, W, 3).
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the opened video.

        Raises:
            FileNotFoundError: the video is missing.
            DamagedFileError: the video cannot be read, or has fewer frames than it announces.
        """
        reader: VideoFile | FrameFolder | FrameArray
        if "filename" not in results and "array" in results:
            reader = FrameArray(results.pop("array"))
        else:
            path = results["filename"]
            reader = FrameFolder(path) if Path(path).is_dir() else VideoFile(path)
        results.update(video_reader=reader, total_frames=len(reader))
        if reader.fps is not None:
            results["avg_fps"] = reader.fps
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class PyAVDecode:
    """Decode the frames ``frame_inds`` of the opened video, set ``img`` and ``ori_shape``, and close the video.

    Only the frames from the last key frame before a wanted one are decoded; see :class:`VideoFile`.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames.

        Raises:
            DamagedFileError: a frame cannot be decoded.
        """
        reader = results.pop("video_reader")
        try:
            return _set_frames(results, reader.frames(_frame_indices(results)))
        finally:
            reader.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class RawFrameDecode:
    """Read the frames ``frame_inds`` from the image files in ``frame_dir`` and set ``img`` and ``ori_shape``.

    File names are formatted with ``filename_tmpl`` of the sample, such as ``img_{:05}.jpg``, and numbered from
    ``start_index`` (1 by default).
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames.

        Raises:
            FileNotFoundError: an image is missing; a note contains its path.
            DamagedFileError: an image cannot be decoded.
        """
        folder, template = Path(results["frame_dir"]), results["filename_tmpl"]
        start = results.get("start_index", 1)
        paths = [folder / template.format(index + start) for index in _frame_indices(results)]
        return _set_frames(results, read_images(paths))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class ArrayDecode:
    """Select the frames ``frame_inds`` of ``array`` (frames, H, W, C) and set ``img`` and ``ori_shape``."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames."""
        return _set_frames(results, stacked(results.pop("array")[_frame_indices(results)]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class SampleFrames:
    """Sample clips of equally spaced frames and set ``frame_inds``, ``clip_len`` and ``num_clips``.

    The possible start frames are divided into ``num_clips`` equal segments. In training, a clip starts at a random
    frame of each segment; in tests, at the middle frame.

    Args:
        clip_len: number of frames per clip.
        frame_interval: distance between consecutive frames of a clip, in frames of the video.
        num_clips: number of clips.
        target_fps: frame rate of the clips in frames per second, which replaces ``frame_interval``.
        out_of_bound_opt: replacement of frames beyond the end: ``loop`` continues at the start, ``repeat_last`` repeats
            the last frame.
        test_mode: sample deterministically.

    Raises:
        ValueError: a number is not positive, or ``out_of_bound_opt`` is unknown.
    """

    def __init__(
        self,
        clip_len: int,
        frame_interval: int = 1,
        num_clips: int = 1,
        target_fps: float | None = None,
        out_of_bound_opt: Literal["loop", "repeat_last"] = "loop",
        test_mode: bool = False,
    ) -> None:
        _check_positive(clip_len=clip_len, frame_interval=frame_interval, num_clips=num_clips)
        if out_of_bound_opt not in ("loop", "repeat_last"):
            raise ValueError(f"out_of_bound_opt must be 'loop' or 'repeat_last', not {out_of_bound_opt!r}")
        if target_fps is not None and target_fps <= 0:
            raise ValueError(f"target_fps must be positive, not {target_fps}")
        self.clip_len = clip_len
        self.frame_interval = frame_interval
        self.num_clips = num_clips
        self.target_fps = target_fps
        self.out_of_bound_opt = out_of_bound_opt
        self.test_mode = test_mode

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the 0-based indices of the sampled frames.

        Raises:
            ValueError: the video has no frames, or ``target_fps`` is set and the frame rate of the video is unknown.
        """
        total = _require_total_frames(results)
        interval = self._interval(results)
        span = max(1, round(self.clip_len * interval))
        starts = self._clip_starts(total, span)
        inds = (starts[:, None] + np.arange(self.clip_len) * interval).astype(np.int64)
        inds = inds % total if self.out_of_bound_opt == "loop" else np.minimum(inds, total - 1)
        results.update(frame_inds=inds.flatten(), clip_len=self.clip_len, num_clips=len(inds))
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(clip_len={self.clip_len}, frame_interval={self.frame_interval}, "
            f"num_clips={self.num_clips}, target_fps={self.target_fps}, test_mode={self.test_mode})"
        )

    def _interval(self, results: dict[str, Any]) -> float:
        if self.target_fps is None:
            return self.frame_interval
        if "avg_fps" not in results:
            raise ValueError(
                f"the frame rate of {sample_name(results)} is unknown: use frame_interval instead of target_fps"
            )
        return float(results["avg_fps"]) / self.target_fps

    def _clip_starts(self, total: int, span: int) -> np.ndarray[Any, Any]:
        """Return the start frame of each clip, for a clip length of ``span`` frames of the video."""
        last = max(0, total - span)
        segment = (last + 1) / self.num_clips
        segment_starts = np.arange(self.num_clips) * segment
        fraction = 0.5 if self.test_mode else torch.rand(self.num_clips).numpy()
        starts: np.ndarray[Any, Any] = np.minimum(segment_starts + segment * fraction, last).astype(np.int64)
        return starts


@TRANSFORMS.register_module()
class DenseSampleFrames(SampleFrames):
    """Sample clips densely, within a short window of the video.

    As in the code of TSM (Lin et al. 2019), https://arxiv.org/abs/1811.08383: a window of ``sample_range`` frames is
    divided into ``num_clips`` segments, and a clip starts at the first frame of each. In training there is one window
    at a random position, in tests ``num_sample_positions`` evenly spaced windows.

    Args:
        clip_len: number of frames per clip.
        frame_interval: distance between consecutive frames of a clip, in frames of the video.
        num_clips: number of clips per window.
        sample_range: number of frames per window.
        num_sample_positions: number of windows in tests.
        test_mode: sample deterministically.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(
        self,
        clip_len: int,
        frame_interval: int = 1,
        num_clips: int = 1,
        sample_range: int = 64,
        num_sample_positions: int = 10,
        test_mode: bool = False,
    ) -> None:
        super().__init__(clip_len, frame_interval, num_clips, test_mode=test_mode)
        _check_positive(sample_range=sample_range, num_sample_positions=num_sample_positions)
        self.sample_range = sample_range
        self.num_sample_positions = num_sample_positions

    def _clip_starts(self, total: int, span: int) -> np.ndarray[Any, Any]:
        last = max(0, total - self.sample_range)
        if self.test_mode:
            starts = np.linspace(0, last, self.num_sample_positions, dtype=np.int64)
        else:
            starts = torch.randint(0, last + 1, (1,)).numpy()
        steps = np.arange(self.num_clips) * (self.sample_range // self.num_clips)
        return (starts[:, None] + steps).flatten() % total


@TRANSFORMS.register_module()
class UniformSample:
    """Sample one frame from each of ``clip_len`` equal segments of the whole video.

    It is random in training. In tests it is the middle frame, or, for several clips, evenly spaced frames of the
    segment.

    Args:
        clip_len: number of frames per clip.
        num_clips: number of clips.
        test_mode: sample deterministically.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, clip_len: int, num_clips: int = 1, test_mode: bool = False) -> None:
        _check_positive(clip_len=clip_len, num_clips=num_clips)
        self.clip_len = clip_len
        self.num_clips = num_clips
        self.test_mode = test_mode

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the 0-based indices of the sampled frames.

        Raises:
            ValueError: the video has no frames.
        """
        segment = _require_total_frames(results) / self.clip_len
        if self.test_mode:
            fraction = np.repeat((np.arange(self.num_clips) + 0.5)[:, None] / self.num_clips, self.clip_len, 1)
        else:
            fraction = torch.rand(self.num_clips, self.clip_len).numpy()
        inds = ((np.arange(self.clip_len) + fraction) * segment).astype(np.int64).clip(max=results["total_frames"] - 1)
        results.update(frame_inds=inds.flatten(), clip_len=self.clip_len, num_clips=self.num_clips)
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(clip_len={self.clip_len}, num_clips={self.num_clips}, test_mode={self.test_mode})"
        )


@TRANSFORMS.register_module()
class ThreeCrop:
    """Take three crops of each frame, at both ends and the middle of the side that exceeds the crop more.

    Args:
        crop_size: (height, width) in pixels, or one number for both.
    """

    def __init__(self, crop_size: int | tuple[int, int]) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with three times the number of clips, ordered by crop.

        Raises:
            ValueError: the frames are smaller than the crops.
        """
        from torchvision import tv_tensors

        frames = results["img"]
        height, width = frames.shape[-2:]
        down, right = height - self.crop_size[0], width - self.crop_size[1]
        if down < 0 or right < 0:
            raise ValueError(
                f"{sample_name(results)}: the frame size {(height, width)} is smaller than crop_size={self.crop_size}"
            )
        if right >= down:
            places = [(down // 2, left) for left in (0, right // 2, right)]
        else:
            places = [(top, right // 2) for top in (0, down // 2, down)]
        crops = [frames[..., y : y + self.crop_size[0], x : x + self.crop_size[1]] for y, x in places]
        results["img"] = tv_tensors.Video(torch.cat(crops))
        results["num_clips"] = 3 * results["num_clips"]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(crop_size={self.crop_size})"


@TRANSFORMS.register_module()
class FormatShape:
    """Reshape frames to the input format of a model.

    Args:
        input_format: ``NCTHW``, for 3D networks: (clips, C, frames per clip, H, W).

    Raises:
        ValueError: another ``input_format``.
    """

    def __init__(self, input_format: str = "NCTHW") -> None:
        if input_format != "NCTHW":
            raise ValueError(f"input_format must be 'NCTHW', not {input_format!r}")
        self.input_format = input_format

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its clips as a plain tensor in ``img``."""
        frames = results["img"].as_subclass(Tensor)
        clips = frames.unflatten(0, (-1, results["clip_len"]))
        results["img"] = clips.transpose(1, 2).contiguous()
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input_format={self.input_format!r})"


def _frame_indices(results: dict[str, Any]) -> list[int]:
    if "frame_inds" not in results:
        raise KeyError("the sample has no frame_inds: SampleFrames or another sampler must come before decoding")
    indices: list[int] = np.asarray(results["frame_inds"]).tolist()
    return indices


def _set_frames(results: dict[str, Any], frames: Tensor) -> dict[str, Any]:
    from torchvision import tv_tensors

    results["img"] = tv_tensors.Video(frames)
    results["ori_shape"] = tuple(frames.shape[-2:])
    return results


def _require_total_frames(results: dict[str, Any]) -> int:
    total = results.get("total_frames")
    if not total:
        raise ValueError(f"{sample_name(results)} has no frames, or their number is unknown: PyAVInit must come first")
    return int(total)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}")
