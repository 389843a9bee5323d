"""Datasets and transforms for object detection and instance segmentation."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from trainwright.datasets import BaseDetDataset, CocoDataset, LoadAnnotations, Shapes, VOCDataset
from trainwright.datasets.detection.transforms import decode_mask
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import TRANSFORMS

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
LOAD_MASKS = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True)]
CATEGORIES = [dict(id=7, name="dog"), dict(id=3, name="cat"), dict(id=9, name="hat")]
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]  # corners (2, 1) and (6, 4)


def annotation(number: int, image: int, category: int, box: Any, **more: Any) -> dict[str, Any]:
    return dict(id=number, image_id=image, category_id=category, bbox=box, **more)


def write_coco(
    folder: Path, annotations: list[dict[str, Any]], images: int = 2, size: tuple[int, int] = (8, 10)
) -> dict[str, Any]:
    """Write images with ids from 1 and their annotations; return the arguments of the dataset.

    Args:
        size: (height, width) of the images.
    """
    (folder / "pictures").mkdir(exist_ok=True)
    entries = []
    for number in range(1, images + 1):
        Image.new("RGB", size[::-1], (10, 200, 30)).save(folder / f"pictures/{number}.png")
        entries.append(dict(id=number, file_name=f"{number}.png", height=size[0], width=size[1]))
    content = dict(images=entries, annotations=annotations, categories=CATEGORIES)
    (folder / "ann.json").write_text(json.dumps(content))
    return dict(data_root=folder, ann_file="ann.json", data_prefix=dict(img="pictures"))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    logger = MMLogger(name="detection", logger_name="detection")
    logger.addHandler(caplog.handler)
    with MMLogger.set_current(logger):
        yield caplog


# ---------------------------------------------------------------------------------------------------------------- COCO


def test_coco(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [annotation(5, 1, 7, [2, 1, 4, 3]), annotation(6, 1, 3, [0, 0, 10, 8], iscrowd=1)])
    dataset = CocoDataset(**place, pipeline=LOAD)
    assert dataset.metainfo["classes"] == ("cat", "dog", "hat")  # in the order of their ids
    sample = dataset[0]
    assert isinstance(sample["gt_bboxes"], tv_tensors.BoundingBoxes)
    assert sample["gt_bboxes"].canvas_size == (8, 10)
    assert sample["gt_bboxes"].tolist() == [[2, 1, 6, 4], [0, 0, 10, 8]]
    assert sample["gt_bboxes_labels"].tolist() == [1, 0]
    assert sample["gt_ignore_flags"].tolist() == [False, True]
    assert (sample["img_id"], Path(sample["img_path"]).name) == (1, "1.png")
    assert dataset.get_cat_ids(0) == [1, 0]
    assert list(dataset.check_annotations()) == []


def test_an_image_without_instances_has_empty_tensors(tmp_path: Path) -> None:
    packed = CocoDataset(**write_coco(tmp_path, []), pipeline=[*LOAD_MASKS, dict(type="PackInputs")])[1]
    instances = packed["data_samples"].gt_instances
    assert {name: tuple(value.shape) for name, value in instances.items()} == {
        "bboxes": (0, 4), "labels": (0,), "masks": (0, 8, 10),
    }  # fmt: skip
    assert len(packed["data_samples"].ignored_instances) == 0


def test_some_of_the_classes_in_another_order(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [annotation(i, 1, category, [1, 1, 2, 2]) for i, category in enumerate((7, 3, 9))])
    dataset = CocoDataset(**place, metainfo=dict(classes=("hat", "cat")), pipeline=LOAD)
    assert dataset[0]["gt_bboxes_labels"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"ann\.json has no class 'dgo': did you mean 'dog'"):
        CocoDataset(**place, metainfo=dict(classes=("dgo",)))


def test_crowds_and_images_without_instances_are_left_out_on_request(tmp_path: Path) -> None:
    boxes = [annotation(1, 1, 3, [0, 0, 5, 5]), annotation(2, 2, 3, [0, 0, 5, 5], iscrowd=1)]
    place = write_coco(tmp_path, boxes, images=3)

    def kept(**settings: Any) -> list[int]:
        dataset = CocoDataset(**place, **settings)
        return [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]

    assert kept() == [1, 2, 3]
    assert kept(filter_cfg=dict(filter_empty_gt=True)) == [1]
    assert kept(filter_cfg=dict(filter_empty_gt=True), test_mode=True) == [1, 2, 3]
    assert kept(filter_cfg=dict(min_size=8)) == [1, 2, 3]
    assert kept(filter_cfg=dict(min_size=9)) == []
    with pytest.raises(ValueError, match="'filter_empty' in filter_cfg: did you mean 'filter_empty_gt'"):
        CocoDataset(**place, filter_cfg=dict(filter_empty=True))


def test_masks_of_polygons_and_of_both_forms_of_rle(tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    plane = np.zeros((8, 10), np.uint8)
    plane[1:4, 2:6] = 1
    compressed = coco_mask.encode(np.asfortranarray(plane))
    compressed = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    counts = [17, 3, 5, 3, 5, 3, 5, 3, 36]  # column by column: 2 columns and a row of zeros, three ones, …
    forms = [SQUARE, compressed, dict(size=[8, 10], counts=counts)]
    boxes = [annotation(i, 1, 3, [2, 1, 4, 3], segmentation=mask) for i, mask in enumerate(forms)]
    sample = CocoDataset(**write_coco(tmp_path, boxes), pipeline=LOAD_MASKS)[0]
    assert isinstance(sample["gt_masks"], tv_tensors.Mask)
    assert sample["gt_masks"].dtype == torch.uint8
    for mask in sample["gt_masks"]:
        assert mask.tolist() == plane.tolist()
    two_parts = decode_mask([[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]], 8, 8)
    assert two_parts.sum() == 8


def test_masks_and_boxes_move_with_the_image(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [annotation(1, 1, 3, [2, 1, 4, 3], segmentation=SQUARE)])
    steps = [
        *LOAD_MASKS,
        dict(type="RandomHorizontalFlip", p=1.0),
        dict(type="Resize", size=(16, 20)),
        dict(type="PackInputs"),
    ]
    sample = CocoDataset(**place, pipeline=steps)[0]["data_samples"]
    assert sample.gt_instances.bboxes.tolist() == [[8, 2, 16, 8]]
    rows, columns = torch.nonzero(sample.gt_instances.masks[0], as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 7, 8, 15)
    assert (sample.img_shape, sample.ori_shape, sample.img_id) == ((16, 20), (8, 10), 1)


def test_files_that_are_not_in_coco_format(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [annotation(4, 99, 3, [0, 0, 5, 5])])
    with pytest.raises(ValueError, match="image_id 99 of annotation 4 is not in the file"):
        CocoDataset(**place)
    (tmp_path / "ann.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"ann\.json is not an annotation file in COCO format: missing categories"):
        CocoDataset(**place)
    (tmp_path / "ann.json").write_text("[]")
    with pytest.raises(ValueError, match="COCO format: not a dict"):
        CocoDataset(**place)


# ----------------------------------------------------------------------------------------------------- bad annotations

BAD = {
    "empty": (dict(bbox=[1, 1, 0, 3], category_id=3), "annotation 1 has an empty box: [1, 1, 1, 4]"),
    "negative": (dict(bbox=[6, 1, -3, 3], category_id=3), "annotation 1 has a box of negative size: [6, 1, 3, 4]"),
    "outside": (dict(bbox=[8, 1, 4, 3], category_id=3), "annotation 1 has a box outside its image of height 8 and width 10: [8, 1, 12, 4]"),
    "before": (dict(bbox=[-2, 1, 4, 3], category_id=3), "annotation 1 has a box outside its image"),
    "nan": (dict(bbox=[float("nan"), 1, 4, 3], category_id=3), "annotation 1 has a box that is not finite: [nan, 1, nan, 4]"),
    "three": (dict(bbox=[1, 2, 3], category_id=3), "annotation 1 has a box that does not consist of four numbers: [1, 2, 3]"),
    "class": (dict(bbox=[1, 1, 4, 3], category_id=4), "annotation 1 has the unknown class 4"),
    "polygon": (dict(bbox=[1, 1, 4, 3], category_id=3, segmentation=[[1, 2, 3, 4]]), "annotation 1 has a polygon"),
    "rle": (dict(bbox=[1, 1, 4, 3], category_id=3, segmentation=dict(counts=[1])), "annotation 1 has an RLE without size"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_annotation_is_named_by_the_check_at_the_start_and_in_training(
    tmp_path: Path, name: str, log: Any
) -> None:
    settings, words = BAD[name]
    good = annotation(2, 2, 3, [1, 1, 4, 3])
    place = write_coco(tmp_path, [dict(id=1, image_id=1, **settings), good])
    dataset = CocoDataset(**place, pipeline=LOAD, filter_cfg=dict(filter_empty_gt=True))
    assert re.search(f"1 bad annotations .*{re.escape(f'{tmp_path}/pictures/1.png: {words}')}", log.text)
    (problem,) = dataset.check_annotations()
    assert problem.startswith(f"sample 0: {tmp_path / 'pictures/1.png'}: {words}")
    assert dataset[1]["gt_bboxes"].tolist() == [[1, 1, 5, 4]]
    with pytest.raises(ValueError) as caught:
        dataset[0]
    assert str(caught.value).startswith(f"{tmp_path / 'pictures/1.png'}: {words}")
    skipping = CocoDataset(**place, pipeline=LOAD, bad_annotations="skip")
    assert len(skipping[0]["gt_bboxes"]) == 0
    assert list(skipping.check_annotations()) == [problem]
    assert "they are skipped" in log.text


def test_rounding_errors_at_the_edge_are_clipped(tmp_path: Path) -> None:
    dataset = CocoDataset(**write_coco(tmp_path, [annotation(1, 1, 3, [-0.4, 1, 10.9, 7.3])]), pipeline=LOAD)
    torch.testing.assert_close(dataset[0]["gt_bboxes"].as_subclass(torch.Tensor), torch.tensor([[0, 1, 10, 8.0]]))
    assert list(dataset.check_annotations()) == []


def test_files_that_are_missing_corrupt_or_of_another_size(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [], images=4)
    (tmp_path / "pictures/2.png").unlink()
    (tmp_path / "pictures/3.png").write_bytes(b"no image")
    Image.new("RGB", (5, 5)).save(tmp_path / "pictures/4.png")
    dataset = CocoDataset(**place, pipeline=LOAD)
    missing, corrupt, other = dataset.check_annotations()
    assert missing.startswith(f"sample 1: {tmp_path / 'pictures/2.png'} not found")
    assert corrupt.startswith(f"sample 2: {tmp_path / 'pictures/3.png'} cannot be read: ")
    assert other.startswith(f"sample 3: {tmp_path / 'pictures/4.png'} ") and "(5, 5)" in other and "(8, 10)" in other
    for index, error in ((1, OSError), (2, OSError), (3, ValueError)):
        with pytest.raises(error) as caught:
            dataset[index]
        assert f"{index + 1}.png" in str(caught.value) + "".join(caught.value.__notes__)


def test_a_mask_that_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    boxes = [
        annotation(1, 1, 3, [2, 1, 4, 3]),
        annotation(2, 2, 3, [2, 1, 4, 3], segmentation=dict(size=[4, 4], counts=[16])),
    ]
    dataset = CocoDataset(**write_coco(tmp_path, boxes), pipeline=LOAD_MASKS)
    with pytest.raises(ValueError, match=r"1\.png: annotation 1 has no mask"):
        dataset[0]
    with pytest.raises(ValueError, match=r"2\.png: annotation 2 has an invalid mask: .*\(4, 4\)"):
        dataset[1]


# ----------------------------------------------------------------------------------------------- OpenMMLab format, VOC


def test_openmmlab_format_without_sizes_is_checked_against_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    good, bad = dict(bbox=[1, 1, 3, 3], bbox_label=0, ignore_flag=0), dict(bbox=[1, 1, 13, 3], bbox_label=0)
    content = dict(
        metainfo=dict(classes=["cat"]), data_list=[dict(img_path="a.png", instances=[one]) for one in (good, bad)]
    )
    (tmp_path / "ann.json").write_text(json.dumps(content))
    dataset = BaseDetDataset(data_root=tmp_path, ann_file="ann.json", pipeline=LOAD)
    assert dataset[0]["gt_bboxes"].tolist() == [[1, 1, 3, 3]]
    (problem,) = dataset.check_annotations()
    assert "sample 1" in problem
    assert "a box outside its image of height 8 and width 10" in problem
    with pytest.raises(ValueError, match=r"a\.png: annotation 0 has a box outside"):
        dataset[1]


def write_voc(folder: Path, name: str, objects: str) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(folder / f"JPEGImages/{name}.jpg")
    size = "<size><width>10</width><height>8</height><depth>3</depth></size>"
    (folder / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def voc_object(name: str, box: tuple[float, ...], difficult: int = 0) -> str:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox><part><name>head</name></part></object>"


def test_voc(tmp_path: Path) -> None:
    write_voc(tmp_path, "1", voc_object("dog", (1, 1, 10, 8)) + voc_object("cat", (3, 2, 6, 4), difficult=1))
    write_voc(tmp_path, "2", voc_object("unicorn", (1, 1, 2, 2)) + voc_object("cat", (3, 2, 12, 4)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("1\n2\n")
    dataset = VOCDataset(tmp_path, "ImageSets/Main/train.txt", pipeline=LOAD)
    assert dataset[0]["gt_bboxes"].tolist() == [[0, 0, 10, 8], [2, 1, 6, 4]]
    assert [dataset.metainfo["classes"][label] for label in dataset[0]["gt_bboxes_labels"]] == ["dog", "cat"]
    assert dataset[0]["gt_ignore_flags"].tolist() == [False, True]
    unknown, outside = dataset.check_annotations()
    assert unknown.endswith("2.jpg: annotation 0 has the unknown class 'unicorn'")
    assert "2.jpg: annotation 1 has a box outside" in outside
    cats = VOCDataset(tmp_path, "ImageSets/Main/train.txt", pipeline=LOAD, metainfo=dict(classes=("cat",)))
    assert cats[0]["gt_bboxes_labels"].tolist() == [0]
    with pytest.raises(ValueError, match="VOCDataset has no class 'unicorn'"):
        VOCDataset(tmp_path, "ImageSets/Main/train.txt", metainfo=dict(classes=("unicorn",)))


def test_voc_files_that_are_missing_or_invalid(tmp_path: Path) -> None:
    write_voc(tmp_path, "1", "<object><name>cat</name></object>")
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("1\n")
    with pytest.raises(ValueError, match=r"1\.xml is not a valid annotation file"):
        VOCDataset(tmp_path)
    (tmp_path / "Annotations/1.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.xml not found, but .*trainval\.txt"):
        VOCDataset(tmp_path)


# ---------------------------------------------------------------------------------------------------------- transforms


def test_instances_without_a_box_after_a_crop_are_removed_with_all_annotations() -> None:
    info = Shapes(num_samples=1, size=32, max_shapes=3, seed=4).get_data_info(0)
    number = len(info["gt_bboxes"])
    assert number > 1
    info["gt_ignore_flags"] = torch.arange(number) == 1
    whole = TRANSFORMS.build(dict(type="SanitizeBoundingBoxes"))(dict(info))
    assert all(
        torch.equal(torch.as_tensor(whole[key]), torch.as_tensor(info[key])) for key in info if key.startswith("gt_")
    )
    info["gt_bboxes"][0] = torch.tensor([5, 5, 5, 9])
    rest = TRANSFORMS.build(dict(type="SanitizeBoundingBoxes"))(dict(info))
    for key in ("gt_bboxes", "gt_bboxes_labels", "gt_masks", "gt_keypoints", "gt_keypoints_visible", "gt_ignore_flags"):
        assert torch.equal(torch.as_tensor(rest[key]), torch.as_tensor(info[key][1:])), key
        assert type(rest[key]) is type(info[key])
    assert rest["gt_seg_map"].shape == (32, 32)
    assert TRANSFORMS.build(dict(type="SanitizeBoundingBoxes"))({"img": 1}) == {"img": 1}


def test_ssds_augmentation_keeps_boxes_and_masks_together() -> None:
    steps = [dict(type="RandomZoomOut"), dict(type="RandomIoUCrop"), dict(type="SanitizeBoundingBoxes")]
    dataset = Shapes(num_samples=30, size=48, pipeline=steps)
    torch.manual_seed(0)
    sizes = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        sizes.add(tuple(sample["img"].shape[-2:]))
        assert len(sample["gt_bboxes"]) == len(sample["gt_masks"]) == len(sample["gt_bboxes_labels"]) > 0
        for box, mask in zip(sample["gt_bboxes"].tolist(), sample["gt_masks"]):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            if len(rows):
                assert box[0] <= columns.min() and columns.max() < box[2]
                assert box[1] <= rows.min() and rows.max() < box[3]
    assert len(sizes) > 10


def test_annotations_are_loaded_after_the_image_and_only_where_there_are_any() -> None:
    assert LoadAnnotations()({"img": 1}) == {"img": 1}
    with pytest.raises(KeyError, match="LoadImageFromFile must come before"):
        LoadAnnotations()({"instances": [], "img_path": "a.png"})
    assert repr(LoadAnnotations(with_mask=True)) == "LoadAnnotations(with_mask=True)"
