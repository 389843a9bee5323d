"""Values of images: their types and ranges, and conversion to 8 bits."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from trainwright.engine.errors import DataError

Array = np.ndarray[Any, Any]

_EXPECTED_SHAPE = "(H, W) or (H, W, C) as an array, (H, W) or (C, H, W) as a tensor"


class Pixels(NamedTuple):
    """Decoded values: (H, W) or (H, W, C), and the largest value of the file's type; None if that is not known."""

    values: Array
    maximum: int | None = 255

    def with_maximum(self) -> "Pixels":
        """Return the values with the maximum that follows from their dtype."""
        maximum = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(self.values.dtype)
        return self._replace(maximum=maximum)


def to_array(source: Any) -> Array:
    """Return an array or tensor as an array of shape (H, W) or (H, W, C)."""
    if isinstance(source, Tensor):
        tensor = source.detach().as_subclass(Tensor).cpu()
        values: Array = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    elif isinstance(source, np.ndarray):
        values = source
    else:
        raise TypeError(f"an image must be a path, PIL image, array or tensor, got {type(source).__name__}")
    if values.ndim not in (2, 3) or not values.size:
        shape = tuple(source.shape)
        raise ValueError(f"an image must have shape {_EXPECTED_SHAPE}; got {type(source).__name__} of shape {shape}")
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    return np.require(values, values.dtype.newbyteorder("="), ["C_CONTIGUOUS", "WRITEABLE"])


def to_8_bit_range(values: Array) -> Array:
    """Return numbers from 0 to 255, as uint8 if they are integers, else as float32.

    Raises:
        DataError: the values are not from 0 to 255, or are from 0 to 1.
    """
    low, high = float(values.min()), float(values.max())
    is_integer = values.dtype.kind in "iu"
    if not (low >= 0 and high <= 255) or (not is_integer and 0 < high <= 1):
        raise DataError(
            f"the image has values of type {values.dtype} from {low:g} to {high:g}, but those of images are from 0 to "
            "255: convert them, or set value_range=(low, high) or color_type='unchanged' in LoadImageFromFile"
        )
    return values.astype(np.uint8 if is_integer else np.float32)


def to_torch_dtype(values: Array) -> Array:
    """Return values of a dtype that torch's operations support."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize < 4 and values.dtype != np.uint8:
        return values.astype(np.int32)
    return values.astype(np.int64) if values.dtype.kind == "u" and values.dtype.itemsize >= 4 else values


def drop_alpha(values: Array, name: str) -> Array:
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels in (2, 4):
        return np.ascontiguousarray(values[:, :, : channels - 1])
    if channels not in (1, 3):
        raise DataError(f"{name} has {channels} channels: set color_type='unchanged' in LoadImageFromFile to keep them")
    return values


def scale_to_8_bits(values: Array, value_range: tuple[float, float], name: str) -> Array:
    """Map a range of values to 0 to 255, as float32, and clip others to it."""
    low, high = value_range
    numbers: Any = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    scaled: Array = (numbers - low) * (255 / (high - low))
    if np.isnan(scaled).any():
        raise DataError(
            f"{name} contains NaN: replace these values, or use color_type='unchanged' in LoadImageFromFile"
        )
    return scaled.clip(0, 255).astype(np.float32)


def stretch(values: Array) -> Array:
    """Map the finite values to 0 to 255, as uint8."""
    values = np.nan_to_num(values.astype(np.float64), posinf=np.nan, neginf=np.nan, nan=np.nan)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return (np.nan_to_num((values - low) / max(high - low, 1e-12)) * 255).round().astype(np.uint8)


def to_gray(values: Array) -> Array:
    """Convert RGB (H, W, 3) to luma (ITU-R 601-2), with Pillow's rounding for uint8."""
    from PIL import Image

    if values.dtype == np.uint8:
        return np.array(Image.fromarray(values).convert("L"))
    luma: Array = values @ np.array([0.299, 0.587, 0.114], values.dtype)
    return luma
