"""Drawing of shapes, texts and heat maps with Pillow on RGB images: uint8 arrays, (height, width, 3)."""

import colorsys
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Array = np.ndarray[Any, Any]
Color = str | tuple[int, int, int]
Colors = Color | Sequence[Color]

_LETTERS = {
    "b": (0, 0, 255), "g": (0, 128, 0), "r": (255, 0, 0), "c": (0, 191, 191), "m": (191, 0, 191),
    "y": (191, 191, 0), "k": (0, 0, 0), "w": (255, 255, 255),
}  # fmt: skip
# Neighbors differ in hue and in lightness.
_DISTINCT = (
    (228, 48, 56), (30, 110, 230), (255, 166, 0), (35, 150, 70), (160, 60, 200), (0, 200, 220), (250, 90, 170),
    (150, 200, 30), (140, 85, 35), (0, 125, 125), (255, 120, 90), (110, 110, 250), (255, 215, 60), (165, 25, 75),
    (130, 220, 170), (90, 60, 20), (200, 150, 240), (110, 130, 30), (20, 50, 120), (250, 190, 190),
)  # fmt: skip
_DASHES = {"-": (), "--": (8, 5), ":": (2, 4), "-.": (8, 4, 2, 4)}
_ANCHORS = ({"left": "l", "center": "m", "right": "r"}, {"top": "a", "center": "m", "bottom": "d", "baseline": "s"})


def rgb(color: Color) -> tuple[int, int, int]:
    """Return a color (numbers, ``"#ff8800"``, ``"orange"`` or a letter of ``bgrcmykw``) as numbers from 0 to 255."""
    if isinstance(color, str):
        if color in _LETTERS:
            return _LETTERS[color]
        try:
            from PIL import ImageColor

            return ImageColor.getrgb(color)[:3]
        except ValueError:
            raise ValueError(f"unknown color {color!r}: use a name, '#rrggbb', or a tuple of three numbers") from None
    numbers = tuple(int(number) for number in color)
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise ValueError(f"a color must be three numbers from 0 to 255, not {color!r}")
    return numbers


def palette(number: int) -> list[tuple[int, int, int]]:
    """Return distinct colors; the first ones of a longer list are the same."""
    golden_ratio = (math.sqrt(5) - 1) / 2
    more = range(number - len(_DISTINCT))
    hues = (colorsys.hsv_to_rgb(i * golden_ratio % 1, (0.85, 0.55)[i % 2], (0.95, 0.7, 0.85)[i % 3]) for i in more)
    return [*_DISTINCT[:number], *(cast(tuple[int, int, int], tuple(int(255 * c) for c in color)) for color in hues)]


