"""Draw validation and test samples with their predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.samples import describe, samples_of
from trainwright.engine.images import ImageReader
from trainwright.engine.inference.images import IMAGE_SUFFIXES
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module(name=["VisualizationHook", "NaiveVisualizationHook"])
class VisualizationHook(Hook):
    """Draw validation and test samples with their predictions, and send the images to the visualization backends.

    The first sample of every ``interval``-th batch is drawn.

    Cost per step: none in training.

    Args:
        interval: number of batches between drawn samples.
        draw_gt: draw the annotations.
        draw_pred: draw the predictions.
        max_images: maximum number of images per validation or test.

    Raises:
        ConfigError: ``interval`` or ``max_images`` is not positive.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1, draw_gt: bool = True, draw_pred: bool = True, max_images: int = 16) -> None:
        for name, value in (("interval", interval), ("max_images", max_images)):
            if value <= 0:
                raise ConfigError(f"VisualizationHook.{name}", f"must be positive, not {value}")
        self.interval = interval
        self.draw_gt = draw_gt
        self.draw_pred = draw_pred
        self.max_images = max_images
        self._drawn = 0

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._drawn = 0

    def after_val_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw a sample if this batch is due."""
        self._draw(runner, batch_idx, data_batch, outputs, "val")

    def after_test_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw a sample if this batch is due."""
        self._draw(runner, batch_idx, data_batch, outputs, "test")

    def _draw(self, runner: "Runner", batch_idx: int, data_batch: DataBatch, outputs: Any, mode: str) -> None:
        if self._drawn >= self.max_images or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        inputs = data_batch["inputs"] if isinstance(data_batch, Mapping) else data_batch[0]
        sample = _first_sample(outputs)
        name = Path(str(sample.get("img_path", ""))).stem or str(batch_idx)
        runner.visualizer.add_datasample(
            f"{mode}_{name}",
            _original_image(inputs[0], sample),
            sample,
            draw_gt=self.draw_gt,
            draw_pred=self.draw_pred,
            step=runner.epoch,
        )
        self._drawn += 1


NaiveVisualizationHook = VisualizationHook
"""The name in MMEngine."""


def to_image(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Convert a tensor to an image.

    Args:
        tensor: shape (channels, height, width) with 1 or 3 channels. Values of any dtype other than uint8 are
            stretched to the range 0 to 255.

    Returns:
        A uint8 array of shape (height, width, 3).
    """
    image = tensor.detach().cpu()
    if image.dtype != torch.uint8:
        image = image.float()
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _original_image(inputs: Tensor, sample: DataSample) -> np.ndarray[Any, Any]:
    """Return the image that the predicted coordinates refer to.

    This is the image file or, if there is none, the input resized to the original size. An input that was cropped
    with a ``warp_matrix`` is warped back.
    """
    from PIL import Image

    path, size = sample.get("img_path"), sample.get("ori_shape")
    if path and Path(path).suffix.lower() in IMAGE_SUFFIXES and Path(path).is_file():
        return ImageReader(apply_exif=sample.get("apply_exif", True)).picture(path)
    image = to_image(inputs)
    if size is None or (image.shape[:2] == tuple(size) and "warp_matrix" not in sample):
        return image
    height, width = size
    if "warp_matrix" not in sample:
        return np.array(Image.fromarray(image).resize((width, height)))
    a, b, x, c, d, y = sample.warp_matrix
    # Pillow's origin is the corner of the first pixel, the matrix's its center.
    matrix = (a, b, x + 0.5 - (a + b) / 2, c, d, y + 0.5 - (c + d) / 2)
    return np.array(Image.fromarray(image).transform((width, height), Image.Transform.AFFINE, matrix))


def _first_sample(outputs: Any) -> DataSample:
    sample = samples_of(outputs)[0]
    if not isinstance(sample, BaseDataElement):
        message = f"expected data samples, but the model predicted {describe(outputs)}"
        raise ConfigError("VisualizationHook", message, "return data samples from predict, or remove the hook")
    return sample  # type: ignore[return-value]  # a DataSample or an element with the same fields
