"""Opening of image files, with one kind of error for all that cannot be decoded."""

import os
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import numpy as np

from trainwright.engine.errors import DamagedFileError, DataError, MissingExtraError, MissingFileError
from trainwright.engine.images.depth import largest_value, undo_scaling
from trainwright.engine.images.pixels import Array

T = TypeVar("T")


def read_indices(path: str | os.PathLike[str]) -> Array:
    """Return the values of an image file as they are stored, such as the class of each pixel.

    Returns:
        Array of shape (H, W), bool for 1 bit; for a palette image, the indices; (H, W, C) for an image in color.

    Raises:
        DamagedFileError: the file cannot be decoded.
        OSError: the file does not exist, or cannot be accessed.
    """
    from PIL import Image

    def decode(file: BinaryIO) -> Array:
        with Image.open(file) as picture:
            largest = largest_value(picture)
            return undo_scaling(np.array(picture), picture, largest)

    return decode_file(path, decode)


def decode_file(path: str | os.PathLike[str], read: Callable[[BinaryIO], T]) -> T:
    """Call ``read`` with the open file, and turn any failure to decode it into one kind of error."""
    name = os.fspath(path)
    try:
        file = open(name, "rb")  # noqa: PTH123, SIM115  # a Path takes 20 µs more; closed below
    except FileNotFoundError as error:
        raise MissingFileError.of(name) from error
    with file:
        try:
            return read(file)
        except (DataError, MissingExtraError, MemoryError):
            raise
        except Exception as error:  # decoders raise almost anything for damaged files
            reason = _reason(error, file)
    raise DamagedFileError(name, reason)


def _reason(error: Exception, file: BinaryIO) -> object:
    """Return why a file could not be decoded, or raise the error if it is not from the decoder."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return _why_unidentified(file)
    if isinstance(error, OSError) and error.errno is not None:  # from the operating system
        error.filename = error.filename or file.name
        raise error
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} (for files that you trust, set PIL.Image.MAX_IMAGE_PIXELS = None)"
    return str(error) or type(error).__name__


def _why_unidentified(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(4)
    if not start:
        return "the file is empty"
    if start in (b"II*\0", b"MM\0*"):
        return "Pillow cannot read this kind of TIFF file; imdecode_backend='cv2' reads more kinds"
    return "Pillow does not recognize it as an image"
