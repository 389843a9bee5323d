"""Annotation files with any mistake: no crash, no silent loss, and every refusal names the file, entry and field."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.datasets import BaseCocoStyleDataset, CocoDataset, LoadAnnotations
from trainwright.datasets.annotation_fields import Rules, Sizes, are_good, find_problem
from trainwright.datasets.annotations import Problem
from trainwright.engine.errors import DataError
from trainwright.engine.structures.masks import are_masks, decode_mask, decode_masks, mask_problem
from trainwright.engine.structures.rle import encode_rle

HEIGHT, WIDTH = 8, 10
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
RLE = {"size": [HEIGHT, WIDTH], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}
COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": "a03500000o0"}
FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "iscrowd", "area", "segmentation", "keypoints", "num_keypoints"),
}  # fmt: skip


def content() -> dict[str, Any]:
    box = dict(bbox=[2, 1, 4, 3], iscrowd=0, area=12.0, keypoints=[3, 2, 2, 4, 3, 1, 0, 0, 0], num_keypoints=2)
    masks = (POLYGON, RLE, COMPRESSED)
    return dict(
        images=[dict(id=number, file_name=f"{number}.png", height=HEIGHT, width=WIDTH) for number in range(3)],
        categories=[dict(id=number, name=f"class {number}", keypoints=["a", "b", "c"]) for number in range(2)],
        annotations=[
            dict(id=number, image_id=number % 3, category_id=number % 2, segmentation=masks[number % 3], **copy.deepcopy(box))
            for number in range(6)
        ],
    )  # fmt: skip


NUMBERS = st.one_of(
    st.integers(-3, 12), st.floats(-3, 12), st.sampled_from([float("nan"), float("inf"), -1e9, 1e-12, 10**400, True]),
    st.sampled_from([np.int64(2), np.float32(1.5), np.bool_(True), "3", None, "", [], [1], {}]),
)  # fmt: skip
COUNTS = st.one_of(st.lists(NUMBERS, max_size=4), st.text(max_size=6), st.just("a03500000o0"), st.just([80]), NUMBERS)
VALUES = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=10),
    st.lists(st.lists(NUMBERS, max_size=8), max_size=2),
    st.lists(st.lists(st.integers(0, 8), min_size=6, max_size=6), min_size=1, max_size=2),
    st.tuples(*[st.integers(0, 5)] * 4),
    st.lists(st.integers(0, 2), min_size=9, max_size=9),
    st.fixed_dictionaries({"size": st.sampled_from([[8, 10], [8.0, 10], [10, 8], [8], "8", None, [True, 80]]), "counts": COUNTS}),
    st.text(max_size=5),
    st.binary(max_size=3),
)  # fmt: skip


@st.composite
def mistaken(draw: st.DrawFn) -> dict[str, Any]:
    """Return annotations with one to four fields, entries or lists changed."""
    result = content()
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["annotations"] * 4 + ["images", "categories"]))
        entries = result[name]
        place = draw(st.integers(0, len(entries) - 1))
        how = draw(st.sampled_from(["set"] * 6 + ["delete", "repeat", "replace"]))
        if how == "repeat":
            entries.append(copy.deepcopy(entries[place]))
        elif how == "replace":
            entries[place] = draw(VALUES)
        elif isinstance(entries[place], dict):
            field = draw(st.sampled_from(FIELDS[name]))
            if how == "set":
                entries[place][field] = draw(VALUES)
            else:
                entries[place].pop(field, None)
    return result


class Coco(CocoDataset):
    given: Any = None

    def read_content(self) -> Any:
        return copy.deepcopy(self.given)


class Pose(BaseCocoStyleDataset):
    given: Any = None

    def read_content(self) -> Any:
        return copy.deepcopy(self.given)


def build(kind: str, given: Any, **more: Any) -> Any:
    place = dict(ann_file="my.json", data_prefix=dict(img_path="images"), **more)
    cls: Any = type("Given", (Pose if kind in ("topdown", "bottomup") else Coco,), {"given": given})
    if kind in ("topdown", "bottomup"):
        return cls(data_mode=kind, **place)
    return cls(pipeline=[LoadAnnotations(with_mask=kind == "masks")], **place)


def check_sample(kind: str, dataset: Any, index: int) -> int:
    """Load a sample of a dataset, and return its number of instances."""
    if kind in ("topdown", "bottomup"):
        sample = dataset[index]
        assert torch.isfinite(sample["gt_keypoints"]).all() and torch.isfinite(sample["gt_areas"]).all()
        assert sample["gt_keypoints"].shape[1:] == (3, 2)
    else:
        info = dataset.get_data_info(index)
        try:
            sample = dataset.pipeline(info | {"ori_shape": (HEIGHT, WIDTH), "height": HEIGHT, "width": WIDTH})
        except DataError:
            assert "height" not in info  # the size of the image was not known before
            return len(info["instances"])
        for mask in sample.get("gt_masks", ()):
            assert set(mask.unique().tolist()) <= {0, 1}
        assert sample["gt_ignore_flags"].dtype == torch.bool
    boxes = sample["gt_bboxes"].as_subclass(torch.Tensor)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and torch.isfinite(boxes).all()
    assert all(0 <= label < len(dataset.metainfo["classes"]) for label in sample["gt_bboxes_labels"])
    return len(boxes)


@pytest.mark.parametrize("kind", ["boxes", "masks", "topdown", "bottomup"])
def test_there_is_nothing_wrong_without_a_mistake(kind: str) -> None:
    dataset = build(kind, content())
    assert sum(check_sample(kind, dataset, index) for index in range(len(dataset))) == 6
    assert dataset.problems == []


@pytest.mark.parametrize("kind", ["boxes", "masks", "topdown", "bottomup"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(given=mistaken())
def test_any_mistake_is_refused_or_skipped_by_name(kind: str, given: dict[str, Any]) -> None:
    try:
        dataset = build(kind, given, bad_annotations="skip")
    except DataError as error:  # nothing is left
        assert "my.json has none of the classes" in str(error) or "my.json: no category has keypoint names" in str(
            error
        )
        return
    problems: list[Problem] = dataset.problems
    kept = sum(check_sample(kind, dataset, index) for index in range(len(dataset)))
    bad = {name: sum(problem.kind == name for problem in problems) for name in ("annotation", "image", "category")}
    if kind != "topdown":
        assert len(dataset) + bad["image"] == len(given["images"])
    if kind != "topdown" or "skipped" not in "".join(dataset.check_annotations()):
        unlabeled = kind == "topdown"  # crowds and instances without labeled keypoints are not samples
        assert unlabeled or kept + bad["annotation"] == len(given["annotations"])
    fields = [field for names in FIELDS.values() for field in names]
    for problem in problems:
        assert problem.reason.partition(":")[0] in fields or problem.reason.startswith("must be a dict")
    if not problems:
        assert len(build(kind, given)) == len(dataset)
        return
    with pytest.raises(DataError) as caught:
        build(kind, given)
    first = [problem for problem in problems if problem.kind == "category"] or problems
    assert str(caught.value).startswith("my.json: ")
    assert all(f"    {problem}" in str(caught.value) for problem in first[:10])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(given=mistaken())
def test_the_quick_check_passes_nothing_bad(given: dict[str, Any]) -> None:
    sizes, categories = Sizes({key: dict(height=HEIGHT, width=WIDTH) for key in range(3)}), dict.fromkeys(range(2))
    for rules in (Rules(with_mask=True), Rules(num_keypoints=3, clip_boxes=True)):
        for annotation in given["annotations"]:
            if are_good([annotation], sizes, categories, rules).all():
                assert find_problem(annotation, (HEIGHT, WIDTH), rules) is None


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(mask=VALUES)
def test_masks_are_refused_or_decoded_exactly(mask: Any) -> None:
    problem = mask_problem(mask, (HEIGHT, WIDTH))
    assert not are_masks([mask], np.array([[HEIGHT, WIDTH]], float)).any() or problem is None
    if problem is not None:
        with pytest.raises(ValueError):
            decode_mask(mask, HEIGHT, WIDTH)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools
        pixels = decode_mask(mask, HEIGHT, WIDTH)
    assert pixels.shape == (HEIGHT, WIDTH) and set(np.unique(pixels)) <= {0, 1}
    assert np.array_equal(pixels, decode_mask(mask, HEIGHT, WIDTH))


COORDINATES = st.floats(-60, 90) | st.integers(-600, 900).map(lambda tenths: tenths / 10)
OUTLINES = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=12).map(lambda points: sum(points, ()))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    masks=st.lists(st.lists(OUTLINES, min_size=1, max_size=3), max_size=4),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_masks_are_those_of_pycocotools(masks: list[list[tuple[float, ...]]], size: tuple[int, int]) -> None:
    from pycocotools import mask as coco_mask

    encoded = [coco_mask.merge(coco_mask.frPyObjects([list(one) for one in mask], *size)) for mask in masks]
    expected = [coco_mask.decode(rle) for rle in encoded]
    lists = [encode_rle(plane > 0) for plane in expected]
    for form in (masks, encoded, lists, [{**rle, "counts": rle["counts"].decode()} for rle in encoded]):
        found = decode_masks(form, *size)  # type: ignore[arg-type]
        assert found.dtype == np.uint8 and found.shape == (len(masks), *size)
        assert all(map(np.array_equal, found, expected))


def test_compressed_masks_are_recognized_in_any_number() -> None:
    from pycocotools import mask as coco_mask

    generator = np.random.default_rng(0)
    masks, sizes = [], []
    for _ in range(200):
        plane = generator.random(generator.integers(1, 40, 2)) < generator.choice([0, 0.02, 0.5, 1])
        plane = np.kron(plane, np.ones(generator.integers(1, 30, 2)))
        rle = coco_mask.encode(np.asfortranarray(plane.astype(np.uint8)))
        masks.append({"size": rle["size"], "counts": rle["counts"].decode()})
        sizes.append(plane.shape)
    assert are_masks(masks, np.array(sizes, float)).all()
    for mask, size in zip(masks[:40], sizes):
        assert mask_problem(mask, size) is None
        assert mask_problem({**mask, "counts": mask["counts"][:-1]}, size) is not None
        assert mask_problem({**mask, "counts": mask["counts"] + "1"}, size) is not None
