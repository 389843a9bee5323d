"""Synthetic videos of moving shapes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.synthetic.shapes import OUTLINES
from trainwright.engine.registry import DATASETS

_MOTIONS = ("left", "right", "up", "down", "growing", "shrinking")


@DATASETS.register_module()
class MovingShapes(BaseDataset):
    """Short videos of a shape that moves or changes its size, on a noisy background with stationary shapes.

    The class is the motion, which cannot be recognized in a single frame. A video depends only on (``seed``, index), so
    it is the same in every epoch, process and run. Samples start as ``dict(array=..., total_frames=int,
    gt_label=int)``, where the array is uint8 of shape (frames, size, size, 3); ``ArrayDecode`` selects its frames.

    Args:
        num_samples: number of videos.
        num_frames: number of frames per video, at least 2.
        size: height and width in pixels, at least 16.
        motions: motions in class order: ``left``, ``right``, ``up``, ``down``, ``growing``, ``shrinking``.
        max_others: maximum number of stationary shapes.
        seed: random seed of the videos.
        metainfo: further meta information besides the classes.
        pipeline: transforms or their configs.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        ValueError: an unknown motion, or a number is out of range.
    """

    def __init__(
        self,
        num_samples: int = 500,
        num_frames: int = 12,
        size: int = 40,
        motions: Sequence[str] = _MOTIONS,
        max_others: int = 2,
        seed: int = 0,
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        **kwargs: Any,
    ) -> None:
        if unknown := [motion for motion in motions if motion not in _MOTIONS]:
            raise ValueError(f"unknown motion {unknown[0]!r}: must be one of {', '.join(_MOTIONS)}")
        if num_frames < 2 or size < 16:
            raise ValueError(f"num_frames must be at least 2 and size at least 16, got {num_frames} and {size}")
        self.num_samples = num_samples
        self.num_frames = num_frames
        self.size = size
        self.motions = tuple(motions)
        self.max_others = max_others
        self.seed = seed
        super().__init__(metainfo={"classes": self.motions, **(metainfo or {})}, pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return an entry for each sample, with its index as ``img_id``."""
        return [{"img_id": index} for index in range(self.num_samples)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Draw the frames of a sample and return it with its label."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng((self.seed, info["img_id"]))
        label = int(rng.integers(len(self.motions)))
        background = rng.normal(rng.uniform(60, 200, 3), 12, (self.size, self.size, 3)).clip(0, 255).astype(np.uint8)
        still = Image.fromarray(background)
        for _ in range(rng.integers(0, self.max_others + 1)):
            radius = rng.uniform(0.08, 0.16) * self.size
            self._draw(still, _random_shape(rng), radius, rng.uniform(radius, self.size - radius, 2))
        moving = _random_shape(rng)
        frames = np.empty((self.num_frames, self.size, self.size, 3), np.uint8)
        for index, (radius, center) in enumerate(self._path(self.motions[label], rng)):
            frame = still.copy()
            self._draw(frame, moving, radius, center)
            frames[index] = np.asarray(frame)
        return info | {"array": frames, "total_frames": self.num_frames, "gt_label": label}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list."""
        return [self.get_data_info(idx)["gt_label"]]

    def _path(self, motion: str, rng: np.random.Generator) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the radius and center of the moving shape in each frame."""
        steps = np.linspace(-0.5, 0.5, self.num_frames)
        radius = rng.uniform(0.12, 0.2) * self.size
        if motion in ("growing", "shrinking"):
            change = steps * rng.uniform(0.5, 0.9) * radius * (1 if motion == "growing" else -1)
            center = rng.uniform(1.5 * radius, self.size - 1.5 * radius, 2)
            yield from ((radius + more, center) for more in change)
            return
        direction = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[motion]
        length = rng.uniform(0.25, 0.5) * self.size
        margin = radius + length / 2
        along, across = rng.uniform(margin, self.size - margin), rng.uniform(radius, self.size - radius)
        center = np.array((along, across) if direction[0] else (across, along))
        yield from ((radius, center + step * length * np.array(direction)) for step in steps)

    def _draw(self, image: Image.Image, shape: tuple[np.ndarray, Any], radius: float, center: np.ndarray) -> None:
        outline, color = shape
        ImageDraw.Draw(image).polygon([(x, y) for x, y in outline * radius + center], fill=color)


def _random_shape(rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a rotated outline around the origin and a color that contrasts with the gray background."""
    outline = np.array(list(OUTLINES.values())[rng.integers(len(OUTLINES))])
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    color = rng.permutation([rng.integers(0, 50), rng.integers(205, 256), rng.integers(0, 256)])
    return outline @ rotation, tuple(int(value) for value in color)
