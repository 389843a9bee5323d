"""Lists of images or videos with their labels: CSV files and text files, with or without a header."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.engine.errors import DataError
from trainwright.engine.fileio import read_text

TABLE_SUFFIXES = (".csv", ".tsv")
PATH_NAMES = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path", "img_path",
    "image_name", "image_id", "img_id", "video", "video_path", "name", "id",
)  # fmt: skip
_LABEL_NAMES = (
    "label", "class", "labels", "classes", "category", "categories", "target", "targets", "tags", "class_name",
    "class_id", "label_name", "label_id", "y", "breed", "species", "diagnosis",
)  # fmt: skip
_SPLIT_NAMES = ("split", "set", "subset", "partition", "dataset", "usage", "fold")
_SEPARATORS = (";", "|", ",", " ")
_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "-1": -1, "-1.0": -1, "true": 1, "false": 0}


@dataclass
class Row:
    """A row of a table.

    Args:
        path: the file.
        labels: its labels, as in the table.
        source: file and line, for messages.
        split: value of the column that names the split; empty without such a column.
        ignored: classes for which the table has -1.
    """

    path: str
    labels: tuple[str, ...]
    source: str
    split: str = ""
    ignored: tuple[str, ...] = ()


@dataclass
class Table:
    """A list of files with labels.

    Args:
        rows: the rows.
        multilabel: a file may have any number of labels.
        classes: class names, if the table has a column for each.
    """

    rows: list[Row] = field(default_factory=list)
    multilabel: bool = False
    classes: tuple[str, ...] = ()


def read_table(file: str) -> Table:
    """Read a table of files and labels.

    The columns are separated by commas, tabs or semicolons. With a header, one column is named ``path`` (or ``file``,
    ``filename``, ``image``, ``id``, …), and the labels are in

    - a column named ``label`` (or ``class``, ``category``, ``target``, …; or another, if it is the only one, not
      of 0 and 1, and its values occur twice on average), one label each;
    - a column named ``labels``, ``classes``, ``categories``, ``targets`` or ``tags``, several labels each, separated by
      ``;``, ``|``, a comma or a space;
    - several columns ``label1``, ``label2``, …, which may be empty;
    - a column for each class, with 1, 0, or -1 for unknown.

    A column named ``split`` (or ``set``, ``subset``) may name the split. Without a header, the first column is the
    path, and the others are labels.

    Raises:
        DataError: the file is empty, the columns cannot be told apart, or a row is wrong; the message names the line.
    """
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{file} is empty")
    delimiter = max(",\t;", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    lines: list[tuple[int, list[str]]] = []
    for words in reader:
        if any(word.strip() for word in words):
            lines.append((reader.line_num, [word.strip() for word in words]))
    header = [word.lower() for word in lines[0][1]]
    if not any(word in PATH_NAMES for word in header) or "." in "".join(header):
        return _without_header(file, lines)
    if len(lines) == 1:
        raise DataError(f"{file} has no rows below its header")
    return _with_header(file, lines)


def labeled_files(
    file: str, folder: Path, key: str, metainfo: dict[str, Any], multilabel: bool = False
) -> list[dict[str, Any]]:
    """Return the samples of a table.

    Args:
        file: the table.
        folder: folder that its paths are relative to.
        key: key of the path in a sample.
        metainfo: its ``classes`` are read, or set to those of the table.
        multilabel: ``gt_label`` is a list of any number of labels, instead of one label.

    Raises:
        DataError: the table is invalid, or has an unknown label.
    """
    table = read_table(file)
    if table.multilabel and not multilabel:
        row = next(row for row in table.rows if len(row.labels) != 1 or row.ignored)
        raise DataError(
            f"{row.source}: {row.path} has {len(row.labels)} labels: use MultiLabelDataset for several labels per image"
        )
    classes = [str(name) for name in metainfo.setdefault("classes", tuple(class_names(table)))]
    samples = []
    for row in table.rows:
        numbers = label_numbers(row, classes)
        sample = {key: str(folder / row.path), "gt_label": numbers if multilabel else numbers[0]}
        if row.ignored:
            sample["gt_score"] = [
                -1 if name in row.ignored else int(index in numbers) for index, name in enumerate(classes)
            ]
        samples.append(sample)
    return samples


def class_names(table: Table) -> list[str]:
    """Return the classes: the columns of a table with one for each, else the sorted labels; numbers by value."""
    if table.classes:
        return list(table.classes)
    labels = {label for row in table.rows for label in row.labels}
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def label_numbers(row: Row, classes: Sequence[str]) -> list[int]:
    """Return the numbers of a row's labels, each a name in ``classes`` or a number.

    Raises:
        DataError: a label is unknown.
    """
    numbers = []
    for label in row.labels:
        if label in classes:
            numbers.append(list(classes).index(label))
        elif label.isdecimal() and (not classes or int(label) < len(classes)):
            numbers.append(int(label))
        else:
            known = f"the {len(classes)} classes in metainfo" if classes else "numbers from 0"
            raise DataError(f"{row.source}: unknown label {label!r}: expected one of {known}")
    return sorted(set(numbers))


def _without_header(file: str, lines: Sequence[tuple[int, list[str]]]) -> Table:
    table = Table()
    for number, words in lines:
        labels = tuple(word for word in words[1:] if word)
        if len(words) < 2 or not words[0]:
            raise DataError(
                f"{file}:{number}: expected a path and a label, separated by a comma, tab or semicolon, got "
                f"{', '.join(words)!r}"
            )
        table.rows.append(Row(words[0], labels, f"{file}:{number}"))
    table.multilabel = any(len(row.labels) != 1 for row in table.rows)
    return table


def _with_header(file: str, lines: Sequence[tuple[int, list[str]]]) -> Table:
    names = lines[0][1]
    lowered = [name.lower() for name in names]
    path_column = min((lowered.index(name) for name in PATH_NAMES if name in lowered), default=0)
    split_column = next((lowered.index(name) for name in _SPLIT_NAMES if name in lowered), None)
    others = [index for index, name in enumerate(names) if index not in (path_column, split_column) and name]
    label_column = next((lowered.index(name) for name in _LABEL_NAMES if name in lowered), None)
    numbered = [index for index in others if lowered[index].rstrip("0123456789_") in ("label", "class", "tag")]
    table = Table()
    rows = []
    for number, words in lines[1:]:
        if len(words) != len(names):
            raise DataError(f"{file}:{number}: expected {len(names)} values, as in the header, got {len(words)}")
        if not words[path_column]:
            raise DataError(f"{file}:{number}: the column {names[path_column]!r} is empty")
        split = "" if split_column is None else words[split_column]
        rows.append((Row(words[path_column], (), f"{file}:{number}", split), words))
    if label_column is None and len(others) == 1:
        distinct = {words[others[0]].lower() for _, words in rows}
        if 2 * len(distinct) <= len(rows) and not distinct <= _FLAGS.keys():  # a number for each file is not a class
            label_column = others[0]
    if label_column is not None and len(numbered) < 2:
        several = lowered[label_column] in ("labels", "classes", "categories", "targets", "tags")
        separator = _separator(words[label_column] for _, words in rows) if several else ""
        for row, words in rows:
            text = words[label_column]
            row.labels = tuple(filter(None, (part.strip() for part in text.split(separator)))) if separator else (text,)
            if not several and not text:
                raise DataError(f"{row.source}: the column {names[label_column]!r} is empty")
            row.labels = tuple(filter(None, row.labels))
        table.multilabel = several and any(len(row.labels) != 1 for row, _ in rows)
    elif len(numbered) >= 2:
        for row, words in rows:
            row.labels = tuple(words[index] for index in numbered if words[index])
        table.multilabel = True
    else:
        flags = [index for index in others if all(words[index].lower() in _FLAGS for _, words in rows)]
        if not flags:
            raise DataError(
                f"{file}: found no column of labels among {', '.join(map(repr, names))}: name one of them 'label', or "
                "have a column of 0 and 1 for each class"
            )
        table.classes = tuple(names[index] for index in flags)
        for row, words in rows:
            values = {names[index]: _FLAGS[words[index].lower()] for index in flags}
            row.labels = tuple(name for name, value in values.items() if value == 1)
            row.ignored = tuple(name for name, value in values.items() if value == -1)
        table.multilabel = any(len(row.labels) != 1 or row.ignored for row, _ in rows)
    table.rows = [row for row, _ in rows]
    return table


def _separator(texts: Iterable[str]) -> str:
    joined = "\n".join(texts)
    return next((separator for separator in _SEPARATORS if separator in joined), ";")
