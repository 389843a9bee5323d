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

from trainwright.datasets import BaseDetDataset, CocoDataset, Compose, LoadAnnotations, Shapes, VOCDataset
from trainwright.engine.errors import DataError
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.masks import decode_mask

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
    assert dataset.get_cat_ids(0) == [1]  # without the ignored one
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
    place = write_coco(tmp_path, [])
    for content, problem in (
        ('{"images": []}', "annotations and categories missing; it has images"),
        ('{"images": {}, "annotations": [], "categories": []}', "images must be a list, not a dict"),
        ("[]", "expected a dict with images, annotations, categories, got a list"),
        ('"text"', "got a str"),
    ):
        (tmp_path / "ann.json").write_text(content)
        with pytest.raises(DataError, match=rf"ann\.json.*{problem}"):
            CocoDataset(**place)
    (tmp_path / "ann.json").write_text('{"images": [], "categories": []}')
    assert len(CocoDataset(**place, test_mode=True)) == 0  # test sets are published without annotations


def test_a_split_may_lack_classes_but_not_by_a_misspelling(tmp_path: Path, log: Any) -> None:
    place = write_coco(tmp_path, [annotation(1, 1, 7, [1, 1, 2, 2])])
    dataset = CocoDataset(**place, metainfo=dict(classes=("bird", "hat", "dog")), pipeline=LOAD)
    assert dataset[0]["gt_bboxes_labels"].tolist() == [2]
    assert "ann.json lacks 1 of the 3 classes: bird" in log.text
    with pytest.raises(DataError, match=r"ann\.json has no class 'dogs': did you mean 'dog'"):
        CocoDataset(**place, metainfo=dict(classes=("cat", "dogs")))
    with pytest.raises(DataError, match=r"has none of the classes 'bird': its classes are 'cat', 'dog', 'hat'"):
        CocoDataset(**place, metainfo=dict(classes=("bird",)))
    with pytest.raises(DataError, match="must be a list of different names, got 'dog'"):
        CocoDataset(**place, metainfo=dict(classes="dog"))


def test_annotations_of_classes_that_are_not_selected_are_counted(tmp_path: Path, log: Any) -> None:
    boxes = [annotation(i, 1, category, [1, 1, 2, 2]) for i, category in enumerate((7, 3, 9, 9))]
    boxes[3]["bbox"] = [1, 1, 0, 0]
    CocoDataset(**write_coco(tmp_path, boxes), metainfo=dict(classes=("cat",)))
    assert "left out 3 annotations of classes that are not selected: dog (1), hat (2)" in log.text


# ----------------------------------------------------------------------------------------------------- bad annotations

