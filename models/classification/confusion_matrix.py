"""Drawing of confusion matrices."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_GAP = 8


def draw_confusion_matrix(
    matrix: Sequence[Sequence[int]], out_file: str | Path, classes: Sequence[str] | None = None
) -> None:
    """Draw a confusion matrix to an image file; the larger a cell's share of its row, the darker it is.

    Args:
        matrix: counts, with true classes in rows.
        out_file: image file; its folder is created if necessary.
        classes: class names; class indices if None.
    """
    names = [str(name) for name in classes or range(len(matrix))]
    font = ImageFont.load_default(size=12)
    margin = 2 * _GAP + int(max(map(font.getlength, names)))
    cell = 2 * _GAP + int(max(font.getlength(str(count)) for row in matrix for count in row))

    def labels(x: int, anchor: str) -> Image.Image:
        image = Image.new("RGB", (margin, cell * len(matrix)), "white")
        for index, name in enumerate(names):
            ImageDraw.Draw(image).text((x, cell * index + cell // 2), name, "black", font, anchor)
        return image

    image = Image.new("RGB", (margin + cell * len(matrix),) * 2, "white")
    image.paste(labels(margin - _GAP, "rm"), (0, margin))
    image.paste(labels(_GAP, "lm").rotate(90, expand=True), (margin, 0))
    draw = ImageDraw.Draw(image)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            x, y = margin + cell * j, margin + cell * i
            fill = (int(255 - 225 * share), int(255 - 180 * share), int(255 - 110 * share))
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill)
            draw.text((x + cell // 2, y + cell // 2), str(count), "white" if share > 0.5 else "black", font, "mm")
    Path(out_file).parent.mkdir(parents=True, exist_ok=True)
    image.save(out_file)
