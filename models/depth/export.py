"""Export of depth estimation models."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample


@MODELS.register_module()
class DepthMapDecoder:
    """Write the output ``depth`` of an exported model to data samples, in the size of the original images."""

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> list[DataSample]:
        """Return the data samples with ``pred_depth_map``; see :class:`ExportForm`."""
        depths = outputs["depth"]
        samples = list(data_samples) if data_samples else [DataSample() for _ in depths]
        for sample, depth in zip(samples, depths):
            size = tuple(sample.get("ori_shape") or depth.shape[-2:])
            if size != tuple(depth.shape[-2:]):
                depth = F.interpolate(depth[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
            sample.pred_depth_map = PixelData(data=depth[None])
        return samples
