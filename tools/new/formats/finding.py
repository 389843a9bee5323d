"""Recognize the format of data."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from trainwright.tools.new.data import Found
from trainwright.tools.new.formats.class_folders import find_class_folders, find_videos
from trainwright.tools.new.formats.coco import find_coco
from trainwright.tools.new.formats.labelme import find_labelme
from trainwright.tools.new.formats.masks import find_masks
from trainwright.tools.new.formats.tables import find_table
from trainwright.tools.new.formats.voc import find_voc
from trainwright.tools.new.formats.yolo import find_yolo


def find_formats(place: Path) -> list[Found]:
    """Return all data that is found in a folder or file, the likeliest first.

    Raises:
        DataError: a file of a known format is invalid.
    """
    if place.is_file():
        kinds: Mapping[str, Callable[[Path], Found | None]] = {
            ".yaml": find_yolo, ".yml": find_yolo, ".json": find_coco,
            ".csv": find_table, ".tsv": find_table, ".txt": find_table,
        }  # fmt: skip
        readers = [kinds[suffix]] if (suffix := place.suffix.lower()) in kinds else []
    else:
        readers = [
            find_yolo, find_coco, find_labelme, find_voc, find_masks, find_videos, find_table, find_class_folders,
        ]  # fmt: skip
    return [found for reader in readers if (found := reader(place)) is not None]


def describe(place: Path) -> str:
    """Return what a folder or file contains, for the message that nothing was recognized."""
    if place.is_file():
        return f"a file of type {place.suffix or 'unknown'}"
    suffixes = Counter(path.suffix.lower() or "(no suffix)" for path in place.rglob("*") if path.is_file())
    folders = sorted(path.name for path in place.iterdir() if path.is_dir())
    files = ", ".join(f"{number} {suffix}" for suffix, number in suffixes.most_common(6)) or "no files"
    return f"{files}; folders: {', '.join(folders[:8]) or 'none'}{', …' if len(folders) > 8 else ''}"
