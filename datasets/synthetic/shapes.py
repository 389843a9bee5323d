"""Images of colored shapes with exact ground truth for every task, drawn on access."""

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
_ON_REQUEST = ("gt_depth_map",)
_FARTHEST = 10.0
_MIN_VISIBLE_FRACTION = 0.4

# Polygons within a circle of radius 1 around the origin, y pointing down, before rotation.
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(math.tau * i / 24), math.sin(math.tau * i / 24)) for i in range(24)),
    "square": ((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
    "triangle": ((0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)),
    "arrow": ((0.0, -1.0), (0.7, 0.1), (0.25, 0.1), (0.25, 1.0), (-0.25, 1.0), (-0.25, 0.1), (-0.7, 0.1)),
}
# Keypoints in the same coordinates. Those of the arrow are tip, left barb, right barb, tail; flipping swaps the barbs.
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": OUTLINES["square"],
    "triangle": OUTLINES["triangle"],
    "arrow": ((0.0, -1.0), (-0.7, 0.1), (0.7, 0.1), (0.0, 1.0)),
}


@DATASETS.register_module()
class Shapes(BaseDataset):
    """Rotated shapes of random colors and sizes, which may occlude each other, on a noisy background.

    A sample depends only on (``seed``, index), so it is the same in every epoch, process and run. Its annotations are
    described in :mod:`trainwright.datasets.transforms`: ``gt_label`` (the class of the shape with the most visible
    pixels), ``gt_bboxes`` and ``gt_masks`` of the visible pixels, ``gt_bboxes_labels``, ``gt_areas`` (numbers of
    visible pixels), ``gt_keypoints`` (the corners), ``gt_keypoints_visible``, and ``gt_seg_map`` (0 for the background,
    1 + class for shapes). With ``kinds=("arrow",)`` the four keypoints are distinguishable: tip, left barb, right barb,
    tail. Shapes that are less than 40% visible are not annotated as instances. ``gt_depth_map``, if it is listed in
    ``annotations``, is the depth of each pixel: that of a shape is the inverse of its radius as a fraction of ``size``,
    that of the background 10.

    Args:
        num_samples: number of images.
        size: height and width in pixels, at least 16.
        kinds: shapes to draw, in class order: ``circle``, ``square``, ``triangle``, ``arrow``.
        max_shapes: maximum number of shapes per image, at least 1; the minimum is 1.
        radius: minimum and maximum radius of a shape as fractions of ``size``, in (0, 0.5].
        seed: random seed of the images.
        annotations: annotations to return, such as ``("gt_bboxes", "gt_bboxes_labels")``; all but
            ``gt_depth_map`` if None.
        pipeline: transforms or their configs.
        metainfo: see :class:`BaseDataset`.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        ValueError: an unknown kind or annotation, or a number is out of range.
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
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if unknown := [kind for kind in kinds if kind not in OUTLINES]:
            raise ValueError(f"unknown shape {unknown[0]!r}: must be one of {', '.join(OUTLINES)}")
        if size < 16 or max_shapes < 1 or not 0 < radius[0] <= radius[1] <= 0.5:
            raise ValueError(
                "size must be at least 16, max_shapes at least 1 and radius increasing within (0, 0.5], "
                f"got size={size}, max_shapes={max_shapes} and radius={radius}"
            )
        self.num_samples = num_samples
        self.size = size
        self.kinds = tuple(kinds)
        self.max_shapes = max_shapes
        self.radius = radius
        self.seed = seed
        known = (*_ANNOTATIONS, *_ON_REQUEST)
        if unknown := [name for name in annotations or () if name not in known]:
            raise ValueError(f"unknown annotation {unknown[0]!r}: must be one of {', '.join(known)}")
        self.left_out = set(known) - set(_ANNOTATIONS if annotations is None else annotations)
        known_meta: dict[str, Any] = {"classes": self.kinds, "seg_classes": ("background", *self.kinds)}
        if self.kinds == ("arrow",):
            known_meta |= {
                "keypoints": ("tip", "left barb", "right barb", "tail"),
                "flip_indices": (0, 2, 1, 3),
                "sigmas": (0.08,) * _KEYPOINTS,
                "skeleton_links": ((0, 1), (0, 2), (0, 3)),
            }
        super().__init__(metainfo={**known_meta, **(metainfo or {})}, pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return an entry for each sample, with its index as ``img_id``."""
        return [{"img_id": index} for index in range(self.num_samples)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Draw the image of a sample and return it with its annotations."""
        return {key: value for key, value in self._draw(idx).items() if key not in self.left_out}

    def _draw(self, idx: int) -> dict[str, Any]:
        """Draw the image of a sample and return it with all annotations."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng((self.seed, info["img_id"]))
        shapes = [self._draw_shape(rng) for _ in range(rng.integers(1, self.max_shapes + 1))]
        image = rng.normal(rng.uniform(60, 200, 3), 15, (self.size, self.size, 3))
        owner = np.full((self.size, self.size), -1)  # index of the topmost shape at each pixel
        for index, shape in enumerate(shapes):
            inside = shape["inside"]
            owner[inside] = index
            image[inside] = shape["color"] + rng.normal(0, 12, (int(inside.sum()), 3))
        visible = [owner == index for index in range(len(shapes))]
        kept = [
            index
            for index, shape in enumerate(shapes)
            if visible[index].sum() >= _MIN_VISIBLE_FRACTION * max(1, shape["inside"].sum())
        ]
        seg_map = np.zeros((self.size, self.size), np.uint8)
        for index, shape in enumerate(shapes):
            seg_map[visible[index]] = 1 + shape["label"]
        if "gt_depth_map" not in self.left_out:
            depths = np.append([self.size / shape["radius"] for shape in shapes], _FARTHEST)[owner]  # -1: background
            info["gt_depth_map"] = tv_tensors.Mask(torch.from_numpy(depths.astype(np.float32)))
        masks = np.stack([visible[index] for index in kept])
        labels = [shapes[index]["label"] for index in kept]
        points, seen = zip(*(self._keypoints(shapes[index], owner == index) for index in kept))
        boxes = torch.tensor(np.array([_mask_to_box(mask) for mask in masks]), dtype=torch.float32)
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
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of the shapes in a sample."""
        labels: list[int] = self._draw(idx)["gt_bboxes_labels"].tolist()
        return labels

    def _draw_shape(self, rng: np.random.Generator) -> dict[str, Any]:
        label = int(rng.integers(len(self.kinds)))
        kind = self.kinds[label]
        radius = rng.uniform(*self.radius) * self.size
        center = rng.uniform(radius, self.size - radius, 2)
        angle = rng.uniform(0, math.tau)
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        outline = np.array(OUTLINES[kind]) @ rotation * radius + center
        # Pillow truncates coordinates to whole pixels, which shifts the polygon by half a pixel on average.
        corners = (np.array(_CORNERS[kind]).reshape(-1, 2) @ rotation) * radius + center - 0.5
        canvas = Image.new("1", (self.size, self.size))
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline], fill=1)
        # One dark and one bright channel, to contrast with the gray background.
        color = rng.permutation([rng.uniform(0, 50), rng.uniform(205, 255), rng.uniform(0, 255)])
        return {
            "label": label, "inside": np.array(canvas), "corners": corners, "color": color, "radius": radius
        }  # fmt: skip

    def _keypoints(self, shape: dict[str, Any], visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, seen = np.zeros((_KEYPOINTS, 2)), np.zeros(_KEYPOINTS)
        for index, (x, y) in enumerate(shape["corners"]):
            column, row = (int(np.clip(round(value), 0, self.size - 1)) for value in (x, y))
            # A corner is on the edge of its shape, so check a neighborhood for visible pixels.
            around = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            points[index] = x, y
            seen[index] = 2 if visible[around].any() else 1
        return points, seen


def _mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
