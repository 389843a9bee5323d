import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import make_runner

from trainwright.datasets import BaseDataset
from trainwright.engine.config.config import Config
from trainwright.engine.errors import DataError
from trainwright.engine.run.data_check import check_data
from trainwright.engine.run.first_batch import check_labels
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.tools.cli import main

CONFIG = """\
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
model = dict(
    type="ImageClassifier",
    backbone=dict(type="LeNet", num_classes=2, in_channels=3, image_size=8, channels=(2, 2), hidden_features=4),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(type="ImageFolder", data_root="data", split="train", pipeline=pipeline),
)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
val_dataloader = dict(batch_size=8, dataset=dict(type="ImageFolder", data_root="data", split="val", pipeline=pipeline))
val_cfg = dict()
val_evaluator = [dict(type="Accuracy"), dict(type="ConfusionMatrix", out_file="matrix.png")]
default_hooks = dict(progress=None)
"""


@pytest.fixture
def folder(in_tmp: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            path = in_tmp / "data" / split / name
            path.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(path / f"{number}.png")
    (in_tmp / "my.py").write_text(CONFIG)
    return in_tmp


def found_in(text: str = CONFIG, **options: Any) -> list[str]:
    Path("my.py").write_text(text)
    cfg = Config.fromfile("my.py")
    cfg.merge_from_dict(options)
    return check_data(cfg).mistakes


def test_nothing_is_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["check", "--data", "my.py"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "train: 6 samples of ImageFolder, 2 classes (cat, dog); inputs (3, 8, 8) uint8; losses loss",
        "val: 6 samples of ImageFolder, 2 classes (cat, dog); inputs (3, 8, 8) uint8; metrics accuracy/top1",
        "my.py: no mistakes found",
    ]
    assert sorted(folder.rglob("*")) == before
    assert main(["train", "my.py", "--work-dir", "out"]) == 0


WRONG = {
    "channels": ("in_channels=3", "in_channels=1", r"model: its first convolution takes 1 channels, but the images of train_dataloader\.dataset have 3"),
    "not packed": (', dict(type="PackInputs")', "", r"train_dataloader\.dataset\.pipeline: the samples are not packed: they have img_path, gt_label"),
    "not loaded": ('[dict(type="LoadImageFromFile"), ', '[dict(type="Resize", size=8), ', r"data/train/\w+/\d\.png has not been loaded: begin the pipeline"),
    "classes": ("num_classes=2", "num_classes=1", r"model: it has no output for the label 1 in train_dataloader\.dataset"),
    "mean": ("model = dict(", "model = dict(data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),", r"mean and std have 3 values, but the images have 1 channels"),
    "metric": ('dict(type="Accuracy")', 'dict(type="ConfusionMatrix", num_classes=1)', r"val_evaluator: ConfusionMatrix has num_classes=1"),
}  # fmt: skip


@pytest.mark.parametrize("case", ["channels", "not packed", "not loaded", "classes", "mean", "metric"])
def test_mistakes_are_named_by_check_and_by_train(folder: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    old, new, expected = WRONG[case]
    assert old in CONFIG
    text = CONFIG.replace(old, new)
    if case == "mean":
        text = text.replace('"LoadImageFromFile"', '"LoadImageFromFile", color_type="grayscale"')
    (folder / "my.py").write_text(text)
    for command in (["check", "--data", "my.py"], ["train", "my.py", "--work-dir", "out"]):
        assert main(command) == 2
        output = capfd.readouterr().err
        assert re.search(expected, output), output
        assert "Traceback" not in output


def test_all_mistakes_are_reported_together(folder: Path) -> None:
    Image.new("RGB", (9, 8)).save(folder / "data/val/cat/1.png")
    (folder / "data/train/cat/2.png").write_bytes(b"no image")
    for number in (0, 1):
        (folder / f"data/train/cat/{number}.png").write_bytes(b"no image")
    (first, second) = found_in()
    assert "data/train/cat" in first
    assert (
        "the images of a batch have different sizes (height, width): (8, 8), data/val/cat/0.png, and (8, 9)" in second
    )


def test_labels_are_checked_without_loading_images(folder: Path) -> None:
    lines = [f"cat/{number}.png {number % 2}" for number in range(3)] * 9 + ["cat/0.png 5"]
    (folder / "data/list.txt").write_text("\n".join(lines))
    listed = {"train_dataloader.dataset.ann_file": "list.txt"}
    assert found_in(**listed) == ["train_dataloader.dataset: sample 27 has the label 5, but labels must be from 0 to 1"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_missing_files_are_found_before_the_first_step(folder: Path, split: str, capfd: Any) -> None:
    """Also those of the test that follows the training."""
    (folder / "data/list.txt").write_text("train/cat/0.png 0\ntrain/cat/7.png 0\n")
    listed = 'dict(batch_size=8, dataset=dict(type="ImageFolder", data_root="data", ann_file="list.txt", pipeline=pipeline, metainfo=dict(classes=["cat", "dog"])))'
    test = "test_dataloader, test_cfg, test_evaluator = val_dataloader, dict(), val_evaluator[:1]\n"
    test += 'custom_hooks = [dict(type="FinalTestHook")]\n'
    (folder / "my.py").write_text(f"{CONFIG}{test}{split}_dataloader = {listed}\n")
    for command in (["check", "--data", "my.py"], ["train", "my.py", "--work-dir", "out"]):
        assert main(command) == 2
        error = capfd.readouterr().err
        assert f"{split}_dataloader.dataset names files that do not exist, 1 in 2 samples" in error
        assert "sample 1: data/train/cat/7.png does not exist" in error
    assert not list(folder.glob("out/*.pth"))
    if split == "train":
        assert main(["train", "my.py", "--cfg-options", "train_dataloader.skip_bad_samples=1"]) == 0


def test_paths_that_are_not_of_files_are_left_to_the_pipeline(folder: Path) -> None:
    (folder / "remote_images.py").write_text(
        "import torch\nfrom trainwright.engine import TRANSFORMS\n\n\n"
        "@TRANSFORMS.register_module()\ndef load_from_store():\n"
        "    return lambda sample: {**sample, 'img': torch.zeros(3, 8, 8, dtype=torch.uint8)}\n"
    )
    (folder / "data/list.txt").write_text("s3://bucket/0.png 0\ns3://bucket/1.png 0\n")
    text = f"custom_imports = dict(imports=['remote_images'])\n{CONFIG}".replace(
        '"LoadImageFromFile"', '"load_from_store"'
    )
    listed = {"train_dataloader.dataset.ann_file": "list.txt"}
    assert found_in(text, **listed) == []


def test_samples_in_a_form_of_their_own(tmp_path: Path) -> None:
    class Paths(BaseDataset):
        """mmagic's ``GrowScaleImgDataset`` has such a list, and does not use ``get_data_info``."""

        def load_data_list(self) -> Any:
            return [str(tmp_path / f"{index}.png") for index in range(8)]

        def __getitem__(self, index: int) -> Any:
            return torch.ones(2), torch.tensor(float(index))

    runner = make_runner(tmp_path, dataset=Paths(serialize_data=False))
    runner.train()
    assert len(runner.model.seen) == 6


def test_an_error_in_a_users_component(folder: Path) -> None:
    (folder / "parts_to_check.py").write_text(
        "from trainwright.engine import TRANSFORMS\n\n\n"
        "@TRANSFORMS.register_module()\ndef broken_step():\n    return lambda sample: sample['imgg']\n"
    )
    text = CONFIG.replace('dict(type="PackInputs")', 'dict(type="broken_step"), dict(type="PackInputs")')
    mistakes = found_in(f"custom_imports = dict(imports=['parts_to_check'])\n{text}")
    assert len(mistakes) == 2
    for mode, mistake in zip(("train", "val"), mistakes):
        assert mistake.startswith(f"{mode}_dataloader: KeyError: 'imgg'")
        assert "parts_to_check.py:6" in mistake and "while loading" in mistake


@pytest.mark.parametrize("value", [255, 7])
def test_masks(in_tmp: Path, value: int) -> None:
    for name in ("images", "masks"):
        (in_tmp / "data" / name).mkdir(parents=True)
        for number in range(4):
            image = np.zeros((16, 16, 3), np.uint8) if name == "images" else np.full((16, 16), value, np.uint8)
            image[:8] = 0
            Image.fromarray(image).save(in_tmp / "data" / name / f"{number}.png")
    text = """\
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadSegMap"), dict(type="PackInputs")]
model = dict(type="SemanticSegmentor", network=dict(type="UNet", num_classes=2, base_channels=2, depth=2))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(type="BaseSegDataset", data_root="data", img_suffix=".png", pipeline=pipeline),
)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
"""
    expected = "no values but 0 and 255" if value == 255 else "has the value 7, but there are 2 classes"
    (mistake,) = found_in(text)
    assert mistake.startswith("train_dataloader.dataset: ") and expected in mistake
    assert main(["train", "my.py", "--work-dir", "out"]) == 2
    options = {"train_dataloader.dataset.label_map": {0: 0, value: 1}}
    assert found_in(text, **options) == []


def test_maps_beside_boxes_have_classes_of_their_own() -> None:
    model = torch.nn.Identity()
    model.num_classes = 3  # type: ignore[assignment]
    sample = DataSample()
    sample.gt_sem_seg = PixelData(sem_seg=torch.tensor([[[0, 3]]]))
    run, batch = cast(Runner, SimpleNamespace(model=model)), {"data_samples": [sample]}
    with pytest.raises(DataError, match="has the value 3, but there are 3 classes"):
        check_labels(run, [], batch, "train", "train_dataloader")
    sample.gt_instances = InstanceData(labels=torch.tensor([2]))
    check_labels(run, [], batch, "train", "train_dataloader")
    sample.gt_instances = InstanceData(labels=torch.tensor([3]))
    with pytest.raises(DataError, match="has the label 3, but there are 3 classes"):
        check_labels(run, [], batch, "train", "train_dataloader")
