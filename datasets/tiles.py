"""Datasets of tiles, cut from large images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.datasets.base import BaseDataset, force_full_init, position_of
from trainwright.datasets.detection.transforms import decode_mask
from trainwright.datasets.instances import instances_of, place_instances
from trainwright.datasets.transforms import LoadImageFromFile, oriented_size
from trainwright.datasets.wrappers import IndexedWrapper, MultiImageMixDataset
from trainwright.engine.data.faults import innermost
from trainwright.engine.inference.tiles import Tile, tiles_of
from trainwright.engine.registry import DATASETS
from trainwright.engine.structures.masks import encode_mask

Polygon = list[tuple[float, float]]


@DATASETS.register_module()
class TiledDataset(IndexedWrapper):
    """Large images, cut into overlapping tiles of one size.

    Wraps a dataset for detection, instance segmentation, bottom-up pose estimation or semantic segmentation. The
    pipeline of the wrapped dataset is applied to each tile as if it were an image file: ``LoadImageFromFile`` and
    ``LoadSegMap`` return a part of their file, and annotations are in coordinates of the tile. Boxes and polygons are
    cut at the edges, keypoints outside the tile count as not labeled, and samples have no ``img_id``.

    The index is built from the sizes in the annotations, or else in the headers of the files. A file is decoded whole
    for each of its tiles, unless the tile before, in the same data worker, was of the same file: in order, as in
    evaluation, a file is decoded once; in random order, as in training, once per tile.

    Args:
        dataset: a dataset or its config; its pipeline begins with ``LoadImageFromFile``.
        tile_size: (height, width) of the tiles, or one number for both; smaller images are a single tile.
        overlap_ratio: overlap of neighboring tiles as a fraction of their size, in [0, 1). Objects that are not larger
            than the overlap are complete in at least one tile.
        min_area_ratio: minimum fraction of the area of a box that must be inside a tile. Smaller fragments are marked
            by ``ignore_flag``, so that metrics do not count them.
        filter_empty_gt: leave out tiles without instances, or with ignored ones only.
        lazy_init: load the annotations on first use.

    Raises:
        ValueError: an argument is out of range, the pipeline does not begin with ``LoadImageFromFile``, or the wrapped
            dataset combines or cuts images itself.
    """

    def __init__(
        self,
        dataset: Mapping[str, Any] | Any,
        tile_size: int | Sequence[int],
        overlap_ratio: float = 0.2,
        min_area_ratio: float = 0.3,
        filter_empty_gt: bool = False,
        lazy_init: bool = False,
    ) -> None:
        tiles_of(1, 1, tile_size, overlap_ratio)  # raises if they are out of range
        if not 0 < min_area_ratio <= 1:
            raise ValueError(f"min_area_ratio must be in (0, 1], not {min_area_ratio}")
        self.tile_size = tile_size
        self.overlap_ratio = overlap_ratio
        self.min_area_ratio = min_area_ratio
        self.filter_empty_gt = filter_empty_gt
        super().__init__(dataset, lazy_init)

    @force_full_init
    def __len__(self) -> int:
        return len(self._tiles)

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of a tile. Its ``tile`` is (top, left, height, width) in pixels of the image."""
        position = position_of(idx, len(self))
        info: dict[str, Any] = self.dataset.get_data_info(int(self._images[position]))
        tile = Tile(*self._tiles[position].tolist())
        if "img" in info:
            raise ValueError(f"{type(self.dataset).__name__} is not a dataset of image files, so it cannot be tiled")
        if "instances" in info:
            info["instances"] = [cut for one in info["instances"] if (cut := self._cut(one, tile)) is not None]
        if "gt_bboxes" in info:
            size = _size(info)
            instances = instances_of(info)
            info |= place_instances(instances, size, size, (-tile.top, -tile.left), (tile.height, tile.width))
        info.pop("img_id", None)
        return info | {"tile": tuple(tile), "height": tile.height, "width": tile.width, "sample_idx": position}

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of the instances in a tile that are not ignored."""
        info = self.get_data_info(idx)
        if "instances" not in info:
            return [int(label) for label in info.get("gt_bboxes_labels", ())]
        return [one["bbox_label"] for one in info["instances"] if not one.get("ignore_flag")]

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        """Return a tile transformed by the pipeline of the wrapped dataset, or another one if that rejects it.

        Raises:
            RuntimeError: the pipeline rejects the tile in ``test_mode``, or rejects ``max_refetch`` others too.
        """
        owner = self._owner(idx)
        sample = self._transformed(idx)
        for _ in range(0 if owner.test_mode else owner.max_refetch):
            if sample is not None:
                break
            sample = self._transformed(int(torch.randint(len(self), ())))
        if sample is None:
            raise RuntimeError(f"the pipeline rejected tile {idx} (returned None)")
        return sample

    def _transformed(self, idx: int) -> Any:
        info = self.get_data_info(idx)
        try:
            return self._owner(idx).pipeline(info)
        except Exception as error:
            error.add_note(f"in the tile (top, left, height, width) {info['tile']}")
            raise

    def _owner(self, idx: int) -> Any:
        """Return the dataset that a tile belongs to, inside any wrappers."""
        return innermost(self.dataset, self._get_ori_dataset_idx(idx))[0]

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return int(self._images[position_of(idx, len(self._tiles))])

    def _index(self) -> None:
        for dataset in _innermost_datasets(self.dataset):
            _check_pipeline(dataset)
        images, tiles = [], []
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index)
            found = tiles_of(*_size(info), self.tile_size, self.overlap_ratio)
            if self.filter_empty_gt:
                found = self._non_empty(found, info)
            images += [index] * len(found)
            tiles += found
        self._images = np.array(images, np.int32)
        self._tiles = np.array(tiles, np.int32).reshape(-1, 4)

    def _non_empty(self, tiles: list[Tile], info: Mapping[str, Any]) -> list[Tile]:
        """Return the tiles with at least one instance that is not ignored."""
        if "instances" in info:
            wanted = [one["bbox"] for one in info["instances"] if not one.get("ignore_flag")]
        elif "gt_bboxes" in info:
            wanted = info["gt_bboxes"].tolist()
        else:
            raise ValueError(
                f"filter_empty_gt=True requires instances, but {info['img_path']} has none in its annotation"
            )
        boxes = np.array(wanted, float).reshape(1, -1, 4)
        ends = np.array([(one.left, one.top, one.right, one.bottom) for one in tiles])[:, None]
        sides = np.minimum(boxes[..., 2:], ends[..., 2:]) - np.maximum(boxes[..., :2], ends[..., :2])
        areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        kept = (sides.clip(0).prod(-1) >= self.min_area_ratio * areas).any(1)
        return [tile for tile, is_kept in zip(tiles, kept) if is_kept]

    def _cut(self, instance: Mapping[str, Any], tile: Tile) -> dict[str, Any] | None:
        """Return an instance in coordinates of the tile, or None if it is not in it."""
        box = instance["bbox"]
        cut = _clip_box(box, tile)
        visible = _area(cut) / _area(box)
        if visible <= 0:
            return None
        found = {**instance, "bbox": cut}
        if visible < self.min_area_ratio:
            found["ignore_flag"] = 1
        if "mask" in instance and visible < 1:
            found["mask"], extent = _cut_mask(instance["mask"], tile)
            found["bbox"] = [*map(max, cut[:2], extent[:2]), *map(min, cut[2:], extent[2:])]
        elif "mask" in instance:
            found["mask"] = _cut_mask(instance["mask"], tile)[0]
        left, top, right, bottom = found["bbox"]
        return None if visible < 1 and min(right - left, bottom - top) < 1 else found


def _innermost_datasets(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, MultiImageMixDataset | TiledDataset):
        raise ValueError(
            f"TiledDataset cannot wrap a {type(dataset).__name__}: wrap the TiledDataset in it instead, or remove one"
        )
    parts = getattr(dataset, "datasets", None) or ([dataset.dataset] if hasattr(dataset, "dataset") else [])
    for part in parts:
        yield from _innermost_datasets(part)
    if not parts:
        yield dataset


def _check_pipeline(dataset: Any) -> None:
    steps = dataset.pipeline.transforms if isinstance(dataset, BaseDataset) else ()
    if not steps or not isinstance(steps[0], LoadImageFromFile):
        raise ValueError(
            f"the pipeline of the {type(dataset).__name__} in a TiledDataset must begin with LoadImageFromFile, which "
            "reads the part of the file that belongs to a tile"
        )


def _size(info: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of an image from its annotation, or else from its file."""
    height, width = info.get("height"), info.get("width")
    return oriented_size(info["img_path"]) if height is None or width is None else (height, width)


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _clip_box(box: Sequence[float], tile: Tile) -> list[float]:
    left, top, right, bottom = box
    return [
        max(left, tile.left) - tile.left, max(top, tile.top) - tile.top,
        min(right, tile.right) - tile.left, min(bottom, tile.bottom) - tile.top,
    ]  # fmt: skip


