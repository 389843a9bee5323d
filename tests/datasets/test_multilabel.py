"""Datasets for multi-label classification."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainwright.datasets import VOC, LabelsFromInstances, MultiLabelDataset, Shapes
from trainwright.datasets.transforms import PackInputs

PIPELINE = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]


def write(folder: Path, *labels: Any, classes: tuple[str, ...] = ("cat", "dog", "tree")) -> str:
    data_list = []
    for index, label in enumerate(labels):
        Image.new("RGB", (5, 4)).save(folder / f"{index}.png")
        data_list.append({"img_path": f"{index}.png", "gt_label": label})
    (folder / "ann.json").write_text(json.dumps({"metainfo": {"classes": classes}, "data_list": data_list}))
    return "ann.json"


def test_classes_by_number_and_by_name(tmp_path: Path) -> None:
    ann_file = write(tmp_path, [2, 0, 2], [], ["dog", "cat"])
    dataset = MultiLabelDataset(ann_file, data_root=tmp_path, pipeline=PIPELINE)
    assert [dataset.get_cat_ids(index) for index in range(3)] == [[0, 2], [], [0, 1]]
    packed = [dataset[index]["data_samples"] for index in range(3)]
    assert [sample.gt_label.tolist() for sample in packed] == [[0, 2], [], [0, 1]]
    assert packed[1].gt_label.dtype == torch.int64
    assert list(dataset.check_annotations()) == []


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([3], "0.png: unknown class 3: must be from 0 to 2"),
        ([-1], "0.png: unknown class -1"),
        (["dgo"], "0.png: unknown class 'dgo': did you mean 'dog'"),
        (1, "0.png: gt_label must be a list of classes, not 1"),
        (None, "gt_label must be a list"),
    ],
)
def test_an_unknown_class_is_named_with_its_sample(tmp_path: Path, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabelDataset(write(tmp_path, label), data_root=tmp_path)


def test_all_bad_samples_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        MultiLabelDataset(write(tmp_path, [0], [9], ["tee"], *[[4]] * 20), data_root=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("    1.png: unknown class 9")
    assert lines[2].startswith("    2.png: unknown class 'tee'")
    assert lines[-1] == "    … and 2 more"
    assert len(lines) == 22


def test_a_file_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ann.json: metainfo has no classes"):
        MultiLabelDataset(write(tmp_path, [0], classes=()), data_root=tmp_path)


def voc(folder: Path, **flags: str) -> Path:
    """Write the files of all classes for two images, by default without the class."""
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    for name in VOC.METAINFO["classes"]:
        (lists / f"{name}_trainval.txt").write_text(flags.get(name, "000005 -1\n000007 -1\n"))
    return folder


def test_pascal_voc(tmp_path: Path) -> None:
    voc(tmp_path, car="000005 -1\n000007  1\n", chair="000005  1\n000007 -1\n", bottle="000005  0\n000007 -1\n")
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "JPEGImages/000005.jpg")
    dataset = VOC(tmp_path, pipeline=PIPELINE)
    car, chair, bottle = (dataset.metainfo["classes"].index(name) for name in ("car", "chair", "bottle"))
    assert [dataset.get_cat_ids(index) for index in range(2)] == [[chair], [car]]
    scores = dataset[0]["data_samples"].gt_score
    assert scores.dtype == torch.float32
    assert (scores[chair], scores[bottle], scores[car]) == (1, -1, 0)
    (problem,) = dataset.check_annotations()
    assert problem.startswith(f"sample 1: {tmp_path}/JPEGImages/000007.jpg not found")


def test_bad_lists_of_pascal_voc(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"car_trainval.txt:1: expected .* 1, 0 or -1, got '000005 2'"):
        VOC(voc(tmp_path / "a", car="000005 2\n"))
    with pytest.raises(ValueError, match=r"car_trainval.txt and .*aeroplane_trainval.txt list different images"):
        VOC(voc(tmp_path / "b", car="000005 1\n"))
    with pytest.raises(FileNotFoundError, match="aeroplane_trainval.txt"):
        VOC(tmp_path / "c")


def test_instances_become_labels() -> None:
    dataset = Shapes(num_samples=8, size=32, pipeline=[LabelsFromInstances(), PackInputs()])
    for index in range(8):
        sample = dataset[index]["data_samples"]
        assert sample.gt_label.tolist() == sorted(set(sample.gt_instances.labels.tolist()))
    assert LabelsFromInstances()({"img": "of a user"}) == {"img": "of a user"}
