"""Image files of every mode and format, written by two programs, and images in memory."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import GRAY, GRAY16, HEIGHT, MODES, RGB, RGB16, WIDTH, encoded_by_ffmpeg, written
from PIL import Image, ImageOps

from trainwright.engine import DataError
from trainwright.engine.images import reader as module
from trainwright.engine.images.decoders import jpeg_decoder
from trainwright.engine.images.reader import ImageReader


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
