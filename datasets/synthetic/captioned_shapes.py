"""Images of one or two colored shapes with captions, drawn on access."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision import tv_tensors

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.synthetic.shapes import OUTLINES
from trainwright.engine.registry import DATASETS

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
_SIZES = {"small": (0.1, 0.13), "large": (0.19, 0.23)}  # radii as fractions of the image
_NOISE = 20


@DATASETS.register_module()
class CaptionedShapes(BaseDataset):
    """One shape, or two beside each other, of named colors and sizes on a gray, noisy background, with captions.

    A sample depends only on (``seed``, index). ``gt_caption`` has several texts that say the same, such as "a small red
    circle left of a large blue square". Images of one shape also have ``gt_label``, its color and kind: the classes are
    "red circle", "red square" and so on.

    Args:
        num_samples: number of images.
        size: height and width in pixels, at least 16.
        num_shapes: number of shapes in each image, 1 or 2.
        kinds: shapes to draw: ``circle``, ``square``, ``triangle``, ``arrow``.
        colors: their colors: ``red``, ``green``, ``blue``, ``yellow``, ``white``, ``black``.
        seed: random seed of the images.
        metainfo: see :class:`BaseDataset`.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        ValueError: an unknown kind or color, or a number is out of range.
    """

    def __init__(
        self,
        num_samples: int = 500,
        size: int = 48,
        num_shapes: int = 2,
        kinds: Sequence[str] = ("circle", "square", "triangle", "arrow"),
        colors: Sequence[str] = tuple(COLORS),
        seed: int = 0,
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for names, known in ((kinds, OUTLINES), (colors, COLORS)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"unknown name {unknown[0]!r}: must be one of {', '.join(known)}")
        if size < 16 or num_shapes not in (1, 2):
            raise ValueError(f"size must be at least 16 and num_shapes 1 or 2, not {size} and {num_shapes}")
        self.num_samples = num_samples
        self.size = size
        self.num_shapes = num_shapes
        self.kinds = tuple(kinds)
        self.colors = tuple(colors)
        self.seed = seed
        classes = {} if num_shapes > 1 else {"classes": tuple(f"{color} {kind}" for color in colors for kind in kinds)}
        super().__init__(metainfo={**classes, **(metainfo or {})}, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return an entry for each sample, with its index as ``img_id``."""
        return [{"img_id": index} for index in range(self.num_samples)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Draw the image of a sample and return it with its captions."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng((self.seed, info["img_id"]))
        shapes = self._shapes(rng)
        noise = rng.integers(-_NOISE, _NOISE + 1, (self.size, self.size, 3), dtype=np.int16)
        image = noise + rng.integers(90, 160, dtype=np.int16)
        step = self.size / self.num_shapes
        for place, (size, color, kind) in enumerate(shapes):
            radius = rng.uniform(*_SIZES[size]) * self.size
            center = rng.uniform((place * step + radius, radius), ((place + 1) * step - radius, self.size - radius))
            angle = rng.uniform(0, math.tau)
            rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            canvas = Image.new("1", (self.size, self.size))
            outline = np.array(OUTLINES[kind]) @ rotation * radius + center
            ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline], fill=1)
            inside = np.array(canvas)
            image[inside] = noise[inside] // 2 + np.array(COLORS[color], np.int16)
        pixels = torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
        info.update(img=tv_tensors.Image(pixels), ori_shape=(self.size, self.size), gt_caption=_texts(shapes))
        if self.num_shapes == 1:
            ((_, color, kind),) = shapes
            info["gt_label"] = self._metainfo["classes"].index(f"{color} {kind}")
        return info

    def captions(self) -> list[str]:
        """Return the captions of all images."""
        numbers = [super(CaptionedShapes, self).get_data_info(index)["img_id"] for index in range(len(self))]
        drawn = [self._shapes(np.random.default_rng((self.seed, number))) for number in numbers]
        return [text for shapes in drawn for text in _texts(shapes)]

    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes, see :meth:`BaseDataset.remap_classes`."""
        self._adopt_classes(classes)

    def _shapes(self, rng: np.random.Generator) -> list[tuple[str, str, str]]:
        """Return the size, color and kind of each shape, from left to right."""
        sizes = tuple(_SIZES)
        return [
            (sizes[rng.integers(len(sizes))], self.colors[rng.integers(len(self.colors))],
             self.kinds[rng.integers(len(self.kinds))])
            for _ in range(self.num_shapes)
        ]  # fmt: skip


def _texts(shapes: Sequence[tuple[str, str, str]]) -> list[str]:
    first, *rest = (f"a {' '.join(shape)}" for shape in shapes)
    if not rest:
        return [first, f"a photo of {first}"]
    return [
        f"{first} left of {rest[0]}",
        f"{rest[0]} right of {first}",
        f"{first} on the left and {rest[0]} on the right",
    ]
