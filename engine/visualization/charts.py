"""Charts drawn with Pillow: matrices, curves, bars, and sheets of pictures. Each function returns a PIL image."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trainwright.engine.visualization import drawing
from trainwright.engine.visualization.drawing import Array
from trainwright.engine.visualization.text import Rgb, fitted, font_for, readable_on

INK, _MUTED, _GRID, _BLUE = (32, 33, 36), (95, 99, 104), (225, 227, 230), (30, 110, 230)
_SMOOTH = 3  # shapes are drawn this many times larger, then reduced; texts are not
_TITLE, _TEXT = 16, 12
_MAX_CELLS = 40
_MAX_NAME = 130
_MAX_CURVES = 10
_ROOM = 126  # least width of a caption


def matrix_chart(counts: Any, rows: Sequence[str], columns: Sequence[str], title: str, axes: tuple[str, str]) -> Any:
    """Draw a matrix of counts; the larger a cell's share of its row, the darker it is.

    Numbers and names are drawn while they can be read: for more than 40 classes neighboring cells are merged, as sums,
    and ticks number the classes.

    Args:
        counts: integers of shape (R, C).
        rows: a name for each row.
        columns: a name for each column.
        title: text above the chart.
        axes: what the rows and the columns are.
    """
    table = np.asarray(counts, dtype=np.int64)
    merged = math.ceil(max(table.shape) / 100) if max(table.shape) > _MAX_CELLS else 1
    shown = _merged(table, merged)
    share = shown / np.maximum(shown.sum(1, keepdims=True), 1)
    is_readable = max(table.shape) <= _MAX_CELLS
    texts = [[_short(value) for value in row] for row in shown.tolist()]
    size = _TEXT if max(table.shape) <= 20 else 10
    if is_readable:
        font = font_for("0", size)
        cell = max(26, *(int(font.getlength(text)) + 10 for row in texts for text in row))
    else:
        cell = max(2, 720 // max(shown.shape))
    names = _names(rows, size) if is_readable else [str(len(rows))]
    other_names = _names(columns, size) if is_readable else [str(len(columns))]
    left, top = 48 + _widest(names, size), 76 + (_widest(other_names, size) if is_readable else 8)
    if merged > 1:
        title = f"{title} (a cell is {merged} x {merged} classes)"
    chart = _Chart(max(left + cell * shown.shape[1] + 24, 280), top + cell * shown.shape[0] + 24, title)
    for i, j in np.ndindex(*shown.shape):
        x, y = left + j * cell, top + i * cell
        gap = 1 if cell > 8 else 0
        color = _shade(float(share[i, j]))
        chart.rectangle((x, y, x + cell - gap, y + cell - gap), color)
        if is_readable and shown[i, j]:
            chart.text((x + cell / 2, y + cell / 2), texts[i][j], readable_on(color), size, "mm")
    chart.text((left, 46), axes[1], _MUTED, _TEXT, "lm")
    chart.turned_text((14, top + cell * shown.shape[0] / 2), axes[0], _MUTED, _TEXT, "mm")
    if is_readable:
        for i, name in enumerate(names):
            chart.text((left - 8, top + (i + 0.5) * cell), name, INK, size, "rm")
        for j, name in enumerate(other_names):
            chart.turned_text((left + (j + 0.5) * cell, top - 8), name, INK, size, "start")
    else:
        for value in _ticks(0, max(table.shape) - 1)[0]:
            place = (value + 0.5) * cell / merged
            if value < len(rows):
                chart.text((left - 6, top + place), f"{value:.0f}", _MUTED, 10, "rm")
            if value < len(columns):
                chart.text((left + place, top - 10), f"{value:.0f}", _MUTED, 10, "mm")
    return chart.image()


def line_chart(
    curves: Mapping[str, tuple[Any, Any]], title: str, axes: tuple[str, str], limits: tuple[float, float] | None = None
) -> Any:
    """Draw curves of values from 0 to 1, or to their maximum; the first one is thick, and up to 10 are in the legend.

    Args:
        curves: x and y of each curve, by name.
        title: text above the chart.
        axes: what x and y are.
        limits: minimum and maximum of x; those of the data by default.
    """
    names = list(curves)
    columns = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in curves.values()]
    filled = [(x, y) for x, y in columns if len(x)]
    low, high = limits or (min((x.min() for x, _ in filled), default=0), max((x.max() for x, _ in filled), default=1))
    top = max([1.0, *(float(np.nanmax(y)) for _, y in filled if not np.isnan(y).all())])
    legend = [fitted(name, _TEXT, 170) for name in names[: _MAX_CURVES + 1]]
    width, height = 430, 320
    left, upper = 64, 46
    legend_width = 52 + _widest(legend, _TEXT) if len(names) > 1 else 0
    chart = _Chart(left + width + 28 + legend_width, upper + height + 56, title)
    plot = _Plot(chart, (left, upper, left + width, upper + height), (float(low), float(high)), (0.0, top))
    plot.axes(*axes)
    colors = [INK, *drawing.palette(max(len(names) - 1, 0))] if len(names) > 1 else [_BLUE]
    for number in range(len(names) - 1, -1, -1):
        x, y = columns[number]
        kept = ~np.isnan(y)
        color = colors[number] if number <= _MAX_CURVES else _GRID
        plot.curve(x[kept], y[kept], color, 3.0 if number == 0 else 1.6)
    if len(names) > 1:
        for number, name in enumerate(legend):
            place = upper + 10 + 20 * number
            ends = [(left + width + 16.0, place), (left + width + 38.0, place)]
            chart.line(ends, colors[number], 3.0 if number == 0 else 2.0)
            chart.text((left + width + 46, place), name, INK, _TEXT, "lm")
        if more := len(names) - len(legend):
            chart.text((left + width + 46, upper + 10 + 20 * len(legend)), f"and {more} more", _MUTED, _TEXT, "lm")
    return chart.image()


def bar_chart(values: Mapping[str, float], title: str, limit: int = 40) -> Any:
    """Draw a horizontal bar for each name, in the given order; beyond ``limit``, the remaining ones are counted.

    Args:
        values: a value of at least 0 by name.
        title: text above the chart.
        limit: maximum number of bars.
    """
    shown = list(values.items())[:limit]
    names = _names([name for name, _ in shown], _TEXT)
    left, step, width = 24 + _widest(names, _TEXT), 22, 320
    largest = max([value for _, value in shown if not math.isnan(value)] + [0]) or 1
    hidden = len(values) - len(shown)
    chart = _Chart(left + width + 80, 48 + step * (len(shown) + bool(hidden)) + 12, title)
    for number, (name, (_, value)) in enumerate(zip(names, shown)):
        y = 46 + number * step
        length = 0.0 if math.isnan(value) else width * value / largest
        chart.rectangle((left, y + 3, left + max(length, 1), y + step - 3), _BLUE)
        chart.text((left - 8, y + step / 2), name, INK, _TEXT, "rm")
        chart.text((left + length + 6, y + step / 2), _number(value), _MUTED, _TEXT, "lm")
    if hidden:
        chart.text((left, 46 + (len(shown) + 0.5) * step), f"and {hidden} more", _MUTED, _TEXT, "lm")
    return chart.image()


def histogram(values: Any, title: str, axis: str) -> Any:
    """Draw how often values occur: whole numbers of a small range one by one, others in 30 ranges.

    Args:
        values: numbers.
        title: text above the chart.
        axis: what the values are.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    whole = bool((numbers == numbers.round()).all())
    is_few = whole and high - low < 40
    edges = np.arange(low - 0.5, high + 1.0) if is_few else np.linspace(low, high if high > low else low + 1, 31)
    counts, edges = np.histogram(numbers, edges)
    left, upper, width, height = 64, 46, 430, 220
    chart = _Chart(left + width + 28, upper + height + 56, title)
    limits = (float(edges[0]), float(edges[-1]))
    top = 1.05 * max(counts.max(), 1)
    plot = _Plot(chart, (left, upper, left + width, upper + height), limits, (0.0, float(top)))
    plot.axes(axis, "number", whole=(is_few, True))
    for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist()):
        if count:
            plot.bar(start, end, count)
    return chart.image()


