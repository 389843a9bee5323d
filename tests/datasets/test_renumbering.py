import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.datasets import (
    BaseCocoStyleDataset,
    BaseDataset,
    BaseSegDataset,
    ClassBalancedDataset,
    CocoDataset,
    ConcatDataset,
    FashionMNISTSubset,
    ImageFolder,
    LoadSegMap,
    MultiLabelDataset,
    RepeatDataset,
)
from trainwright.engine.data.names import adopt_numbers
from trainwright.engine.errors import DataError


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def labels_of(dataset: Any) -> list[Any]:
    return [dataset.get_cat_ids(index) for index in range(len(dataset))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/1.png", "b/2.png", "c/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path


@pytest.mark.parametrize("serialize_data", [True, False])
def test_folders_and_lists_are_renumbered(folder: Path, serialize_data: bool) -> None:
    dataset = ImageFolder(folder, serialize_data=serialize_data)
    assert labels_of(dataset) == [[0], [0], [1]]
    dataset.remap_classes(("c", "a", "b"))
    assert labels_of(dataset) == [[2], [2], [0]]
    assert dataset.metainfo["classes"] == ("c", "a", "b")
    dataset.remap_classes(("a", "b", "c"))
    assert labels_of(dataset) == [[1], [1], [2]]
    (folder / "list.txt").write_text("b/1.png 1\nc/1.png 0\n")
    listed = ImageFolder(folder, ann_file="list.txt", metainfo={"classes": ("c", "b")})
    listed.remap_classes(("a", "b", "c"))
    assert labels_of(listed) == [[1], [2]]
    subset = listed.get_subset([1])
    subset.remap_classes(("c", "b", "a"))
    assert (labels_of(subset), labels_of(listed)) == ([[0]], [[1], [2]])


def test_several_labels_and_scores_are_renumbered(tmp_path: Path) -> None:
    data = [{"img_path": "1.jpg", "gt_label": ["dog", "cat"]}, {"img_path": "2.jpg", "gt_label": []}]
    file = write(tmp_path / "a.json", {"metainfo": {"classes": ["cat", "dog"]}, "data_list": data})
    dataset = MultiLabelDataset(ann_file=file)
    dataset.remap_classes(("ant", "dog", "cat"))
    assert labels_of(dataset) == [[1, 2], []]
    scored = {"metainfo": {"classes": ["cat", "dog"]}, "data_list": [{"img_path": "1.jpg", "gt_score": [1, -1]}]}
    dataset = BaseDataset(ann_file=write(tmp_path / "b.json", scored))
    dataset.remap_classes(("dog", "ant", "cat"))
    assert dataset.get_data_info(0)["gt_score"].tolist() == [-1, 0, 1]


def test_annotations_without_labels_are_refused(tmp_path: Path) -> None:
    content = {"metainfo": {"classes": ["cat", "dog"]}, "data_list": [{"img_path": "1.jpg", "mood": 1}]}
    dataset = BaseDataset(ann_file=write(tmp_path / "a.json", content))
    with pytest.raises(DataError, match=r"no gt_label.*remap_classes\(\)"):
        dataset.remap_classes(("dog", "cat"))


def test_instances_are_renumbered(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [2, 2, 5, 5], "iscrowd": 0},
        ],
    }
    dataset = CocoDataset(ann_file=write(tmp_path / "a.json", content))
    assert labels_of(dataset) == [[0, 1]]
    dataset.remap_classes(("cat", "cow", "dog"))
    assert labels_of(dataset) == [[2, 0]]


def test_tensors_are_renumbered() -> None:
    dataset = FashionMNISTSubset(indices=20)
    before = [dataset.metainfo["classes"][label] for label in dataset.labels]
    dataset.remap_classes(tuple(reversed(dataset.metainfo["classes"])))
    assert [dataset.metainfo["classes"][label] for label in dataset.labels] == before


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [0, 1, 255], [2, 0, 255]),
        ({"label_map": {7: 0, 9: 1}}, [7, 9, 3], [2, 0, 255]),
        ({"reduce_zero_label": True}, [0, 1, 2], [255, 2, 0]),
    ],
)
def test_masks_are_renumbered(tmp_path: Path, options: Any, values: list[int], expected: list[int]) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / name / "1.png")
    meta = {"classes": ("sky", "sea"), "palette": [(1, 1, 1), (2, 2, 2)]}
    dataset = BaseSegDataset(".png", data_root=tmp_path, metainfo=meta, pipeline=[LoadSegMap()], **options)
    dataset.remap_classes(("sea", "land", "sky"))
    assert dataset[0]["gt_seg_map"].tolist() == [expected]
    assert dataset.metainfo["palette"] == [(2, 2, 2), (0, 0, 0), (1, 1, 1)]
    dataset.remap_classes(("land", "sea", "sky"))
    assert dataset[0]["gt_seg_map"].tolist() == [[{0: 1}.get(value, value) for value in expected]]


