"""Boxes for top-down inference: from files and from a detector."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.engine import Config
from trainwright.engine.errors import ConfigError, DataError
from trainwright.models import Pose2DInferencer
from trainwright.models.pose.boxes import as_boxes, category_labels, match_images, read_boxes
from trainwright.tools.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
POSE = "pose/topdown_shapes"
COCO = [
    dict(image_id=7, category_id=1, bbox=[2, 3, 10, 20], score=0.9),
    dict(image_id=7, category_id=1, bbox=[2, 3, 10, 19], score=0.8),  # overlaps the first
    dict(image_id=7, category_id=1, bbox=[20, 3, 9, 9], score=0.5),
    dict(image_id=7, category_id=1, bbox=[20, 3, 9, 9], score=0.1),
]
EXPECTED = [[2, 3, 12, 23], [20, 3, 29, 12]]


@pytest.fixture(scope="module")
def inferencer() -> Pose2DInferencer:
    torch.manual_seed(0)
    return Pose2DInferencer(POSE, show_progress=False)


@pytest.fixture
def images(in_tmp: Path) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), dtype=np.uint8)
    Path("images").mkdir()
    for name, content in zip(("000007.png", "b.png"), pixels):
        Image.fromarray(content).save(f"images/{name}")
    return ["images/000007.png", "images/b.png"]


def write(content: Any, name: str = "boxes.json") -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


@pytest.mark.parametrize(
    "content",
    [
        COCO,
        [dict(file_name="images/000007.png", **{key: one[key] for key in ("bbox", "score")}) for one in COCO],
        {"000007.png": [[2, 3, 12, 23, 0.9], [2, 3, 12, 22, 0.8], [20, 3, 29, 12, 0.5]], "other.png": [[0, 0, 1, 1, 1]]},
        [dict(input="images/000007.png", pred_instances=dict(bboxes=EXPECTED, scores=[0.9, 0.5], labels=[0, 0]))],
        "file_name,x1,y1,x2,y2,score\n000007.png,20,3,29,12,.5\n000007.png,2,3,12,23,.9\n000007.png,1,1,9,9,.2\n",
    ],
)  # fmt: skip
def test_every_form_of_file_has_the_same_boxes(
    images: list[str], inferencer: Pose2DInferencer, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(content, "boxes.csv" if isinstance(content, str) else "boxes.json")
    said: list[str] = []
    monkeypatch.setattr("trainwright.models.pose.inferencer.print_log", lambda message, *_: said.append(message))
    first, second = inferencer(images, bboxes=file)["predictions"]
    assert first["pred_instances"]["bboxes"] == EXPECTED
    assert np.array(first["pred_instances"]["keypoints"]).shape == (2, 4, 2)
    assert second["pred_instances"]["keypoints"] == []
    assert second["img_path"] == images[1]
    assert said == ["1 of 2 images have no boxes: images/b.png"]
    direct = inferencer(images[0], bboxes=EXPECTED)["predictions"][0]["pred_instances"]
    np.testing.assert_allclose(first["pred_instances"]["keypoints"], direct["keypoints"], atol=1e-4)
    (more,) = inferencer(images[0], bboxes=file, bbox_thr=0, nms_thr=1)["predictions"]
    assert len(more["pred_instances"]["bboxes"]) >= 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([dict(image_id=7, box=[1, 2, 3, 4])], "boxes.json: entry 0 lacks bbox.*did you mean 'bbox'"),
        ([dict(imageid=7, bbox=[1, 2, 3, 4])], "entry 0 lacks image_id or file_name.*did you mean 'image_id'"),
        ([dict(image_id=7, bbox=[1, 2, "x", 4])], "entry 0: bbox and score must be numbers"),
        ([dict(image_id=7, bbox=[1, 2, -3, 4])], r"boxes.json: 7: the box .* has no area"),
        ([dict(image_id=9, bbox=[1, 2, 3, 4])], "boxes.json has no boxes for these images.*it has boxes for '9'"),
        ([dict(image_id=7, bbox=[1, 2, 3, 4], category_id=one) for one in (1, 2)], r"several categories \(1, 2\)"),
        ([dict(image_id=7, bbox=[60, 2, 3, 4])], "images/000007.png: the box .* is outside of the image, which is 50x40"),
        ({"000007.png": [[1, 2, 3]]}, "boxes.json: 000007.png: boxes must be rows"),
        ({"000007.png": [[5, 5, 3, 9]]}, "has no area"),
        ({"000007.png": [[float("nan"), 5, 30, 9]]}, "has no area"),
        ({"annotations": {}}, "boxes.json is not a file of boxes: expected COCO detection results"),
        ("{", "boxes.json is not a JSON file"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_named(
    images: list[str], inferencer: Pose2DInferencer, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        inferencer(images, bboxes=write(content))


def test_mistakes_in_a_table_and_unknown_categories_are_named(in_tmp: Path) -> None:
    with pytest.raises(DataError, match="boxes.csv: the column 'file_name' is missing; did you mean 'filename'"):
        read_boxes(write("filename,x1,y1,x2,y2\n", "boxes.csv"))
    with pytest.raises(DataError, match="boxes.csv:3: x1, y1, x2, y2 must be numbers"):
        read_boxes(write("file_name,x1,y1,x2,y2\na.png,1,2,3,4\na.png,1,2,3\n", "boxes.csv"))
    with pytest.raises(DataError, match=r"no boxes of the categories \[2\], only \[1\]"):
        read_boxes(write(COCO), [2])
    with pytest.raises(FileNotFoundError):
        read_boxes("gone.json")
    assert category_labels(None, ["car", "person"]) == [1]
    assert category_labels(None, ["car", "bus"]) is None
    assert category_labels(["bus", 0], ["car", "bus"]) == [1, 0]
    with pytest.raises(ConfigError, match="no class 'persn'.*\n.*did you mean 'person'"):
        category_labels("persn", ["car", "person"])
    with pytest.raises(ConfigError, match="no class 2"):
        category_labels(2, ["car", "person"])


def test_images_are_found_by_the_end_of_their_path() -> None:
    content = {"a/1.png": [[0, 0, 1, 1]], "b/1.png": [[0, 0, 2, 2]], "12": [[0, 0, 3, 3]]}
    boxes = {name: as_boxes(rows, name) for name, rows in content.items()}
    found = match_images(boxes, ["data/a/1.png", "data/b/1.png", "data/000012.jpg", "data/c/1.png"], "x.json")
    assert [one.boxes.flatten().tolist()[2:3] for one in found] == [[1], [2], [3], []]


def test_a_detector_finds_the_boxes(images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    detector = Config.fromfile(CONFIGS / "detection/fcos_mobilenet_v2_shapes.py")
    detector.model.network.score_thresh = 0.0
    torch.manual_seed(0)
    pose = Pose2DInferencer(POSE, det_model=detector, det_cat_ids=1, show_progress=False)
    expected = pose.detector(images, return_datasamples=True)["predictions"]
    instances = expected[0].pred_instances
    instances = instances[instances.labels == 1]
    assert 0 < len(instances) < len(expected[0].pred_instances)
    Path("images/c.png").write_text("no image")
    errors: dict[int, Exception] = {}
    answer = pose([images[0], "images/c.png", images[1]], bbox_thr=0, nms_thr=1, errors=errors, out_dir="out")
    assert list(errors) == [1]
    first, _ = answer["predictions"]
    np.testing.assert_allclose(sorted(first["pred_instances"]["bboxes"]), sorted(instances.bboxes.tolist()), atol=1e-3)
    assert sorted(path.name for path in Path("out").iterdir()) == ["000007.png", "b.png"]
    with pytest.raises(ConfigError, match="there is also a detector"):
        pose(images[0], bboxes=[[0, 0, 9, 9]])


def test_boxes_on_the_command_line(
    images: list[str], inferencer: Pose2DInferencer, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": inferencer.model.state_dict(), "meta": {}}, "pose.pth")
    Path("images/c.png").write_text("no image")
    file = write({"000007.png": EXPECTED, "b.png": [[0, 0, 50, 40]], "c.png": [[0, 0, 9, 9]]})
    command = ["predict", POSE, "pose.pth", "images", "--bboxes", file]
    assert main(command) == 1
    assert "images/c.png: cannot be read" in capsys.readouterr().err
    entries = json.loads(Path("predictions/predictions.json").read_text())
    assert [len(entry["pred_instances"]["keypoints"]) for entry in entries[:2]] == [2, 1]
    assert "error" in entries[2]
    assert {path.name for path in Path("predictions").glob("*.png")} == {"000007.png", "b.png"}
    write({"d.png": EXPECTED})
    assert main(command) == 2
    assert "boxes.json has no boxes for these images" in capsys.readouterr().err
    assert main(["predict", "classification/lenet_fashion_mnist", "pose.pth", "images", "--bboxes", file]) == 2
    assert "--bboxes: Inferencer takes no such argument" in capsys.readouterr().err
