"""Loading of depth maps."""

from typing import Any

import numpy as np
import torch

from trainwright.engine.errors import DataError
from trainwright.engine.images.files import read_indices
from trainwright.engine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadDepthAnnotation:
    """Read the depth map at ``depth_map_path`` and set ``gt_depth_map``, a float32 ``tv_tensors.Mask`` (H, W).

    Depth 0 is unknown. Place this transform before any that resize the image: the map is then resized too, by its
    nearest values. A sample without ``depth_map_path``, such as an image for inference, is returned unchanged.

    Args:
        depth_rescale_factor: factor from the values in the file to the depth, such as 1e-3 for millimeters to meters.
    """

    def __init__(self, depth_rescale_factor: float = 1.0) -> None:
        self.depth_rescale_factor = depth_rescale_factor

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its depth map.

        Raises:
            DamagedFileError: the file cannot be decoded.
            OSError: the file is missing or cannot be accessed.
            DataError: the depth map differs in size from the image file, or has several values per pixel.
        """
        from torchvision import tv_tensors

        path = results.get("depth_map_path")
        if path is None:
            return results
        values = read_indices(path)
        if values.ndim != 2:
            raise DataError(f"{path} has {values.shape[-1]} values per pixel: a depth map must be a grayscale image")
        expected = results.get("ori_shape")
        if expected is not None and values.shape != tuple(expected):
            raise DataError(
                f"the depth map {path} has size {values.shape}, but the image {results.get('img_path')} has size "
                f"{tuple(expected)} (height, width): correct or remove the sample"
            )
        depth = torch.from_numpy((values * float(self.depth_rescale_factor)).astype(np.float32))
        results["gt_depth_map"] = tv_tensors.Mask(depth)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(depth_rescale_factor={self.depth_rescale_factor})"