def test_values_of_binary_masks(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / name / "1.png")
    dataset = BaseSegDataset(".png", data_root=tmp_path, metainfo={"classes": ("bg", "fg")})
    (problem,) = dataset.check_labels([0])
    assert "no values but 0 and 255" in problem and "label_map={0: 0, 255: 1}" in problem
    assert list(dataset.check_annotations()) == [problem]
    mapped = BaseSegDataset(".png", data_root=tmp_path, metainfo={"classes": ("bg", "fg")}, label_map={0: 0, 255: 1})
    assert list(mapped.check_labels([0])) == list(mapped.check_annotations()) == []


def test_keypoints_are_reordered(tmp_path: Path) -> None:
    names = ["nose", "left_ear", "right_ear"]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "cat", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [1, 2, 2, 3, 4, 1, 5, 6, 2]}
        ],
    }
    dataset = BaseCocoStyleDataset(ann_file=write(tmp_path / "a.json", content), metainfo={"sigmas": (0.1, 0.2, 0.3)})
    dataset.remap_keypoints(("left_ear", "nose", "right_ear"))
    info = dataset.get_data_info(0)
    assert info["gt_keypoints"].tolist() == [[[3, 4], [1, 2], [5, 6]]]
    assert info["gt_keypoints_visible"].tolist() == [[1, 2, 2]]
    assert info["flip_indices"] == (2, 1, 0)
    assert dataset.metainfo["sigmas"] == (0.2, 0.1, 0.3)
    assert dataset.metainfo["skeleton_links"] == ((1, 0), (1, 2))


def test_wrappers_renumber_what_they_wrap(folder: Path) -> None:
    (folder / "list.txt").write_text("b/1.png b\nc/1.png c\n")
    listed = {"ann_file": "list.txt", "metainfo": {"classes": ("c", "b")}}
    several = ConcatDataset([ImageFolder(folder), ImageFolder(folder, **listed)])
    assert labels_of(several) == [[0], [0], [1], [0], [1]]
    repeated = RepeatDataset(ClassBalancedDataset(several, 0.1), times=2)
    repeated.remap_classes(("a", "c", "b"))
    assert labels_of(repeated) == [[2], [2], [1], [2], [1]] * 2
    assert repeated.metainfo["classes"] == ("a", "c", "b")
    with pytest.raises(DataError, match=r"datasets\.1 and datasets\.0 .* only the former has 'd'"):
        ConcatDataset([ImageFolder(folder), ImageFolder(folder, metainfo={"classes": ("b", "c", "d")})])


class Scenes(BaseDataset):
    """Images of one pixel each, with classes of pixels besides those of instances."""

    def __init__(self, *seg_classes: str) -> None:
        self.values = list(range(len(seg_classes)))
        super().__init__(metainfo={"classes": ("car",), "seg_classes": seg_classes}, serialize_data=False)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"value": value} for value in self.values]

    def remap_seg_classes(self, classes: tuple[str, ...]) -> None:
        for info in self.data_list:
            info["value"] = classes.index(self._metainfo["seg_classes"][info["value"]])
        self._metainfo["seg_classes"] = tuple(classes)


def test_classes_of_pixels_are_renumbered_by_datasets_that_can(tmp_path: Path) -> None:
    both = RepeatDataset(ConcatDataset([Scenes("sky", "road"), Scenes("road", "sky")]), times=1)
    assert [both[index]["value"] for index in range(4)] == [0, 1, 1, 0]
    adopt_numbers(both, "seg_classes", ("road", "sky"), "val", "train")
    assert [both[index]["value"] for index in range(4)] == [1, 0, 0, 1]
    assert both.metainfo["seg_classes"] == ("road", "sky")
    with pytest.raises(DataError, match=r"val has its seg_classes in another order.* no method remap_seg_classes\(\)"):
        fixed = BaseDataset(metainfo={"seg_classes": ("sky", "road")}, lazy_init=True)
        adopt_numbers(fixed, "seg_classes", ("road", "sky"), "val", "train")


def test_hidden_and_empty_folders_are_not_classes(folder: Path, log: pytest.LogCaptureFixture) -> None:
    for name in (".ipynb_checkpoints", "a", "__MACOSX"):
        (folder / name).mkdir()
    Image.new("RGB", (4, 4)).save(folder / ".ipynb_checkpoints/1.png")
    Image.new("RGB", (4, 4)).save(folder / "__MACOSX/._1.png")
    dataset = ImageFolder(folder)
    assert dataset.metainfo["classes"] == ("b", "c")
    assert len(dataset) == 3
    assert "not classes, since hidden or without files: .ipynb_checkpoints, __MACOSX, a" in log.text
    assert ImageFolder(folder, metainfo={"classes": ("a", "b", "c")}).get_cat_ids(2) == [2]
    assert torch.equal(torch.tensor(labels_of(dataset)), torch.tensor([[0], [0], [1]]))
