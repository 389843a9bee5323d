"""The EXIF orientation of images."""

from typing import TYPE_CHECKING

import numpy as np

from trainwright.engine.images.pixels import Array

if TYPE_CHECKING:
    from PIL import Image as PILImage


def read_orientation(picture: "PILImage.Image") -> int:
    """Return the EXIF orientation: 1 to 8, where 1 is upright."""
    from PIL import ExifTags

    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the metadata is damaged; the pixels may be intact
        return 1
    return orientation if orientation in range(1, 9) else 1


def make_upright(values: Array, orientation: int) -> Array:
    """Turn an image (H, W[, C]) to be upright; ``orientation`` is the value of the EXIF tag."""
    if orientation == 1:
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
