"""Prediction on large images in overlapping tiles."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.inference.images import ImagePipeline
from trainwright.engine.inference.inferencer import Inferencer, readable
from trainwright.engine.inference.tiles import Tile, tiles_of
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.rle import encode_rle
from trainwright.engine.structures.sample import DataSample

_EDGE = 0.01  # a box that ends within this fraction of the tile size from an edge of the tile may be cut by it


@INFERENCERS.register_module()
class TiledInferencer(Inferencer):
    """Predict on large images in overlapping tiles, and merge the predictions.

    Works with any model that predicts ``pred_instances`` or ``pred_sem_seg``. Each tile is processed like an image file
    of its size, so use tiles of the size that the model was trained on: larger ones are shrunk by models that resize
    their inputs. ``batch_size`` of a call is the number of tiles.

    A detection that ends at the edge of its tile is left out if a neighbor shows its place away from the edges: that
    tile sees the whole object, and fragments are often taken for other objects. Detections in two tiles are the same
    object if they agree where the tiles overlap: the parts of their boxes in the overlap have an IoU of at least
    ``merge_iou_thr`` and the same class, or one box is a fragment, most of which is in the other box. The detection of
    the tile that contains the object completely is kept. If no tile does, boxes and masks are united, so objects may be
    larger than the tiles. Masks are in COCO's uncompressed RLE, since those of many objects at the size of the image
    would not fit into memory. Class maps are joined in the middle of the overlaps.

    Example:
        >>> inferencer = TiledInferencer("work_dirs/faster_rcnn/best_coco_bbox_mAP_epoch_26.pth", tile_size=800)
        >>> inferencer("aerial.jpg", batch_size=4, out_dir="predictions")

    Args:
        *args: arguments of :class:`Inferencer`.
        tile_size: (height, width) of the tiles, or one number for both; smaller images are a single tile.
        overlap_ratio: overlap of neighboring tiles as a fraction of their size, in (0, 1). Objects that are not larger
            than the overlap are complete in at least one tile.
        merge_iou_thr: minimum agreement of detections that are merged, in (0, 1].
        **kwargs: arguments of :class:`Inferencer`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *args: Any,
        tile_size: int | Sequence[int] = 640,
        overlap_ratio: float = 0.2,
        merge_iou_thr: float = 0.5,
        **kwargs: Any,
    ) -> None:
        tiles_of(1, 1, tile_size, overlap_ratio)  # raises if they are out of range
        if not overlap_ratio > 0 or not 0 < merge_iou_thr <= 1:
            raise ValueError(
                "overlap_ratio must be in (0, 1), since objects are merged where tiles overlap, and merge_iou_thr in "
                f"(0, 1], not {overlap_ratio} and {merge_iou_thr}"
            )
        self.tile_size = tile_size
        self.overlap_ratio = overlap_ratio
        self.merge_iou_thr = merge_iou_thr
        super().__init__(*args, **kwargs)

    def _predictions(
        self,
        items: Sequence[Any],
        batch_size: int,
        errors: dict[int, Exception] | None,
        for_forward: Mapping[str, Any],
        **for_preprocess: Any,
    ) -> Iterator[Any]:
        for index, image in enumerate(items):
            whole = readable(partial(self._load, image), index, errors)
            if whole is not None:
                yield self._predict(whole, batch_size, for_forward)

    def _load(self, source: Any) -> dict[str, Any]:
        if not isinstance(self.pipeline, ImagePipeline) or not self.pipeline.takes_images:
            raise ValueError("only images can be divided into tiles")
        return self.pipeline.load(source)

    def _predict(self, whole: Mapping[str, Any], batch_size: int, options: Mapping[str, Any]) -> DataSample:
        """Return the prediction for a loaded image."""
        height, width = whole["ori_shape"]
        tiles = tiles_of(height, width, self.tile_size, self.overlap_ratio)
        samples = (self._sample_of_tile(whole, tile) for tile in tiles)
        merged = DataSample(metainfo={key: whole[key] for key in ("img_path", "ori_shape") if key in whole})
        instances: list[InstanceData] = []
        classes: Tensor | None = None
        begins = iter(zip(tiles, _middle_of_overlaps(tiles)))
        for chunk in self._get_chunk_data(samples, batch_size):
            for sample, (tile, (top, left)) in zip(self.forward(self.collate_fn(chunk), **options), begins):
                found, plane = sample.get("pred_instances"), sample.get("pred_sem_seg")
                if found is None and plane is None:
                    raise ValueError("only models that predict instances or classes of pixels can predict in tiles")
                if found is not None:
                    instances.append(_in_image(found.to("cpu"), tile))
                if plane is not None:
                    values = plane.sem_seg.to("cpu")
                    classes = values.new_zeros(1, height, width) if classes is None else classes
                    classes[:, top : tile.bottom, left : tile.right] = values[:, top - tile.top :, left - tile.left :]
        if instances:
            merged.pred_instances = merge_instances(instances, tiles, (height, width), self.merge_iou_thr)
        if classes is not None:
            merged.pred_sem_seg = PixelData(sem_seg=classes)
        return merged

    def _sample_of_tile(self, whole: Mapping[str, Any], tile: Tile) -> Any:
        from torchvision.tv_tensors import Image

        pixels = whole["img"].as_subclass(Tensor)[:, tile.top : tile.bottom, tile.left : tile.right].contiguous()
        return self.pipeline.transform({**whole, "img": Image(pixels), "ori_shape": (tile.height, tile.width)})  # type: ignore[attr-defined]