def sheet(pictures: Sequence[Array], captions: Sequence[str], title: str, width: int = 1110, side: int = 320) -> Any:
    """Draw pictures with captions in rows.

    Args:
        pictures: RGB, uint8, each (height, width, 3); reduced to ``side`` pixels of height, and to the sheet's width.
        captions: a text for each, below it; its lines are shortened to the width of the picture.
        title: text above all of them.
        width: width of the sheet.
        side: largest height of a picture.
    """
    gap, rows = 12, [[]]  # type: tuple[int, list[list[tuple[Any, list[str]]]]]
    used = gap
    for picture, caption in zip(pictures, captions):
        image = Image.fromarray(picture)
        factor = min(side / image.height, (width - 2 * gap) / image.width, 1)
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
        room = max(image.width, _ROOM)
        if used + room + gap > width and rows[-1]:
            rows.append([])
            used = gap
        lines = [fitted(line, _TEXT, room) for line in caption.splitlines()]
        rows[-1].append((image, lines))
        used += room + gap
    heights = [max([image.height + 17 * len(lines) for image, lines in row] + [0]) + gap for row in rows]
    reached = max(sum(max(image.width, _ROOM) + gap for image, _ in row) for row in rows) + gap
    chart = _Chart(max(reached, 280), 40 + sum(heights) + gap, title)
    y = 44
    for row, height in zip(rows, heights):
        x = gap
        for image, lines in row:
            chart.paste(image, (x, y))
            for number, line in enumerate(lines):
                chart.text((x, y + image.height + 3 + 17 * number), line, INK, _TEXT, "la")
            x += max(image.width, _ROOM) + gap
        y += height
    return chart.image()


