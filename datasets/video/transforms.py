"""Transforms of videos: choose frames, decode them, and shape clips.

A sample starts with where its frames come from: ``filename`` of a video file, ``frame_dir`` of a folder with an image
for each frame, or ``array``. On its way it gets ``total_frames``, ``frame_inds`` (the frames of all clips, one clip
after the other), ``clip_len``, ``num_clips``, and from decoding on ``img``: ``tv_tensors.Video``, (frames, C, H, W),
uint8, RGB. Every transform of ``torchvision.transforms.v2`` treats all these frames alike, so the clips of a video are
cropped, flipped and colored consistently. :class:`FormatShape` comes last before ``PackInputs``.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainwright.datasets.video.readers import FrameArray, FrameFolder, VideoFile, read_images, stacked
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.sample import sample_name


@TRANSFORMS.register_module()
class PyAVInit:
    """Open the video: sets ``video_reader``, ``total_frames`` and, where it is known, ``avg_fps``.

    ``filename`` may be a video file, or a folder with an image for each frame; ``array`` has frames in memory.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its open video.

        Raises:
            OSError: it cannot be read; the message names it.
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
    """Decode the frames ``frame_inds`` of the open video: sets ``img`` and ``ori_shape``, and closes it."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames."""
        reader = results.pop("video_reader")
        try:
            return _with_frames(results, reader.frames(_indices(results)))
        finally:
            reader.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class RawFrameDecode:
    """Read the frames ``frame_inds`` from image files in ``frame_dir``: sets ``img`` and ``ori_shape``.

    File names follow ``filename_tmpl`` of the sample, such as ``img_{:05}.jpg``, counted from ``start_index``.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames.

        Raises:
            OSError: an image is missing or damaged, with a note that names it.
        """
        folder, template = Path(results["frame_dir"]), results["filename_tmpl"]
        start = results.get("start_index", 1)
        paths = [folder / template.format(index + start) for index in _indices(results)]
        return _with_frames(results, read_images(paths))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class ArrayDecode:
    """Take the frames ``frame_inds`` out of ``array``, (frames, H, W, C): sets ``img`` and ``ori_shape``."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its frames."""
        return _with_frames(results, stacked(results.pop("array")[_indices(results)]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class SampleFrames:
    """Choose clips of frames at equal distances: sets ``frame_inds``, ``clip_len`` and ``num_clips``.

    In training the video is divided into ``num_clips`` equal parts, in each of which a clip begins at a random frame;
    in tests each begins in the middle of its part.

    Args:
        clip_len: frames of a clip.
        frame_interval: distance of two frames of a clip.
        num_clips: number of clips.
        target_fps: distance of frames as in a video with so many frames in a second, in place of ``frame_interval``.
        out_of_bound_opt: what stands for frames after the end: ``loop`` begins again, ``repeat_last``.
        test_mode: choose the same frames each time.

    Raises:
        ValueError: a number is not positive, or an unknown option.
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
            raise ValueError(f"out_of_bound_opt is 'loop' or 'repeat_last', not {out_of_bound_opt!r}")
        if target_fps is not None and target_fps <= 0:
            raise ValueError(f"target_fps must be positive, not {target_fps}")
        self.clip_len = clip_len
        self.frame_interval = frame_interval
        self.num_clips = num_clips
        self.target_fps = target_fps
        self.out_of_bound_opt = out_of_bound_opt
        self.test_mode = test_mode

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the numbers of its frames, from 0.

        Raises:
            ValueError: the video has no frames, or its frames in a second are needed but not known.
        """
        total = _total_frames(results)
        interval = self._interval(results)
        span = max(1, round(self.clip_len * interval))
        offsets = self._offsets(total, span)
        inds = (offsets[:, None] + np.arange(self.clip_len) * interval).astype(np.int64)
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
                f"{sample_name(results)} does not say its frames in a second: use frame_interval instead of target_fps"
            )
        return float(results["avg_fps"]) / self.target_fps

    def _offsets(self, total: int, span: int) -> np.ndarray[Any, Any]:
        """Return where each clip begins."""
        room = max(0, total - span)  # the last frame at which a whole clip can begin
        part = (room + 1) / self.num_clips
        starts = np.arange(self.num_clips) * part
        within = 0.5 if self.test_mode else torch.rand(self.num_clips).numpy()
        offsets: np.ndarray[Any, Any] = np.minimum(starts + part * within, room).astype(np.int64)
        return offsets


@TRANSFORMS.register_module()
class DenseSampleFrames(SampleFrames):
    """Choose clips within a short stretch of the video, at a random place in training.

    As in the code of TSM (Lin et al. 2019), https://arxiv.org/abs/1811.08383: the stretch of ``sample_range`` frames
    is divided into ``num_clips`` parts, at the beginning of each of which stands a clip. In tests there are
    ``num_sample_positions`` stretches, evenly distributed.

    Args:
        clip_len: frames of a clip.
        frame_interval: distance of two frames of a clip.
        num_clips: number of clips of a stretch.
        sample_range: frames of a stretch.
        num_sample_positions: number of stretches in tests.
        test_mode: choose the same frames each time.

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

    def _offsets(self, total: int, span: int) -> np.ndarray[Any, Any]:
        last = max(0, total - self.sample_range)
        if self.test_mode:
            starts = np.linspace(0, last, self.num_sample_positions, dtype=np.int64)
        else:
            starts = torch.randint(0, last + 1, (1,)).numpy()
        steps = np.arange(self.num_clips) * (self.sample_range // self.num_clips)
        return (starts[:, None] + steps).flatten() % total


@TRANSFORMS.register_module()
class UniformSample:
    """Choose frames from the whole video: one of each of ``clip_len`` equal parts.

    A random one in training; in tests the middle one, and for several clips those that divide the part evenly.

    Args:
        clip_len: frames of a clip.
        num_clips: number of clips.
        test_mode: choose the same frames each time.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, clip_len: int, num_clips: int = 1, test_mode: bool = False) -> None:
        _check_positive(clip_len=clip_len, num_clips=num_clips)
        self.clip_len = clip_len
        self.num_clips = num_clips
        self.test_mode = test_mode

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the numbers of its frames, from 0.

        Raises:
            ValueError: the video has no frames.
        """
        part = _total_frames(results) / self.clip_len
        if self.test_mode:
            within = np.repeat((np.arange(self.num_clips) + 0.5)[:, None] / self.num_clips, self.clip_len, 1)
        else:
            within = torch.rand(self.num_clips, self.clip_len).numpy()
        inds = ((np.arange(self.clip_len) + within) * part).astype(np.int64).clip(max=results["total_frames"] - 1)
        results.update(frame_inds=inds.flatten(), clip_len=self.clip_len, num_clips=self.num_clips)
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(clip_len={self.clip_len}, num_clips={self.num_clips}, test_mode={self.test_mode})"
        )


@TRANSFORMS.register_module()
class ThreeCrop:
    """Cut three squares, or equal rectangles, out of each frame: at both ends and in the middle of its longer side.

    Args:
        crop_size: height and width, or one number for both.
    """

    def __init__(self, crop_size: int | tuple[int, int]) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with three times as many clips: those of the first crop, of the second, of the third.

        Raises:
            ValueError: the frames are smaller than the crops.
        """
        from torchvision import tv_tensors

        frames = results["img"]
        height, width = frames.shape[-2:]
        down, right = height - self.crop_size[0], width - self.crop_size[1]
        if down < 0 or right < 0:
            raise ValueError(
                f"{sample_name(results)}: frames of {(height, width)} are smaller than crops of {self.crop_size}"
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
    """Give the frames the shape that a model takes.

    Args:
        input_format: ``NCTHW``: (clips, C, frames of a clip, H, W), for 3D networks.

    Raises:
        ValueError: another format.
    """

    def __init__(self, input_format: str = "NCTHW") -> None:
        if input_format != "NCTHW":
            raise ValueError(f"input_format must be 'NCTHW', not {input_format!r}")
        self.input_format = input_format

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its clips as a plain tensor."""
        frames = results["img"].as_subclass(Tensor)
        clips = frames.unflatten(0, (-1, results["clip_len"]))
        results["img"] = clips.transpose(1, 2).contiguous()
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input_format={self.input_format!r})"


def _indices(results: dict[str, Any]) -> list[int]:
    if "frame_inds" not in results:
        raise KeyError("the sample has no frame_inds: SampleFrames or another sampler must come before decoding")
    indices: list[int] = np.asarray(results["frame_inds"]).tolist()
    return indices


def _with_frames(results: dict[str, Any], frames: Tensor) -> dict[str, Any]:
    from torchvision import tv_tensors

    results["img"] = tv_tensors.Video(frames)
    results["ori_shape"] = tuple(frames.shape[-2:])
    return results


def _total_frames(results: dict[str, Any]) -> int:
    total = results.get("total_frames")
    if not total:
        raise ValueError(f"{sample_name(results)} has no frames, or its number is not known: PyAVInit must come first")
    return int(total)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}")