def merge_instances(
    instances: Sequence[InstanceData], tiles: Sequence[Tile], image_size: tuple[int, int], merge_iou_thr: float
) -> InstanceData:
    """Return the instances of an image, given those of each of its tiles, by descending score.

    Args:
        instances: for each tile, ``bboxes``, ``labels``, ``scores`` and other fields, in coordinates of the image.
            Masks are tuples of a bool array, its top, and its left.
        tiles: the tiles.
        image_size: (height, width) of the image.
        merge_iou_thr: minimum agreement of instances that are merged.
    """
    redundant = _redundant(instances, tiles, image_size)
    whole: list[InstanceData] = [each[~is_redundant] for each, is_redundant in zip(instances, redundant)]
    owners = torch.tensor([number for number, each in enumerate(whole) for _ in range(len(each))])
    everything = InstanceData.cat(whole)
    if not len(everything):
        return everything
    boxes = everything.bboxes.double()
    pairs = _matching_pairs(boxes, everything.labels, owners, tiles, image_size, merge_iou_thr)
    groups = _groups(len(everything), pairs, owners.tolist())
    best, united, scores, masks = [], boxes.clone(), everything.scores.clone(), []
    for group in groups:
        members = sorted(group, key=lambda index: -float(everything.scores[index]))
        union = torch.cat([boxes[members, :2].amin(0), boxes[members, 2:].amax(0)])
        complete = [
            index for index in members if not _is_cut(union, tiles[int(owners[index])], image_size)
        ]  # fmt: skip
        chosen = complete[0] if complete else members[0]
        best.append(chosen)
        scores[chosen] = everything.scores[members[0]]
        if not complete:
            united[chosen] = union
        if "masks" in everything:
            masks.append(_united_mask([everything.masks[index] for index in (complete[:1] or members)], image_size))
    order = torch.tensor(best)[scores[best].argsort(descending=True, stable=True)]
    merged = InstanceData()
    merged.set_data({name: value[order] for name, value in everything.items() if isinstance(value, Tensor)})
    merged.bboxes, merged.scores = united[order].to(everything.bboxes.dtype), scores[order]
    if "masks" in everything:
        mask_of = dict(zip(best, masks))
        merged.masks = [mask_of[index] for index in order.tolist()]
    return merged


def _in_image(found: InstanceData, tile: Tile) -> InstanceData:
    """Return the instances of a tile in coordinates of the image, with masks cropped to their pixels."""
    moved = InstanceData()
    shift = torch.tensor([tile.left, tile.top])
    moved.set_data(dict(found.items()))
    moved.bboxes = found.bboxes + shift.repeat(2)
    if "keypoints" in found:
        moved.keypoints = found.keypoints + shift
    if "masks" in found:
        moved.masks = [_cropped(mask, tile) for mask in found.masks.bool().numpy()]
    return moved


