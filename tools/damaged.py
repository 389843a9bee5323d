"""Search of a dataset's image files for those that cannot be decoded."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from rich.progress import track

from trainwright.datasets.transforms import reader_of
from trainwright.engine.data.faults import innermost
from trainwright.engine.errors import DataError
from trainwright.engine.images.reader import ImageReader

_FILES_AT_A_TIME = 200


def damaged_images(dataset: Any) -> Iterator[str]:
    """Decode all image files of a dataset, in several threads, and yield a line for each that cannot be read.

    Files that do not exist are left to ``check_annotations``.
    """
    files = list(_image_files(dataset).items())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(range(0, len(files), _FILES_AT_A_TIME), "Decoding all images"):
            problems = pool.map(_problem, files[start : start + _FILES_AT_A_TIME])
            yield from (problem for problem in problems if problem is not None)


def _image_files(dataset: Any) -> dict[str, tuple[int, ImageReader]]:
    """Return the path of each image file, with its first sample and the reader that loads it."""
    files: dict[str, tuple[int, ImageReader]] = {}
    for index in range(len(dataset)):
        owner, position, _ = innermost(dataset, index)
        with suppress(ValueError):  # a bad annotation, which is reported as such
            path = owner.get_data_info(position).get("img_path") if hasattr(owner, "get_data_info") else None
            if path:
                files.setdefault(os.fspath(path), (index, reader_of(getattr(owner, "pipeline", None))))
    return files


def _problem(file: tuple[str, tuple[int, ImageReader]]) -> str | None:
    path, (index, reader) = file
    try:
        reader.read(path)
    except FileNotFoundError:
        return None
    except (DataError, OSError) as error:
        return f"sample {index}: {error}"
    return None
