"""Dividing large images into overlapping tiles."""

from collections.abc import Sequence
from typing import NamedTuple


class Tile(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The first column to its right."""
        return self.left + self.width


def tiles_of(height: int, width: int, tile_size: int | Sequence[int], overlap_ratio: float) -> list[Tile]:
    """Return the tiles of an image, row by row.

    All have the same size, unless the image is smaller. The last tile of a row or column is moved inward, so that it
    ends with the image.

    Args:
        height: height of the image.
        width: width of the image.
        tile_size: (height, width) of the tiles, or one number for both.
        overlap_ratio: minimum overlap of neighbors, as a fraction of the tile size, in [0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    size = (tile_size, tile_size) if isinstance(tile_size, int) else (tile_size[0], tile_size[1])
    if min(size) < 1 or not 0 <= overlap_ratio < 1:
        raise ValueError(
            f"tile_size must be at least 1 and overlap_ratio in [0, 1), not {tile_size} and {overlap_ratio}"
        )
    high, wide = min(size[0], height), min(size[1], width)
    down, right = (max(1, int(side * (1 - overlap_ratio))) for side in size)
    return [
        Tile(top, left, high, wide)
        for top in window_starts(height, high, down)
        for left in window_starts(width, wide, right)
    ]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the positions of windows along a side; the last one ends with it."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]
