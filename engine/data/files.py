"""Whether the files that a dataset names exist."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainwright.engine.data.faults import innermost
from trainwright.engine.data.proxy import Proxy
from trainwright.engine.random_streams import preserve_generators

_KEYS = ("img_path", "seg_map_path", "filename", "frame_dir")


def missing_files(dataset: Any, indices: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Yield the index of a sample and the path of a file of it that does not exist, once for each path.

    Only datasets with ``get_data_info`` whose samples name files are searched. If the first sample without its file can
    be loaded nevertheless, none is yielded: its paths are not those of files, or the pipeline has another one loaded.

    Args:
        dataset: a map-style dataset.
        indices: the samples to look at.
    """
    while isinstance(dataset, Proxy):
        dataset = dataset._inner
    seen: set[str] = set()
    without_files: set[int] = set()  # datasets whose first sample names no file, such as those in memory
    is_confirmed = False
    for index in indices:
        owner, position, _ = innermost(dataset, index)
        if id(owner) in without_files:
            continue
        info = _info(owner, position)
        paths = [info[key] for key in _KEYS if isinstance(info.get(key), str)]
        if not paths:
            without_files.add(id(owner))
        for path in paths:
            if path in seen or os.path.exists(path):  # noqa: PTH110  # a Path takes longer
                continue
            seen.add(path)
            if not is_confirmed and _loads(dataset, index):
                return
            is_confirmed = True
            yield index, path


def _info(dataset: Any, index: int) -> Mapping[str, Any]:
    """Return what a dataset has on a sample, or nothing if it does not use ``get_data_info``, which then may fail."""
    try:
        info = dataset.get_data_info(index)
    except Exception:  # raised again when the sample is loaded
        return {}
    return info if isinstance(info, Mapping) else {}


def _loads(dataset: Any, index: int) -> bool:
    try:
        with preserve_generators():
            dataset[index]
    except FileNotFoundError:
        return False
    except Exception:  # raised again when the sample is loaded
        return True
    return True
