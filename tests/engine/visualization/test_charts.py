"""Charts, and labels that can be read."""

import numpy as np
import pytest
from PIL import Image

from trainwright.engine.visualization import charts, text


def cells(count: int) -> np.ndarray:
    return np.diag(np.full(count, 5)) + np.eye(count, k=1, dtype=int)


@pytest.mark.parametrize(("classes", "size"), [(2, 200), (20, 500), (60, 700), (1000, 700)])
def test_matrices_of_any_number_of_classes_fit_a_page(classes: int, size: int) -> None:
    names = [f"the class with the number {index}" for index in range(classes)]
    image = charts.matrix_chart(cells(classes), names, names, "Title", ("true", "predicted"))
    assert size <= image.width <= 1400 and size <= image.height <= 1400


def test_cells_of_many_classes_are_merged_without_losing_counts() -> None:
    merged = charts._merged(cells(1000), 10)
    assert merged.shape == (100, 100) and merged.sum() == cells(1000).sum()
    assert merged[0, 0] == 10 * 5 + 9 and merged[0, 1] == 1
    assert charts._merged(cells(7), 3).tolist() == [[17, 1, 0], [0, 17, 1], [0, 0, 5]]


def test_curves_and_histograms_show_values_where_they_are() -> None:
    image = np.asarray(charts.line_chart({"one": ([0, 1], [0.5, 0.5])}, "Title", ("x", "y")))
    blue = (np.abs(image.astype(int) - charts._BLUE) < 30).all(-1)
    assert blue.sum(1).max() == 430 and abs(int(blue.sum(1).argmax()) - (46 + 160)) <= 1  # across the middle
    image = np.asarray(charts.histogram([1, 1, 3], "Title", "number"))
    bars = (np.abs(image.astype(int) - charts._BLUE) < 30).all(-1)
    heights = bars.sum(0)[64:494]
    assert heights[60] == pytest.approx(2 * heights[370], abs=2) and not heights[215]
    for values in ([], [float("nan")], [2.5]):
        charts.histogram(values, "Title", "number")
    charts.line_chart({}, "Title", ("x", "y"))
    charts.bar_chart({"none": 0, "unknown": float("nan")}, "Title")


def test_a_sheet_wraps_rows_and_reduces_large_pictures() -> None:
    pictures = [np.zeros((400, 200, 3), np.uint8)] * 8
    image = charts.sheet(pictures, ["a\nb"] * 8, "Title", width=1000)
    assert image.width <= 1000
    assert 2 * 320 < image.height < 2 * 420


def test_labels_stay_in_the_image_and_do_not_hide_each_other() -> None:
    boxes = [(0.0, 0.0, 60.0, 60.0), (10.0, 0.0, 70.0, 60.0), (240.0, 150.0, 300.0, 200.0), (5.0, 20.0, 50.0, 50.0)]
    places = text.place_labels(boxes, [(80, 20)] * 4, (300, 200), 2)
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 200 and (x2 - x1, y2 - y1) == (80, 20)
    for number, place in enumerate(places):
        assert text._overlap(place, np.array(places[:number]).reshape(-1, 4)) == 0
    assert text.place_labels([(50.0, 50.0, 150.0, 150.0)], [(80, 20)], (300, 200), 2) == [(50, 30, 130, 50)]  # above
    (inside,) = text.place_labels([(0.0, 0.0, 300.0, 200.0)], [(80, 20)], (300, 200), 2)
    assert inside == (2, 2, 82, 22)  # there is no room outside: below the upper edge


@pytest.mark.parametrize(("color", "expected"), [((255, 220, 0), (0, 0, 0)), ((20, 50, 120), (255, 255, 255))])
def test_texts_contrast_with_their_ground(color: text.Rgb, expected: text.Rgb) -> None:
    assert text.readable_on(color) == expected


def test_texts_are_shortened_in_the_middle() -> None:
    assert text.fitted("cat", 12, 100) == "cat"
    short = text.fitted("a very long name of a class 0.99", 12, 120)
    assert short.startswith("a very") and "..." in short and short.endswith("0.99")
    assert text.font_for(short, 12).getlength(short) <= 120


def test_a_text_without_a_font_is_drawn_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(text, "_SYSTEM_FONTS", ("no-such-font.ttf",))
    monkeypatch.setattr(text, "_LETTERS_WARNED_OF", set())
    text.font_for.cache_clear()
    canvas = Image.new("RGB", (200, 40))
    charts.ImageDraw.Draw(canvas).text((0, 0), "猫", (255, 255, 255), text.font_for("猫", 12))
    for other in ("猫", "猫 0.98", "true: 猫 0.01"):
        text.font_for(other, 14)
    assert log.text.count("no installed font") == 1 and "'猫'" in log.text
    assert canvas.getbbox() is not None