BAD = {
    "empty": (dict(bbox=[1, 1, 0, 3]), "bbox: has no area: [1, 1, 0, 3]"),
    "negative": (dict(bbox=[6, 1, -3, 3]), "bbox: has a negative size: [6, 1, -3, 3]"),
    "outside": (dict(bbox=[12, 1, 4, 3]), "bbox: is outside the image of height 8 and width 10: [12, 1, 4, 3]"),
    "partly": (dict(bbox=[8, 1, 4, 3]), "bbox: is partly outside the image of height 8 and width 10: [8, 1, 4, 3]"),
    "before": (dict(bbox=[-2, 1, 4, 3]), "bbox: is partly outside"),
    "margin": (dict(bbox=[10, 1, 0.5, 3]), "bbox: is outside"),  # within the tolerance, but nothing is left of it
    "thin": (dict(bbox=[9, 1, 1e-9, 3]), "bbox: is too small"),  # as a float32
    "nan": (dict(bbox=[float("nan"), 1, 4, 3]), "bbox: is not finite: [nan, 1, 4, 3]"),
    "huge": (dict(bbox=[10**400, 1, 4, 3]), "bbox: is not finite: [1000"),
    "three": (dict(bbox=[1, 2, 3]), "bbox: must be four numbers (left, top, width, height), got [1, 2, 3]"),
    "text": (dict(bbox=["1", 2, 3, 4]), "bbox: must be four numbers"),
    "flag": (dict(bbox=[True, 2, 3, 4]), "bbox: must be four numbers"),
    "null": (dict(bbox=None), "bbox: must be four numbers (left, top, width, height), got None"),
    "no box": (dict(), "bbox: missing"),
    "class": (dict(category_id=4), "category_id: no category has the id 4"),
    "class as text": (dict(category_id="3"), "category_id: no category has the id '3'; there is 3, which is of another type"),
    "class as list": (dict(category_id=[3]), "category_id: must be a whole number or text, got [3]"),
    "image": (dict(image_id=99), "image_id: no image has the id 99"),
    "image as flag": (dict(image_id=True), "image_id: must be a whole number or text, got True"),
    "crowd": (dict(iscrowd=None), "iscrowd: must be 0 or 1, got None"),
    "crowd 2": (dict(iscrowd=2), "iscrowd: must be 0 or 1, got 2"),
    "area": (dict(area="12"), "area: must be a finite number, got '12'"),
    "repeated": (dict(id=2, bbox=[1, 1, 4, 3]), "id: 2 occurs several times"),
    "id": (dict(id=[1]), "id: must be a whole number or text, got [1]"),
}  # fmt: skip
BAD_MASKS = {
    "nothing": (None, "missing, but LoadAnnotations(with_mask=True)"),
    "empty": ([], "missing, but LoadAnnotations(with_mask=True)"),
    "two points": ([[1, 2, 3, 4]], "polygon 0 has fewer than three points: [1, 2, 3, 4]"),
    "odd": ([SQUARE[0], [1, 2, 3, 4, 5, 6, 7]], "polygon 1 has an odd number of coordinates (7)"),
    "nan": ([[float("nan"), 1, 2, 3, 4, 5]], "polygon 0 has a coordinate that is not a finite number: nan"),
    "infinite": ([[float("inf"), 1, 2, 3, 4, 5]], "polygon 0 has a coordinate that is not a finite number: inf"),
    "far": ([[1e9, 1, 2, 3, 4, 5]], "polygon 0 has a coordinate far outside the image: 1000000000.0"),
    "text": ([["1", 1, 2, 3, 4, 5]], "polygon 0 has a coordinate that is not a finite number: '1'"),
    "flat": (SQUARE[0], "must be a list of polygons [[x0, y0, x1, y1, …]], got a single list"),
    "points": ([[[1, 2], [3, 4], [5, 6]]], "polygon 0 must be a flat list"),
    "number": (5, "must be a list of polygons or an RLE, got 5"),
    "no size": (dict(counts=[80]), "must be an RLE with size and counts: size missing"),
    "another size": (dict(size=[4, 4], counts=[16]), "its size is (4, 4) (height, width), but that of the image is (8, 10)"),
    "bad size": (dict(size="8x10", counts=[80]), "size must be the height and width"),
    "short": (dict(size=[8, 10], counts=[17, 3]), "counts do not add up to the 80 pixels"),
    "long": (dict(size=[8, 10], counts=[17, 300]), "counts do not add up to the 80 pixels"),
    "negative": (dict(size=[8, 10], counts=[90, -10]), "counts must not be negative, got -10"),
    "fraction": (dict(size=[8, 10], counts=[17.5, 62.5]), "counts must be whole numbers, got 17.5"),
    "garbage": (dict(size=[8, 10], counts="zzz~~hello"), "counts do not add up to the 80 pixels"),
    "no text": (dict(size=[8, 10], counts=""), "counts do not add up to the 80 pixels"),
    "short text": (dict(size=[8, 10], counts="1"), "counts do not add up to the 80 pixels"),
    "not ascii": (dict(size=[8, 10], counts="`€0"), "counts do not add up to the 80 pixels"),
    "counts": (dict(size=[8, 10], counts=None), "counts must be a list of numbers or a string, got None"),
}  # fmt: skip


@pytest.mark.parametrize("name", [{}, {"bad_annotations": "skip"}])
def test_boxes_that_are_not_in_pixels(tmp_path: Path, name: dict[str, Any]) -> None:
    place = write_coco(tmp_path, [annotation(1, 1, 3, [0.5, 0.25, 0.5, 0.5]), annotation(2, 2, 3, [0, 0, 1, 0.5])])
    with pytest.raises(
        DataError, match=r"ann.json: all boxes are fractions of the image, such as \[0.5, 0.25, 0.5, 0.5\]"
    ):
        CocoDataset(**place, **name)
    assert len(CocoDataset(**write_coco(tmp_path, [annotation(1, 1, 3, [0, 0, 1, 1])]))) == 2  # a single pixel


