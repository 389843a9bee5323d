"""Decoders other than Pillow: of JPEG files, and of images whose depth Pillow would reduce."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.images.pixels import Array, Pixels


class _JpegHeader(NamedTuple):
    channels: int
    num_pixels: int
    has_metadata: bool


def jpeg_header(data: bytearray) -> _JpegHeader | None:
    """Return what the header of a JPEG file states; None unless it has 1 or 3 channels of 8 bits, Huffman coded."""
    position, has_metadata = 2, False
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker != 0xC4:
            precision, channels = data[position + 4], data[position + 9]
            height, width = (int.from_bytes(data[position + start : position + start + 2]) for start in (5, 7))
            if marker > 0xC2 or precision != 8 or channels not in (1, 3) or not height:
                return None
            return _JpegHeader(channels, height * width, has_metadata)
        has_metadata |= marker == 0xE1
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


@cache
def jpeg_decoder(backend: str) -> Callable[[bytearray, bool], Array | None] | None:
    """Return a function that decodes a JPEG file to RGB or gray; its result is None if it cannot.

    None is returned for Pillow, and for releases of torchvision without decoders: they are deprecated since 0.29.
    """
    if backend == "pillow":
        return None
    if backend == "cv2":
        cv2 = import_cv2()

        def decode(data: bytearray, gray: bool) -> Array | None:
            if not data.endswith(b"\xff\xd9"):  # truncated: OpenCV would return an image that is partly gray
                return None
            mode = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
            image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
            return image

        return decode
    try:
        import torchvision.io  # noqa: F401  # loads the operator

        # torchvision.io.decode_jpeg calls the same operator, and since 0.29 warns at each call.
        operator = torch.ops.image.decode_jpeg.default
    except (ImportError, AttributeError, RuntimeError):
        return None

    def decode_with_torchvision(data: bytearray, gray: bool) -> Array | None:
        try:
            image = operator(torch.frombuffer(data, dtype=torch.uint8), 1 if gray else 3, False)
        except RuntimeError:
            return None
        values: Array = image.permute(1, 2, 0).numpy()
        return values

    return decode_with_torchvision


def decode_deep_png(data: bytes) -> Pixels:
    """Decode a PNG file of 16 bits per channel, which Pillow reads as 8 bits unless it is gray."""
    import torchvision.io  # noqa: F401  # loads the operator

    image = torch.ops.image.decode_png.default(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, False)
    return Pixels(image.permute(1, 2, 0).numpy(), 65535)


def decode_cv2(data: bytes) -> Pixels:
    cv2 = import_cv2()
    values: Array | None = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if values is None:
        raise ValueError("OpenCV cannot decode it either")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = np.ascontiguousarray(values[:, :, [2, 1, 0, 3][: values.shape[2]]])
    return Pixels(values).with_maximum()


def import_cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("opencv-python-headless", "cv2", "the backend 'cv2'") from error
    return cv2
