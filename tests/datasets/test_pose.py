"""Datasets of keypoints, and the transforms of top-down pose estimation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from trainwright.datasets import (
    BaseCocoStyleDataset,
    CocoKeypointDataset,
    Compose,
    GetBBoxCenterScale,
    RandomBBoxTransform,
    RandomFlip,
    TopdownAffine,
    TopdownShapes,
)
from trainwright.datasets.pose.dataset import mirror_images
from trainwright.datasets.pose.transforms import warp
from trainwright.engine.errors import DataError
from trainwright.engine.registry import TRANSFORMS

NAMES = ["head", "left_hand", "right_hand"]
GOOD = dict(
    id=1, image_id=7, category_id=3, bbox=[2, 3, 10, 6], keypoints=[4, 5, 2, 6, 7, 1, 0, 0, 0], area=50.0, iscrowd=0
)


def write(folder: Path, *changes: dict[str, Any], images: Any = None) -> Path:
    """Write an image and an annotation file with a modified copy of the valid annotation for each change."""
    images = images or [dict(id=7, file_name="a.png", width=20, height=12)]
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (20, 12), (200, 100, 0)).save(folder / "images/a.png")
    content = {
        "images": images,
        "categories": [
            dict(id=3, name="bird", keypoints=NAMES, skeleton=[[1, 2], [1, 3]]),
            dict(id=4, name="tree"),
        ],
        "annotations": [GOOD | {"id": number} | change for number, change in enumerate(changes, 1)],
    }
    (folder / "ann.json").write_text(json.dumps(content))
    return folder


def dataset_of(folder: Path, *changes: dict[str, Any], **settings: Any) -> BaseCocoStyleDataset:
    folder = write(folder, *changes, images=settings.pop("images", None))
    return BaseCocoStyleDataset(
        **{"ann_file": "ann.json", "data_root": folder, "data_prefix": {"img_path": "images"}, **settings}
    )


def test_every_labeled_instance_is_a_sample(tmp_path: Path) -> None:
    dataset = dataset_of(
        tmp_path, {}, dict(iscrowd=1), dict(keypoints=[0] * 9), dict(bbox=[15, 0, 8, 5], area=None), dict(category_id=4),
        metainfo=dict(classes=("bird",)),
    )  # fmt: skip
    assert [dataset[index]["id"] for index in range(len(dataset))] == [1, 4]
    sample = dataset[0]
    assert sample["gt_bboxes"].tolist() == [[2, 3, 12, 9]]
    assert sample["gt_keypoints"].tolist() == [[[4, 5], [6, 7], [0, 0]]]
    assert sample["gt_keypoints_visible"].tolist() == [[2, 1, 0]]
    assert sample["gt_areas"].tolist() == [50]
    assert Path(sample["img_path"]).name == "a.png"
    assert dataset[1]["gt_bboxes"].tolist() == [[15, 0, 20, 5]]  # clipped to the image
    assert dataset[1]["gt_areas"].tolist() == [40]
    assert dataset.get_cat_ids(0) == [0]
    meta = dataset.metainfo
    assert (meta["keypoints"], meta["skeleton_links"]) == (tuple(NAMES), ((0, 1), (0, 2)))
    assert sample["flip_indices"] == meta["flip_indices"] == (0, 2, 1)


def test_every_image_is_a_sample(tmp_path: Path) -> None:
    images = [dict(id=number, file_name=f"{number}.png", width=20, height=12) for number in (7, 8)]
    settings = dict(images=images, data_mode="bottomup", metainfo=dict(classes=("bird",)))
    dataset = dataset_of(tmp_path, {}, dict(iscrowd=1, keypoints=[]), **settings)
    assert [dataset[index]["img_id"] for index in range(2)] == [7, 8]
    assert dataset[0]["gt_keypoints"].shape == (2, 3, 2)
    assert dataset[0]["gt_ignore_flags"].tolist() == [False, True]
    assert dataset[1]["gt_keypoints"].shape == (0, 3, 2)
    assert dataset[1]["gt_bboxes"].shape == (0, 4)
    few = dataset_of(
        tmp_path, {}, dict(image_id=8, keypoints=[1, 1, 2] + [0] * 6), filter_cfg=dict(min_keypoints=2), **settings
    )
    assert [few[index]["img_id"] for index in range(len(few))] == [7]


def test_mirror_images_are_inferred_from_names() -> None:
    assert mirror_images(["nose", "left_eye", "right_eye", "l-ear", "r-ear", "left barb"]) == (0, 2, 1, 4, 3, 5)
    coco = CocoKeypointDataset.METAINFO
    assert mirror_images(coco["keypoints"]) == coco["flip_indices"]
    assert len(coco["sigmas"]) == len(coco["keypoints"]) == 17


BAD = [
    (dict(image_id=9), "image_id: no image has the id 9"),
    (dict(category_id=5), "category_id: no category has the id 5"),
    (dict(keypoints=[1, 2, 2]), "keypoints: must be 9 numbers (x, y and visibility of 3 keypoints), got 3"),
    (dict(keypoints=7), "keypoints: must be a list of numbers, got 7"),
    (dict(keypoints=[float("nan"), 2, 2, 0, 0, 0, 0, 0, 0]), "keypoints: a value is not a finite number: nan"),
    (dict(keypoints=[None, 2, 2, 0, 0, 0, 0, 0, 0]), "keypoints: a value is not a finite number: None"),
    (dict(keypoints=[1e9, 2, 2, 0, 0, 0, 0, 0, 0]), "keypoints: a coordinate is far outside the image: 1000000000.0"),
    (dict(keypoints=[1, 2, 3, 0, 0, 0, 0, 0, 0]), "keypoints: the visibility of a keypoint must be 0, 1 or 2, got 3"),
    (dict(keypoints=[1, 2, 0.5, 0, 0, 0, 0, 0, 0]), "keypoints: the visibility of a keypoint must be 0, 1 or 2, got 0.5"),
    (dict(num_keypoints="2"), "num_keypoints: must be a number from 0 to 3, got '2'"),
    (dict(num_keypoints=4), "num_keypoints: must be a number from 0 to 3, got 4"),
    (dict(bbox=[2, 3, 0, 6]), "bbox: has no area"),
    (dict(bbox=[2, 3, 5, -6]), "bbox: has a negative size"),
    (dict(bbox=[2, 3, 5]), "bbox: must be four numbers"),
    (dict(bbox=[30, 3, 5, 5]), "bbox: is outside the image of height 12 and width 20"),
    (dict(bbox=[float("inf"), 2, 2, 2]), "bbox: is not finite"),
    (dict(area=-3), "area: must not be negative, got -3"),
    (dict(iscrowd=None), "iscrowd: must be 0 or 1, got None"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["topdown", "bottomup"])
@pytest.mark.parametrize(("change", "problem"), BAD)
def test_a_bad_annotation_is_refused_or_skipped_by_name(tmp_path: Path, change: dict[str, Any], problem: str, mode: str) -> None:  # fmt: skip
    image = "" if "image_id" in change else f" ({tmp_path}/images/a.png)"
    with pytest.raises(DataError, match="browse-dataset") as caught:
        dataset_of(tmp_path, {}, change, data_mode=mode)
    assert f"{tmp_path}/ann.json: 1 of 2 annotations are bad\n    annotation 2{image}: {problem}" in str(caught.value)
    dataset = dataset_of(tmp_path, {}, change, data_mode=mode, bad_annotations="skip")
    assert len(dataset) == 1
    assert dataset[0]["gt_bboxes"].tolist() == [[2, 3, 12, 9]]
    (line,) = dataset.check_annotations()
    assert line.startswith(f"annotation 2{image}: {problem}")


@pytest.mark.parametrize(
    ("category", "problem"),
    [
        (dict(keypoints="head"), "keypoints must be a list of names, got 'head'"),
        (dict(keypoints=["head", "head"]), "the names of keypoints must be different"),
        (dict(keypoints=NAMES, skeleton=5), "skeleton must be a list of pairs, got 5"),
        (dict(keypoints=NAMES, skeleton=[[1, 4]]), "skeleton must be pairs of numbers from 1 to 3, got [1, 4]"),
    ],
)
def test_a_bad_category_is_named(tmp_path: Path, category: dict[str, Any], problem: str) -> None:
    write(tmp_path, {})
    content = json.loads((tmp_path / "ann.json").read_text())
    content["categories"][0] = dict(id=3, name="bird") | category
    (tmp_path / "ann.json").write_text(json.dumps(content))
    settings = dict(ann_file="ann.json", data_root=tmp_path, data_prefix=dict(img_path="images"))
    with pytest.raises(DataError, match=re.escape(f"category 3: {problem}")):
        BaseCocoStyleDataset(**settings, metainfo=dict(classes=("bird",), flip_indices=(0, 2, 1)))
    assert len(BaseCocoStyleDataset(**settings, metainfo=dict(classes=("bird",), keypoints=NAMES))) == 1  # not read


def test_classes_with_different_keypoints_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path, {})
    content = json.loads((tmp_path / "ann.json").read_text())
    content["categories"][1]["keypoints"] = ["root", "stem", "top"]
    (tmp_path / "ann.json").write_text(json.dumps(content))
    settings = dict(ann_file="ann.json", data_root=tmp_path, data_prefix=dict(img_path="images"))
    with pytest.raises(DataError, match="the categories 'bird' and 'tree' have different keypoints"):
        BaseCocoStyleDataset(**settings)
    assert BaseCocoStyleDataset(**settings, metainfo=dict(classes=("tree",))).metainfo["keypoints"][0] == "root"


def test_suspicious_annotations_are_reported_and_used(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, dict(bbox=[-5, 3, 30, 6]), dict(keypoints=[40, 5, 2] + [0] * 6))
    first, second = dataset.check_annotations()
    assert "annotation 1: its bbox [-5, 3, 30, 6]" in first and "clipped" in first
    assert "annotation 2: its labeled keypoint at (40, 5) is outside" in second
    assert dataset[0]["gt_bboxes"].tolist() == [[0, 3, 20, 9]]


def test_missing_images_and_size_mismatches_are_reported(tmp_path: Path) -> None:
    images = [dict(id=7, file_name="gone.png", width=20, height=12), dict(id=8, file_name="a.png", width=21, height=12)]
    dataset = dataset_of(tmp_path, {}, dict(image_id=8), images=images, pipeline=[dict(type="LoadImageFromFile")])
    first, second = dataset.check_annotations()
    assert "gone.png" in first and "check data_root" in first
    assert "a.png" in second and "(12, 20)" in second and "(12, 21)" in second
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        dataset[0]


def test_detected_boxes(tmp_path: Path) -> None:
    write(tmp_path, {})
    found = [dict(image_id=7, category_id=3, bbox=[1, 2, 3, 4], score=score) for score in (0.9, 0.1)]
    (tmp_path / "found.json").write_text(json.dumps([*found, dict(image_id=7, category_id=99, bbox=[0] * 4, score=1)]))
    settings = dict(ann_file="ann.json", data_root=tmp_path, data_prefix=dict(img_path="images"))
    dataset = BaseCocoStyleDataset(bbox_file="found.json", filter_cfg=dict(bbox_score_thr=0.2), **settings)
    assert len(dataset) == 1
    assert (dataset[0]["bbox"], dataset[0]["bbox_score"]) == ((1, 2, 4, 6), 0.9)
    assert "gt_keypoints" not in dataset[0]
    bad: list[Any] = [
        found[0] | dict(image_id=5), found[0] | dict(score=None), found[0] | dict(bbox=[1, 2, 3, 0]), 5, found[0],
    ]  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(bad))
    with pytest.raises(DataError) as caught:
        BaseCocoStyleDataset(bbox_file="found.json", **settings)
    image = f"({tmp_path}/images/a.png)"
    assert str(caught.value).splitlines()[:5] == [
        f"{tmp_path}/found.json: 4 of 5 detections are bad",
        "    detections[0]: image_id: no image has the id 5",
        f"    detections[1] {image}: score: must be a finite number, got None",
        f"    detections[2] {image}: bbox: has no area: [1, 2, 3, 0] (left, top, width, height)",
        "    detections[3]: must be a dict, got 5",
    ]
    assert len(BaseCocoStyleDataset(bbox_file="found.json", bad_annotations="skip", **settings)) == 1
    (tmp_path / "found.json").write_text('{"annotations": []}')
    with pytest.raises(DataError, match=r"found\.json must be a list"):
        BaseCocoStyleDataset(bbox_file="found.json", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(data_mode="sideways"), "data_mode must be 'topdown' or 'bottomup'"),
        (dict(data_mode="bottomup", bbox_file="x"), "bbox_file requires data_mode='topdown'"),
        (
            dict(filter_cfg=dict(min_keypoint=1)),
            "'min_keypoint' in filter_cfg: did you mean 'min_keypoints'",
        ),
        (dict(bad_annotations="drop"), "bad_annotations must be 'error' or 'skip'"),
        (dict(metainfo=dict(classes=("cat",))), "has none of the classes 'cat': its classes are 'bird', 'tree'"),
    ],
)
def test_mistaken_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dataset_of(tmp_path, {}, **settings)
    assert message in str(caught.value)


def test_every_shape_is_a_sample() -> None:
    dataset = TopdownShapes(num_samples=4, size=48)
    counts = [len(dataset.images.get_data_info(index)["gt_bboxes"]) for index in range(4)]
    assert len(dataset) == sum(counts) > 4
    last = dataset[len(dataset) - 1]
    image = dataset.images.get_data_info(3)
    assert last["img_id"] == 3
    assert torch.equal(last["gt_keypoints"], image["gt_keypoints"][-1:])
    assert last["gt_areas"].item() == image["gt_masks"][-1].sum()
    assert dataset.metainfo["flip_indices"] == last["flip_indices"] == (0, 2, 1, 3)
    assert list(dataset.check_annotations()) == []


# ---------------------------------------------------------------------------------------------------------- transforms


def sample(**more: Any) -> dict[str, Any]:
    """Return a sample whose image has a bright pixel at its keypoint, x = 6 and y = 4."""
    image = torch.zeros(3, 12, 20, dtype=torch.uint8)
    image[:, 4, 6] = 200
    return {
        "img": tv_tensors.Image(image),
        "gt_bboxes": tv_tensors.BoundingBoxes([[4.0, 2.0, 10.0, 8.0]], format="XYXY", canvas_size=(12, 20)),
        "gt_keypoints": torch.tensor([[[6.0, 4.0], [9.0, 3.0]]]),
        "gt_keypoints_visible": torch.tensor([[2.0, 1.0]]),
        "flip_indices": (1, 0),
        **more,
    }


def test_the_crop_is_around_the_box() -> None:
    made = GetBBoxCenterScale(padding=1.5)(sample())
    assert (made["bbox"], made["bbox_center"], made["bbox_scale"]) == ((4, 2, 10, 8), (7, 5), (9, 9))
    given = GetBBoxCenterScale(padding=1)(sample(bbox=[0, 0, 4, 8]))
    assert (given["bbox_center"], given["bbox_scale"]) == ((2, 4), (4, 8))
    whole = GetBBoxCenterScale(padding=1)({"img": torch.zeros(3, 12, 20)})
    assert whole["bbox"] == (0, 0, 20, 12)


def test_the_sample_of_an_invalid_box_is_named() -> None:
    with pytest.raises(ValueError, match=r"of x\.png has no area"):
        GetBBoxCenterScale()(sample(bbox=[3, 3, 3, 9], img_path="x.png"))
    two = tv_tensors.BoundingBoxes([[0.0, 0, 1, 1]] * 2, format="XYXY", canvas_size=(12, 20))
    with pytest.raises(ValueError, match="sample 4 has 2 boxes"):
        GetBBoxCenterScale()(sample(gt_bboxes=two, sample_idx=4))
    with pytest.raises(KeyError, match="GetBBoxCenterScale must come before"):
        TopdownAffine((8, 8))(sample())


def test_a_crop_keeps_shapes_and_moves_annotations() -> None:
    # The 6 x 6 box is scaled by 4 to 24 x 24 pixels of the 48 x 24 input, which shows 12 x 6 pixels of the image.
    made = Compose([GetBBoxCenterScale(1.0), TopdownAffine((48, 24))])(sample())
    assert made["img"].shape == (3, 24, 48)
    assert made["gt_bboxes"].tolist() == [[12, 0, 36, 24]]
    expected = [(6 + 0.5 - 1) * 4 - 0.5, (4 + 0.5 - 2) * 4 - 0.5]
    assert made["gt_keypoints"][0, 0].tolist() == pytest.approx(expected)
    light = made["img"][0].float()
    center = [
        (light.sum(0) * torch.arange(48)).sum() / light.sum(),
        (light.sum(1) * torch.arange(24)).sum() / light.sum(),
    ]
    assert [value.item() for value in center] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("angle", [0.0, 30.0, -90.0])
def test_image_and_keypoints_move_together(angle: float) -> None:
    picture = torch.zeros(1, 60, 80)
    spots = torch.tensor([[20.0, 15.0], [50.0, 40.0]])
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    made = {
        "img": picture, "bbox_center": (35.0, 28.0), "bbox_scale": (60.0, 70.0), "bbox_rotation": angle,
        "gt_keypoints": spots[None],
    }  # fmt: skip
    for spot in range(2):
        made["img"] = torch.exp(-((x - spots[spot, 0]) ** 2 + (y - spots[spot, 1]) ** 2) / 8)[None]
        crop = TopdownAffine((64, 96))(dict(made))
        width = crop["img"].shape[-1]
        peak = int(crop["img"].argmax())
        torch.testing.assert_close(
            crop["gt_keypoints"][0, spot], torch.tensor([float(peak % width), float(peak // width)]), atol=0.75, rtol=0
        )


def test_a_rotation_is_clockwise() -> None:
    right = {"img": torch.zeros(1, 20, 20), "bbox_center": (10.0, 10.0), "bbox_scale": (20.0, 20.0)}
    turned = TopdownAffine((20, 20))(right | {"bbox_rotation": 90.0, "gt_keypoints": torch.tensor([[[15.0, 9.5]]])})
    assert turned["gt_keypoints"][0, 0].tolist() == pytest.approx([9.5, 15.0])  # from the right to below


def test_random_crops_stay_within_their_bounds() -> None:
    transform = RandomBBoxTransform(0.2, 0.5, (0.5, 2.0), 1.0, 45.0, 0.5)
    torch.manual_seed(0)
    start = {"bbox_center": (50.0, 40.0), "bbox_scale": (20.0, 10.0)}
    made = [transform(dict(start)) for _ in range(300)]
    shifts = torch.tensor([[one["bbox_center"][0] - 50, one["bbox_center"][1] - 40] for one in made])
    factors = torch.tensor([one["bbox_scale"][0] / 20 for one in made])
    angles = torch.tensor([one.get("bbox_rotation", 0.0) for one in made])
    assert all(one["bbox_scale"][0] == pytest.approx(2 * one["bbox_scale"][1]) for one in made)
    assert (shifts.abs() <= torch.tensor([4.0, 2.0])).all() and 0.4 < (shifts[:, 0] == 0).float().mean() < 0.6
    assert 0.5 <= factors.min() < 0.6 and 1.8 < factors.max() <= 2
    assert angles.abs().max() <= 45 and 0.4 < (angles == 0).float().mean() < 0.6
    with pytest.raises(ValueError, match="scale_factor"):
        RandomBBoxTransform(scale_factor=(1.2, 1.5))


def test_a_flip_swaps_left_and_right() -> None:
    made = RandomFlip(prob=1.0)(sample())
    assert made["gt_keypoints"].tolist() == [[[10, 3], [13, 4]]]
    assert made["gt_keypoints_visible"].tolist() == [[1, 2]]
    assert made["img"][0, 4, 13] == 200
    assert made["gt_bboxes"].tolist() == [[10, 2, 16, 8]]
    assert RandomFlip(prob=0.0)(sample())["gt_keypoints"].tolist() == [[[6, 4], [9, 3]]]
    with pytest.raises(KeyError, match="no flip_indices"):
        RandomFlip(prob=1.0)({key: value for key, value in sample().items() if key != "flip_indices"})
    with pytest.raises(ValueError, match="prob must be in"):
        RandomFlip(prob=2)


def test_the_matrix_maps_the_image_to_the_input_after_a_flip_too() -> None:
    steps = [GetBBoxCenterScale(), RandomBBoxTransform(rotate_prob=1.0), TopdownAffine((40, 30)), RandomFlip(1.0)]
    made = Compose(steps)(sample(flip_indices=(0, 1)))
    matrix = torch.tensor(made["warp_matrix"]).view(2, 3)
    expected = sample()["gt_keypoints"] @ matrix[:, :2].T + matrix[:, 2]
    torch.testing.assert_close(made["gt_keypoints"], expected, atol=1e-4, rtol=0)


def test_a_warp_by_the_identity_is_the_image() -> None:
    image = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8)
    same = torch.eye(3, dtype=torch.float64)[:2]
    assert torch.equal(warp(image, same, (7, 9)), image)
    shifted = same.clone()
    shifted[0, 2] = 2
    moved = warp(image.float(), shifted, (7, 9))
    torch.testing.assert_close(moved[..., 2:], image[..., :-2].float(), atol=1e-3, rtol=0)
    assert moved[..., :2].abs().max() < 1e-3
    turned = torch.tensor([[0.0, -1.0, 6.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(warp(image.float(), turned, (9, 7)), image.float().rot90(-1, (1, 2)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["GetBBoxCenterScale", "RandomBBoxTransform", "TopdownAffine", "RandomFlip"])
def test_a_transform_shows_its_arguments(name: str) -> None:
    built = TRANSFORMS.build(dict(type=name, **(dict(input_size=(4, 6)) if name == "TopdownAffine" else {})))
    assert repr(built).startswith(f"{name}(") and "=" in repr(built)
