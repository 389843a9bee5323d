"""Data elements with values per pixel of an image."""

import warnings
from typing import Any, Self

import numpy as np
from torch import Tensor

from trainwright.engine.structures.elements import FIELD_SETS, BaseDataElement


class PixelData(BaseDataElement):
    """Data of the pixels of an image, all of shape (channels, height, width) with the same height and width.

    Indexing with two ints or slices crops an element: ``pixels[10:20, 5:15]``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELD_SETS:
            if not isinstance(value, Tensor | np.ndarray):
                raise TypeError(f"{name} must be a tensor or an array, got a {type(value)}")
            if value.ndim not in (2, 3):
                raise ValueError(f"{name} must have 2 or 3 dimensions, got {value.ndim}")
            size = tuple(value.shape[-2:])
            if self.shape not in (None, size):
                raise ValueError(f"{name} must have height and width {self.shape} like the other fields, got {size}")
            if value.ndim == 2:
                value = value[None]
                warnings.warn(f"{name} was reshaped from {size} to {tuple(value.shape)}", stacklevel=2)
        super().__setattr__(name, value)

    def __getitem__(self, item: tuple[int | slice, int | slice]) -> Self:
        if not isinstance(item, tuple):
            raise TypeError(f"pixels must be indexed with two ints or slices, got a {type(item)}")
        if len(item) != 2:
            raise ValueError(f"pixels must be indexed with two ints or slices, got {len(item)}")
        if self.shape is None:
            raise ValueError("an element without data cannot be cropped")
        crop: list[slice] = [slice(None)]
        for part, length in zip(item, self.shape):
            if not isinstance(part, int | slice):
                raise TypeError(f"pixels must be indexed with ints or slices, got a {type(part)}")
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
