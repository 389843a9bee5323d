"""Damaged, missing and unusual image files, and masks."""

import io
import random
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from image_files import GRAY16, MODES, RGB, picture, written
from PIL import Image

from trainwright.engine import DamagedFileError, DataError
from trainwright.engine.images.files import read_indices
from trainwright.engine.images.reader import ImageReader


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


def test_files_that_are_not_images_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
