"""``browse-dataset --stats``."""

import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import write_coco_shapes
from PIL import Image

from trainwright.datasets import BaseSegDataset, ConcatDataset, RepeatDataset, Shapes
from trainwright.engine.registry import DATASETS
from trainwright.tools import stats as stats_module
from trainwright.tools.cli import main
from trainwright.tools.stats import count_dataset, draw_stats, print_stats

CONFIG = """\
train_dataloader = dict(batch_size=2, dataset=dict(
    type="CocoDataset", data_root="coco", ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img_path="train2017"), pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
model = dict(type="LeNet")
"""


def test_a_coco_dataset(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco_shapes(Path("coco"))
    content = json.loads(Path("coco/annotations/instances_train2017.json").read_text())
    Path("coco.py").write_text(CONFIG)
    assert main(["browse-dataset", "coco.py", "--stats", "--out-dir", "seen"]) == 0
    output = capsys.readouterr().out
    kept = [each for each in content["annotations"] if not each.get("iscrowd")]
    number = {each["name"]: sum(one["category_id"] == each["id"] for one in kept) for each in content["categories"]}
    rows = [line.replace("│", " ").split() for line in output.splitlines()]
    assert {row[0]: int(row[1]) for row in rows if row and row[0] in number} == number
    assert ["samples", str(len(content["images"]))] in rows
    assert [path.name for path in Path("seen").iterdir()] == ["stats.png"]
    assert main(["browse-dataset", "coco.py", "--stats", "--split", "val"]) == 2


def test_shapes_and_wrappers(tmp_path: Path) -> None:
    dataset = Shapes(num_samples=10, size=48)
    counted = count_dataset(dataset)
    boxes = [len(dataset.get_data_info(index)["gt_bboxes"]) for index in range(10)]
    assert counted.boxes_per_image == boxes and sum(counted.labels.values()) == sum(boxes)
    assert counted.sizes == [(48, 48)] * 10 and counted.masks == 10
    assert sum(counted.pixels.values()) == 10 * 48 * 48
    assert count_dataset(RepeatDataset(dataset, 3)).labels == {k: 3 * n for k, n in counted.labels.items()}
    assert count_dataset(ConcatDataset([dataset, dataset])).boxes_per_image == boxes * 2


def test_masks_unreadable_files_and_ignored_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, value in (("images", 9), ("masks", 1)):
        (tmp_path / folder).mkdir()
        for name, size in (("a", (8, 6)), ("b", (16, 4)), ("c", (8, 6))):
            Image.new("L", size, value).save(tmp_path / folder / f"{name}.png")
    mask = np.full((6, 8), 255, np.uint8)
    mask[0] = 0
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    (tmp_path / "masks/c.png").write_text("damaged")
    meta = {"classes": ("sky", "tree")}
    counted = count_dataset(BaseSegDataset(img_suffix=".png", data_root=tmp_path, metainfo=meta))
    assert counted.pixels == {0: 8, 255: 40, 1: 64}
    assert (counted.masks, counted.unreadable, counted.sizes) == (2, 1, [(6, 8), (4, 16), (6, 8)])
    print_stats(counted, meta, "masks")
    output = capsys.readouterr().out
    assert "57.14" in output and "ignored" in output and "could not be read" in output
    assert draw_stats(counted, meta, tmp_path / "stats.png") and (tmp_path / "stats.png").is_file()


def test_labels_and_lengths_of_videos() -> None:
    counted = count_dataset(DATASETS.build({"type": "MovingShapes", "num_samples": 6}))
    assert sum(counted.labels.values()) == 6 and counted.frames == [12] * 6


def test_large_datasets_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stats_module, "_MAX_DRAWN", 5)
    monkeypatch.setattr(stats_module, "_MAX_HEADERS", 3)
    dataset = Shapes(num_samples=20, size=16)
    counted = count_dataset(dataset)
    assert (counted.total, counted.samples, len(counted.boxes_per_image), len(counted.sizes)) == (20, 5, 5, 3)
    print_stats(counted, dataset.metainfo, "Shapes")
    output = capsys.readouterr().out
    assert "5, evenly selected" in output and "of 3 images" in output
