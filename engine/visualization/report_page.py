"""A report as a folder: ``index.html``, which opens without a server, with pictures and CSV files next to it."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainwright.engine.evaluation.report import Cell, Curves, Matrix, Section, Table

_MAX_ROWS = 300
_UNDECODABLE = "backslashreplace"  # file names may have bytes that are not UTF-8, as surrogates
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; max-width: 1150px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2.2em 0 .4em } p { margin: .3em 0; color: #5f6368 }
table { border-collapse: collapse; margin: .6em 0; font-variant-numeric: tabular-nums }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid #e1e3e6 }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }
"""


def write_report(
    folder: Path,
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    pictures: Mapping[int, tuple[Any, str]],
) -> Path:
    """Write a report.

    Args:
        folder: folder for the files, which is created.
        title: heading of the page.
        facts: short texts or numbers about the test, such as its results.
        sections: contents, in this order.
        pictures: image and name of each sample by its index. An image is RGB, uint8, (height, width, 3).

    Returns:
        The path of ``index.html``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_html_table(["", ""], [[name, value] for name, value in facts.items()], 4)]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.note:
            parts.append(f"<p>{escape(section.note)}</p>")
        parts.append(_write_section(folder, section, pictures))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    page = folder / "index.html"
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    text = f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body>\n{body}\n</body></html>\n"
    page.write_text(text, encoding="utf-8", errors=_UNDECODABLE)
    return page


def _write_section(folder: Path, section: Section, pictures: Mapping[int, tuple[Any, str]]) -> str:
    """Write the files of a section, and return its HTML."""
    from trainwright.engine.visualization import charts

    name = re.sub(r"[^a-z0-9]+", "_", section.title.lower()).strip("_")
    if isinstance(section, Table):
        _write_csv(folder / f"{name}.csv", section.columns, section.rows)
        more = len(section.rows) - _MAX_ROWS
        rest = f'<p>and {more} more in <a href="{name}.csv">{name}.csv</a></p>' if more > 0 else ""
        return _html_table(section.columns, section.rows[:_MAX_ROWS], section.digits) + rest
    if isinstance(section, Matrix):
        header = [f"{section.axes[0]} / {section.axes[1]}", *section.columns]
        _write_csv(
            folder / f"{name}.csv", header, [[row, *counts] for row, counts in zip(section.rows, section.counts)]
        )
        image = charts.matrix_chart(section.counts, section.rows, section.columns, section.title, section.axes)
    elif isinstance(section, Curves):
        image = charts.line_chart(section.curves, section.title, section.axes, section.limits)
    else:
        listed = list(zip(section.indices, section.captions))
        shown = [(*pictures[index], caption) for index, caption in listed if index in pictures]
        if not shown:
            return _html_table(["sample", ""], [[index, caption] for index, caption in listed])
        images, captions = [image for image, *_ in shown], [f"{caption}\n{name}" for _, name, caption in shown]
        image = charts.sheet(images, captions, section.title)
    image.save(folder / f"{name}.png", compress_level=1)  # a third of the time, and 15% larger
    return f'<img src="{name}.png" alt="{escape(section.title)}">'


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], digits: int = 2) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns) if any(columns) else ""
    lines = ["".join(f"<td>{escape(_text(cell, digits))}</td>" for cell in row) for row in rows]
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _text(cell: Any, digits: int) -> str:
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.{digits}f}"
    return str(cell)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors=_UNDECODABLE) as file:
        csv.writer(file).writerows([columns, *rows])