def test_boxes_in_another_format(tmp_path: Path) -> None:
    hint = r"All boxes fit into their images if they are \(left, top, right, bottom\)"
    boxes = [annotation(1, 1, 3, [1, 2, 9, 8]), annotation(2, 2, 3, [3, 3, 4, 4])]
    with pytest.raises(DataError, match=f"(?s)1 of 2 annotations are bad.*{hint}"):
        CocoDataset(**write_coco(tmp_path, boxes))
    with pytest.raises(DataError) as error:
        CocoDataset(**write_coco(tmp_path, [*boxes, annotation(3, 2, 3, [5, 3, 4, 4])]))
    assert "right, bottom" not in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_annotation_is_refused_or_skipped_by_name(tmp_path: Path, name: str, log: Any) -> None:
    settings, problem = BAD[name]
    default = dict(id=1, image_id=1, category_id=3) | ({} if name == "no box" else dict(bbox=[1, 1, 4, 3]))
    good = annotation(2, 2, 3, [1, 1, 4, 3])
    place = write_coco(tmp_path, [good, default | settings])
    image = "" if "image" in name else f" ({tmp_path}/pictures/1.png)"
    entry = {"repeated": "annotation 2", "id": "annotations[1]"}.get(name, "annotation 1") + f"{image}: {problem}"
    with pytest.raises(DataError, match=r"browse-dataset") as caught:
        CocoDataset(**place, pipeline=LOAD, filter_cfg=dict(filter_empty_gt=True))
    assert f"{tmp_path}/ann.json: 1 of 2 annotations are bad\n    {entry}" in str(caught.value)
    skipping = CocoDataset(**place, pipeline=LOAD, bad_annotations="skip")
    assert [len(skipping[index]["gt_bboxes"]) for index in range(2)] == [0, 1]
    (line,) = skipping.check_annotations()
    assert line.startswith(entry)
    assert (
        f"skipped 1 of 2 annotations, which are bad (`trainwright browse-dataset` lists all)\n    {entry}" in log.text
    )


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_bad_mask_is_refused_where_masks_are_loaded(tmp_path: Path, name: str) -> None:
    mask, problem = BAD_MASKS[name]
    bad = annotation(1, 1, 3, [2, 1, 4, 3], segmentation=mask)
    good = [
        annotation(2, 2, 3, [2, 1, 4, 3], segmentation=SQUARE),
        annotation(3, 2, 3, [2, 1, 4, 3], segmentation=dict(size=[8, 10], counts=[17, 3, 60])),
    ]
    place = write_coco(tmp_path, [bad, *good])
    with pytest.raises(DataError) as caught:
        CocoDataset(**place, pipeline=LOAD_MASKS)
    assert f"1 of 3 annotations are bad\n    annotation 1 ({tmp_path}/pictures/1.png): segmentation: {problem}" in str(
        caught.value
    )
    skipping = CocoDataset(**place, pipeline=LOAD_MASKS, bad_annotations="skip")
    assert [len(skipping[index]["gt_masks"]) for index in range(2)] == [0, 2]
    boxes_only = CocoDataset(**place, pipeline=LOAD)  # the boxes are good
    assert len(boxes_only[0]["gt_bboxes"]) == 1
    with pytest.raises(ValueError, match=r"1\.png: annotation 1"):  # pycocotools never sees it
        Compose(LOAD_MASKS)(boxes_only.get_data_info(0))


