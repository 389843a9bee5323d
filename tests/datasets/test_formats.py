"""Data in the formats of YOLO and LabelMe, tables of labels, and RGB masks."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainwright.datasets import (
    BaseSegDataset,
    CustomDataset,
    LabelMeDataset,
    LabelMePoseDataset,
    MultiLabelDataset,
    VideoDataset,
    YOLODataset,
    YOLOPoseDataset,
)
from trainwright.datasets.formats.labelme import read_labelme
from trainwright.datasets.formats.tables import class_names, read_table
from trainwright.datasets.formats.yolo import read_description, read_yolo
from trainwright.engine.errors import DataError

NAMES = "names: {0: cat, 1: dog}\n"


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def yolo(root: Path, labels: dict[str, str | None], description: str = "train: images\n" + NAMES) -> str:
    """Write images of 40x20 pixels and their label files, and return the data.yaml."""
    for name, text in labels.items():
        picture(root / f"images/{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        if text is not None:
            (root / f"labels/{name}.txt").write_text(text)
    (root / "data.yaml").write_text(description)
    return str(root / "data.yaml")


def test_yolo_boxes_and_backgrounds(tmp_path: Path) -> None:
    file = yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n1 0.25 0.5 0.1 0.2\n", "b": "", "c": None})
    dataset = YOLODataset(file)
    assert dataset.metainfo["classes"] == ("cat", "dog")
    infos = [dataset.get_data_info(index) for index in range(3)]
    assert [Path(info["img_path"]).name for info in infos] == ["a.png", "b.png", "c.png"]
    first, second = infos[0]["instances"]
    assert first["bbox"] == pytest.approx([10, 5, 30, 15])
    assert second["bbox"] == pytest.approx([8, 8, 12, 12])
    assert (first["bbox_label"], second["bbox_label"]) == (0, 1)
    assert infos[1]["instances"] == infos[2]["instances"] == []


def test_yolo_polygons(tmp_path: Path) -> None:
    content, _ = read_yolo(yolo(tmp_path, {"a": "1 0 0 0.5 0 0.5 1\n"}), "train")
    (annotation,) = content.annotations
    assert annotation["segmentation"] == [[0, 0, 20, 0, 20, 20]]
    assert (annotation["bbox"], annotation["area"]) == ([0, 0, 20, 20], 200)
    assert annotation["source"] == f"{tmp_path / 'labels/a.txt'}:1"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 0.5 0.5 0.5", "got 4"),
        ("0 0.5 0.5 0.5 0.5 0.9", "got 6"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "got 8"),
        ("2 0.5 0.5 0.5 0.5", "unknown class 2"),
        ("0.5 0.5 0.5 0.5 0.5", "unknown class 0.5"),
        ("cat 0.5 0.5 0.5 0.5", "'cat' is not a number"),
        ("0 nan 0.5 0.5 0.5", "'nan' is not a finite number"),
        ("0 120 80 30 20", "pixels"),
        ("0 -0.2 0.5 0.5 0.5", "-0.2 is outside"),
        ("0 0.5 0.5 0 0.5", "no area"),
        ("0 0.1 0.1 0.2 0.1 0.3 0.1", "no area"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(line: str, problem: str, tmp_path: Path) -> None:
    file = yolo(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n\n{line}\n"})
    content, _ = read_yolo(file, "train")
    (found,) = content.problems()
    assert found.startswith(f"{tmp_path / 'labels/a.txt'}:3: ")
    assert problem in found


def test_a_line_of_yolo_that_occurs_twice_is_named(tmp_path: Path) -> None:
    content, _ = read_yolo(yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n" * 2}), "train")
    assert content.problems() == [f"{tmp_path / 'labels/a.txt'}:2: repeats line 1"]


def test_yolo_poses(tmp_path: Path) -> None:
    description = "train: images\nnames: [face]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\nkpt_names: {0: [eye_l, eye_r]}\n"
    file = yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5 0.4 0.5 2 0.6 0.5 1\n"}, description)
    dataset = YOLOPoseDataset(file)
    info = dataset.get_data_info(0)
    assert info["gt_keypoints"].tolist() == [[[16, 10], [24, 10]]]
    assert info["gt_keypoints_visible"].tolist() == [[2, 1]]
    assert dataset.metainfo["keypoints"] == ("eye_l", "eye_r")
    assert dataset.metainfo["flip_indices"] == (1, 0)
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert "expected 11 numbers" in read_yolo(file, "train")[0].problems()[0]


def test_the_places_of_yolo_images(tmp_path: Path) -> None:
    for name in ("one/images/a", "two/images/b"):
        picture(tmp_path / f"{name}.png")
        label = tmp_path / f"{name.replace('images', 'labels')}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "list.txt").write_text("./two/images/b.png\n")
    texts = {
        "folders.yaml": "path: .\ntrain: [one/images, two/images]\n",
        "list.yaml": "path: /another/machine\ntrain: list.txt\n",
        "exported.yaml": "train: ../one/images\n",
    }
    found = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text + NAMES)
        content, _ = read_yolo(str(tmp_path / name), "train")
        found[name] = [Path(image["file_name"]).name for image in content.images]
        assert len(content.annotations) == len(content.images)
    assert found == {"folders.yaml": ["a.png", "b.png"], "list.yaml": ["b.png"], "exported.yaml": ["a.png"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train: images\n", "names"),
        ("names: [a, a]\n", "'a'"),
        ("names: [a]\nnc: 2\n", "nc is 2"),
        ("names: {x: a}\n", "'x'"),
        ("names: [a]\nkpt_shape: [2, 4]\n", "kpt_shape"),
        ("names: [a]\nkpt_shape: [3, 2]\nflip_idx: [1, 2, 0]\n", "not back"),
        ("names: [a]\nkpt_shape: [2, 2]\nflip_idx: [0, 0]\n", "flip_idx"),
        ("names: [a\n", "not valid YAML"),
    ],
)
def test_a_wrong_description_of_yolo_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        read_description(str(tmp_path / "data.yaml"))
    assert "data.yaml" in str(caught.value)


def test_missing_images_and_labels_of_yolo_are_named(tmp_path: Path) -> None:
    file = yolo(tmp_path, {"a": None})
    with pytest.raises(DataError, match=r"labels.a\.txt"):
        read_yolo(file, "train")
    with pytest.raises(DataError, match="no split 'vall'"):
        read_yolo(file, "vall")


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def labelme(path: Path, shapes: list[Any], **more: Any) -> str:
    """Write an image of 40x20 pixels and its JSON file."""
    picture(path.with_suffix(".png"))
    content = {
        "shapes": shapes,
        "imagePath": f"{path.stem}.png",
        "imageData": None,
        "imageHeight": 20,
        "imageWidth": 40,
    }
    path.write_text(json.dumps({**content, **more}))
    return str(path)


def test_shapes_of_labelme(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 255], [0, 255, 0]], np.uint8)).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    shapes = [
        shape("a", "rectangle", [[30, 15], [10, 5]]),
        shape("b", "polygon", [[0, 0], [10, 0], [0, 10]]),
        shape("a", "circle", [[5, 10], [5, 16]]),
        shape("b", "mask", [[20, 4], [23, 6]], mask=mask),
        shape("c", "point", [[1, 1]]),
        shape("c", "linestrip", [[1, 1], [2, 2]]),
    ]
    content = read_labelme([labelme(tmp_path / "1.json", shapes)])
    assert [one["bbox"] for one in content.annotations[:2]] == [[10, 5, 20, 10], [0, 0, 10, 10]]
    assert [one["area"] for one in content.annotations[:2]] == [200, 50]
    left, top, width, height = content.annotations[2]["bbox"]
    assert (left, top, width, height) == pytest.approx((0, 4, 11, 12), abs=0.05)  # clipped at the left edge
    assert content.annotations[3]["bbox"] == [21, 4, 2, 2]
    assert content.annotations[3]["area"] == 3
    assert content.annotations[3]["segmentation"] == {"size": [20, 40], "counts": [424, 2, 18, 1, 355]}
    assert [category["name"] for category in content.categories] == ["a", "b"]
    assert len(content.left_out) == 2
    assert len(LabelMeDataset(tmp_path).get_data_info(0)["instances"]) == 4


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (shape("a", "rectangle", [[1, 1]]), "has 2, not 1"),
        (shape("a", "polygon", [[1, 1], [2, 2]]), "at least 3"),
        (shape("a", "hexagon", [[1, 1]]), "'hexagon'"),
        (shape("", "point", [[1, 1]]), "label"),
        (shape("a", "point", [[1, float("nan")]]), "finite"),
        (shape("a", "rectangle", [[1, 1], [1, 9]]), "no area"),
        (shape("a", "mask", [[0, 0], [1, 1]], mask="?"), "base64"),
        ("text", "must be a dict"),
    ],
)
def test_a_wrong_shape_of_labelme_is_named(wrong: Any, problem: str, tmp_path: Path) -> None:
    good = shape("a", "rectangle", [[1, 1], [9, 9]])
    content = read_labelme([labelme(tmp_path / "1.json", [good, wrong])])
    (found,) = content.problems()
    assert found.startswith(f"{tmp_path / '1.json'}: shape 2: ")
    assert problem in found


def test_files_of_labelme_without_image_are_named(tmp_path: Path) -> None:
    files = [labelme(tmp_path / f"{index}.json", []) for index in range(4)]
    (tmp_path / "0.png").unlink()
    labelme(tmp_path / "1.json", [], imageHeight=21)
    (tmp_path / "2.json").write_text("{")
    labelme(tmp_path / "3.json", [], imagePath="C:\\photos\\3.png")
    found = read_labelme(files).problems()
    assert [line.partition(": ")[0] for line in found] == files[:3]
    assert "no image" in found[0]
    assert "21 and 40" in found[1]
    assert "not valid JSON" in found[2]


def test_poses_of_labelme(tmp_path: Path) -> None:
    shapes = [
        shape("face", "rectangle", [[0, 0], [20, 20]], group_id=1), shape("right", "point", [[12, 5]], group_id=1),
        shape("left", "point", [[4, 5]], group_id=1), shape("left", "point", [[25, 5]], group_id=2),
        shape("right", "point", [[35, 9]], group_id=2),
    ]  # fmt: skip
    labelme(tmp_path / "1.json", shapes)
    dataset = LabelMePoseDataset(tmp_path, metainfo=dict(keypoints=("left", "right")))
    assert dataset.get_data_info(0)["gt_keypoints"].tolist() == [[[4, 5], [12, 5]]]
    assert dataset.get_data_info(1)["gt_bboxes"].tolist() == [[25, 5, 35, 9]]
    assert dataset.metainfo["flip_indices"] == (1, 0)


@pytest.mark.parametrize(
    ("text", "rows", "multilabel"),
    [
        ("path,label\na.png,cat\nb.png,dog\n", [("a.png", ("cat",)), ("b.png", ("dog",))], False),
        ("a.png,1\nb c.png,0\n", [("a.png", ("1",)), ("b c.png", ("0",))], False),
        ("id;breed\n1;a b\n2;c\n", [("1", ("a b",)), ("2", ("c",))], False),
        ("filename\ttags\na.png\tcat dog\nb.png\t\n", [("a.png", ("cat", "dog")), ("b.png", ())], True),
        ("image,cat,dog\na.png,1,0\nb.png,1,1\n", [("a.png", ("cat",)), ("b.png", ("cat", "dog"))], True),
        ("image,cat,dog\na.png,1,0\nb.png,0,1\n", [("a.png", ("cat",)), ("b.png", ("dog",))], False),
        ("image,label1,label2\na.png,cat,\nb.png,cat,dog\n", [("a.png", ("cat",)), ("b.png", ("cat", "dog"))], True),
    ],
)
def test_tables(text: str, rows: list[Any], multilabel: bool, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\ufeff" + text, encoding="utf-8")
    table = read_table(str(tmp_path / "list.csv"))
    assert [(row.path, row.labels) for row in table.rows] == rows
    assert table.multilabel == multilabel


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"), ("path,label\n", "no rows"), ("path,label\na.png\n", "csv:2: expected 2"),
        ("path,label\na.png,\n", "csv:2"), ("path,size\na.png,12\n", "no column of labels"), ("a.png\n", "csv:1"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_table(str(tmp_path / "list.csv"))


def test_datasets_read_tables(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("path,label\na.png,big dog\nb.png,cat\n")
    dataset = CustomDataset(tmp_path, ann_file="one.csv")
    assert dataset.metainfo["classes"] == ("big dog", "cat")
    assert [dataset.get_data_info(index)["gt_label"] for index in (0, 1)] == [0, 1]
    assert dataset.get_data_info(0)["img_path"] == str(tmp_path / "a.png")
    assert VideoDataset("one.csv", data_root=tmp_path).get_data_info(1)["gt_label"] == 1
    (tmp_path / "several.csv").write_text("path,cat,dog\na.png,1,-1\nb.png,1,1\n")
    several = MultiLabelDataset(ann_file="several.csv", data_root=str(tmp_path))
    assert several.get_data_info(0)["gt_score"] == [1, -1]
    assert several.get_data_info(1)["gt_label"] == [0, 1]
    with pytest.raises(DataError, match="MultiLabelDataset"):
        CustomDataset(tmp_path, ann_file="several.csv")
    with pytest.raises(DataError, match=r"one\.csv:3: unknown label 'cat'"):
        CustomDataset(tmp_path, ann_file="one.csv", metainfo=dict(classes=("big dog", "fish")))


def test_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.png,10\nb.png,9\n")
    assert class_names(read_table(str(tmp_path / "list.csv"))) == ["9", "10"]


def test_rgb_masks(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/b.png"):
        picture(tmp_path / name, (2, 1))
    for name in "ab":
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).save(tmp_path / f"masks/{name}.png")
    palette = [(0, 0, 0), (255, 0, 0)]
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadSegMap")]
    metainfo = dict(classes=("ground", "house"), palette=palette)
    dataset = BaseSegDataset("", data_root=str(tmp_path), metainfo=metainfo, pipeline=pipeline)
    assert len(dataset) == 2  # images of any type
    assert dataset[0]["gt_seg_map"].tolist() == [[1, 0]]
    assert list(dataset.check_annotations()) == []
    plain = BaseSegDataset("", data_root=str(tmp_path), metainfo=dict(classes=("a", "b")), pipeline=pipeline)
    with pytest.raises(DataError, match="palette"):
        plain[0]
    wrong = dict(classes=("ground", "house"), palette=[(0, 0, 0), (254, 0, 0)])
    with pytest.raises(DataError, match=r"\(255, 0, 0\)"):
        BaseSegDataset("", data_root=str(tmp_path), metainfo=wrong, pipeline=pipeline)[0]