def array(values: Any) -> Array:
    """Convert a tensor or array to a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def for_each(value: Any, number: int, what: str) -> list[Any]:
    """Return a list of ``number`` values, from such a list or from one value for all."""
    if isinstance(value, list | np.ndarray | Tensor):
        if len(value) != number:
            raise ValueError(f"expected one of the {what}, or {number}, but got {len(value)}")
        return list(value)
    return [value] * number


def draw_points(image: Array, positions: Any, colors: Colors, marker: str | None, sizes: Any) -> Array:
    """Draw points at ``positions``, (N, 2) as (x, y). ``sizes`` are areas in square pixels."""
    points = array(positions).reshape(-1, 2)
    canvas, draw = _canvas(image)
    all_sizes = for_each(36 if sizes is None else sizes, len(points), "sizes")
    for (x, y), color, size in zip(points.tolist(), for_each(colors, len(points), "colors"), all_sizes):
        radius = max(0.5, math.sqrt(float(size)) / 2)
        _draw_marker(draw, x, y, radius, rgb(color), marker or "o")
    return np.array(canvas)


def draw_lines(image: Array, starts: Any, ends: Any, colors: Colors, styles: Any, widths: Any) -> Array:
    """Draw lines from ``starts`` to ``ends``, both (N, 2) as (x, y)."""
    segments = np.stack([array(starts).reshape(-1, 2), array(ends).reshape(-1, 2)], axis=1)
    return draw_polygons(image, list(segments), colors, styles, widths, "none", 1.0, closed=False)


def draw_polygons(
    image: Array,
    polygons: Sequence[Any],
    edge_colors: Colors,
    styles: Any,
    widths: Any,
    face_colors: Colors,
    alpha: float,
    closed: bool = True,
) -> Array:
    """Draw polygons, each (M, 2) as (x, y), filled unless ``face_colors`` is ``"none"``."""
    number = len(polygons)
    columns = (
        for_each(edge_colors, number, "edge colors"), for_each(face_colors, number, "face colors"),
        for_each(styles, number, "line styles"), for_each(widths, number, "line widths"),
    )  # fmt: skip
    canvas, draw = _canvas(image, "RGBA")  # for alpha blending
    opacity = round(255 * alpha)
    for polygon, edge, face, style, width in zip(polygons, *columns):
        points = [(float(x), float(y)) for x, y in array(polygon)]
        if face != "none":
            draw.polygon(points, fill=(*rgb(face), opacity))
        if edge != "none":
            outline = [*points, points[0]] if closed else points
            for piece in _dashed(outline, style):
                draw.line(piece, fill=(*rgb(edge), opacity), width=max(1, round(width)), joint="curve")
    return np.array(canvas)


def circle(center: Sequence[float], radius: float) -> Array:
    """Return a circle as a polygon."""
    angles = np.linspace(0, 2 * math.pi, max(16, 4 * math.ceil(radius)), endpoint=False)
    return np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)


def box(corners: Sequence[float]) -> Array:
    """Return a box, (x1, y1, x2, y2), as a polygon."""
    x1, y1, x2, y2 = corners
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def draw_texts(
    image: Array,
    texts: Sequence[str],
    positions: Any,
    sizes: Any,
    colors: Colors,
    vertical: Any,
    horizontal: Any,
    fonts: Any,
    boxes: Any,
) -> Array:
    """Draw texts at ``positions``, (N, 2) as (x, y)."""
    number = len(texts)
    points = array(positions).reshape(-1, 2).tolist()
    canvas, draw = _canvas(image, "RGBA")
    columns = (
        for_each(points, number, "positions"), for_each(sizes, number, "font sizes"),
        for_each(colors, number, "colors"),
        for_each(vertical, number, "alignments"), for_each(horizontal, number, "alignments"),
        for_each(fonts, number, "fonts"), for_each(boxes, number, "boxes"),
    )  # fmt: skip
    for text, position, size, color, low, left, name, frame in zip(texts, *columns):
        font = _font(name, size)
        anchor = _choice(left, _ANCHORS[0], "alignment") + _choice(low, _ANCHORS[1], "alignment")
        if frame is not None:
            _draw_frame(draw, draw.textbbox(position, text, font, anchor), frame)
        draw.text(position, text, rgb(color), font, anchor)
    return np.array(canvas)


def draw_masks(image: Array, masks: Any, colors: Colors, alphas: Any) -> Array:
    """Overlay colors on ``masks``, bool, (N, height, width) or (height, width)."""
    planes = array(masks)
    planes = planes[None] if planes.ndim == 2 else planes
    if planes.dtype != np.bool_ or planes.shape[1:] != image.shape[:2]:
        expected = f"bool of (N, {image.shape[0]}, {image.shape[1]})"
        raise ValueError(f"masks must be {expected}, not {planes.dtype} of {planes.shape}")
    drawn = image.copy()
    all_alphas = for_each(alphas, len(planes), "alphas")
    for plane, color, alpha in zip(planes, for_each(colors, len(planes), "colors"), all_alphas):
        for channel, value in enumerate(rgb(color)):
            blended = ((1 - alpha) * np.arange(256) + alpha * value).round().astype(np.uint8)  # of each old value
            np.copyto(drawn[..., channel], blended[drawn[..., channel]], where=plane)
    return drawn


def draw_featmap(
    featmap: Tensor,
    overlaid_image: Array | None,
    channel_reduction: str | None,
    topk: int,
    arrangement: tuple[int, int],
    resize_shape: tuple[int, int] | None,
    alpha: float,
) -> Array:
    """Return an image of a feature map; see ``Visualizer.draw_featmap``."""
    if featmap.ndim != 3:
        raise ValueError(f"a feature map must be (channels, height, width), not {tuple(featmap.shape)}")
    featmap = featmap.detach().float().cpu()
    if overlaid_image is not None:
        overlaid_image = as_image(overlaid_image)
        resize_shape = resize_shape or cast(tuple[int, int], overlaid_image.shape[:2])
        overlaid_image = resize(overlaid_image, resize_shape)
    if resize_shape is not None:
        featmap = functional.interpolate(featmap[None], resize_shape, mode="bilinear", align_corners=False)[0]
    if channel_reduction == "squeeze_mean":
        return _heat_map(featmap.mean(dim=0), overlaid_image, alpha)
    if channel_reduction == "select_max":
        return _heat_map(featmap[featmap.sum(dim=(1, 2)).argmax()], overlaid_image, alpha)
    if channel_reduction is not None:
        raise ValueError(f"channel_reduction must be 'squeeze_mean', 'select_max' or None, not {channel_reduction!r}")
    if topk <= 0:
        if featmap.shape[0] not in (1, 3):
            raise ValueError(f"{featmap.shape[0]} channels cannot be shown as colors: set channel_reduction or topk")
        return _blend(_normalized(featmap).expand(3, -1, -1).permute(1, 2, 0).numpy(), overlaid_image, alpha)
    rows, columns = arrangement
    if rows * columns < topk:
        raise ValueError(f"{topk} maps do not fit into {rows} rows of {columns}")
    strongest = featmap.sum(dim=(1, 2)).topk(min(topk, featmap.shape[0])).indices
    height, width = featmap.shape[1:]
    grid = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for place, channel in enumerate(strongest.tolist()):
        y, x = place // columns * height, place % columns * width
        grid[y : y + height, x : x + width] = _heat_map(featmap[channel], overlaid_image, alpha)
    return grid


def as_image(values: Any) -> Array:
    """Convert an image of (height, width) or (height, width, 1 or 3) to RGB, uint8, (height, width, 3)."""
    image = array(values)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"an image must be (height, width, 3) or (height, width), not {image.shape}")
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.ascontiguousarray(image.astype(np.uint8))


def resize(image: Array, size: tuple[int, int], nearest: bool = False) -> Array:
    """Resize an image to (height, width)."""
    if tuple(image.shape[:2]) == tuple(size):
        return image
    from PIL import Image

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((size[1], size[0]), method))


def _canvas(image: Array, mode: str | None = None) -> "tuple[Image.Image, ImageDraw.ImageDraw]":
    """Return a copy of an image to draw on. Pillow is imported lazily, since most runs do not draw."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    return canvas, ImageDraw.Draw(canvas, mode)


