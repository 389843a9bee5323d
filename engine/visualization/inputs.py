"""Images of the inputs of models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.images.reader import ImageReader
from trainwright.engine.inference.images import IMAGE_SUFFIXES
from trainwright.engine.structures.elements import BaseDataElement

_MAX_FRAMES = 8


def to_image(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Convert the input of a model to an image.

    Args:
        tensor: shape (channels, height, width) with 1 or 3 channels; or a clip with one more dimension, of which up to
            8 frames are shown side by side; or several views of either, of which the first one is shown. Values of any
            dtype other than uint8 are stretched to the range 0 to 255.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError: any other shape.
    """
    image = tensor.detach().cpu()
    while image.dim() > 4:
        image = image[0]
    if image.dim() == 4:
        frames = image if image.shape[1] in (1, 3) else image.transpose(0, 1)
        chosen = torch.linspace(0, len(frames) - 1, min(_MAX_FRAMES, len(frames))).round().long()
        image = torch.cat(list(frames[chosen]), dim=-1)
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"inputs of shape {tuple(tensor.shape)} are neither an image nor a clip")
    if image.dtype != torch.uint8:
        image = image.float()
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def image_of_batch(data_batch: Any, sample: BaseDataElement) -> np.ndarray[Any, Any]:
    """Return an image of the first sample in a batch, whose predictions are ``sample``; see :func:`to_image`."""
    inputs = data_batch["inputs"] if isinstance(data_batch, Mapping) else data_batch[0]
    if isinstance(inputs, Mapping):  # several inputs, of which the first image is shown
        inputs = next(part for part in inputs.values() if isinstance(part, Tensor | list) and _is_image(part))
    first = inputs[0]
    while not isinstance(first, Tensor):  # several views
        first = first[0]
    return _original_image(first, sample)


def _is_image(part: Any) -> bool:
    while not isinstance(part, Tensor):
        if not isinstance(part, list | tuple) or not part:
            return False
        part = part[0]
    return part.dim() >= 3


def _original_image(inputs: Tensor, sample: BaseDataElement) -> np.ndarray[Any, Any]:
    """Return the image that the predicted coordinates refer to.

    This is the image file or, if there is none, the input resized to the original size. An input that was cropped
    with a ``warp_matrix`` is warped back.
    """
    from PIL import Image

    path, size = sample.get("img_path"), sample.get("ori_shape")
    if path and Path(path).suffix.lower() in IMAGE_SUFFIXES and Path(path).is_file():
        return ImageReader(apply_exif=sample.get("apply_exif", True)).picture(path)
    image = to_image(inputs)
    if inputs.dim() > 3 or size is None or (image.shape[:2] == tuple(size) and "warp_matrix" not in sample):
        return image
    height, width = size
    if "warp_matrix" not in sample:
        return np.array(Image.fromarray(image).resize((width, height)))
    a, b, x, c, d, y = sample.warp_matrix
    # Pillow's origin is the corner of the first pixel, the matrix's its center.
    matrix = (a, b, x + 0.5 - (a + b) / 2, c, d, y + 0.5 - (c + d) / 2)
    return np.array(Image.fromarray(image).transform((width, height), Image.Transform.AFFINE, matrix))
