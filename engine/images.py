"""Decoding of image files: one place for datasets, inference and pictures of predictions."""

import io
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DamagedFileError, DataError, MissingExtraError, did_you_mean
from trainwright.engine.records.logger import print_log

if TYPE_CHECKING:
    from PIL import Image as PILImage

T = TypeVar("T")
Array = np.ndarray[Any, Any]
ColorType = Literal[
    "color", "grayscale", "unchanged", "color_ignore_orientation", "grayscale_ignore_orientation"
]  # fmt: skip
ImdecodeBackend = Literal["torchvision", "pillow", "cv2"]

_COLOR_TYPES = ("color", "grayscale", "unchanged", "color_ignore_orientation", "grayscale_ignore_orientation")
_BACKENDS = ("torchvision", "pillow", "cv2")
_EXPECTED_SHAPE = "(H, W) or (H, W, C) as an array, (H, W) or (C, H, W) as a tensor"


class _Pixels(NamedTuple):
    """Decoded values: (H, W) or (H, W, C), and the largest value of the file's type; None if that is not known."""

    values: Array
    maximum: int | None = 255

    def with_maximum(self) -> "_Pixels":
        """Return the values with the maximum that follows from their dtype."""
        maximum = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(self.values.dtype)
        return self._replace(maximum=maximum)


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
                (C, H, W). Floating-point numbers from 0 to 255 are kept as such; ``value_range`` converts others.

        Raises:
            TypeError: ``source`` has another type.
            ValueError: it has another shape.
            DataError: its values need a ``value_range``, or another ``color_type``.
        """
        from PIL import Image

        if isinstance(source, Image.Image):
            return self._finish(self._from_pillow(source, "the image"), "the image")
        pixels = _Pixels(_as_array(source)).with_maximum()
        if pixels.maximum is None and self.color_type != "unchanged" and self.value_range is None:
            pixels = _Pixels(_in_8_bit_range(pixels.values))
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
        return np.ascontiguousarray(values if values.dtype == np.uint8 else _stretched(values))

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
                if picture.format == "TIFF":  # Pillow turns these by itself, in some releases already here
                    tags: Any = picture
                    width, height = tags.tag_v2[256], tags.tag_v2[257]
                is_turned = self.apply_exif and _orientation(picture) >= 5
                return (width, height) if is_turned else (height, width)

        return _guarded(path, header)

    @property
    def options(self) -> str:
        """The arguments, as in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items())

    @property
    def _keeps_depth(self) -> bool:
        return self.color_type == "unchanged" or self.to_float32 or self.value_range is not None

    def _decoded(self, path: str | os.PathLike[str]) -> _Pixels:
        from PIL import Image, UnidentifiedImageError

        def decode(file: BinaryIO) -> _Pixels:
            pixels = self._decode_jpeg(file)
            if pixels is not None:
                return pixels
            file.seek(0)
            try:
                with Image.open(file) as picture:
                    deep = self._decode_deep(picture, file, os.fspath(path))
                    return deep or self._from_pillow(picture, os.fspath(path))
            except UnidentifiedImageError:
                if self.imdecode_backend != "cv2":
                    raise
                file.seek(0)
                return _decode_cv2(file.read())

        return _guarded(path, decode)

    def _decode_jpeg(self, file: BinaryIO) -> _Pixels | None:
        """Return the pixels of a usual JPEG file, or None for the file to be read, or refused, by Pillow."""
        from PIL import Image

        decode = _jpeg_decoder(self.imdecode_backend)
        if decode is None or file.read(2) != b"\xff\xd8":
            return None
        file.seek(0)
        data = bytearray(file.read())
        header = _jpeg_header(data)
        if header is None or header.num_pixels > (Image.MAX_IMAGE_PIXELS or np.inf):
            return None
        orientation = 1
        if self.apply_exif and header.has_metadata:
            with Image.open(io.BytesIO(data)) as picture:
                orientation = _orientation(picture)
        values = decode(data, header.channels == 1 and self.color_type != "color")
        return None if values is None else _Pixels(_oriented(values, orientation))

    def _decode_deep(self, picture: "PILImage.Image", file: BinaryIO, name: str) -> _Pixels | None:
        """Return the pixels of an image whose depth Pillow would reduce to 8 bits, if the depth is needed."""
        if not self._keeps_depth or picture.mode in ("1", "P") or not _is_reduced(picture):
            return None
        if self.imdecode_backend != "cv2" and picture.format != "PNG":
            raise DataError(
                f"{name} has more than 8 bits per channel, but Pillow reads only 8 bits of a {picture.format} file in "
                "color: set imdecode_backend='cv2' in LoadImageFromFile"
            )
        file.seek(0)
        data = file.read()
        pixels = _decode_cv2(data) if self.imdecode_backend == "cv2" else _decode_deep_png(data)
        return pixels._replace(values=_oriented(pixels.values, _orientation(picture) if self.apply_exif else 1))

    def _from_pillow(self, picture: "PILImage.Image", name: str) -> _Pixels:
        """Return the pixels of a PIL image."""
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            _log_once(name)
        bits = 12 if "I;12" in str(getattr(picture, "tile", "")) else 16
        stated = _orientation(picture)
        picture.load()
        orientation = _orientation(picture) if self.apply_exif else 1
        if picture.format == "TIFF" and not self.apply_exif and stated != _orientation(picture):
            orientation = {6: 8, 8: 6}.get(stated, stated)  # Pillow has turned it: turn it back
        mode = picture.mode
        if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
            pixels = _Pixels(np.array(picture).astype(np.uint16), 2**bits - 1)
        elif mode in ("I", "F"):
            pixels = _Pixels(np.array(picture), None)
        else:
            pixels = _Pixels(np.array(picture.convert(self._target_mode(picture))))
        return pixels._replace(values=_oriented(pixels.values, orientation))

    def _target_mode(self, picture: "PILImage.Image") -> str:
        gray = picture.mode in ("1", "L", "LA", "La")
        if picture.has_transparency_data and (
            self.color_type == "unchanged" or picture.mode in ("P", "PA", "La", "RGBa")
        ):
            return "LA" if gray else "RGBA"
        return "L" if gray else "RGB"

    def _finish(self, pixels: _Pixels, name: str) -> Tensor:
        from torchvision.tv_tensors import Image

        values = _unchanged(pixels.values) if self.color_type == "unchanged" else self._in_8_bits(pixels, name)
        if self.to_float32:
            values = values.astype(np.float32)
        values = values[:, :, None] if values.ndim == 2 else values
        if self.color_type == "color" and values.shape[2] == 1:
            values = values.repeat(3, axis=2)
        image: Tensor = torch.from_numpy(values).permute(2, 0, 1).as_subclass(Image)
        return image

    def _in_8_bits(self, pixels: _Pixels, name: str) -> Array:
        """Return values from 0 to 255 with the channels that ``color_type`` specifies; gray ones may be (H, W)."""
        values = _without_alpha(pixels.values, name)
        if self.value_range is not None:
            values = _scaled(values, self.value_range, name)
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
                values = _scaled(values, (0, pixels.maximum), name)
        if self.color_type == "grayscale" and values.ndim == 3 and values.shape[2] == 3:
            values = _gray(values)
        if values.dtype != np.uint8 and not self.to_float32 and self.value_range is not None:
            values = values.round().astype(np.uint8)
        return values


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
            return np.array(picture)

    return _guarded(path, decode)


