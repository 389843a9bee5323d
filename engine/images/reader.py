"""One reader of images for datasets, inference and pictures of predictions."""

import io
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DamagedFileError, DataError, did_you_mean
from trainwright.engine.images.decoders import (
    decode_cv2,
    decode_deep_png,
    import_cv2,
    jpeg_decoder,
    jpeg_header,
)
from trainwright.engine.images.depth import is_reduced, largest_value, undo_scaling
from trainwright.engine.images.files import decode_file
from trainwright.engine.images.orientation import make_upright, read_orientation
from trainwright.engine.images.pixels import (
    Array,
    Pixels,
    drop_alpha,
    scale_to_8_bits,
    stretch,
    to_8_bit_range,
    to_array,
    to_gray,
    to_torch_dtype,
)
from trainwright.engine.records.logger import print_log

if TYPE_CHECKING:
    from PIL import Image as PILImage

ColorType = Literal[
    "color", "grayscale", "unchanged", "color_ignore_orientation", "grayscale_ignore_orientation"
]  # fmt: skip
ImdecodeBackend = Literal["torchvision", "pillow", "cv2"]

_COLOR_TYPES = ("color", "grayscale", "unchanged", "color_ignore_orientation", "grayscale_ignore_orientation")
_BACKENDS = ("torchvision", "pillow", "cv2")


