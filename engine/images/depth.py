"""The largest value that a channel can have in an image file, which Pillow does not report."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from trainwright.engine.images.pixels import Array

if TYPE_CHECKING:
    from PIL import Image as PILImage

_BITS_PER_SAMPLE = 258  # tag of TIFF


def largest_value(picture: "PILImage.Image") -> int:
    """Return the largest value that a channel can have in the file of a picture, such as 255, 4095 or 65535.

    If the picture has been loaded from an open file other than TIFF, its depth is not known, and 255 is returned.
    """
    from PIL import Image

    tiles: Any = getattr(picture, "tile", ())
    if not tiles and picture.format != "TIFF" and (name := getattr(picture, "filename", "")):
        with suppress(OSError), Image.open(name) as original:
            return largest_value(original) if getattr(original, "tile", ()) else 255
    codec, arguments = (tiles[0][0], tiles[0][3]) if tiles else ("", "")
    bits = 8
    if picture.format == "TIFF":
        bits = int(np.max(getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)))
    elif codec in ("ppm", "ppm_plain"):
        return int(arguments[1])
    elif ";16" in str(arguments) or codec == "SGI16":
        bits = 16
    elif picture.format in ("JPEG2000", "AVIF"):
        bits = _bits_of_codestream(getattr(picture, "fp", None))
    return int(2 ** min(max(bits, 8), 32) - 1)


def is_reduced(picture: "PILImage.Image") -> bool:
    """Whether a file has more than 8 bits per channel, of which Pillow reads only 8."""
    return picture.mode not in ("1", "P") and not picture.mode.startswith(("I", "F")) and largest_value(picture) > 255


def undo_scaling(values: Array, picture: "PILImage.Image", largest: int) -> Array:
    """Return the values as they are in the file: Pillow scales those of PPM files to 8 or 16 bits."""
    if picture.format != "PPM" or largest in (255, 65535):
        return values
    scale = 255 if values.dtype == np.uint8 else 65535
    return np.rint(values * (largest / scale)).astype(values.dtype)


def _bits_of_codestream(file: BinaryIO | None) -> int:
    """Return the bits per channel of a JPEG 2000 or AVIF file."""
    if file is None:
        return 8
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    if (start := data.find(b"\xff\x4f\xff\x51")) >= 0:  # JPEG 2000: the start of the codestream and its size marker
        return (data[start + 42] & 0x7F) + 1
    if (start := data.find(b"av1C")) >= 0:
        return 12 if data[start + 6] & 0x20 else 10 if data[start + 6] & 0x40 else 8
    return 8