def _draw_marker(
    draw: "ImageDraw.ImageDraw", x: float, y: float, radius: float, color: tuple[int, int, int], marker: str
) -> None:
    around = (x - radius, y - radius, x + radius, y + radius)
    if marker == "o":
        draw.ellipse(around, fill=color)
    elif marker == "s":
        draw.rectangle(around, fill=color)
    elif marker == "+":
        draw.line((x - radius, y, x + radius, y), fill=color)
        draw.line((x, y - radius, x, y + radius), fill=color)
    elif marker == "x":
        draw.line(around, fill=color)
        draw.line((x - radius, y + radius, x + radius, y - radius), fill=color)
    else:
        raise ValueError(f"unknown marker {marker!r}: use 'o', 's', '+' or 'x'")


def _dashed(points: list[tuple[float, float]], style: str) -> Iterator[list[tuple[float, float]]]:
    """Yield the visible parts of a line."""
    dashes = _choice(style, _DASHES, "line style")
    if not dashes:
        yield points
        return
    for (x1, y1), (x2, y2) in pairwise(points):
        length = math.hypot(x2 - x1, y2 - y1)
        position, index = 0.0, 0
        while position < length:
            end = min(position + dashes[index % len(dashes)], length)
            if index % 2 == 0:
                yield [(x1 + (x2 - x1) * at / length, y1 + (y2 - y1) * at / length) for at in (position, end)]
            position, index = end, index + 1


def _draw_frame(
    draw: "ImageDraw.ImageDraw", around: tuple[float, float, float, float], frame: Mapping[str, Any]
) -> None:
    pad = float(frame.get("pad", 2))
    x1, y1, x2, y2 = around
    face, edge = frame.get("facecolor", "w"), frame.get("edgecolor", "none")
    opacity = round(255 * float(frame.get("alpha", 1.0)))
    draw.rectangle(
        (x1 - pad, y1 - pad, x2 + pad, y2 + pad),
        fill=None if face == "none" else (*rgb(face), opacity),
        outline=None if edge == "none" else (*rgb(edge), opacity),
    )


def _font(name: str, size: float) -> Any:
    """Load a font from a file, or Pillow's built-in font for ``sans-serif``."""
    from PIL import ImageFont

    return ImageFont.load_default(size) if name == "sans-serif" else ImageFont.truetype(name, size)


def _choice(key: str, choices: Mapping[str, Any], what: str) -> Any:
    if key not in choices:
        raise ValueError(f"unknown {what} {key!r}: use {', '.join(map(repr, choices))}")
    return choices[key]


def _normalized(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(1e-12)


def _heat_map(values: Tensor, image: Array | None, alpha: float) -> Array:
    """Map values of (height, width) to colors from blue over green and yellow to red."""
    scaled = _normalized(values).numpy()[..., None]
    return _blend(np.clip(1.5 - np.abs(4 * scaled - np.array([3, 2, 1])), 0, 1), image, alpha)


def _blend(picture: Array, image: Array | None, alpha: float) -> Array:
    """Convert a picture with values from 0 to 1 to uint8, overlaid on the image, if any."""
    drawn = picture * 255
    if image is not None:
        drawn = alpha * drawn + (1 - alpha) * image
    return drawn.round().astype(np.uint8)