def stack(images: Sequence[Any], columns: int = 2) -> Any:
    """Return one image with several charts in columns, each chart below the shortest column."""
    heights, widths = [0] * columns, [0] * columns
    places = []
    for image in images:
        column = heights.index(min(heights))
        places.append((image, column, heights[column]))
        heights[column] += image.height
        widths[column] = max(widths[column], image.width)
    canvas = Image.new("RGB", (max(sum(widths), 1), max([*heights, 1])), "white")
    for image, column, y in places:
        canvas.paste(image, (sum(widths[:column]), y))
    return canvas


class _Chart:
    """A white image with a title. Shapes are drawn first, larger, so that they become smooth; then texts."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.size = (max(round(width), round(font_for(title, _TITLE).getlength(title)) + 28), round(height))
        self._shapes = Image.new("RGB", (self.size[0] * _SMOOTH, self.size[1] * _SMOOTH), "white")
        self._draw = ImageDraw.Draw(self._shapes)
        self._later: list[Callable[[Any, Any], None]] = []
        self.text((14, 22), title, INK, _TITLE, "lm")

    def rectangle(self, box: Sequence[float], color: Rgb) -> None:
        x1, y1, x2, y2 = (value * _SMOOTH for value in box)
        if x2 > x1 and y2 > y1:
            self._draw.rectangle((round(x1), round(y1), round(x2) - 1, round(y2) - 1), fill=color)

    def line(self, points: Sequence[tuple[float, float]], color: Rgb, width: float) -> None:
        enlarged = [(x * _SMOOTH, y * _SMOOTH) for x, y in points]
        self._draw.line(enlarged, fill=color, width=max(1, round(width * _SMOOTH)), joint="curve")

    def text(self, place: tuple[float, float], text: str, color: Rgb, size: int, anchor: str) -> None:
        self._later.append(lambda image, draw: draw.text(place, text, color, font_for(text, size), anchor))

    def turned_text(self, place: tuple[float, float], text: str, color: Rgb, size: int, anchor: str) -> None:
        """Draw a text that reads upward, centered at ``place``, or with ``anchor="start"`` beginning there."""
        font = font_for(text, size)
        width, height = math.ceil(font.getlength(text)) + 2, round(1.4 * size)
        label = Image.new("L", (width, height))
        ImageDraw.Draw(label).text((1, height / 2), text, 255, font, "lm")
        label = label.rotate(90, expand=True)
        top = place[1] - (width if anchor == "start" else width / 2)
        corner = (round(place[0] - height / 2), round(top))
        self._later.append(lambda image, draw: image.paste(color, (*corner,), label))

    def paste(self, picture: Any, corner: tuple[int, int]) -> None:
        self._later.append(lambda image, draw: image.paste(picture, corner))

    def image(self) -> Any:
        image = self._shapes.reduce(_SMOOTH)
        draw = ImageDraw.Draw(image)
        for action in self._later:
            action(image, draw)
        return image


class _Plot:
    """A pair of axes in a chart.

    Args:
        chart: the chart.
        frame: (x1, y1, x2, y2) of the axes in the chart.
        x: values at the left and right.
        y: values at the bottom and top.
    """

    def __init__(self, chart: _Chart, frame: Sequence[float], x: tuple[float, float], y: tuple[float, float]) -> None:
        self.chart, self.frame = chart, frame
        self.x = x if x[1] > x[0] else (x[0], x[0] + 1)
        self.y = y

    def place(self, x: float, y: float) -> tuple[float, float]:
        x1, y1, x2, y2 = self.frame
        return (
            x1 + (x - self.x[0]) / (self.x[1] - self.x[0]) * (x2 - x1),
            y2 - (y - self.y[0]) / (self.y[1] - self.y[0]) * (y2 - y1),
        )

    def axes(self, x_title: str, y_title: str, whole: tuple[bool, bool] = (False, False)) -> None:
        x1, y1, x2, y2 = self.frame
        ticks = (*_ticks(*self.x, whole[0]), True), (*_ticks(*self.y, whole[1]), False)
        for values, show, horizontal in ticks:
            for value in values:
                x, y = self.place(value, self.y[0]) if horizontal else self.place(self.x[0], value)
                self.chart.line([(x, y1), (x, y2)] if horizontal else [(x1, y), (x2, y)], _GRID, 1)
                place, anchor = ((x, y2 + 13), "mm") if horizontal else ((x1 - 8, y), "rm")
                self.chart.text(place, show.format(value), _MUTED, _TEXT, anchor)
        self.chart.line([(x1, y1), (x1, y2), (x2, y2)], _MUTED, 1)
        self.chart.text(((x1 + x2) / 2, y2 + 36), x_title, INK, _TEXT, "mm")
        self.chart.turned_text((14, (y1 + y2) / 2), y_title, INK, _TEXT, "mm")

    def curve(self, x: Array, y: Array, color: Rgb, width: float) -> None:
        if len(x) > 1000:  # more than the pixels of the plot
            chosen = np.linspace(0, len(x) - 1, 1000).round().astype(int)
            x, y = x[chosen], y[chosen]
        if len(x):
            points = [self.place(float(a), float(b)) for a, b in zip(x, y)]
            self.chart.line(points if len(points) > 1 else [*points, *points], color, width)

    def bar(self, start: float, end: float, value: float) -> None:
        (x1, y1), (x2, y2) = self.place(start, value), self.place(end, 0)
        gap = 1 if x2 - x1 > 4 else 0
        self.chart.rectangle((x1 + gap, y1, x2 - gap, y2), _BLUE)


def _ticks(low: float, high: float, whole: bool = False) -> tuple[list[float], str]:
    """Return round numbers in a range, only integers if ``whole``, and the format to show them in."""
    step = 10 ** math.floor(math.log10(max((high - low) / 5, 1e-9)))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    step = max(step, 1) if whole else step
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step - 1e-9)
    values = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return values, f"{{:.{digits}f}}"


def _merged(table: Array, size: int) -> Array:
    """Return the sums of square blocks of cells."""
    if size == 1:
        return table
    padded = np.pad(table, [(0, -length % size) for length in table.shape])
    rows, columns = (length // size for length in padded.shape)
    sums: Array = padded.reshape(rows, size, columns, size).sum((1, 3))
    return sums


def _shade(share: float) -> Rgb:
    """Return a color between white (0) and dark blue (1)."""
    shade = share**0.6  # so that rare confusions are visible
    return (round(250 - 235 * shade), round(252 - 180 * shade), round(255 - 105 * shade))


def _names(names: Sequence[str], size: int) -> list[str]:
    return [fitted(str(name), size, _MAX_NAME) for name in names]


def _widest(names: Sequence[str], size: int) -> int:
    return int(max([font_for(name, size).getlength(name) for name in names] + [0]))


def _short(count: int) -> str:
    """Return a count in at most five characters."""
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * unit:
            return f"{count / unit:.0f}{suffix}"
    return str(count)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