class ImageReader:
    """A reader of image files, and of images in memory, that returns tensors of shape (C, H, W).

    JPEG files are decoded by ``imdecode_backend``, all others by Pillow. The pixels do not depend on the backend: all
    three use libjpeg-turbo with the same settings. Images whose values are not 8 bits wide are converted as follows:

    - integers of 16 bits (and 12 bits in TIFF) by the range of the type: 0 to 65535 becomes 0 to 255, as in OpenCV;
    - integers of 32 bits and floating-point numbers by ``value_range``; without it, they are refused, because their
      type says nothing about the range of their values.

    Palettes, CMYK and other color spaces become RGB, and transparency is dropped, unless ``color_type`` is
    ``"unchanged"``. Only the first page or frame of a file is read; if there are more, this is logged once.

    Args:
        color_type: ``"color"`` for RGB, ``"grayscale"`` for one channel, both from 0 to 255; ``"unchanged"`` to keep
            channels and values: uint8, int32 (for 16-bit and 32-bit integers) or float32. Palettes become RGB or RGBA,
            and 1 bit becomes 0 or 255. The suffix ``"_ignore_orientation"``, as in mmcv, is ``apply_exif=False``.
        imdecode_backend: decoder of JPEG files. ``"torchvision"``; ``"pillow"``; or ``"cv2"``, which requires OpenCV
            (``pip install 'trainwright[cv2]'``) and also reads TIFF and other files that Pillow cannot, such as color
            images of more than 8 bits per channel.
        apply_exif: turn the image as its EXIF orientation specifies. Set it to False if annotations refer to the
            pixels as they are stored.
        value_range: values of the file that become 0 and 255; values beyond are clipped to them.
        to_float32: return float32 instead of uint8, without rounding values of more than 8 bits.

    Raises:
        ValueError: an unknown ``color_type`` or ``imdecode_backend``, or an invalid ``value_range``.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(
        self,
        color_type: ColorType = "color",
        imdecode_backend: ImdecodeBackend = "torchvision",
        apply_exif: bool = True,
        value_range: Sequence[float] | None = None,
        to_float32: bool = False,
    ) -> None:
        for name, value, known in (
            ("color_type", color_type, _COLOR_TYPES), ("imdecode_backend", imdecode_backend, _BACKENDS),
        ):  # fmt: skip
            if value not in known:
                hint = did_you_mean(value, known) if isinstance(value, str) else ""
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}; {hint}".rstrip("; ")
                )
        if value_range is not None:
            if color_type == "unchanged":
                raise ValueError(
                    "value_range and color_type='unchanged' exclude each other: the latter keeps all values"
                )
            if len(value_range) != 2 or not -np.inf < value_range[0] < value_range[1] < np.inf:
                raise ValueError(f"value_range must be two increasing numbers, not {value_range!r}")
        if imdecode_backend == "cv2":
            import_cv2()
        self.color_type = color_type.removesuffix("_ignore_orientation")
        self.imdecode_backend = imdecode_backend
        self.apply_exif = apply_exif and self.color_type == color_type
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))
        self.to_float32 = to_float32

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Return the image in a file as a ``tv_tensors.Image``.

        Raises:
            DamagedFileError: the file cannot be decoded.
            DataError: its values need a ``value_range``, or another ``color_type`` or ``imdecode_backend``.
            OSError: the file does not exist, or cannot be accessed.
        """
        return self._finish(self._decoded(path), os.fspath(path))

    def convert(self, source: "PILImage.Image | Array | Tensor") -> Tensor:
        """Return an image in memory as a ``tv_tensors.Image``, as if it had been read from a file.

        Args:
            source: a PIL image; an RGB or gray array of shape (H, W) or (H, W, C); or a tensor of shape (H, W) or
                (C, H, W). Floating-point numbers from 0 to 255 are kept as such; ``value_range`` converts others. A
                PIL image in color keeps more than 8 bits per channel only before it is loaded; a loaded one is
                refused, or has 8 bits if it was read from an open file.

        Raises:
            TypeError: ``source`` has another type.
            ValueError: it has another shape.
            DataError: its values need a ``value_range``, or another ``color_type``.
        """
        from PIL import Image

        if isinstance(source, Image.Image):
            return self._finish(self._from_picture(source, "the image"), "the image")
        pixels = Pixels(to_array(source)).with_maximum()
        if pixels.maximum is None and self.color_type != "unchanged" and self.value_range is None:
            pixels = Pixels(to_8_bit_range(pixels.values))
        return self._finish(pixels, "the image")

    def picture(self, source: Any) -> Array:
        """Return an image as uint8 RGB of shape (H, W, 3) to look at: values of another type are stretched to 0 to 255.

        Args:
            source: path of an image file, or an image as in :meth:`convert`.

        Raises:
            DamagedFileError: the file cannot be decoded.
        """
        kept, color = (ImageReader(type_, self.imdecode_backend, self.apply_exif) for type_ in ("unchanged", "color"))
        try:
            # Files with their depth, since the upper 8 of 16 bits are often all dark.
            image = kept.read(source) if isinstance(source, str | os.PathLike) else color.convert(source)
        except DamagedFileError:
            raise
        except DataError:
            image = color.read(source) if isinstance(source, str | os.PathLike) else kept.convert(source)
        values: Array = image.as_subclass(Tensor).permute(1, 2, 0).cpu().numpy()
        values = values[:, :, :3] if values.shape[2] >= 3 else values[:, :, :1].repeat(3, axis=2)
        return np.ascontiguousarray(values if values.dtype == np.uint8 else stretch(values))

    def size(self, path: str | os.PathLike[str]) -> tuple[int, int]:
        """Return (height, width) of the image in a file as :meth:`read` returns it, without decoding JPEG files.

        Raises:
            DamagedFileError: the file is not an image.
            OSError: the file does not exist, or cannot be accessed.
        """
        from PIL import Image

        def header(file: BinaryIO) -> tuple[int, int]:
            with Image.open(file) as picture:
                width, height = picture.size
                if picture.format == "TIFF":  # Pillow turns these automatically, in some releases already at this point
                    tags: Any = picture
                    width, height = tags.tag_v2[256], tags.tag_v2[257]
                is_turned = self.apply_exif and read_orientation(picture) >= 5
                return (width, height) if is_turned else (height, width)

        return decode_file(path, header)

    @property
    def options(self) -> str:
        """The arguments, as in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items())

    @property
    def _keeps_depth(self) -> bool:
        return self.color_type == "unchanged" or self.to_float32 or self.value_range is not None

    def _decoded(self, path: str | os.PathLike[str]) -> Pixels:
        def decode(file: BinaryIO) -> Pixels:
            pixels = self._decode_jpeg(file)
            if pixels is not None:
                return pixels

            from PIL import Image, UnidentifiedImageError

            file.seek(0)
            try:
                with Image.open(file) as picture:
                    return self._from_picture(picture, os.fspath(path))
            except UnidentifiedImageError:
                if self.imdecode_backend != "cv2":
                    raise
                file.seek(0)
                return decode_cv2(file.read())

        return decode_file(path, decode)

    def _decode_jpeg(self, file: BinaryIO) -> Pixels | None:
        """Return the pixels of an ordinary JPEG file, or None if Pillow is to read or refuse it."""
        from PIL import Image

        decode = jpeg_decoder(self.imdecode_backend)
        if decode is None or file.read(2) != b"\xff\xd8":
            return None
        file.seek(0)
        data = bytearray(file.read())
        header = jpeg_header(data)
        if header is None or header.num_pixels > (Image.MAX_IMAGE_PIXELS or np.inf):
            return None
        orientation = 1
        if self.apply_exif and header.has_metadata:
            with Image.open(io.BytesIO(data)) as picture:
                orientation = read_orientation(picture)
        values = decode(data, header.channels == 1 and self.color_type != "color")
        return None if values is None else Pixels(make_upright(values, orientation))

    def _from_picture(self, picture: "PILImage.Image", name: str) -> Pixels:
        """Return the pixels of a PIL image, in their full depth if it is needed."""
        needs_depth = self._keeps_depth and is_reduced(picture)
        return self._decode_deep(picture, name) if needs_depth else self._from_pillow(picture, name)

    def _decode_deep(self, picture: "PILImage.Image", name: str) -> Pixels:
        """Return the pixels of an image whose depth Pillow would reduce, or has reduced, to 8 bits."""
        from PIL import Image

        file: Any = getattr(picture, "fp", None)
        if file is None or picture.tell():
            raise DataError(
                f"{name} had more than 8 bits per channel in its {picture.format} file, of which Pillow has read only "
                "8: pass the path of the file, or an array"
            )
        if picture.format == "SGI" or (self.imdecode_backend != "cv2" and picture.format != "PNG"):
            hint = "" if picture.format == "SGI" else "set imdecode_backend='cv2' in LoadImageFromFile, or "
            raise DataError(
                f"{name} has more than 8 bits per channel, but Pillow reads only 8 bits of this kind of "
                f"{picture.format} file: {hint}convert it to PNG"
            )
        position, largest = file.tell(), largest_value(picture)
        file.seek(0)
        data = file.read()
        file.seek(position)
        pixels = decode_cv2(data) if self.imdecode_backend == "cv2" else decode_deep_png(data)
        with Image.open(io.BytesIO(data)) as copy:  # reading the EXIF data of a PNG file loads its pixels
            values = make_upright(pixels.values, read_orientation(copy) if self.apply_exif else 1)
        return Pixels(values, largest if values.dtype == np.uint16 else pixels.maximum)

    def _from_pillow(self, picture: "PILImage.Image", name: str) -> Pixels:
        """Return the pixels of a PIL image as Pillow reads them."""
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            _log_once(name)
        largest = largest_value(picture) if self._keeps_depth or picture.mode.startswith("I") else 255
        stated = read_orientation(picture)
        picture.load()
        orientation = read_orientation(picture) if self.apply_exif else 1
        if picture.format == "TIFF" and not self.apply_exif and stated != read_orientation(picture):
            orientation = {6: 8, 8: 6}.get(stated, stated)  # Pillow has turned it: turn it back
        mode = picture.mode
        if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
            maximum = 65535 if largest == 255 or picture.format == "PPM" else largest
            pixels = Pixels(np.array(picture).astype(np.uint16), maximum)
            if picture.format == "JPEG2000":  # Pillow has scaled the values to 16 bits
                pixels = pixels._replace(values=pixels.values >> (16 - maximum.bit_length()))
        elif mode in ("I", "F"):
            pixels = Pixels(np.array(picture), None)
        else:
            pixels = Pixels(np.array(picture.convert(self._target_mode(picture))))
        if self.color_type == "unchanged" or self.value_range is not None:
            pixels = pixels._replace(values=undo_scaling(pixels.values, picture, largest))
        return pixels._replace(values=make_upright(pixels.values, orientation))

    def _target_mode(self, picture: "PILImage.Image") -> str:
        gray = picture.mode in ("1", "L", "LA", "La")
        if picture.has_transparency_data and (
            self.color_type == "unchanged" or picture.mode in ("P", "PA", "La", "RGBa")
        ):
            return "LA" if gray else "RGBA"
        return "L" if gray else "RGB"

    def _finish(self, pixels: Pixels, name: str) -> Tensor:
        from torchvision.tv_tensors import Image

        values = to_torch_dtype(pixels.values) if self.color_type == "unchanged" else self._in_8_bits(pixels, name)
        if self.to_float32:
            values = values.astype(np.float32)
        values = values[:, :, None] if values.ndim == 2 else values
        if self.color_type == "color" and values.shape[2] == 1:
            values = values.repeat(3, axis=2)
        image: Tensor = torch.from_numpy(values).permute(2, 0, 1).as_subclass(Image)
        return image

    def _in_8_bits(self, pixels: Pixels, name: str) -> Array:
        """Return values from 0 to 255 with the channels that ``color_type`` specifies; gray ones may be (H, W)."""
        values = drop_alpha(pixels.values, name)
        if self.value_range is not None:
            values = scale_to_8_bits(values, self.value_range, name)
        elif values.dtype != np.uint8:
            if pixels.maximum is None:
                low, high = values.min(), values.max()
                raise DataError(
                    f"{name} has values of type {values.dtype} from {low:g} to {high:g}: set value_range=(low, high), "
                    "the values that become 0 and 255, or color_type='unchanged' in LoadImageFromFile"
                )
            if values.dtype.kind != "f" and not self.to_float32:
                values = (values >> (pixels.maximum.bit_length() - 8)).astype(np.uint8)
            elif pixels.maximum != 255:
                values = scale_to_8_bits(values, (0, pixels.maximum), name)
        if self.color_type == "grayscale" and values.ndim == 3 and values.shape[2] == 3:
            values = to_gray(values)
        if values.dtype != np.uint8 and not self.to_float32 and self.value_range is not None:
            values = values.round().astype(np.uint8)
        return values


_logged: set[str] = set()


def _log_once(path: str) -> None:
    """Log that only the first page or frame of a file is read, for the first such file of the process."""
    if not _logged:
        _logged.add(path)
        print_log(
            f"{path} has several pages or frames: only the first is read, also of other files (logged once)",
            logger="current",
            level=logging.WARNING,
        )
