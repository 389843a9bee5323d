"""Data preprocessing for pose estimation."""

from collections.abc import Mapping
from typing import Any

from trainwright.engine.registry import MODELS
from trainwright.models.preprocessor import ImgDataPreprocessor


@MODELS.register_module()
class PoseDataPreprocessor(ImgDataPreprocessor):
    """Batch images like :class:`ImgDataPreprocessor`, without moving the data samples to the device.

    The head moves the keypoints of all samples to the device together, which is faster than one by one.
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor; see :class:`ImgDataPreprocessor`."""
        if not isinstance(data, Mapping):
            return super().forward(data, training)
        others = {key: value for key, value in data.items() if key != "data_samples"}
        return super().forward(others, training) | {"data_samples": data.get("data_samples")}