def _cropped(mask: np.ndarray[Any, Any], tile: Tile) -> tuple[np.ndarray[Any, Any], int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return mask[:0, :0], tile.top, tile.left
    pixels = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return pixels, int(tile.top + rows[0]), int(tile.left + columns[0])


def _united_mask(parts: Sequence[Any], image_size: tuple[int, int]) -> dict[str, list[int]]:
    """Return the RLE, at the size of the image, of the pixels in any of the masks."""
    top, left = (min(part[axis] for part in parts) for axis in (1, 2))
    bottom = max(pixels.shape[0] + row for pixels, row, _ in parts)
    right = max(pixels.shape[1] + column for pixels, _, column in parts)
    union = np.zeros((bottom - top, right - left), bool)
    for pixels, row, column in parts:
        union[row - top : row - top + pixels.shape[0], column - left : column - left + pixels.shape[1]] |= pixels
    return encode_rle(union, (top, left), image_size)


def _is_cut(box: Tensor, tile: Tile, image_size: tuple[int, int]) -> bool:
    """Return whether a box ends at or beyond an edge of the tile inside of the image."""
    return bool(_touches_inner_edge(box[None], tile, image_size))


def _touches_inner_edge(boxes: Tensor, tile: Tile, image_size: tuple[int, int]) -> Tensor:
    """Return for each box whether it ends at or beyond an edge of the tile inside of the image, bool (N,)."""
    near = max(2.0, _EDGE * max(tile.height, tile.width))
    touches = torch.zeros(len(boxes), dtype=torch.bool)
    for axis, start, end, length in (
        (0, tile.left, tile.right, image_size[1]),
        (1, tile.top, tile.bottom, image_size[0]),
    ):
        if start > 0:
            touches |= boxes[:, axis] < start + near
        if end < length:
            touches |= boxes[:, axis + 2] > end - near
    return touches


def _redundant(
    instances: Sequence[InstanceData], tiles: Sequence[Tile], image_size: tuple[int, int]
) -> Iterator[Tensor]:
    """Yield for each tile which of its boxes it cuts, but another tile shows away from its edges, bool (N,)."""
    corners = np.array([(tile.top, tile.left) for tile in tiles])
    for number, (tile, boxes) in enumerate(zip(tiles, (each.bboxes for each in instances))):
        is_cut = _touches_inner_edge(boxes, tile, image_size)
        is_complete = torch.zeros_like(is_cut)
        for neighbor in np.flatnonzero((np.abs(corners - corners[number]) < (tile.height, tile.width)).all(1)).tolist():
            other = tiles[neighbor]
            limits = boxes.new_tensor([other.left, other.top, other.right, other.bottom])
            is_inside = ((boxes[:, :2] >= limits[:2]) & (boxes[:, 2:] <= limits[2:])).all(1)
            is_complete |= is_inside & ~_touches_inner_edge(boxes, other, image_size)
        yield is_cut & is_complete


def _matching_pairs(
    boxes: Tensor,
    labels: Tensor,
    owners: Tensor,
    tiles: Sequence[Tile],
    image_size: tuple[int, int],
    merge_iou_thr: float,
) -> list[tuple[float, int, int]]:
    """Return the pairs of instances from different tiles that agree in the overlap, as (agreement, index, index)."""
    pairs: list[tuple[float, int, int]] = []
    of_tile = [torch.nonzero(owners == number)[:, 0] for number in range(len(tiles))]
    is_fragment = torch.cat(
        [_touches_inner_edge(boxes[chosen], tile, image_size) for chosen, tile in zip(of_tile, tiles)]
    )
    corners = np.array([(tile.top, tile.left) for tile in tiles])
    for first, one in enumerate(tiles):
        is_near = (np.abs(corners[first + 1 :] - corners[first]) < (one.height, one.width)).all(1)
        for second in (first + 1 + np.flatnonzero(is_near)).tolist() if len(of_tile[first]) else ():
            other = tiles[second]
            low = (max(one.left, other.left), max(one.top, other.top))
            high = (min(one.right, other.right), min(one.bottom, other.bottom))
            limits = [boxes.new_tensor(values) for values in (low, high)]
            a, b = (_restricted(boxes, of_tile[number], *limits) for number in (first, second))
            if not len(a[0]) or not len(b[0]):
                continue
            corner = torch.minimum(a[1][:, None, 2:], b[1][:, 2:]) - torch.maximum(a[1][:, None, :2], b[1][:, :2])
            common = corner.clamp(min=0).prod(-1)
            areas_a, areas_b = ((each[1][:, 2:] - each[1][:, :2]).prod(-1) for each in (a, b))
            agreement = common / (areas_a[:, None] + areas_b - common)
            for of, fragments in ((areas_a[:, None], is_fragment[a[0]][:, None]), (areas_b, is_fragment[b[0]])):
                agreement = torch.where(fragments, torch.maximum(agreement, common / of), agreement)
            agreement[labels[a[0]][:, None] != labels[b[0]]] = 0
            rows, columns = torch.nonzero(agreement >= merge_iou_thr, as_tuple=True)
            pairs += zip(agreement[rows, columns].tolist(), a[0][rows].tolist(), b[0][columns].tolist())
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))


def _restricted(boxes: Tensor, chosen: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the chosen boxes that are partly in a rectangle, and these parts."""
    parts = torch.cat([torch.maximum(boxes[chosen, :2], low), torch.minimum(boxes[chosen, 2:], high)], 1)
    inside = (parts[:, 2:] > parts[:, :2]).all(1)
    return chosen[inside], parts[inside]


def _groups(number: int, pairs: Sequence[tuple[float, int, int]], owners: Sequence[int]) -> list[list[int]]:
    """Return groups of instances that are the same object: at most one per tile, best pairs first."""
    group_of = [[index] for index in range(number)]
    for _, first, second in pairs:
        one, other = group_of[first], group_of[second]
        if one is other or {owners[index] for index in one} & {owners[index] for index in other}:
            continue
        one += other
        for index in other:
            group_of[index] = one
    return [group for index, group in enumerate(group_of) if group[0] == index]


def _middle_of_overlaps(tiles: Sequence[Tile]) -> list[tuple[int, int]]:
    """Return where the part of each tile begins, (top, left): in the middle of its overlap with the tiles before."""
    tops = _middles({tile.top for tile in tiles}, tiles[0].height)
    lefts = _middles({tile.left for tile in tiles}, tiles[0].width)
    return [(tops[tile.top], lefts[tile.left]) for tile in tiles]


def _middles(starts: set[int], length: int) -> dict[int, int]:
    ordered = sorted(starts)
    middles = {start: start + max(0, before + length - start) // 2 for before, start in pairwise(ordered)}
    return {ordered[0]: ordered[0], **middles}
