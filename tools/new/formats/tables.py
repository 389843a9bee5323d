"""Lists of files with labels."""

from collections.abc import Callable, Sequence
from pathlib import Path

from trainwright.datasets.formats import tables
from trainwright.engine.errors import DataError
from trainwright.engine.fileio import read_text
from trainwright.engine.inference.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trainwright.tools.new.data import Found, Sample, split_of, write_table

_TABLE_SUFFIXES = (".csv", ".tsv", ".txt")


def find_table(place: Path) -> Found | None:
    """Return the files in a list, or in all lists of a folder, or None."""
    if place.is_file():
        files = [place]
    else:
        files = [path for path in sorted(place.iterdir()) if path.suffix.lower() in _TABLE_SUFFIXES[:2]]
    if not files:
        return None
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    parsed = {file: tables.read_table(str(file)) if file.suffix != ".txt" else _text_list(file) for file in files}
    multilabel = any(table.multilabel for table in parsed.values())
    classes: list[str] = []
    for file, table in parsed.items():
        classes += [name for name in tables.class_names(table) if name not in classes]
        rows = table.rows
        locate = _locator(file.parent, [row.path for row in rows])
        for row in rows:
            split = split_of(row.split) if row.split else (split_of(file.stem) if len(files) > 1 else None)
            path = locate(row.path)
            if path is None:
                problems.append(f"{row.source}: {row.path} not found, neither beside the list nor in its folders")
            else:
                splits.setdefault(split or "all", []).append(Sample(path, row.labels))
    if not splits:
        raise DataError(f"{place}: none of its {len(problems)} files was found. The first: {problems[0]}")
    if not any(table.classes for table in parsed.values()):
        numbers = all(name.isdecimal() for name in classes)
        classes = sorted(classes, key=int) if numbers else sorted(classes)
    is_video = all(sample.path.lower().endswith(VIDEO_SUFFIXES) for some in splits.values() for sample in some)
    task = "video" if is_video else "multilabel" if multilabel else "classification"
    found = Found("list of files with labels", (task,), splits, classes, {}, {}, lambda path, samples: {}, problems)
    use_tables(found, task)
    return found


def use_tables(found: Found, task: str) -> None:
    """Let the splits be read from tables that are written next to the config."""
    types = {"video": "VideoDataset", "multilabel": "MultiLabelDataset"}
    found.dataset = {"type": types.get(task, "CustomDataset")}
    multilabel = task == "multilabel"
    found.write_list = lambda path, samples: {"ann_file": write_table(path, samples, found.classes, multilabel)}


def _text_list(file: Path) -> tables.Table:
    """Return a list with a path and a label per line, separated by a space, or by a comma or tab."""
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    if any("," in line or "\t" in line for line in lines):
        return tables.read_table(str(file))
    table = tables.Table()
    for number, line in enumerate(lines, 1):
        path, _, label = line.strip().rpartition(" ")
        if not path:
            raise DataError(f"{file}:{number}: expected a path and a label, got {line!r}")
        table.rows.append(tables.Row(path.strip(), (label,), f"{file}:{number}"))
    return table


def _locator(folder: Path, names: Sequence[str]) -> Callable[[str], str | None]:
    """Return a function from a path in a list to the file: relative to the list or a folder beside it."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    suffixes = ("", *IMAGE_SUFFIXES)

    def locate(name: str) -> str | None:
        for one in folders:
            for suffix in suffixes:
                if (path := one / f"{name}{suffix}").is_file():
                    folders.remove(one)
                    folders.insert(0, one)  # the next one is likely there too
                    return path.as_posix()
        return Path(name).as_posix() if Path(name).is_file() else None

    return locate
