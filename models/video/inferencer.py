"""Prediction of the classes of videos."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.registry import INFERENCERS, TRANSFORMS
from trainwright.engine.structures.elements import BaseDataElement

_FRAMES_SHOWN = 8
_VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v")
_SOURCES = ("PyAVDecode", "RawFrameDecode", "ArrayDecode")


@INFERENCERS.register_module()
class ActionRecogInferencer(Inferencer):
    """Predicts the classes of videos: files, folders of frames, arrays.

    A video goes the way of those that the model was tested on, whatever it comes from. Pictures of predictions are
    strips of its frames.

    Example:
        >>> inferencer = ActionRecogInferencer("work_dirs/r3d_18/best_accuracy_top1_epoch_45.pth")
        >>> inferencer("jump.mp4")["predictions"][0]["pred_class"]
        'high jump'

    Args:
        *args, **kwargs: as for :class:`Inferencer`. What is predicted for may be a video file, a folder of frames (one
            video), a folder of video files (each one), an array (frames, H, W, 3) or tensor (frames, 3, H, W) with
            values from 0 to 255, or a list of these.
    """

    def picture_of(self, source: Any) -> np.ndarray[Any, Any]:
        """Return frames of a video side by side, (H, W, 3)."""
        reader = _opened(source)["video_reader"]
        count = min(_FRAMES_SHOWN, len(reader))
        frames = reader.frames(np.linspace(0, len(reader) - 1, count).round().astype(int).tolist())
        reader.close()
        return np.concatenate([frame.permute(1, 2, 0).numpy() for frame in frames], axis=1)

    def pred2dict(self, data_sample: Any) -> Any:
        """Return a prediction as numbers, strings, lists and dictionaries."""
        result = super().pred2dict(data_sample)
        if isinstance(data_sample, BaseDataElement) and "filename" in data_sample:
            result["filename"] = data_sample.filename
        return result

    def _inputs_to_list(self, inputs: Any) -> list[Any]:
        if isinstance(inputs, str | os.PathLike) and Path(inputs).is_dir():
            videos = sorted(str(path) for path in Path(inputs).iterdir() if path.suffix.lower() in _VIDEO_SUFFIXES)
            return videos or [inputs]
        return list(inputs) if isinstance(inputs, list | tuple) else [inputs]

    def _init_pipeline(self, cfg: Any) -> Callable[[Any], Any]:
        images: Any = super()._init_pipeline(cfg)
        steps = [step for step in images.steps if type(step).__name__ != "PyAVInit"]
        decode = TRANSFORMS.build({"type": "PyAVDecode"})
        return _VideoPipeline([decode if type(step).__name__ in _SOURCES else step for step in steps])


class _VideoPipeline:
    """Makes of one video the ``dict(inputs=..., data_samples=...)`` that a model takes.

    Args:
        steps: the transforms after the video is opened.
    """

    takes_images = False

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.steps = list(steps)

    def __call__(self, source: Any) -> Any:
        sample = _opened(source)
        for step in self.steps:
            sample = step(sample)
        return sample


def _opened(source: Any) -> Any:
    """Return the sample of a video, with its reader."""
    if isinstance(source, str | os.PathLike):
        sample: dict[str, Any] = {"filename": os.fspath(source)}
    else:
        frames = source.permute(0, 2, 3, 1).cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                "a video is a path, an array (frames, H, W, 3) or a tensor (frames, 3, H, W), "
                f"not of shape {tuple(source.shape)}"
            )
        sample = {"array": frames.astype(np.uint8)}
    return TRANSFORMS.build({"type": "PyAVInit"})(sample)
