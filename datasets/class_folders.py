"""Folders as classes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.engine.errors import MissingFileError
from trainwright.engine.records.logger import print_log


def class_folders(
    root: Path, files_of: Callable[[Path], Sequence[Any]], known: Sequence[str]
) -> Mapping[str, Sequence[Any]]:
    """Return the files in each class folder, by the sorted names of the folders.

    Hidden folders and folders without files are left out, which is logged, unless they are among the ``known`` classes.

    Args:
        root: the folder that contains the class folders.
        files_of: returns the files in a class folder.
        known: classes that are defined in ``metainfo``.

    Raises:
        FileNotFoundError: ``root`` is missing.
    """
    if not root.is_dir():
        raise MissingFileError(f"folder {str(root)!r} not found: check data_root and the folder of the split")
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = {name: files_of(root / name) for name in names if name in known or not name.startswith(".")}
    left_out = [name for name in names if name not in known and not files.get(name)]
    if left_out:
        print_log(f"{root}: not classes, since hidden or without files: {', '.join(left_out)}", "current")
    return {name: found for name, found in files.items() if name not in left_out}
