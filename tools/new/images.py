"""Sizes, colors and damage of image files, for ``trainwright new``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from trainwright.engine.errors import DamagedFileError

_MAX_DECODED = 2000
_MAX_MEASURED = 200


@dataclass
class ImageSummary:
    """What images have in common.

    Args:
        sizes: (height, width) of each image that was opened.
        modes: number of images of each of Pillow's modes.
        gray: all images are gray, even if they are stored as RGB.
        deep: largest range of values among images of more than 8 bits; None if there are none.
        mean: mean of each channel, from 0 to 255.
        std: standard deviation of each channel.
        damaged: path and reason of each image or video that cannot be decoded.
        total: number of images, of which ``len(sizes) + len(damaged)`` were opened.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    gray: bool = True
    deep: tuple[float, float] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    total: int = 0

    @property
    def short_side(self) -> int:
        """Median length of the shorter side."""
        return int(median(min(size) for size in self.sizes)) if self.sizes else 64

    @property
    def typical(self) -> tuple[int, int]:
        """Median height and width."""
        if not self.sizes:
            return 64, 64
        return int(median(size[0] for size in self.sizes)), int(median(size[1] for size in self.sizes))

    def lines(self) -> list[str]:
        """Return a description."""
        if not self.sizes:
            return ["no image could be opened"]
        ordered = sorted(self.sizes, key=lambda size: size[0] * size[1])
        low, middle, high = (f"{size[1]}x{size[0]}" for size in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        size = f"all {low} (width x height)" if low == high else f"{low} to {high} (median {middle}, width x height)"
        color = "gray" if self.gray else "color"
        if self.gray and any(mode not in ("L", "1", "LA") and not mode.startswith(("I", "F")) for mode in self.modes):
            color = "gray, stored as color"
        depth = "8 bits" if self.deep is None else f"more than 8 bits (values {self.deep[0]:g} to {self.deep[1]:g})"
        opened = len(self.sizes) + len(self.damaged)
        part = "" if opened == self.total else f"; {opened} of {self.total} images were opened"
        return [f"{size}; {color}; {depth}{part}"]


def summarize_images(paths: Sequence[str]) -> ImageSummary:
    """Open images, at most 2,000 at even distances, and measure the colors of 200 of them."""
    from PIL import Image, ImageOps

    summary = ImageSummary(total=len(paths))
    chosen = paths[:: -(-len(paths) // _MAX_DECODED) or 1]
    measured_step = max(1, len(chosen) // _MAX_MEASURED)
    sums = []
    for index, path in enumerate(chosen):
        try:
            with Image.open(path) as opened:
                opened.load()
                picture = ImageOps.exif_transpose(opened)
                summary.sizes.append((picture.height, picture.width))
                summary.modes[picture.mode] += 1
                pixels = _pixels(picture) if index % measured_step == 0 or picture.mode[0] in "IF" else None
        except Exception as error:  # whatever a decoder raises
            summary.damaged[path] = str(error) or type(error).__name__
            continue
        if pixels is not None:
            if picture.mode[0] in "IF":
                low, high = summary.deep or (np.inf, -np.inf)
                summary.deep = (min(low, float(pixels.min())), max(high, float(pixels.max())))
            flat = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
            is_gray = flat.shape[1] == 1 or bool((flat == flat[:, :1]).all())
            summary.gray = summary.gray and is_gray
            sums.append([flat.mean(0), (flat**2).mean(0)])
    _set_statistics(summary, sums)
    return summary


def find_damaged_videos(paths: Sequence[str]) -> dict[str, str]:
    """Open videos without decoding them, and return the path and reason of each that is damaged."""
    from trainwright.datasets.video.video_file import VideoFile

    damaged = {}
    for path in paths:
        try:
            VideoFile(path).close()
        except DamagedFileError as error:
            damaged[path] = str(error.reason)
    return damaged


def _pixels(picture: "Image.Image") -> np.ndarray:  # type: ignore[name-defined]  # noqa: F821
    if picture.mode[0] in "IF":
        return np.atleast_3d(np.array(picture, np.float64))
    small = picture if picture.width * picture.height < 100_000 else picture.resize((256, 256))
    return np.atleast_3d(np.array(small.convert("L" if picture.mode in ("L", "1", "LA") else "RGB")))


def _set_statistics(summary: ImageSummary, sums: list[list[np.ndarray]]) -> None:
    if not sums:
        return
    channels = 1 if summary.gray else 3
    mean = np.mean([np.resize(one[0], channels) for one in sums], 0)
    square = np.mean([np.resize(one[1], channels) for one in sums], 0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if summary.deep is not None:  # as loaded, from 0 to 255
        low, high = summary.deep
        scale = 255 / max(high - low, 1e-9)
        mean, std = (mean - low) * scale, std * scale
    summary.mean = [round(float(value), 1) for value in mean]
    summary.std = [round(max(float(value), 1.0), 1) for value in std]
