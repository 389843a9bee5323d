"""A picture of 300 x 420 pixels with objects of distinct colors, cut into tiles of 128 pixels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from trainwright.datasets import (
    BaseCocoStyleDataset,
    BaseSegDataset,
    ClassBalancedDataset,
    CocoDataset,
    ConcatDataset,
    MultiImageMixDataset,
    Shapes,
    TiledDataset,
)
from trainwright.datasets import transforms as transforms_module
from trainwright.datasets.tiles import _clip_polygon
from trainwright.engine.data.faults import describe_sample
from trainwright.engine.errors import DataError
from trainwright.engine.images.reader import ImageReader
from trainwright.engine.inference.tiles import tiles_of
from trainwright.engine.registry import DATASETS
from trainwright.engine.structures.masks import decode_mask as rasterize
from trainwright.engine.structures.rle import encode_rle

HEIGHT, WIDTH = 300, 420
OUTLINES = [
    [(10, 10), (90, 20), (60, 110)],  # inside of the first tile
    [(100, 60), (200, 60), (200, 140), (180, 140), (180, 80), (120, 80), (120, 140), (100, 140)],  # an arch, cut
    [(240, 150), (400, 150), (400, 290), (240, 290)],  # larger than a tile
    [(40, 200), (60, 200), (60, 220), (40, 220)],
    [(124, 250), (224, 250), (224, 270), (124, 270)],
]
COLORS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250)]
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    picture, classes = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    annotations = []
    for number, (outline, color) in enumerate(zip(OUTLINES, COLORS)):
        inside = rasterize([[value for point in outline for value in point]], HEIGHT, WIDTH) > 0
        picture[inside], classes[inside] = color, number + 1
        (left, top), (right, bottom) = np.min(outline, 0).tolist(), np.max(outline, 0).tolist()
        points = [value for x, y in outline[:3] for value in (x, y, 2)]
        annotations.append({
            "id": number, "image_id": 7, "category_id": number, "bbox": [left, top, right - left, bottom - top],
            "area": 1, "iscrowd": 0, "segmentation": [[value for point in outline for value in point]],
            "keypoints": points, "num_keypoints": 3,
        })  # fmt: skip
    rle = {"size": [HEIGHT, WIDTH], "counts": encode_rle(classes == 5)["counts"]}
    annotations[4]["segmentation"] = rle
    (root / "images").mkdir()
    (root / "masks").mkdir()
    Image.fromarray(picture).save(root / "images/0.png")
    Image.new("RGB", (50, 70)).save(root / "images/1.png")
    Image.fromarray(classes).save(root / "masks/0.png")
    Image.new("L", (50, 70)).save(root / "masks/1.png")
    images = [{"id": 7, "file_name": "images/0.png", "height": HEIGHT, "width": WIDTH},
              {"id": 8, "file_name": "images/1.png", "height": 70, "width": 50}]  # fmt: skip
    categories = [{"id": number, "name": f"object {number}", "keypoints": ["a", "b", "c"]} for number in range(5)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "ann.json").write_text(json.dumps(content))
    return root


def coco(folder, pipeline=LOAD, **options):
    return dict(type="CocoDataset", data_root=str(folder), ann_file="ann.json", pipeline=pipeline, **options)


def test_tiles_cover_the_image():
    tiles = tiles_of(HEIGHT, WIDTH, 128, 0.25)
    covered = np.zeros((HEIGHT, WIDTH), int)
    for top, left, height, width in tiles:
        assert (height, width) == (128, 128)
        covered[top : top + height, left : left + width] += 1
    assert covered.min() == 1 and len(tiles) == 3 * 5
    assert [tile.left for tile in tiles[:5]] == [0, 96, 192, 288, 292]
    assert tiles_of(70, 50, 128, 0.25) == [(0, 0, 70, 50)]
    assert tiles_of(100, 300, (100, 150), 0.0) == [(0, 0, 100, 150), (0, 150, 100, 150)]
    with pytest.raises(ValueError, match=r"overlap_ratio in \[0, 1\), not 128 and 1"):
        tiles_of(1, 1, 128, 1)


def test_tiles_of_an_image(folder):
    dataset = TiledDataset(coco(folder), tile_size=128, overlap_ratio=0.25)
    whole = CocoDataset(**{key: value for key, value in coco(folder).items() if key != "type"})[0]
    assert len(dataset) == 16 and dataset.metainfo["classes"] == tuple(f"object {number}" for number in range(5))
    times_complete = [0] * 5
    for index in range(15):
        sample = dataset[index]
        top, left, height, width = sample["tile"]
        area = np.s_[..., top : top + height, left : left + width]
        assert torch.equal(sample["img"], whole["img"][area]) and sample["ori_shape"] == (128, 128)
        assert sample["sample_idx"] == index and "img_id" not in sample
        is_ignored = sample["gt_ignore_flags"].tolist()
        found = dict(zip(sample["gt_bboxes_labels"].tolist(), range(5)))
        for label in range(5):
            own = (sample["img"] == torch.tensor(COLORS[label])[:, None, None]).all(0)
            if label not in found:
                assert not own.any(), f"object {label} is in tile {index}"
                continue
            rows, columns = own.any(1).nonzero()[:, 0], own.any(0).nonzero()[:, 0]
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            box = sample["gt_bboxes"][found[label]].tolist()
            slack = 2 if label == 0 else 1e-3  # its edges are slanted
            assert np.allclose(box, tight, atol=slack), f"object {label} in tile {index}"
            mask = sample["gt_masks"][found[label]].bool()
            assert (mask ^ own).sum() <= (10 if label == 0 else 0)
            sides = [np.array(each[2:]) - each[:2] for each in (box, whole["gt_bboxes"][label].tolist())]
            fraction = sides[0].prod() / sides[1].prod()
            if label in (2, 4):
                assert is_ignored[found[label]] == (fraction < 0.3)
            times_complete[label] += fraction > 0.999
    assert times_complete == [1, 0, 0, 2, 1]
    assert dataset[15]["img"].shape == (3, 70, 50) and len(dataset[15]["gt_bboxes"]) == 0


def test_objects_without_pixels_in_a_tile_are_left_out(folder):
    dataset = TiledDataset(coco(folder), tile_size=(40, 50), overlap_ratio=0.0)
    inside_the_arch = next(i for i in range(len(dataset)) if dataset.get_data_info(i)["tile"][:2] == (80, 100))
    assert dataset[inside_the_arch]["gt_bboxes"].tolist() == [[0, 0, 20, 40]], "one of its legs"
    middle = TiledDataset(coco(folder), tile_size=(40, 40), overlap_ratio=0.0)
    index = next(i for i in range(len(middle)) if middle.get_data_info(i)["tile"][:2] == (80, 120))
    assert 1 not in middle[index]["gt_bboxes_labels"], "between the legs"


def test_clipped_polygons_have_the_area_of_clipped_pixels():
    rng = np.random.default_rng(0)
    for _ in range(30):
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(100, 1000, 12)
        star = [(500 + r * np.cos(a), 400 + r * np.sin(a)) for a, r in zip(angles, radii)]
        pixels = Image.new("1", (1000, 800))
        ImageDraw.Draw(pixels).polygon(star, fill=1)
        clipped = _clip_polygon(star, 1000, 800)
        x, y = np.array(clipped).T
        assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(np.sum(pixels), rel=0.02)
        rows, columns = np.asarray(pixels).any(1).nonzero()[0], np.asarray(pixels).any(0).nonzero()[0]
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.allclose([x.min(), y.min(), x.max(), y.max()], extent, atol=2)


def test_empty_tiles(folder):
    everything = TiledDataset(coco(folder), tile_size=100, overlap_ratio=0.2)
    filled = TiledDataset(coco(folder), tile_size=100, overlap_ratio=0.2, filter_empty_gt=True)
    labels = [everything.get_cat_ids(index) for index in range(len(everything))]
    assert [filled.get_cat_ids(index) for index in range(len(filled))] == [each for each in labels if each]
    assert 0 < len(filled) < len(everything)
    strict = TiledDataset(coco(folder), tile_size=100, overlap_ratio=0.2, min_area_ratio=1.0, filter_empty_gt=True)
    assert len(strict) < len(filled)
    with pytest.raises(ValueError, match="filter_empty_gt=True requires instances, but .*0.png"):
        TiledDataset(segmentation(folder), tile_size=100, filter_empty_gt=True)


def segmentation(folder):
    return dict(type="BaseSegDataset", data_root=str(folder), img_suffix=".png",
                metainfo=dict(classes=["background", "a", "b", "c", "d", "e"]),
                pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadSegMap"), dict(type="PackInputs")])  # fmt: skip


def test_semantic_segmentation_without_overlap_has_every_pixel_once(folder):
    dataset = TiledDataset(segmentation(folder), tile_size=64, overlap_ratio=0.0)
    whole = BaseSegDataset(**{key: value for key, value in segmentation(folder).items() if key != "type"})[0]
    counts = torch.zeros(6, dtype=torch.int64)
    for sample in (dataset[index] for index in range(len(dataset) - 2)):
        top, left, height, width = dataset.get_data_info(sample["data_samples"].sample_idx)["tile"]
        classes = sample["data_samples"].gt_sem_seg.sem_seg[0]
        assert torch.equal(
            classes, whole["data_samples"].gt_sem_seg.sem_seg[0, top : top + height, left : left + width]
        )
        counts += torch.bincount(classes.ravel(), minlength=6)
    assert counts.sum() >= HEIGHT * WIDTH


def test_keypoints(folder):
    pose = BaseCocoStyleDataset(ann_file=str(folder / "ann.json"), data_root=str(folder), data_mode="bottomup",
                               metainfo=dict(classes=[f"object {number}" for number in range(5)]),
                               pipeline=[dict(type="LoadImageFromFile")])  # fmt: skip
    dataset = TiledDataset(pose, tile_size=128, overlap_ratio=0.25)
    seen = set()
    for index in range(15):
        sample = dataset[index]
        top, left, height, width = sample["tile"]
        for label, points, visible in zip(
            sample["gt_bboxes_labels"], sample["gt_keypoints"], sample["gt_keypoints_visible"]
        ):
            for k, (x, y) in enumerate(points.tolist()):
                assert (x + left, y + top) == OUTLINES[label][k]
                assert bool(visible[k]) == (x < width - 0.5 and y < height - 0.5 and x >= -0.5 and y >= -0.5)
                seen |= {(int(label), k)} if visible[k] else set()
    assert len(seen) == 15


def test_consecutive_tiles_decode_a_file_once(folder, monkeypatch):
    decoded = []
    read = ImageReader.read
    monkeypatch.setattr(ImageReader, "read", lambda self, path: decoded.append(path) or read(self, path))
    transforms_module._read_recently.cache_clear()
    dataset = TiledDataset(coco(folder), tile_size=128)
    first = dataset[0]["img"].clone()
    dataset[0]["img"].zero_()
    assert torch.equal(dataset[0]["img"], first), "changes do not affect the next tile"
    for index in range(len(dataset)):
        dataset[index]
    assert len(decoded) == 2, "there are two files"


def test_tiles_in_other_wrappers(folder):
    both = ConcatDataset([coco(folder, filter_cfg=dict(filter_empty_gt=True)), coco(folder)])
    tiles = TiledDataset(both, tile_size=128, overlap_ratio=0.25)
    assert len(tiles) == 31 and tiles[30]["img"].shape == (3, 70, 50)
    assert describe_sample(tiles, 16).endswith("0.png) of CocoDataset")
    balanced = ClassBalancedDataset(tiles, oversample_thr=0.5)
    assert len(balanced) > 31
    mosaic = MultiImageMixDataset(tiles, [dict(type="Mosaic", img_scale=64)])
    assert mosaic[3]["img"].shape == (3, 128, 128)
    assert list(tiles.check_annotations()) == []
    for inner in (mosaic, dict(type="RepeatDataset", times=2, dataset=tiles)):
        with pytest.raises(ValueError, match="TiledDataset cannot wrap a .*Dataset: wrap the TiledDataset in it"):
            TiledDataset(inner, tile_size=128)


def test_mistakes(folder, tmp_path):
    with pytest.raises(ValueError, match="pipeline of the CocoDataset in a TiledDataset must begin with LoadImage"):
        TiledDataset(coco(folder, pipeline=[dict(type="PackInputs")]), tile_size=128)
    with pytest.raises(ValueError, match="pipeline of the Shapes"):
        TiledDataset(Shapes(num_samples=1), tile_size=128)
    content = json.loads((folder / "ann.json").read_text())
    content["images"][0] |= {"file_name": str(folder / "images/0.png"), "width": 500}
    (tmp_path / "ann.json").write_text(json.dumps(content))
    dataset = DATASETS.build(dict(type="TiledDataset", tile_size=128, dataset=coco(tmp_path, bad_annotations="skip")))
    with pytest.raises(DataError, match=r"0.png has size \(300, 420\).* row 0 to 128 and column 372 to 500") as caught:
        dataset[4]
    assert "in the tile (top, left, height, width) (0, 372, 128, 128)" in caught.value.__notes__


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 3)])
def test_masks_as_run_lengths(size):
    for mask in [np.zeros(size, bool), np.ones(size, bool), np.random.default_rng(0).random(size) > 0.5]:
        assert np.array_equal(rasterize(encode_rle(mask), *mask.shape) > 0, mask)
        for top, left in [(0, 0), (3, 4), (6, 2)]:
            whole = np.zeros((size[0] + 6, size[1] + 4), bool)
            whole[top : top + size[0], left : left + size[1]] = mask
            assert encode_rle(mask, (top, left), whole.shape) == encode_rle(whole)
