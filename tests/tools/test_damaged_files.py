"""What the commands say about damaged images and images of more than 8 bits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainwright.tools.cli import main

CONFIG = """
pipeline = [dict(type="LoadImageFromFile", ignore_empty={ignore}), dict(type="PackInputs")]
model = dict(type="ImageClassifier", backbone=dict(type="LeNet", num_classes=2, in_channels=3, image_size=16))
data_preprocessor = dict(type="ImgDataPreprocessor", mean=[110.0] * 3, std=[90.0] * 3)
dataset = dict(type="ImageFolder", data_root="data", split="train", pipeline=pipeline)
train_dataloader = dict(
    batch_size=4, num_workers={workers}, dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=True)
)
val_dataloader = dict(batch_size=4, dataset=dict(dataset, split="val"), sampler=dict(type="DefaultSampler"))
train_cfg = dict(by_epoch=True, max_epochs={epochs})
val_cfg = dict()
val_evaluator = dict(type="Accuracy")
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=2e-3))
randomness = dict(seed=0)
"""


def draw(folder: Path, suffix: str, scale: int) -> None:
    """Draw two classes that differ in brightness by a quarter of the range."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        for name, level in (("dark", 90), ("light", 150)):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for index in range(number):
                pixels = (rng.integers(level - 30, level + 30, (16, 16)) * scale).astype(
                    np.uint16 if scale > 1 else np.uint8
                )
                Image.fromarray(pixels).save(place / f"{index}.{suffix}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_at_a_damaged_file_with_its_name_and_the_remedy(
    folder: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    draw(folder, "jpg", 1)
    damaged = folder / "data/train/dark/3.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    (folder / "data/train/light/1.jpg").write_text("text")
    Path("a.py").write_text(CONFIG.format(ignore=False, workers=workers, epochs=1))
    assert main(["train", "a.py", "--work-dir", "run"]) == 2
    lines = capfd.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if "is damaged" in line)
    assert "data/train/" in lines[first] and not any("Traceback" in line for line in lines)
    assert any("ignore_empty" in line and "skip_bad_samples" in line for line in lines[first:])
    if workers:
        return
    assert main(["browse-dataset", "a.py", "--number", "2"]) == 1
    err = capfd.readouterr().err
    assert err.count("is damaged") == 2 and "dark/3.jpg" in err and "light/1.jpg" in err
    assert main(["browse-dataset", "a.py", "--number", "2", "--no-decode"]) == 0
    Path("b.py").write_text(CONFIG.format(ignore=True, workers=0, epochs=1))
    assert main(["train", "b.py", "--work-dir", "run"]) == 0


def test_images_of_16_bits_are_learned_and_predicted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(folder, "tiff", 256)
    Path("a.py").write_text(CONFIG.format(ignore=False, workers=0, epochs=10))
    assert main(["train", "a.py", "--work-dir", "run"]) == 0
    assert "accuracy/top1: 100.0" in (folder / "run").glob("*/*.log").__next__().read_text()
    assert main(["predict", "a.py", "run/epoch_10.pth", "data/val/dark", "data/val/light"]) == 0
    printed = capsys.readouterr().out
    assert "dark/0.tiff: dark" in printed and "light/0.tiff: light" in printed
