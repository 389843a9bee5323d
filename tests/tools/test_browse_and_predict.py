import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import write_coco_shapes
from PIL import Image

from trainwright.tools.cli import main

SHAPES = """\
train_dataloader = dict(
    batch_size=2,
    dataset=dict(type="Shapes", num_samples=3, size=32, pipeline=[dict(type="RandomHorizontalFlip"), dict(type="PackInputs")]),
)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
model = dict(type="LeNet")
"""


def test_images_of_the_samples_are_written(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("shapes.py").write_text(SHAPES)
    assert main(["browse-dataset", "shapes.py", "--number", "2", "--out-dir", "seen"]) == 0
    pictures = sorted(Path("seen").iterdir())
    assert [picture.name for picture in pictures] == ["000000.png", "000001.png"]
    assert Image.open(pictures[0]).size == (224, 248)  # enlarged, with a caption above
    assert "2 of 3 samples of Shapes to seen" in capsys.readouterr().out
    before = np.array(Image.open(pictures[0]))
    assert main(["browse-dataset", "shapes.py", "--number", "2", "--out-dir", "again"]) == 0
    assert (np.array(Image.open("again/000000.png")) == before).all()


def test_a_missing_image_is_reported_and_the_exit_status_is_1(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("there.png")
    annotations = {"metainfo": {}, "data_list": [{"img_path": "there.png"}, {"img_path": "gone.png"}]}
    Path("ann.json").write_text(json.dumps(annotations))
    dataset = dict(
        type="BaseDataset", ann_file="ann.json", pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    )
    Path("files.py").write_text(f"{SHAPES}train_dataloader = dict(batch_size=1, dataset={dataset!r})\n")
    assert main(["browse-dataset", "files.py", "--number", "1"]) == 1
    captured = capsys.readouterr()
    assert "sample 1: gone.png not found" in captured.err
    assert "there.png" not in captured.err
    assert Path("browse/files/train/000000.png").is_file()


def test_invalid_annotations_are_reported(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = {"metainfo": {"classes": ["cat"]}, "data_list": [{"img_path": "a.png", "gt_label": [1]}]}
    Path("ann.json").write_text(json.dumps(annotations))
    dataset = dict(type="MultiLabelDataset", ann_file="ann.json")
    Path("refused.py").write_text(f"{SHAPES}train_dataloader = dict(batch_size=1, dataset={dataset!r})\n")
    assert main(["browse-dataset", "refused.py"]) == 2
    error = capsys.readouterr().err
    assert "a.png: unknown class 1" in error
    assert "while building train_dataloader.dataset (MultiLabelDataset), refused.py" in error
    assert "Traceback" not in error


def test_a_missing_split_is_an_error(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("shapes.py").write_text(SHAPES)
    assert main(["browse-dataset", "shapes.py", "--split", "val"]) == 2
    assert "val_dataloader" in capsys.readouterr().err


def test_points_cannot_be_drawn(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse-dataset", "toy/mlp_xor"]) == 2
    assert "inputs of shape (2,)" in capsys.readouterr().err


def test_predictions_are_written_as_json_and_as_images(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "classification/lenet_fashion_mnist"
    options = [
        "train_dataloader.num_batch_per_epoch=5",
        "train_cfg.max_epochs=1",
        "val_dataloader.num_batch_per_epoch=1",
    ]
    options += ["test_dataloader.num_batch_per_epoch=1"]
    assert main(["train", config, "--work-dir", "run", "--cfg-options", *options]) == 0
    Path("pictures").mkdir()
    for name, gray in (("a", 40), ("b", 200)):
        Image.new("L", (28, 28), gray).save(f"pictures/{name}.png")
    assert main(["predict", config, "run/epoch_1.pth", "pictures", "pictures/a.png", "--batch-size", "2"]) == 0
    entries = json.loads(Path("predictions/predictions.json").read_text())
    assert [entry["input"] for entry in entries] == ["pictures/a.png", "pictures/b.png", "pictures/a.png"]
    assert entries[0]["pred_class"] == entries[2]["pred_class"]
    assert len(entries[0]["pred_scores"]) == 10
    assert len(list(Path("predictions").glob("*.png"))) == 3
    assert main(["predict", config, "run/epoch_1.pth", "nothing.png"]) == 2
    assert "no such file or folder: 'nothing.png'" in capsys.readouterr().err
    Path("pictures/broken.png").write_text("no image")
    capsys.readouterr()
    assert main(["predict", config, "run/epoch_1.pth", "pictures"]) == 1
    assert capsys.readouterr().err.startswith("pictures/broken.png: cannot be read: ")
    entries = json.loads(Path("predictions/predictions.json").read_text())
    assert ["error" in entry for entry in entries] == [False, False, True]
    assert [entry["input"] for entry in entries] == [f"pictures/{name}.png" for name in ("a", "b", "broken")]
    assert main(["predict", config, "run/epoch_1.pth", "pictures/broken.png"]) == 2
    assert "none of the inputs can be read" in capsys.readouterr().err


def test_a_sample_that_cannot_be_loaded_is_named_and_the_others_are_drawn(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, value in (("images", 9), ("masks", 0)):
        Path(folder).mkdir()
        for name in "ab":
            Image.new("L", (8, 8), value).save(f"{folder}/{name}.png")
    Image.new("L", (8, 8), 7).save("masks/a.png")
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadSegMap"), dict(type="PackInputs")]
    dataset = dict(type="BaseSegDataset", img_suffix=".png", metainfo=dict(classes=("sky", "tree")), pipeline=pipeline)
    Path("masks.py").write_text(f"{SHAPES}train_dataloader = dict(batch_size=1, dataset={dataset!r})\n")
    assert main(["browse-dataset", "masks.py", "--out-dir", "seen"]) == 1
    captured = capsys.readouterr()
    assert "sample 0: masks/a.png contains the unknown class 7: expected 0 to 1" in captured.err
    assert "while loading sample 0 (images/a.png)" in captured.err
    assert "1 of 2 samples of BaseSegDataset to seen" in captured.out
    assert [picture.name for picture in Path("seen").iterdir()] == ["000001.png"]


def test_all_bad_annotations_are_listed_and_the_rest_is_drawn(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for any config: a dataset in a wrapper, which refuses bad annotations in training."""
    Image.new("RGB", (10, 8)).save("a.png")
    polygons = [[2, 1, 6, 1, 6, 4], [2, 1, 6, 1, 6, float("nan")], [2, 1, 1e12, 1, 6, 4]]
    boxes = [
        dict(id=number, image_id=1, category_id=1, bbox=[2, 1, 4, 3], segmentation=[polygon])
        for number, polygon in enumerate(polygons)
    ]
    image = dict(id=1, file_name="a.png", height=8, width=10)
    Path("ann.json").write_text(json.dumps(dict(images=[image], annotations=boxes, categories=[dict(id=1, name="a")])))
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True), dict(type="PackInputs")]
    dataset = dict(type="RepeatDataset", times=2, dataset=dict(type="CocoDataset", ann_file="ann.json", pipeline=steps))
    Path("bad.py").write_text(f"{SHAPES}train_dataloader = dict(batch_size=1, dataset={dataset!r})\n")
    assert main(["browse-dataset", "bad.py", "--out-dir", "seen"]) == 1
    errors = capsys.readouterr().err
    assert "annotation 1 (a.png): segmentation: polygon 0 has a coordinate that is not a finite number: nan" in errors
    assert "annotation 2 (a.png): segmentation: polygon 0 has a coordinate far outside the image" in errors
    assert sorted(path.name for path in Path("seen").iterdir()) == ["000000.png", "000001.png"]


DETECTOR = """\
_base_ = ["trainwright::instance_segmentation/mask_rcnn_mobilenet_v2_shapes.py"]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        _delete_=True,
        type="CocoDataset",
        data_root="coco",
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img_path="train2017"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_mask=True),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
)
inference_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackInputs")]
model = dict(network=dict(box_score_thresh=0.0))
train_cfg = dict(max_epochs=1)
val_dataloader = dict(num_batch_per_epoch=1, batch_size=2, dataset=dict(size=64))
test_dataloader = val_dataloader
"""


@pytest.mark.long
def test_boxes_and_masks_are_browsed_and_predicted(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco_shapes(Path("coco"))
    Path("detector.py").write_text(DETECTOR)
    assert main(["browse-dataset", "detector.py", "--out-dir", "seen"]) == 0
    assert len(list(Path("seen").iterdir())) == 4
    drawn = np.array(Image.open("seen/000000.png")).astype(int)
    plain = np.array(Image.open("coco/train2017/000000000000.jpg")).astype(int)
    assert drawn.shape == (256, 256, 3)  # enlarged four times
    assert abs(drawn[::4, ::4] - plain).max() > 60
    assert main(["train", "detector.py", "--work-dir", "run"]) == 0
    assert main(["predict", "detector.py", "run/epoch_1.pth", "coco/val2017", "--out-dir", "out"]) == 0
    first, second = json.loads(Path("out/predictions.json").read_text())
    found = first["pred_instances"]
    assert [len(found[name]) for name in ("bboxes", "labels", "scores", "masks")] == [20] * 4
    assert found["masks"][0]["size"] == [64, 64]
    assert second["pred_instances"]["masks"][0]["size"] == [64, 80]
    assert Path("out/000000000000.png").is_file()

    annotations = Path("coco/annotations/instances_train2017.json")
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"] = [60, 5, 30, 10]
    annotations.write_text(json.dumps(content))
    Path("coco/train2017/000000000002.jpg").unlink()
    capsys.readouterr()
    assert main(["browse-dataset", "detector.py", "--out-dir", "rest"]) == 1
    assert sorted(path.name for path in Path("rest").iterdir()) == ["000000.png", "000001.png", "000003.png"]
    errors = capsys.readouterr().err
    assert "annotation 1 (coco/train2017/000000000000.jpg): bbox: is partly outside the image" in errors
    assert "sample 2: coco/train2017/000000000002.jpg not found" in errors
    assert main(["train", "detector.py", "--work-dir", "again"]) == 2
    errors = capsys.readouterr().err
    assert "annotation 1 (coco/train2017/000000000000.jpg): bbox: is partly outside the image" in errors
    assert "while building train_dataloader.dataset (CocoDataset)" in errors
