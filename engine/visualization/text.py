"""Texts in images: fonts, labels on a filled ground, and places where labels do not hide each other."""

import functools
import logging
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainwright.engine.records.logger import print_log

if TYPE_CHECKING:
    from PIL import ImageDraw

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Pillow's font covers little more than ASCII. Other texts use the first of these that is installed and has all letters.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "Arial Unicode.ttf", "PingFang.ttc",
    "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf", "Nirmala.ttf",
)  # fmt: skip
_NO_GLYPH = "\uffff"
_LETTERS_WARNED_OF: set[str] = set()


@functools.lru_cache(maxsize=256)
def font_for(text: str, size: float) -> Any:
    """Return a font that has all letters of a text: Pillow's, or else one of the system.

    If there is none, missing letters are drawn as boxes, and a warning names each of them once.
    """
    from PIL import ImageFont

    default = ImageFont.load_default(size)
    if text.isascii() or _covers(default, text):
        return default
    for name in _SYSTEM_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _covers(font, text):
            return font
    _warn_of_missing_letters(text, _missing_letters(default, text))
    return default


def _warn_of_missing_letters(text: str, letters: set[str]) -> None:
    if letters <= _LETTERS_WARNED_OF:
        return
    _LETTERS_WARNED_OF.update(letters)
    print_log(
        f"no installed font has all letters of {text[:80]!r}, so some are drawn as boxes: install a font such as Noto "
        "Sans",
        "current",
        logging.WARNING,
    )


def _covers(font: Any, text: str) -> bool:
    return not _missing_letters(font, text)


def _missing_letters(font: Any, text: str) -> set[str]:
    missing = _bitmap(font, _NO_GLYPH)
    visible = {letter for letter in text if not unicodedata.combining(letter) and not letter.isspace()}
    return {letter for letter in visible if _bitmap(font, letter) == missing}


def _bitmap(font: Any, letter: str) -> bytes:
    return bytes(font.getmask(letter))


def fitted(text: str, size: float, width: float) -> str:
    """Shorten a text to a width in pixels, with dots in the middle."""
    font = font_for(text, size)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        if font.getlength(short) <= width:
            return short
    return text[:1]


def readable_on(color: Rgb) -> Rgb:
    """Return black or white, whichever contrasts more with a color by their relative luminance (WCAG 2)."""
    channels = [value / 255 for value in color]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def label_size(text: str, size: float) -> tuple[int, int]:
    """Return the width and height of a label, including the ground around the text."""
    pad = _padding(size)
    return int(np.ceil(font_for(text, size).getlength(text))) + 2 * pad, round(1.25 * size) + pad


def draw_label(draw: "ImageDraw.ImageDraw", text: str, place: Box, color: Rgb, size: float) -> None:
    """Draw a text on a ground of a color that fills ``place``, (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = place
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
    draw.text((x1 + _padding(size), (y1 + y2) / 2), text, readable_on(color), font_for(text, size), "lm")


def place_labels(
    boxes: Sequence[Box], sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], width: int
) -> list[Box]:
    """Return a place for the label of each box, inside the image, off its own edge and off other labels if possible.

    The places are, in order of preference: above the box, below it, inside at its top and at its bottom, each at the
    left and at the right, then beside it.

    Args:
        boxes: (x1, y1, x2, y2) in pixels; earlier ones choose first.
        sizes: width and height of each label.
        canvas: width and height of the image.
        width: width of the edges.
    """
    all_boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    edges = _edges(all_boxes, width)
    placed = np.zeros((len(all_boxes), 4))
    places: list[Box] = []
    for index, (box, (w, h)) in enumerate(zip(all_boxes, sizes)):
        candidates = _candidates(box, w, h, canvas, width)
        own, every = edges[4 * index : 4 * index + 4], np.array(candidates)
        region = np.concatenate([every[:, :2].min(0), every[:, 2:].max(0)])
        labels, lines = _touching(region, placed[:index]), _touching(region, edges)
        costs = [
            10 * _overlap(candidate, labels) + 4 * _overlap(candidate, own) + _overlap(candidate, lines)
            + 0.02 * w * h * rank
            for rank, candidate in enumerate(candidates)
        ]  # fmt: skip
        best = candidates[int(np.argmin(costs))]
        places.append(best)
        placed[index] = best
    return places


def _candidates(box: Any, w: int, h: int, canvas: tuple[int, int], width: int) -> list[Box]:
    x1, y1, x2, y2 = box.tolist()
    inner = (x1 + width, x2 - width - w)
    starts = [
        (x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2),
        (inner[0], y1 + width), (inner[1], y1 + width), (inner[0], y2 - width - h), (inner[1], y2 - width - h),
        (x2, y1), (x1 - w, y1), (x2, y2 - h), (x1 - w, y2 - h),
    ]  # fmt: skip
    places = []
    for x, y in starts:
        left = round(min(max(x, 0), max(canvas[0] - w, 0)))
        top = round(min(max(y, 0), max(canvas[1] - h, 0)))
        places.append((left, top, left + w, top + h))
    return places


def _edges(boxes: Any, width: int) -> Any:
    """Return the four edges of each box as thin boxes, (4 N, 4)."""
    x1, y1, x2, y2 = boxes.T
    parts = [
        (x1, y1, x2, y1 + width), (x1, y2 - width, x2, y2), (x1, y1, x1 + width, y2), (x2 - width, y1, x2, y2),
    ]  # fmt: skip
    return np.stack([np.stack(part, axis=-1) for part in parts], axis=1).reshape(-1, 4)


def _overlap(place: Box, others: Any) -> float:
    """Return the total area that a place shares with other boxes."""
    widths = np.minimum(place[2], others[:, 2]) - np.maximum(place[0], others[:, 0])
    heights = np.minimum(place[3], others[:, 3]) - np.maximum(place[1], others[:, 1])
    return float((widths.clip(min=0) * heights.clip(min=0)).sum())


def _touching(region: Any, others: Any) -> Any:
    """Return the boxes that share pixels with a region, (x1, y1, x2, y2)."""
    return others[(others[:, :2] < region[2:]).all(1) & (others[:, 2:] > region[:2]).all(1)]


def _padding(size: float) -> int:
    return max(2, round(size / 4))
