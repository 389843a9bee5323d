"""Image files of every mode and format, written by two programs, intact and damaged."""

import io
import random
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from trainwright.engine import DamagedFileError, DataError
from trainwright.engine.images import reader as module
from trainwright.engine.images.decoders import jpeg_decoder
from trainwright.engine.images.files import read_indices
from trainwright.engine.images.reader import ImageReader

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


@pytest.mark.parametrize("format_", MODES)
def test_every_mode_is_read_as_color_gray_and_unchanged(tmp_path: Path, format_: str) -> None:
    for mode in MODES[format_]:
        path = written(tmp_path, mode, format_)
        color, gray, kept = (ImageReader(type_).read(path) for type_ in ("color", "grayscale", "unchanged"))
        assert color.dtype == gray.dtype == torch.uint8, mode
        assert color.shape == (3, HEIGHT, WIDTH) and gray.shape == (1, HEIGHT, WIDTH), mode
        assert ImageReader().size(path) == (HEIGHT, WIDTH)
        if mode.startswith("I;16"):
            assert (color.numpy() == GRAY16 >> 8).all() and (gray.numpy() == GRAY16 >> 8).all(), mode
            assert kept.dtype == torch.int32 and (kept.numpy() == GRAY16).all(), mode
            continue
        with Image.open(path) as reference, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            has_alpha = reference.has_transparency_data
            channels = (1 if reference.mode in ("1", "L", "LA") else 3) + has_alpha
            expected = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
            for found, target in ((color, "RGB"), (gray, "L"), (kept, expected)):
                source = reference.convert("RGB") if mode == "YCbCr" else reference
                pixels = np.array(source.convert(target)).reshape(HEIGHT, WIDTH, -1)
                assert (found.permute(1, 2, 0).numpy() == pixels).all(), (mode, target)


@pytest.mark.parametrize(
    ("suffix", "codec", "source", "stored"),
    [
        ("png", "png", "gray", "gray"), ("png", "png", "rgb24", "rgb24"), ("png", "png", "rgb24", "rgba"),
        ("png", "png", "gray16be", "gray16be"), ("png", "png", "rgb48be", "rgb48be"),
        ("tif", "tiff", "rgb24", "rgb24"), ("tif", "tiff", "gray16le", "gray16le"),
        ("tif", "tiff", "rgb48le", "rgb48le"), ("pgm", "pgm", "gray16be", "gray16be"), ("bmp", "bmp", "rgb24", "bgr24"),
    ],
)  # fmt: skip
def test_files_of_ffmpeg_are_read_exactly(tmp_path: Path, suffix: str, codec: str, source: str, stored: str) -> None:
    pixels = {"gray": GRAY, "rgb24": RGB, "gray16": GRAY16, "rgb48": RGB16}[source[:6].rstrip("bl")]
    path = encoded_by_ffmpeg(tmp_path / f"a.{suffix}", codec, pixels, source, stored)
    expected = (pixels >> 8 if pixels.dtype == np.uint16 else pixels).reshape(HEIGHT, WIDTH, -1)
    color = ImageReader().read(path).permute(1, 2, 0).numpy()
    assert (color == expected).all()
    if stored == "rgb48le":  # Pillow has no such mode
        for options in ({"color_type": "unchanged"}, {"to_float32": True}, {"value_range": (0, 4095)}):
            with pytest.raises(DataError, match=r"a\.tif has more than 8 bits.*imdecode_backend='cv2'"):
                ImageReader(**options).read(path)  # type: ignore[arg-type]
        return
    kept = ImageReader("unchanged").read(path)[: expected.shape[2]].permute(1, 2, 0).numpy()
    assert (kept == pixels.reshape(expected.shape)).all()
    real = ImageReader(to_float32=True).read(path)[: expected.shape[2]].permute(1, 2, 0).numpy()
    maximum = 65535 if pixels.dtype == np.uint16 else 255
    assert real.dtype == np.float32 and np.allclose(real, pixels.reshape(expected.shape) * (255 / maximum))


