"""Colored shapes with exact ground truth for every task: pictures that are drawn when they are asked for."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision import tv_tensors

from trainwright.datasets.base import BaseDataset
from trainwright.engine.registry import DATASETS

_KEYPOINTS = 4
_ANNOTATIONS = (
    "gt_label", "gt_bboxes", "gt_bboxes_labels", "gt_masks", "gt_areas", "gt_keypoints", "gt_keypoints_visible",
    "gt_seg_map",
)  # fmt: skip
_SMALLEST_VISIBLE_SHARE = 0.4

# Corners on a circle of radius 1 around the origin, y downwards, before they are turned. The arrow's keypoints are its
# tip, its left and right barb and its tail; a mirror image swaps the barbs.
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(math.tau * i / 24), math.sin(math.tau * i / 24)) for i in range(24)),
    "square": ((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
    "triangle": ((0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)),
    "arrow": ((0.0, -1.0), (0.7, 0.1), (0.25, 0.1), (0.25, 1.0), (-0.25, 1.0), (-0.25, 0.1), (-0.7, 0.1)),
}
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": OUTLINES["square"],
    "triangle": OUTLINES["triangle"],
    "arrow": ((0.0, -1.0), (-0.7, 0.1), (0.7, 0.1), (0.0, 1.0)),
}


@DATASETS.register_module()
class Shapes(BaseDataset):
    """Turned shapes of random colors and sizes, partly hiding each other, on a noisy background.

    Every sample is drawn from (``seed``, index) alone, so it is the same in each epoch, process and run. It has
    all the annotations that :mod:`trainwright.datasets.transforms` lists: ``gt_label`` (the class of the largest
    shape), ``gt_bboxes`` around the visible pixels, ``gt_bboxes_labels``, ``gt_masks`` of the visible pixels,
    ``gt_areas``, their numbers, ``gt_keypoints`` with the corners, ``gt_keypoints_visible``, and ``gt_seg_map`` with
    0 for the background and 1 + class for a shape. The only class of ``kinds=("arrow",)`` has four corners that can be
    told apart: tip, left barb, right barb, tail.

    Args:
        num_samples: number of images.
        size: height and width in pixels, at least 16.
        kinds: which shapes, of circle, square, triangle and arrow; their order is that of the classes.
        max_shapes: largest number of shapes in an image, at least 1; the smallest is 1.
        radius: smallest and largest radius of a shape, as shares of ``size``.
        seed: another one gives other images.
        annotations: names of those to give, such as ``("gt_bboxes", "gt_bboxes_labels")``; all if None.
        pipeline: transforms of the sample, or their configs.
        **kwargs: as for :class:`BaseDataset`.

    Raises:
        ValueError: an unknown kind or annotation, or a number out of range.
    """

    def __init__(
        self,
        num_samples: int = 500,
        size: int = 64,
        kinds: Sequence[str] = ("circle", "square", "triangle"),
        max_shapes: int = 3,
        radius: tuple[float, float] = (0.12, 0.28),
        seed: int = 0,
        annotations: Sequence[str] | None = None,
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        **kwargs: Any,
    ) -> None:
        if unknown := [kind for kind in kinds if kind not in OUTLINES]:
            raise ValueError(f"there is no shape {unknown[0]!r}, only {', '.join(OUTLINES)}")
        if size < 16 or max_shapes < 1 or not 0 < radius[0] <= radius[1] <= 0.5:
            raise ValueError("size must be at least 16, max_shapes at least 1, radius within (0, 0.5] and in order")
        self.num_samples = num_samples
        self.size = size
        self.kinds = tuple(kinds)
        self.max_shapes = max_shapes
        self.radius = radius
        self.seed = seed
        if unknown := [name for name in annotations or () if name not in _ANNOTATIONS]:
            raise ValueError(f"there is no annotation {unknown[0]!r}, only {', '.join(_ANNOTATIONS)}")
        self.left_out = set() if annotations is None else set(_ANNOTATIONS) - set(annotations)
        metainfo: dict[str, Any] = {"classes": self.kinds, "seg_classes": ("background", *self.kinds)}
        if self.kinds == ("arrow",):
            metainfo |= {
                "keypoints": ("tip", "left barb", "right barb", "tail"),
                "flip_indices": (0, 2, 1, 3),
                "sigmas": (0.08,) * _KEYPOINTS,
                "skeleton_links": ((0, 1), (0, 2), (0, 3)),
            }
        super().__init__(metainfo={**metainfo, **kwargs.pop("metainfo", {})}, pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a seed for each sample."""
        return [{"img_id": index} for index in range(self.num_samples)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a sample with its image, drawn, and all its annotations."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng((self.seed, info["img_id"]))
        shapes = [self._draw_one(rng) for _ in range(rng.integers(1, self.max_shapes + 1))]
        image = rng.normal(rng.uniform(60, 200, 3), 15, (self.size, self.size, 3))
        owner = np.full((self.size, self.size), -1)  # which shape a pixel belongs to: the last one drawn there
        for index, shape in enumerate(shapes):
            inside = shape["inside"]
            owner[inside] = index
            image[inside] = shape["color"] + rng.normal(0, 12, (int(inside.sum()), 3))
        visible = [owner == index for index in range(len(shapes))]
        kept = [
            index
            for index, shape in enumerate(shapes)
            if visible[index].sum() >= _SMALLEST_VISIBLE_SHARE * max(1, shape["inside"].sum())
        ]
        seg_map = np.zeros((self.size, self.size), np.uint8)
        for index, shape in enumerate(shapes):
            seg_map[visible[index]] = 1 + shape["label"]
        masks = np.stack([visible[index] for index in kept])
        labels = [shapes[index]["label"] for index in kept]
        points, seen = zip(*(self._keypoints(shapes[index], owner == index) for index in kept))
        boxes = torch.tensor(np.array([_box(mask) for mask in masks]), dtype=torch.float32)
        if "flip_indices" in self._metainfo:
            info["flip_indices"] = self._metainfo["flip_indices"]
        info.update(
            img=tv_tensors.Image(torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()),
            ori_shape=(self.size, self.size),
            gt_label=labels[int(np.argmax([mask.sum() for mask in masks]))],
            gt_bboxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(self.size, self.size)),
            gt_bboxes_labels=torch.tensor(labels),
            gt_masks=tv_tensors.Mask(torch.from_numpy(masks.astype(np.uint8))),
            gt_areas=torch.from_numpy(masks.sum((1, 2))).float(),
            gt_keypoints=torch.tensor(np.array(points), dtype=torch.float32),
            gt_keypoints_visible=torch.tensor(np.array(seen), dtype=torch.float32),
            gt_seg_map=tv_tensors.Mask(torch.from_numpy(seg_map)),
        )
        return {key: value for key, value in info.items() if key not in self.left_out}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of the shapes in a sample."""
        labels: list[int] = self.get_data_info(idx)["gt_bboxes_labels"].tolist()
        return labels

    def _draw_one(self, rng: np.random.Generator) -> dict[str, Any]:
        label = int(rng.integers(len(self.kinds)))
        kind = self.kinds[label]
        radius = rng.uniform(*self.radius) * self.size
        center = rng.uniform(radius, self.size - radius, 2)
        angle = rng.uniform(0, math.tau)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        outline = np.array(OUTLINES[kind]) @ turn * radius + center
        # Pillow cuts coordinates to whole pixels, so what it draws lies half a pixel lower in the mean.
        corners = (np.array(_CORNERS[kind]).reshape(-1, 2) @ turn) * radius + center - 0.5
        canvas = Image.new("1", (self.size, self.size))
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline], fill=1)
        # Away from the grays of the background.
        color = rng.permutation([rng.uniform(0, 50), rng.uniform(205, 255), rng.uniform(0, 255)])
        return {"label": label, "inside": np.array(canvas), "corners": corners, "color": color}

    def _keypoints(self, shape: dict[str, Any], visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, seen = np.zeros((_KEYPOINTS, 2)), np.zeros(_KEYPOINTS)
        for index, (x, y) in enumerate(shape["corners"]):
            column, row = (int(np.clip(round(value), 0, self.size - 1)) for value in (x, y))
            # A corner lies on the edge, so its surroundings tell whether it is hidden.
            around = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            points[index] = x, y
            seen[index] = 2 if visible[around].any() else 1
        return points, seen


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
