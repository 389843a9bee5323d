"""Export of top-down pose estimators."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainwright.engine.registry import MODELS
from trainwright.models.pose.instances import add_pose_predictions


@MODELS.register_module()
class PoseDecoder:
    """Write the outputs of an exported pose estimator to data samples, in coordinates of the original images."""

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        """Return the data samples with ``pred_instances``; see :class:`ExportForm`."""
        return add_pose_predictions(outputs["keypoints"], outputs["keypoint_scores"], data_samples)
