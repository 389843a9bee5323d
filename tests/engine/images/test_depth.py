"""Images of more or fewer than 8 bits per channel: their values are kept, scaled by their range, or refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import GRAY, GRAY16, HEIGHT, RGB16, WIDTH, deep_file, encoded_by_ffmpeg, written
from PIL import Image, features

from trainwright.engine import DamagedFileError, DataError
from trainwright.engine.images.files import read_indices
from trainwright.engine.images.reader import ImageReader


@pytest.mark.parametrize("kind", ["png", "tif", "ppm", "sgi", "jp2 color", "jp2 gray", "pgm 12 bits"])
def test_depth_is_kept_or_refused(tmp_path: Path, kind: str) -> None:
    path, values = deep_file(tmp_path, kind)
    reader, is_refused = ImageReader("unchanged"), kind in ("tif", "ppm", "sgi", "jp2 color")

    def refused_with(source: Any, message: str) -> None:
        for option in (reader, ImageReader(to_float32=True), ImageReader(value_range=(0, 4095))):
            with pytest.raises(DataError, match=message):
                option.convert(source) if isinstance(source, Image.Image) else option.read(source)

    if is_refused:
        hint = "file: convert it to PNG" if kind == "sgi" else "imdecode_backend='cv2'.*PNG"
        refused_with(path, rf"{path.name} has more than 8 bits.*{hint}")
        refused_with(Image.open(path), f"the image has more than 8 bits.*{hint}")
    else:
        opened = Image.open(path)
        for found in (reader.read(path), reader.convert(opened), reader.convert(opened)):
            assert (found.permute(1, 2, 0).numpy() == values.reshape(found.permute(1, 2, 0).shape)).all()
        assert np.asarray(opened).shape[:2] == values.shape[:2]  # its file has not been moved
    loaded = Image.open(path)
    loaded.load()
    if kind in ("jp2 gray", "pgm 12 bits"):
        assert (reader.convert(loaded)[0].numpy() == values).all()
    else:
        refused_with(loaded, "the image had more than 8 bits.*pass the path")
    assert ImageReader().convert(loaded).dtype == torch.uint8
    assert ImageReader("unchanged").convert(loaded.convert("RGB")).dtype == torch.uint8  # another image


def test_values_of_fewer_bits(tmp_path: Path) -> None:
    """Pillow scales them; masks must not be scaled."""
    encoded_by_ffmpeg(
        tmp_path / "a.j2k", "jpeg2000", np.kron(GRAY16, np.ones((4, 4), np.uint16)), "gray16le", "gray12le"
    )
    found = ImageReader("unchanged").read(tmp_path / "a.j2k")
    assert 3900 < found.max() < 4096
    bright = ImageReader("grayscale", to_float32=True).read(tmp_path / "a.j2k")
    torch.testing.assert_close(bright.as_subclass(torch.Tensor), found.as_subclass(torch.Tensor) * (255 / 4095))
    classes = (GRAY // 16).astype(np.uint8)
    (tmp_path / "mask.pgm").write_bytes(b"P5 30 22 20\n" + classes.tobytes())
    assert (read_indices(tmp_path / "mask.pgm") == classes).all()
    assert (ImageReader("unchanged").read(tmp_path / "mask.pgm")[0].numpy() == classes).all()
    assert (ImageReader("grayscale").read(tmp_path / "mask.pgm")[0].numpy() == np.rint(classes * 12.75)).all()


def test_tiff_files_of_12_bits(tmp_path: Path) -> None:
    twelve = (GRAY16 >> 4).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], 1)
    tags = {256: WIDTH, 257: HEIGHT, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: HEIGHT, 279: packed.size}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags.items())
    path = tmp_path / "a.tif"
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed.astype(np.uint8).tobytes()
    )
    loaded = Image.open(path)
    loaded.load()
    for read, source in (
        (ImageReader.read, path),
        (ImageReader.convert, Image.open(path)),
        (ImageReader.convert, loaded),
    ):
        assert (read(ImageReader("unchanged"), source)[0].numpy() == GRAY16 >> 4).all()
        assert (read(ImageReader("grayscale"), source)[0].numpy() == GRAY16 >> 8).all()


def test_opencv_reads_what_pillow_cannot(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    reader = ImageReader("unchanged", "cv2")
    path = encoded_by_ffmpeg(tmp_path / "a.tif", "tiff", RGB16, "rgb48le", "rgb48le")
    assert (reader.read(path).permute(1, 2, 0).numpy() == RGB16).all()
    for kind in ("png", "ppm", "jp2 color", "sgi"):
        path, values = deep_file(tmp_path, kind)
        if kind == "sgi":
            with pytest.raises(DataError, match=r"a\.sgi has more than 8 bits.*convert it to PNG"):
                reader.read(path)
        for found in () if kind == "sgi" else (reader.read(path), reader.convert(Image.open(path))):
            found = found.permute(1, 2, 0).numpy()
            assert np.abs(found - values).max() <= (1000 if kind == "jp2 color" else 0)  # with losses
    if features.check("avif"):
        cv2.imwrite(str(tmp_path / "a.avif"), RGB16 >> 6, [cv2.IMWRITE_AVIF_DEPTH, 10])
        assert 240 < ImageReader("color", "cv2", to_float32=True).read(tmp_path / "a.avif").max() <= 255
        with pytest.raises(DataError, match=r"a\.avif has more than 8 bits"):
            ImageReader("unchanged").read(tmp_path / "a.avif")
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
