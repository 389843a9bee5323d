"""Data sets that torchvision downloads and reads."""

import os
from typing import Any

from trainwright.engine.distributed import barrier, is_main_process


def load_torchvision(name: str, root: str | os.PathLike[str], split: str, download: bool) -> Any:
    """Returns a data set of ``torchvision.datasets`` that has the splits train and test.

    With several processes the main one downloads, and the others wait for it.

    Args:
        name: name of its class.
        root: folder with its files.
        split: ``"train"`` or ``"test"``.
        download: fetch the files first if they are not there.

    Raises:
        RuntimeError: the files are missing or damaged, or the download failed; with a note that says what to
            do.
    """
    from torchvision import datasets

    dataset_class = getattr(datasets, name)
    try:
        if download and is_main_process():
            dataset_class(root, train=split == "train", download=True)
        if download:
            barrier()
        return dataset_class(root, train=split == "train")
    except RuntimeError as error:
        remedy = "check the connection" if download else "set download=True to fetch it"
        error.add_note(f"{name} was looked for in {os.fspath(root)!r}: {remedy}")
        raise
