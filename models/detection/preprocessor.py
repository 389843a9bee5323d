"""Batches for the detectors of torchvision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.registry import MODELS
from trainwright.models.preprocessor import BaseDataPreprocessor


@MODELS.register_module()
class DetDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device, and makes of its images what torchvision's detectors take.

    These normalize, resize and pad by themselves, as their ``image_mean``, ``image_std``, ``min_size`` and
    ``max_size`` say; so the images stay a list, and keep their sizes. Values of uint8 images, which travel as such,
    become floats from 0 to 1; images that are floats already must have this range.

    Args:
        non_blocking: overlap the copy with computation; requires pinned memory.
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as floats.

        Args:
            data: dict with ``inputs``, or a tuple or list that begins with them: a list of tensors of shape
                (C, H, W), of any sizes, or one tensor of shape (N, C, H, W).
            training: unused.

        Returns:
            The dict with ``inputs``, a list of tensors, and ``data_samples`` (None if there are none), or a list.

        Raises:
            TypeError: there are no images where they belong.
        """
        if isinstance(data, Mapping):
            batch = {key: self.cast_data(value) for key, value in data.items() if key != "inputs"}
            return {"inputs": self._floats(data.get("inputs")), "data_samples": None} | batch
        if isinstance(data, list | tuple):
            return [self._floats(data[0]), *self.cast_data(data[1:])]
        raise TypeError(f"a batch must be a dict, list or tuple, not {type(data).__name__}")

    def _floats(self, images: Any) -> list[Tensor]:
        if not isinstance(images, Tensor) and not (
            isinstance(images, list | tuple) and all(isinstance(image, Tensor) for image in images)
        ):
            raise TypeError(f"'inputs' must be a tensor or a list of tensors, not {type(images).__name__}")
        moved = self.cast_data(images)
        return [image.div(255) if image.dtype == torch.uint8 else image for image in moved]