IMAGES = {
    "size as text": ([dict(id=1, file_name="1.png", height="8", width=10)], "image 1 (p/1.png): height: must be a positive whole number, got '8'"),
    "no size": ([dict(id=1, file_name="1.png", height=0, width=10)], "image 1 (p/1.png): height: must be a positive whole number, got 0"),
    "null": ([dict(id=1, file_name="1.png", height=8, width=None)], "image 1 (p/1.png): width: must be a positive whole number, got None"),
    "one size": ([dict(id=1, file_name="1.png", height=8)], "image 1 (p/1.png): width: missing, but there is a height"),
    "no name": ([dict(id=1, height=8, width=10)], "image 1: file_name: missing"),
    "number as name": ([dict(id=1, file_name=1)], "image 1: file_name: must be text, got 1"),
    "no id": ([dict(file_name="1.png")], "images[0] (p/1.png): id: missing"),
    "text": (["1.png"], "images[0]: must be a dict, got '1.png'"),
    "same id": ([dict(id=1, file_name="1.png"), dict(id=1, file_name="2.png")], "image 1 (p/2.png): id: 1 is the id of several images"),
    "same file": ([dict(id=1, file_name="1.png"), dict(id=7, file_name="1.png")], "image 7 (p/1.png): file_name: '1.png' is listed as image 1 too"),
    "same image": ([dict(id=1, file_name="1.png"), dict(id=1, file_name="1.png")], "image 1 (p/1.png): file_name: '1.png' is listed several times"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_image_is_left_out_with_its_annotations(tmp_path: Path, name: str) -> None:
    images, problem = IMAGES[name]
    place = write_coco(tmp_path, [], images=3)
    content = json.loads((tmp_path / "ann.json").read_text())
    content["images"] = [*images, content["images"][2]]
    content["annotations"] = [
        annotation(1, 1, 3, [1, 1, 4, 3]),
        annotation(2, 3, 3, [1, 1, 4, 3]),
        annotation(3, 7, 3, [1, 1, 4, 3]),
    ]
    (tmp_path / "ann.json").write_text(json.dumps(content))
    problem = problem.replace("p/", f"{tmp_path}/pictures/")
    with pytest.raises(DataError) as caught:
        CocoDataset(**place)
    assert re.search(rf"ann\.json: \d of {len(images) + 1} images and \d of 3 annotations are bad", str(caught.value))
    assert f"    {problem}\n" in str(caught.value)
    dataset = CocoDataset(**place, pipeline=LOAD, bad_annotations="skip")
    kept = sum(len(dataset.get_data_info(index)["instances"]) for index in range(len(dataset)))
    skipped = [one.kind for one in dataset.problems]
    assert (kept + skipped.count("annotation"), len(dataset) + skipped.count("image")) == (3, len(images) + 1)
    assert dataset[len(dataset) - 1]["img_id"] == 3


def test_categories_with_the_same_name_or_id(tmp_path: Path, log: Any) -> None:
    place = write_coco(tmp_path, [annotation(1, 1, 7, [1, 1, 2, 2]), annotation(2, 1, 3, [1, 1, 2, 2])])
    content = json.loads((tmp_path / "ann.json").read_text())

    def labels(*categories: Any) -> list[str]:
        (tmp_path / "ann.json").write_text(json.dumps(content | {"categories": categories}))
        with pytest.raises(DataError) as caught:
            CocoDataset(**place)
        errors.append(str(caught.value))
        dataset = CocoDataset(**place, pipeline=LOAD, bad_annotations="skip")
        return [dataset.metainfo["classes"][label] for label in dataset[0]["gt_bboxes_labels"]]

    errors: list[str] = []
    cat, dog = dict(id=3, name="cat"), dict(id=7, name="dog")
    assert labels(dict(id=0, name="dog"), cat, dog) == ["dog", "cat"]  # the one that is not used is bad
    assert "category 0: name: 'dog' is also the name of category 7" in errors[-1]
    assert labels(cat, dog, dict(id=7, name="hat")) == ["cat"]  # 7 is ambiguous
    assert "2 of 3 categories are bad" in errors[-1]
    assert "category 7: id: 7 is the id of several categories: dog, hat" in errors[-1]
    assert "skipped 1 of 2 annotations" in log.text and "category 7 is left out, because it is bad" in log.text
    assert labels(cat, dog, dog) == ["dog", "cat"]
    assert labels(cat, dog, dict(id=4)) == ["dog", "cat"]
    assert "category 4: name: missing" in errors[-1]
    assert labels(cat, dog, 5) == ["dog", "cat"]
    assert "categories[2]: must be a dict, got 5" in errors[-1]


def test_numpy_numbers_are_numbers_and_sources_are_named(tmp_path: Path) -> None:
    class Converted(CocoDataset):
        def read_content(self) -> Any:
            boxes = [
                dict(image_id=np.int64(1), category_id=np.int32(3), bbox=np.array([1, 1, 4, 3.0]), iscrowd=np.int8(0)),
                dict(image_id=1, category_id=3, bbox=[np.float32(2.5), 1, 4, 3], segmentation=[np.array(SQUARE[0])]),
                dict(image_id=1, category_id=3, source="labels/1.txt:3", problem="expected 5 numbers, got 3"),
            ]
            return dict(
                images=[dict(id=1, file_name="1.png", height=np.int64(8), width=10.0)],
                annotations=boxes,
                categories=CATEGORIES,
            )

    place = write_coco(tmp_path, [])
    dataset = Converted(**place, bad_annotations="skip", pipeline=LOAD)
    assert dataset[0]["gt_bboxes"].tolist() == [[1, 1, 5, 4], [2.5, 1, 6.5, 4]]
    (line,) = dataset.check_annotations()
    assert line == f"labels/1.txt:3 ({tmp_path}/pictures/1.png): expected 5 numbers, got 3"


def test_only_the_first_bad_annotations_are_named(tmp_path: Path) -> None:
    place = write_coco(tmp_path, [annotation(number, 1, 3, [1, 1, 0, 3]) for number in range(25)])
    with pytest.raises(
        DataError,
        match=r"25 of 25 annotations are bad(\n    annotation \d .*){10}\n    … and 15 more\nCorrect them, or set bad_annotations='skip'",
    ):
        CocoDataset(**place, bad_annotations="raise")  # an older name of "error"
    assert len(list(CocoDataset(**place, bad_annotations="skip").check_annotations())) == 25
    with pytest.raises(ValueError, match="bad_annotations must be 'error' or 'skip', not 'drop'"):
        CocoDataset(**place, bad_annotations="drop")


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


# ---------------------------------------------------------------------------------------------------- OpenMMLab format


def test_openmmlab_format_without_sizes_is_checked_against_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    good, bad = dict(bbox=[1, 1, 3, 3], bbox_label=0, ignore_flag=0), dict(bbox=[1, 1, 13, 3], bbox_label=0)
    other = dict(bbox=[1, 1, 3, 3], bbox_label=1)
    content = dict(
        metainfo=dict(classes=["cat"]),
        data_list=[dict(img_path="a.png", instances=[good, bad, other]), dict(img_path=5)],
    )
    (tmp_path / "ann.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        BaseDetDataset(data_root=tmp_path, ann_file="ann.json")
    for problem in (
        "sample 1: img_path: must be text, got 5",
        f"annotation 1 ({tmp_path}/a.png): bbox: is partly outside the image of height 8 and width 10: [1, 1, 13, 3] (left, top, right, bottom)",
        f"annotation 2 ({tmp_path}/a.png): bbox_label: no category has the id 1",
    ):
        assert problem in str(caught.value)
    dataset = BaseDetDataset(data_root=tmp_path, ann_file="ann.json", pipeline=LOAD, bad_annotations="skip")
    assert len(dataset) == 1
    assert dataset[0]["gt_bboxes"].tolist() == [[1, 1, 3, 3]]
    assert len(list(dataset.check_annotations())) == 3


def test_annotations_that_no_dataset_has_checked_are_checked_when_they_are_loaded() -> None:
    image = {"img": 1, "ori_shape": (8, 10), "img_path": "a.png"}
    for instance, problem in (
        (dict(bbox=[1, 1, 13, 3]), "bbox: is partly outside the image of height 8 and width 10"),
        (dict(bbox=[1, 1, None, 3]), "bbox: must be four numbers"),
        (dict(bbox=[1, 1, 1, 3]), "bbox: has no area"),
        (dict(bbox=[1, 1, 3, 3]), "has no mask"),
        (dict(bbox=[1, 1, 3, 3], mask=[[float("nan"), 1, 2, 3, 4, 5]]), "segmentation: polygon 0"),
        (dict(bbox=[1, 1, 3, 3], mask=dict(size=[8, 10], counts="1")), "segmentation: counts do not add up"),
    ):
        with pytest.raises(DataError, match=rf"a\.png: annotation 0.*{problem}"):
            LoadAnnotations(with_mask=True)(image | {"instances": [dict(bbox_label=0) | instance]})


# ----------------------------------------------------------------------------------------------------------------- VOC


def write_voc(
    folder: Path,
    name: str,
    objects: str,
    size: str = "",
    images: str = "JPEGImages",
    xml: str = "Annotations",
    suffix: str = ".jpg",
) -> None:
    for part in (images, xml, "ImageSets/Main"):
        (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(folder / images / f"{name}{suffix}")
    size = size or "<size><width>10</width><height>8</height><depth>3</depth></size>"
    (folder / xml / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def voc_object(name: str, box: tuple[float, ...], difficult: int | None = 0, more: str = "") -> str:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox>{more}<part><name>head</name></part></object>"


def test_voc(tmp_path: Path, log: Any) -> None:
    write_voc(tmp_path, "1", voc_object("dog", (1, 1, 10, 8)) + voc_object("cat", (3, 2, 6, 4), difficult=1))
    write_voc(tmp_path, "2", voc_object("unicorn", (1, 1, 2, 2)) + voc_object("cat", (3, 2, 12, 4)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("1  1\n2.jpg\n\n")
    place = dict(data_root=tmp_path, ann_file="ImageSets/Main/train.txt", pipeline=LOAD)
    with pytest.raises(DataError, match=r"train\.txt: 2 of 4 annotations are bad"):
        VOCDataset(**place)
    dataset = VOCDataset(**place, bad_annotations="skip")
    assert dataset[0]["gt_bboxes"].tolist() == [[0, 0, 10, 8], [2, 1, 6, 4]]
    assert [dataset.metainfo["classes"][label] for label in dataset[0]["gt_bboxes_labels"]] == ["dog", "cat"]
    assert dataset[0]["gt_ignore_flags"].tolist() == [False, True]
    unknown, outside = dataset.check_annotations()
    assert unknown.startswith(
        f"{tmp_path}/Annotations/2.xml: object 1 ({tmp_path}/JPEGImages/2.jpg): name: 'unicorn' is not a class of VOCDataset"
    )
    assert "2.xml: object 2" in outside and "bndbox: is partly outside the image of height 8 and width 10" in outside
    cats = VOCDataset(**place, metainfo=dict(classes=("cat",)), bad_annotations="skip")
    assert cats[0]["gt_bboxes_labels"].tolist() == [0]
    assert "left out 2 annotations of classes that are not selected: dog (1), unicorn (1)" in log.text


def test_voc_with_other_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, "1", voc_object("vest", (1, 1, 10, 8)) + voc_object("helmet", (3, 2, 6, 4)))
    with pytest.raises(
        DataError,
        match=r"has none of the 20 classes of VOCDataset, but these: helmet \(1\), vest \(1\)\. Set metainfo=dict\(classes=\('helmet', 'vest'\)\)",
    ):
        VOCDataset(tmp_path, "", bad_annotations="skip")
    dataset = VOCDataset(tmp_path, "", metainfo=dict(classes=("vest", "helmet", "glove")), pipeline=LOAD)
    assert dataset[0]["gt_bboxes_labels"].tolist() == [0, 1]
    with pytest.raises(DataError, match="has no class 'helmets': did you mean 'helmet'"):
        VOCDataset(tmp_path, "", metainfo=dict(classes=("vest", "helmets")))


def test_xml_files_of_other_tools(tmp_path: Path, log: Any) -> None:
    """Floats, no sizes, subfolders, XML beside the images, file names with another suffix, polygons and absolute paths."""
    polygon = "<polygon><x1>2</x1><y1>1</y1><x2>6.5</x2><y2>1</y2><x3>6.5</x3><y3>4</y3></polygon>"
    paths = "<folder>x</folder><path>C:\\my\\1.png</path>"
    size = "<size><width>0</width><height>0</height></size>"
    boxes = (
        voc_object("a b", (0, 1.25, 9.5, 8), None, polygon)
        + f"<object><name>c</name><truncated>1</truncated>{polygon}</object>"
    )
    write_voc(tmp_path, "train/1", f"<filename>1.png</filename>{paths}{boxes}", size, "", "", ".png")
    write_voc(tmp_path, "2", "<filename>other.png</filename>", "<source/>", "", "", ".png")
    (tmp_path / "2.png").rename(tmp_path / "other.png")
    settings = dict(
        data_prefix=dict(img_path=""), ann_folder="", metainfo=dict(classes=("a b", "c")), pipeline=LOAD_MASKS
    )
    dataset = VOCDataset(tmp_path, "", one_based=False, **settings)
    empty, sample = dataset[0], dataset[1]
    assert (Path(empty["img_path"]).name, len(empty["gt_bboxes"]), empty["height"]) == ("other.png", 0, 8)
    assert (sample["img_path"], sample["width"]) == (str(tmp_path / "train/1.png"), 10)
    assert sample["gt_bboxes"].tolist() == [[0, 1.25, 9.5, 8], [2, 1, 6.5, 4]]
    assert sample["gt_masks"].sum((1, 2)).tolist() == [int(decode_mask([[2, 1, 6.5, 1, 6.5, 4]], 8, 10).sum())] * 2
    assert sample["gt_ignore_flags"].tolist() == [False, False]
    assert "one_based" not in log.text
    assert VOCDataset(tmp_path, "", **settings)[1]["gt_bboxes"].tolist() == [[0, 0.25, 9.5, 8], [1, 0, 5.5, 3]]
    assert "1 boxes begin at 0" in log.text and "set one_based=False" in log.text


XML = {
    "not XML": ("<annotation><object>", "2.xml ({}): not a valid XML file: "),
    "no XML at all": ("", "2.xml ({}): not a valid XML file: no element found"),
    "no name": ("<a><object><bndbox/></object></a>", "2.xml: object 1 ({}): name: missing"),
    "no box": ("<a><object><name>cat</name></object></a>", "2.xml: object 1 ({}): bndbox: xmin missing"),
    "a corner": ("<a><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>x</xmax></bndbox></object></a>", "2.xml: object 1 ({}): bndbox: xmax is 'x'"),
    "nan": (f"<a>{voc_object('cat', (1, 1, float('nan'), 2))}</a>", "2.xml: object 1 ({}): bndbox: is not finite"),
    "difficult": (f"<a>{voc_object('cat', (1, 1, 3, 2), 7)}</a>", "2.xml: object 1 ({}): difficult: must be 0 or 1, got '7'"),
    "size": ("<a><size><width>wide</width><height>8</height></size></a>", "2.xml ({}): width: must be a positive whole number, got 'wide'"),
}  # fmt: skip


@pytest.mark.parametrize("name", XML)
def test_bad_xml_files_are_named(tmp_path: Path, name: str) -> None:
    text, problem = XML[name]
    write_voc(tmp_path, "1", voc_object("cat", (1, 1, 4, 3)))
    write_voc(tmp_path, "2", "")
    (tmp_path / "Annotations/2.xml").write_text(text)
    expected = f"{tmp_path}/Annotations/{problem.format(tmp_path / 'JPEGImages/2.jpg')}"
    with pytest.raises(DataError) as caught:
        VOCDataset(tmp_path, "")
    assert expected in str(caught.value)
    dataset = VOCDataset(tmp_path, "", bad_annotations="skip")
    assert str(dataset.problems[0]).startswith(expected) and len(dataset.problems) == 1
    assert len(dataset) + [one.kind for one in dataset.problems].count("image") == 2


def test_voc_files_that_are_missing(tmp_path: Path) -> None:
    write_voc(tmp_path, "1", "")
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("2\n")
    with pytest.raises(FileNotFoundError, match=r"2\.xml not found, but .*trainval\.txt"):
        VOCDataset(tmp_path)
    with pytest.raises(DataError, match=r"no XML files in .*JPEGImages: check data_root and ann_folder"):
        VOCDataset(tmp_path, "", ann_folder="JPEGImages")


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
