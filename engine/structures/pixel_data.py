"""Data elements with values for each pixel of an image."""

import warnings
from typing import Any, Self

import numpy as np
from torch import Tensor

from trainwright.engine.structures.elements import FIELD_SETS, BaseDataElement


class PixelData(BaseDataElement):
    """What belongs to the pixels of an image: all data are of shape (channels, height, width), of one size.

    An element is cropped by two ints or slices: ``pixels[10:20, 5:15]``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELD_SETS:
            if not isinstance(value, Tensor | np.ndarray):
                raise TypeError(f"{name} must be a tensor or an array, not a {type(value)}")
            if value.ndim not in (2, 3):
                raise ValueError(f"{name} must have 2 or 3 dimensions, not {value.ndim}")
            size = tuple(value.shape[-2:])
            if self.shape not in (None, size):
                raise ValueError(f"{name} has height and width {size}, the other fields {self.shape}")
            if value.ndim == 2:
                value = value[None]
                warnings.warn(f"{name} of shape {size} becomes {tuple(value.shape)}", stacklevel=2)
        super().__setattr__(name, value)

    def __getitem__(self, item: tuple[int | slice, int | slice]) -> Self:
        if not isinstance(item, tuple):
            raise TypeError(f"pixels are cropped by two ints or slices, not by a {type(item)}")
        if len(item) != 2:
            raise ValueError(f"pixels are cropped by two ints or slices, not by {len(item)}")
        if self.shape is None:
            raise ValueError("there are no pixels to crop")
        crop: list[slice] = [slice(None)]
        for part, length in zip(item, self.shape):
            if not isinstance(part, int | slice):
                raise TypeError(f"pixels are cropped by ints or slices, not by a {type(part)}")
            crop.append(slice(part, None, length) if isinstance(part, int) else part)
        cropped = type(self)(metainfo=self.metainfo)
        cropped.set_data({name: value[tuple(crop)] for name, value in self.items()})
        return cropped

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width, or None without data."""
        names = self.keys()
        if not names:
            return None
        height, width = getattr(self, names[0]).shape[-2:]
        return height, width
