"""Data preprocessing for torchvision's detectors."""

from typing import Any

import torch
from torch import Tensor

from trainwright.engine.registry import MODELS
from trainwright.models.preprocessor import BaseDataPreprocessor


@MODELS.register_module()
class DetDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, and convert its images to the input format of torchvision's detectors.

    The detectors normalize, resize and pad the images themselves, according to their ``image_mean``, ``image_std``,
    ``min_size`` and ``max_size``, so the images remain a list and keep their sizes. Images of type uint8 are converted
    to floats in [0, 1] on the device; float images must already be in this range.

    Args:
        non_blocking: see :class:`BaseDataPreprocessor`.
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with float images.

        Args:
            data: dict with ``inputs``, or a tuple or list whose first item is the inputs: a list of tensors of shape
                (C, H, W), of any sizes, or one tensor of shape (N, C, H, W).
            training: unused.

        Returns:
            The dict with ``inputs``, a list of tensors, and ``data_samples`` (None if missing), or a list.

        Raises:
            TypeError: the inputs are not images.
        """
        return self._convert_batch(data, self._to_float_images)

    def _to_float_images(self, images: Any) -> list[Tensor]:
        if not isinstance(images, Tensor) and not (
            isinstance(images, list | tuple) and all(isinstance(image, Tensor) for image in images)
        ):
            raise TypeError(f"'inputs' must be a tensor or a list of tensors, not {type(images).__name__}")
        moved = self.cast_data(images)
        return [image.div(255) if image.dtype == torch.uint8 else image for image in moved]