def _guarded(path: str | os.PathLike[str], read: Callable[[BinaryIO], T]) -> T:
    """Call ``read`` with the open file, and turn any failure to decode it into one kind of error."""
    from PIL import Image, UnidentifiedImageError

    name = os.fspath(path)
    with open(name, "rb") as file:  # noqa: PTH123  # a Path takes 20 µs more
        try:
            return read(file)
        except (DataError, MissingExtraError, MemoryError):
            raise
        except UnidentifiedImageError:
            reason: object = _why_unidentified(file)
        except OSError as error:
            if error.errno is not None:  # from the operating system, not from the decoder
                error.filename = error.filename or name
                raise
            reason = error
        except Image.DecompressionBombError as error:
            reason = f"{error} (for files that you trust, set PIL.Image.MAX_IMAGE_PIXELS = None)"
        except Exception as error:  # decoders raise almost anything for damaged files
            reason = str(error) or type(error).__name__
    raise DamagedFileError(name, reason)


def _why_unidentified(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(4)
    if not start:
        return "the file is empty"
    if start in (b"II*\0", b"MM\0*"):
        return "Pillow cannot read this kind of TIFF file; imdecode_backend='cv2' reads more kinds"
    return "Pillow does not recognize it as an image"


class _JpegHeader(NamedTuple):
    channels: int
    num_pixels: int
    has_metadata: bool


def _jpeg_header(data: bytearray) -> _JpegHeader | None:
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
def _jpeg_decoder(backend: str) -> Callable[[bytearray, bool], Array | None] | None:
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


def _decode_deep_png(data: bytes) -> _Pixels:
    """Decode a PNG file of 16 bits per channel, which Pillow reads as 8 bits unless it is gray."""
    import torchvision.io  # noqa: F401  # loads the operator

    image = torch.ops.image.decode_png.default(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, False)
    return _Pixels(image.permute(1, 2, 0).numpy(), 65535)


def _decode_cv2(data: bytes) -> _Pixels:
    cv2 = import_cv2()
    values: Array | None = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if values is None:
        raise ValueError("OpenCV cannot decode it either")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = np.ascontiguousarray(values[:, :, [2, 1, 0, 3][: values.shape[2]]])
    return _Pixels(values).with_maximum()


def import_cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("opencv-python-headless", "cv2", "the backend 'cv2'") from error
    return cv2


def _is_reduced(picture: "PILImage.Image") -> bool:
    """Whether a file has more than 8 bits per channel, of which Pillow reads only 8."""
    return not picture.mode.startswith(("I", "F")) and ";16" in str(getattr(picture, "tile", ""))


def _orientation(picture: "PILImage.Image") -> int:
    """Return the EXIF orientation: 1 to 8, where 1 is upright."""
    from PIL import ExifTags

    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the metadata is damaged; the pixels may be intact
        return 1
    return orientation if orientation in range(1, 9) else 1


def _oriented(values: Array, orientation: int) -> Array:
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


def _as_array(source: Any) -> Array:
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


def _in_8_bit_range(values: Array) -> Array:
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


def _unchanged(values: Array) -> Array:
    """Return values of a dtype that torch's operations support."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize < 4 and values.dtype != np.uint8:
        return values.astype(np.int32)
    return values.astype(np.int64) if values.dtype.kind == "u" and values.dtype.itemsize >= 4 else values


def _without_alpha(values: Array, name: str) -> Array:
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels in (2, 4):
        return np.ascontiguousarray(values[:, :, : channels - 1])
    if channels not in (1, 3):
        raise DataError(f"{name} has {channels} channels: set color_type='unchanged' in LoadImageFromFile to keep them")
    return values


def _scaled(values: Array, value_range: tuple[float, float], name: str) -> Array:
    """Map a range of values to 0 to 255, as float32, and clip others to it."""
    low, high = value_range
    numbers: Any = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    scaled: Array = (numbers - low) * (255 / (high - low))
    if np.isnan(scaled).any():
        raise DataError(
            f"{name} contains NaN: replace these values, or use color_type='unchanged' in LoadImageFromFile"
        )
    return scaled.clip(0, 255).astype(np.float32)


def _stretched(values: Array) -> Array:
    """Map the finite values to 0 to 255, as uint8."""
    values = np.nan_to_num(values.astype(np.float64), posinf=np.nan, neginf=np.nan, nan=np.nan)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return (np.nan_to_num((values - low) / max(high - low, 1e-12)) * 255).round().astype(np.uint8)


def _gray(values: Array) -> Array:
    """Convert RGB (H, W, 3) to luma (ITU-R 601-2), with Pillow's rounding for uint8."""
    from PIL import Image

    if values.dtype == np.uint8:
        return np.array(Image.fromarray(values).convert("L"))
    luma: Array = values @ np.array([0.299, 0.587, 0.114], values.dtype)
    return luma


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