def test_opencv_reads_what_pillow_cannot(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    reader = ImageReader("unchanged", "cv2")
    path = encoded_by_ffmpeg(tmp_path / "a.tif", "tiff", RGB16, "rgb48le", "rgb48le")
    assert (reader.read(path).permute(1, 2, 0).numpy() == RGB16).all()
    real = RGB16.astype(np.float32) / 7
    cv2.imwrite(str(tmp_path / "b.tif"), real[:, :, ::-1])
    assert (reader.read(tmp_path / "b.tif").permute(1, 2, 0).numpy() == real).all()
    with pytest.raises(DamagedFileError, match="cv2"):
        ImageReader("unchanged").read(tmp_path / "b.tif")


def test_numbers_of_unknown_range_are_refused_and_scaled_by_a_given_one(tmp_path: Path) -> None:
    real, whole = GRAY16 / np.float32(65535) - np.float32(0.5), GRAY16.astype(np.int32) - 1000
    Image.fromarray(real).save(tmp_path / "F.tiff")
    Image.fromarray(whole).save(tmp_path / "I.tiff")
    for name, values, low, high in (("F", real, -0.5, 0.5), ("I", whole, 0, 30000)):
        path = tmp_path / f"{name}.tiff"
        with pytest.raises(DataError, match=rf"{name}\.tiff has values .* from .*value_range"):
            ImageReader().read(path)
        assert (ImageReader("unchanged").read(path)[0].numpy() == values).all()
        scaled = ImageReader("grayscale", value_range=(low, high)).read(path)[0].numpy()
        assert (scaled == ((values - low) * (255 / (high - low))).clip(0, 255).round()).all()
        assert scaled.dtype == np.uint8 and scaled.min() == 0 and scaled.max() >= 253
    deep = ImageReader("grayscale", value_range=(0, 4095)).read(written(tmp_path, "I;16", "png"))[0].numpy()
    assert (deep == (GRAY16 * (255 / 4095)).clip(0, 255).round()).all()
    real[3, 4] = np.nan
    Image.fromarray(real).save(tmp_path / "nan.tiff")
    with pytest.raises(DataError, match=r"nan\.tiff contains NaN"):
        ImageReader(value_range=(0, 1)).read(tmp_path / "nan.tiff")


@pytest.mark.parametrize("backend", ["torchvision", "pillow", "cv2"])
def test_decoders_give_equal_pixels_and_orientation(tmp_path: Path, backend: Any) -> None:
    if backend == "cv2":
        pytest.importorskip("cv2")
    else:
        assert (jpeg_decoder(backend) is None) == (backend == "pillow")
    smooth = Image.fromarray(RGB).resize((157, 91))
    for quality, subsampling, progressive in ((30, 0, False), (75, 2, False), (90, 1, True), (95, 2, True)):
        path = tmp_path / "a.jpg"
        smooth.save(path, quality=quality, subsampling=subsampling, progressive=progressive)
        found = ImageReader(imdecode_backend=backend).read(path).permute(1, 2, 0).numpy()
        # Decoders may round differently; those of today agree.
        assert np.abs(found.astype(int) - np.asarray(Image.open(path))).max() <= 2
    for suffix in ("jpg", "png", "tiff"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{orientation}.{suffix}"
            Image.fromarray(RGB).save(path, exif=exif)
            # Pillow turns TIFF files by itself; the PNG file has the same pixels.
            reference = Image.open(path if suffix == "jpg" else tmp_path / f"{orientation}.png")
            upright, stored = ImageReader("color", backend), ImageReader("color_ignore_orientation", backend)
            for reader, expected in ((upright, ImageOps.exif_transpose(reference)), (stored, reference)):
                image = reader.read(path)
                assert reader.size(path) == tuple(image.shape[1:]) == expected.size[::-1], path
                difference = image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
                assert np.abs(difference).max() <= 2, path
    assert not stored.apply_exif and not ImageReader(apply_exif=False).apply_exif and upright.apply_exif


@pytest.mark.parametrize("format_", MODES)
def test_damaged_files_are_one_kind_of_error(tmp_path: Path, format_: str) -> None:
    rng = random.Random(format_)
    path = tmp_path / "damaged"
    number, errors = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mode in MODES[format_]:
            whole = written(tmp_path, mode, format_).read_bytes()
            versions = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
            for _ in range(12):
                damaged = bytearray(whole)
                for _ in range(rng.choice((1, 3, 20))):
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
                versions.append(bytes(damaged))
            for content in versions:
                path.write_bytes(content)
                for read in (ImageReader().read, ImageReader("unchanged").read, ImageReader().size, read_indices):
                    number += 1
                    try:
                        read(path)
                    except DamagedFileError as error:
                        assert str(path) in str(error)
                        errors += 1
                    except DataError:  # the damage changed the type of the values
                        pass
    assert number // 10 < errors < number  # some damage goes unnoticed: formats without a checksum


def test_a_truncated_jpeg_is_damaged_with_every_decoder(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).resize((300, 220)).save(path)
    whole = path.read_bytes()
    backends = ["torchvision", "pillow", *(["cv2"] if find_spec("cv2") else [])]
    for backend in backends:
        for end in (3, 200, len(whole) // 2, len(whole) - 40):
            path.write_bytes(whole[:end])
            with pytest.raises(DamagedFileError, match=r"a\.jpg is damaged"):
                ImageReader(imdecode_backend=backend).read(path)  # type: ignore[arg-type]


def test_files_that_are_no_images_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in (("text.jpg", "does not recognize"), ("empty.png", "is empty")):
        with pytest.raises(DamagedFileError, match=f"{name}.*{reason}") as caught:
            ImageReader().read(tmp_path / name)
        assert isinstance(caught.value, OSError)
        assert caught.value.__cause__ is None
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        ImageReader().read(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        ImageReader().size(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for path in (written(tmp_path, "RGB", "jpeg"), written(tmp_path, "RGB", "png")):
        with pytest.raises(DamagedFileError, match="MAX_IMAGE_PIXELS"):
            ImageReader().read(path)


def test_paths_pictures_and_arrays_are_alike(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "P", "LA", "RGBA", "1", "I;16", "CMYK"):
        path = written(tmp_path, mode, "tiff")
        for color_type in ("color", "grayscale", "unchanged"):
            reader = ImageReader(color_type)
            expected = reader.read(path)
            assert torch.equal(reader.convert(Image.open(path)), expected), (mode, color_type)
            if mode in ("RGB", "L", "LA", "RGBA", "I;16"):
                array = np.array(Image.open(path))
                assert torch.equal(reader.convert(array), expected), (mode, color_type)
                tensor = torch.from_numpy(array)
                tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
                assert torch.equal(reader.convert(tensor), expected), (mode, color_type)
    for values in (RGB / 255.0, RGB.astype(np.int64) + 100, RGB - 100.0):
        with pytest.raises(DataError, match="value_range"):
            ImageReader().convert(values)
    assert (ImageReader(value_range=(0, 1)).convert(RGB / 255.0).permute(1, 2, 0).numpy() == RGB).all()
    assert (ImageReader().convert(RGB.astype(np.float64)).permute(1, 2, 0).numpy() == RGB).all()
    with pytest.raises(DataError, match="5 channels.*unchanged"):
        ImageReader().convert(np.zeros((4, 4, 5), np.uint8))
    assert ImageReader("unchanged").convert(np.zeros((4, 6, 5), np.uint8)).shape == (5, 4, 6)


def test_pictures_to_look_at_are_stretched(tmp_path: Path) -> None:
    Image.fromarray((GRAY16 >> 6).astype(np.uint16)).save(tmp_path / "dark.png")
    Image.fromarray(GRAY16.astype(np.float32)).save(tmp_path / "real.tiff")
    for source in (tmp_path / "dark.png", tmp_path / "real.tiff", GRAY16.astype(np.float32) * 4):
        drawn = ImageReader().picture(source)
        assert drawn.shape == (HEIGHT, WIDTH, 3) and drawn.dtype == np.uint8
        assert drawn.min() == 0 and drawn.max() == 255
    assert (ImageReader().picture(written(tmp_path, "RGB", "png")) == RGB).all()


def test_only_the_first_page_is_read_and_this_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(module, "_logged", set())
    monkeypatch.setattr(module, "print_log", lambda message, **options: logged.append(message))
    first, second = Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())
    for suffix in ("tiff", "gif", "webp"):
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    for suffix in ("tiff", "gif"):
        assert (ImageReader("grayscale").read(tmp_path / f"a.{suffix}")[0].numpy() == GRAY).all()
    ImageReader().read(tmp_path / "a.webp")
    assert len(logged) == 1 and logged[0].startswith(f"{tmp_path / 'a.tiff'} has several pages")


def test_options_are_checked() -> None:
    for options, message in (
        ({"color_type": "bgr"}, "color_type must be one of"),
        ({"imdecode_backend": "turbojpeg"}, "imdecode_backend must be one of 'torchvision'"),
        ({"value_range": (1, 1)}, "increasing"),
        ({"value_range": (0, float("nan"))}, "increasing"),
        ({"value_range": (0, 1), "color_type": "unchanged"}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageReader(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="float"):
        ImageReader().convert(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(7,\)"):
        ImageReader().convert(np.zeros(7))


def test_masks_keep_their_values(tmp_path: Path) -> None:
    palette = picture("P")
    palette.save(tmp_path / "p.png")
    assert (read_indices(tmp_path / "p.png") == np.asarray(palette)).all()
    assert (read_indices(written(tmp_path, "I;16", "png")) == GRAY16).all()
    assert read_indices(written(tmp_path, "1", "png")).dtype == bool
    buffer = io.BytesIO()
    palette.save(buffer, "png")
    (tmp_path / "half.png").write_bytes(buffer.getvalue()[:-60])
    with pytest.raises(DamagedFileError, match=r"half\.png"):
        read_indices(tmp_path / "half.png")