def _cut_mask(mask: Any, tile: Tile) -> tuple[Any, list[float]]:
    """Return the part of a mask in a tile, and its bounding box: polygons as polygons, and RLE as RLE."""
    if isinstance(mask, Mapping):
        pixels = decode_mask(mask, *mask["size"])[tile.top : tile.bottom, tile.left : tile.right]
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows.size else (0, 0, 0, 0)
        return encode_mask(pixels > 0), list(map(float, extent))
    shifted = [[(x - tile.left, y - tile.top) for x, y in zip(polygon[::2], polygon[1::2])] for polygon in mask]
    kept = [cut for polygon in shifted if (cut := _clip_polygon(polygon, tile.width, tile.height))]
    points = np.array([point for polygon in kept for point in polygon]).reshape(-1, 2)
    extent = (*points.min(0), *points.max(0)) if len(points) else (0, 0, 0, 0)
    return [[value for point in polygon for value in point] for polygon in kept], list(map(float, extent))


def _clip_polygon(polygon: Polygon, width: float, height: float) -> Polygon:
    """Return the part of a polygon in the rectangle from (0, 0) to (width, height) (Sutherland & Hodgman 1974)."""
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        clipped: Polygon = []
        for start, end in zip(polygon[-1:] + polygon[:-1], polygon):
            before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if (before > 0) != (after > 0):  # the edge crosses the limit
                other = start[1 - axis] + before / (before - after) * (end[1 - axis] - start[1 - axis])
                clipped.append((other, limit) if axis else (limit, other))
            if after > 0:
                clipped.append(end)
        polygon = clipped
    return _without_spikes(polygon)


def _without_spikes(polygon: Polygon) -> Polygon:
    """Return a polygon without the lines to and fro that connect its parts along the edges of the rectangle."""
    index, unchanged = 0, 0
    while len(polygon) >= 3 and unchanged < len(polygon):
        (x0, y0), (x1, y1), (x2, y2) = (polygon[(index + step) % len(polygon)] for step in range(3))
        along, across = (x1 - x0) * (x2 - x1) + (y1 - y0) * (y2 - y1), (x1 - x0) * (y2 - y1) - (y1 - y0) * (x2 - x1)
        if across == 0 and along <= 0:
            del polygon[(index + 1) % len(polygon)]
            index, unchanged = max(index - 2, 0), 0
        else:
            index, unchanged = (index + 1) % len(polygon), unchanged + 1
    return polygon if len(polygon) >= 3 else []
