"""Image files of every mode and format, written by Pillow, by FFmpeg, and by hand."""

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 22, 30
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
GRAY16 = ((ROWS * WIDTH + COLUMNS) * 99).astype(np.uint16)  # 0 to 65241
RGB16 = np.stack([GRAY16, GRAY16[::-1], GRAY16[:, ::-1]], 2)
RGB = (RGB16 >> 8).astype(np.uint8)
GRAY = RGB[:, :, 0]

MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B"),
    "jpeg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P"),
    "ppm": ("1", "L", "RGB", "I;16"),
}


def picture(mode: str) -> Image.Image:
    if mode.startswith("I;16"):
        return Image.fromarray(GRAY16.astype(">u2" if mode.endswith("B") else "<u2"))
    image = Image.fromarray(RGB)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(GRAY[:, ::-1]))
    return image.convert(mode)


def written(folder: Path, mode: str, format_: str, **options: Any) -> Path:
    path = folder / f"{mode.replace(';', '')}.{format_}"
    if format_ == "webp":
        options["lossless"] = True
    picture(mode).save(path, format_, **options)
    return path


def encoded_by_ffmpeg(path: Path, codec: str, pixels: np.ndarray, source: str, stored: str) -> Path:
    """Write an image with FFmpeg: ``source`` and ``stored`` are its names of pixel formats."""
    frame = av.VideoFrame.from_ndarray(pixels, format=source).reformat(format=stored)
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, stored
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


def deep_file(folder: Path, kind: str) -> tuple[Path, np.ndarray]:
    """Write an image of more than 8 bits per channel that Pillow reduces or scales, and return its values."""
    path = folder / f"a.{kind.split()[0]}"
    twelve = GRAY16 >> 4
    if kind == "png":
        return encoded_by_ffmpeg(path, "png", RGB16, "rgb48be", "rgb48be"), RGB16
    if kind == "tif":
        return encoded_by_ffmpeg(path, "tiff", RGB16, "rgb48le", "rgb48le"), RGB16
    if kind == "ppm":
        path.write_bytes(b"P6 30 22 65535\n" + RGB16.astype(">u2").tobytes())
        return path, RGB16
    if kind == "sgi":
        header = struct.pack(">hBBHHHH", 474, 0, 2, 3, WIDTH, HEIGHT, 3).ljust(512, b"\0")
        path.write_bytes(header + RGB16[::-1].transpose(2, 0, 1).astype(">u2").tobytes())
        return path, RGB16
    if kind == "jp2 color":
        enlarged = np.kron(RGB16, np.ones((4, 4, 1), np.uint16))
        return encoded_by_ffmpeg(path, "jpeg2000", enlarged, "rgb48le", "rgb48le"), enlarged
    if kind == "jp2 gray":  # by Pillow, without loss
        Image.fromarray(np.kron(GRAY16, np.ones((4, 4), np.uint16))).save(path)
        return path, np.kron(GRAY16, np.ones((4, 4), np.uint16))
    assert kind == "pgm 12 bits"
    path.write_bytes(b"P5 30 22 4095\n" + twelve.astype(">u2").tobytes())
    return path, twelve
