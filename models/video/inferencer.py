"""Inference for video classification."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trainwright.engine.inference.images import VIDEO_SUFFIXES
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.registry import INFERENCERS, TRANSFORMS
from trainwright.engine.structures.elements import BaseDataElement

_FRAMES_SHOWN = 8
_DECODERS = ("PyAVDecode", "RawFrameDecode", "ArrayDecode")


@INFERENCERS.register_module()
class ActionRecogInferencer(Inferencer):
    """Predict the classes of videos: files, folders of frames, or arrays.

    All inputs are processed by the test pipeline. Predictions are visualized as a strip of frames.

    Example:
        >>> inferencer = ActionRecogInferencer("work_dirs/r3d_18/best_accuracy_top1_epoch_45.pth")
        >>> inferencer("jump.mp4")["predictions"][0]["pred_class"]
        'high jump'

    Args:
        *args, **kwargs: see :class:`Inferencer`. Inputs are a video file, a folder of frames (one video), a folder of
            video files, an array (frames, H, W, 3) or a tensor (frames, 3, H, W) with values from 0 to 255, or a list
            of these.
    """

    def picture_of(self, source: Any, data_sample: Any = None) -> np.ndarray[Any, Any]:
        """Return up to 8 frames of a video side by side, of shape (H, W, 3)."""
        reader = _open_video(source)["video_reader"]
        count = min(_FRAMES_SHOWN, len(reader))
        frames = reader.frames(np.linspace(0, len(reader) - 1, count).round().astype(int).tolist())
        reader.close()
        return np.concatenate([frame.permute(1, 2, 0).numpy() for frame in frames], axis=1)

    def pred2dict(self, data_sample: Any) -> Any:
        """Convert a prediction to numbers, strings, lists and dictionaries."""
        result = super().pred2dict(data_sample)
        if isinstance(data_sample, BaseDataElement) and "filename" in data_sample:
            result["filename"] = data_sample.filename
        return result

    def _inputs_to_list(self, inputs: Any) -> list[Any]:
        if isinstance(inputs, str | os.PathLike) and Path(inputs).is_dir():
            videos = sorted(str(path) for path in Path(inputs).iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
            return videos or [inputs]
        return list(inputs) if isinstance(inputs, list | tuple) else [inputs]

    def _init_pipeline(self, cfg: Any) -> Callable[[Any], Any]:
        image_pipeline: Any = super()._init_pipeline(cfg)
        steps = [step for step in image_pipeline.steps if type(step).__name__ != "PyAVInit"]
        decode = TRANSFORMS.build({"type": "PyAVDecode"})
        return _VideoPipeline([decode if type(step).__name__ in _DECODERS else step for step in steps])


class _VideoPipeline:
    """A pipeline that converts a video to ``dict(inputs=..., data_samples=...)``.

    Args:
        steps: the transforms after opening the video.
    """

    takes_images = False

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.steps = list(steps)

    def __call__(self, source: Any) -> Any:
        sample = _open_video(source)
        for step in self.steps:
            sample = step(sample)
        return sample


def _open_video(source: Any) -> Any:
    """Return a sample dict with the reader of a video."""
    if isinstance(source, str | os.PathLike):
        sample: dict[str, Any] = {"filename": os.fspath(source)}
    else:
        frames = source.permute(0, 2, 3, 1).cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                "a video must be a path, an array (frames, H, W, 3) or a tensor (frames, 3, H, W), "
                f"not of shape {tuple(source.shape)}"
            )
        sample = {"array": frames.astype(np.uint8)}
    return TRANSFORMS.build({"type": "PyAVInit"})(sample)
