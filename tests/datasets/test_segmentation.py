"""Datasets and transforms for semantic segmentation."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from trainwright.datasets import BaseSegDataset, Cityscapes, Compose, LoadSegMap, SegRandomCrop, VOCSegmentation
from trainwright.engine.registry import TRANSFORMS

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadSegMap")]


def write(folder: Path, name: str, mask: Any, size: tuple[int, int] | None = None, suffixes: tuple[str, str] = (".jpg", ".png"), palette: bool = False) -> None:  # fmt: skip
    """Write a mask with the given values and an image of the same size or the given one, (height, width)."""
    values = np.array(mask, dtype=np.uint8)
    height, width = size or values.shape
    image_file, mask_file = (folder / part / f"{name}{end}" for part, end in zip(("images", "masks"), suffixes))
    for file in (image_file, mask_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 200, 30)).save(image_file)
    picture = Image.fromarray(values)
    if palette:
        picture = picture.convert("P")
        picture.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
        picture.putdata(values.flatten().tolist())
    picture.save(mask_file)


MASK = [[0, 1, 2], [2, 255, 0]]
MASK_OF_NAMES = dict(metainfo=dict(classes=("sky", "tree", "car")))


class Named(BaseSegDataset):
    METAINFO: ClassVar = {"classes": ("sky", "tree", "car"), "palette": [(0, 0, 255), (0, 255, 0), (255, 0, 0)]}


def test_images_and_masks_in_two_folders(tmp_path: Path) -> None:
    write(tmp_path, "b", MASK)
    write(tmp_path, "town/a", [[1]])
    dataset = BaseSegDataset(data_root=tmp_path, pipeline=LOAD, **MASK_OF_NAMES)
    assert [Path(dataset.get_data_info(i)["img_path"]).name for i in range(2)] == ["b.jpg", "a.jpg"]
    sample = dataset[0]
    assert isinstance(sample["gt_seg_map"], tv_tensors.Mask)
    assert sample["gt_seg_map"].dtype == torch.uint8
    assert sample["gt_seg_map"].tolist() == MASK
    assert sample["img"].shape == (3, 2, 3)
    assert list(dataset.check_annotations()) == []


def test_a_list_selects_samples(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name, MASK)
    (tmp_path / "train.txt").write_text("c\na\n\n")
    dataset = BaseSegDataset(data_root=tmp_path, ann_file="train.txt")
    assert [Path(dataset.get_data_info(i)["seg_map_path"]).name for i in range(len(dataset))] == ["c.png", "a.png"]


def test_images_alone(tmp_path: Path) -> None:
    write(tmp_path, "a", MASK)
    dataset = BaseSegDataset(data_root=tmp_path, data_prefix=dict(img_path="images"), pipeline=LOAD)
    assert "gt_seg_map" not in dataset[0]


def test_a_palette_gives_its_indices(tmp_path: Path) -> None:
    write(tmp_path, "a", MASK, palette=True)
    assert BaseSegDataset(data_root=tmp_path, pipeline=LOAD)[0]["gt_seg_map"].tolist() == MASK


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(reduce_zero_label=True), [[255, 0, 1], [1, 255, 255]]),
        (dict(label_map={1: 0, 2: 1}), [[255, 0, 1], [1, 255, 255]]),
        (dict(label_map={0: 2, 1: 1, 2: 0, 255: 1}), [[2, 1, 0], [0, 1, 2]]),
        (dict(label_map={0: 0}, ignore_index=9), [[0, 9, 9], [9, 9, 0]]),
    ],
)
def test_values_become_classes(tmp_path: Path, settings: dict[str, Any], expected: list[list[int]]) -> None:
    write(tmp_path, "a", MASK)
    assert BaseSegDataset(data_root=tmp_path, pipeline=LOAD, **settings)[0]["gt_seg_map"].tolist() == expected


def test_some_of_the_classes_in_another_order(tmp_path: Path) -> None:
    write(tmp_path, "a", MASK)
    dataset = Named(data_root=tmp_path, pipeline=LOAD, metainfo=dict(classes=("car", "sky")))
    assert dataset[0]["gt_seg_map"].tolist() == [[1, 255, 0], [0, 255, 1]]
    assert dataset.metainfo["palette"] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(ValueError, match="Named has no class 'dog'.* sky, tree, car"):
        Named(data_root=tmp_path, metainfo=dict(classes=("dog",)))
    with pytest.raises(ValueError, match="exclude each other"):
        Named(data_root=tmp_path, label_map={0: 0}, reduce_zero_label=True)


def test_pascal_voc(tmp_path: Path) -> None:
    write(tmp_path, "2007_1", [[0, 20, 255]], palette=True)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_1\n")
    dataset = VOCSegmentation(tmp_path, "ImageSets/Segmentation/val.txt", pipeline=LOAD)
    assert dataset[0]["gt_seg_map"].tolist() == [[0, 20, 255]]
    assert len(dataset.metainfo["classes"]) == len(dataset.metainfo["palette"]) == 21
    assert list(dataset.check_annotations()) == []


def test_cityscapes_takes_the_19_classes_of_its_label_ids(tmp_path: Path) -> None:
    city = tmp_path / "made"
    write(city, "aachen/a_000", [[7, 33, 0, 9, 26]], suffixes=("_leftImg8bit.png", "_gtFine_labelIds.png"))
    write(city, "aachen/a_000", [[0, 18, 255]], suffixes=("_leftImg8bit.png", "_gtFine_labelTrainIds.png"))
    for kind, name in (("images", "leftImg8bit"), ("masks", "gtFine")):
        (tmp_path / name).mkdir()
        (city / kind).rename(tmp_path / name / "val")
    assert Cityscapes(tmp_path, "val", pipeline=[LoadSegMap()])[0]["gt_seg_map"].tolist() == [[0, 18, 255, 255, 13]]
    converted = Cityscapes(tmp_path, "val", seg_map_suffix="_gtFine_labelTrainIds.png", pipeline=[LoadSegMap()])
    assert converted[0]["gt_seg_map"].tolist() == [[0, 18, 255]]
    assert len(converted.metainfo["classes"]) == len(converted.metainfo["palette"]) == 19


def test_bad_annotations_are_named_by_the_check_and_in_training(tmp_path: Path) -> None:
    write(tmp_path, "a_good", MASK)
    write(tmp_path, "b_other_size", MASK, size=(5, 5))
    write(tmp_path, "c_unknown_class", [[0, 7]])
    write(tmp_path, "d_no_mask", MASK)
    (tmp_path / "masks/d_no_mask.png").unlink()
    write(tmp_path, "e_corrupt", MASK)
    (tmp_path / "masks/e_corrupt.png").write_bytes(b"no image")
    write(tmp_path, "f_colors", MASK)
    Image.new("RGB", (3, 2)).save(tmp_path / "masks/f_colors.png")
    write(tmp_path, "g_all_ignored", [[255, 255]])
    dataset = BaseSegDataset(data_root=tmp_path, pipeline=LOAD, **MASK_OF_NAMES)
    problems = list(dataset.check_annotations())
    expected = [
        "sample 1: .*b_other_size.png has size (2, 3).*b_other_size.jpg has size (5, 5)",
        "sample 2: .*c_unknown_class.png .*unknown class 7.* 0 to 2",
        "sample 3: .*d_no_mask.png",
        "sample 4: .*e_corrupt.png",
        "sample 5: .*f_colors.png has 3 values per pixel",
        "sample 6: .*g_all_ignored.png are ignored",
    ]
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected):
        assert all(word in problem for word in words.split(".*")), problem
    dataset[0]
    for index, error in ((1, ValueError), (2, ValueError), (3, OSError), (4, OSError), (5, ValueError)):
        with pytest.raises(error) as caught:
            dataset[index]
        message = str(caught.value) + "".join(caught.value.__notes__)
        assert Path(dataset.get_data_info(index)["seg_map_path"]).name in message


def test_missing_folders_and_empty_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder .*images' not found"):
        BaseSegDataset(data_root=tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no files \*\.jpg"):
        BaseSegDataset(data_root=tmp_path)


def test_masks_move_with_images(tmp_path: Path) -> None:
    write(tmp_path, "a", MASK)
    steps = [*LOAD, dict(type="RandomHorizontalFlip", p=1.0), dict(type="Resize", size=(4, 6)), dict(type="PackInputs")]
    packed = BaseSegDataset(data_root=tmp_path, pipeline=steps)[0]
    expected = torch.tensor([[2, 1, 0], [0, 255, 2]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(packed["data_samples"].gt_sem_seg.sem_seg, expected[None])
    assert packed["data_samples"].ori_shape == (2, 3)


def sample_of(mask: torch.Tensor) -> dict[str, Any]:
    image = mask.to(torch.uint8).expand(3, *mask.shape).clone()
    return {"img": tv_tensors.Image(image), "gt_seg_map": tv_tensors.Mask(mask.to(torch.uint8)), "img_path": "a"}


def test_a_crop_takes_the_same_place_of_image_and_mask() -> None:
    mask = torch.arange(48).reshape(6, 8)
    torch.manual_seed(0)
    places = set()
    for _ in range(20):
        cropped = SegRandomCrop((3, 4))(sample_of(mask))
        assert cropped["img"].shape == (3, 3, 4)
        assert torch.equal(cropped["img"][0].as_subclass(torch.Tensor), cropped["gt_seg_map"].as_subclass(torch.Tensor))
        places.add(int(cropped["gt_seg_map"][0, 0]))
    assert len(places) > 8


def test_a_crop_is_padded_with_the_ignored_label() -> None:
    cropped = SegRandomCrop(4, fill=7)(sample_of(torch.ones(2, 6)))
    assert cropped["gt_seg_map"].tolist() == [[1] * 4] * 2 + [[255] * 4] * 2
    assert cropped["img"][0].tolist() == [[1] * 4] * 2 + [[7] * 4] * 2


def test_a_crop_of_nearly_one_class_is_drawn_again() -> None:
    mask = torch.zeros(4, 40, dtype=torch.int64)
    mask[:, 20:] = 1
    mask[:, 38:] = 255

    def shares(ratio: float) -> list[float]:
        torch.manual_seed(0)
        crops = [SegRandomCrop((4, 20), ratio)(sample_of(mask))["gt_seg_map"] for _ in range(50)]
        return [crop[crop != 255].float().mean().item() for crop in crops]

    assert min(shares(1.0)) < 0.2
    assert all(0.25 <= share <= 0.75 for share in shares(0.75))
    with pytest.raises(ValueError, match="cat_max_ratio must be in"):
        SegRandomCrop(4, 0)


@pytest.mark.parametrize("name", ["LoadSegMap", "SegRandomCrop"])
def test_a_transform_shows_its_arguments(name: str) -> None:
    built = TRANSFORMS.build(dict(type=name) if name == "LoadSegMap" else dict(type=name, crop_size=3, fill=1))
    assert repr(built).startswith(f"{name}(")
    assert name in repr(Compose([built]))


def test_more_classes_than_a_byte_can_number(tmp_path: Path) -> None:
    write(tmp_path, "a", [[1]])
    Image.fromarray(np.array([[0, 300, 700]], np.uint16)).save(tmp_path / "masks/a.png")
    Image.new("RGB", (3, 1)).save(tmp_path / "images/a.jpg")
    many = dict(metainfo=dict(classes=[str(index) for index in range(701)]))
    plane = BaseSegDataset(data_root=tmp_path, pipeline=LOAD, ignore_index=-1, **many)[0]["gt_seg_map"]
    assert plane.tolist() == [[0, 300, 700]]
    assert plane.dtype == torch.int64
    few = BaseSegDataset(data_root=tmp_path, pipeline=LOAD, label_map={300: 1}, ignore_index=-1)
    assert few[0]["gt_seg_map"].tolist() == [[-1, 1, -1]]
    cropped = SegRandomCrop(1, 0.5, ignore_index=-1)(few[0])
    assert cropped["gt_seg_map"].shape == (1, 1)


def test_the_exif_orientation_of_an_image_applies_before_its_size_is_compared(tmp_path: Path) -> None:
    write(tmp_path, "a", [[0, 1, 1]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1, 3)).save(tmp_path / "images/a.jpg", exif=exif)
    dataset = BaseSegDataset(data_root=tmp_path, pipeline=LOAD)
    assert list(dataset.check_annotations()) == []
    assert dataset[0]["img"].shape[1:] == dataset[0]["gt_seg_map"].shape
