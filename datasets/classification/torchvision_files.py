"""Base class of datasets that torchvision downloads and reads."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from trainwright.datasets.in_memory import InMemoryDataset
from trainwright.engine.distributed import barrier, is_main_process


class TorchvisionDataset(InMemoryDataset):
    """Base class of in-memory datasets whose files ``torchvision.datasets`` can download.

    Args:
        root: the ``root`` of ``torchvision.datasets``.
        split: ``"train"`` or ``"test"``.
        download: download missing files to ``root``.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``.
    """

    _torchvision_name: str

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Literal["train", "test"] = "train",
        download: bool = False,
        batch_transforms: Sequence[Mapping[str, Any] | Callable[[Tensor], Tensor]] = (),
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        indices: int | Sequence[int] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', not {split!r}")
        self.root = Path(root)
        self.split = split
        self.download = download
        super().__init__(batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init)

    def read_by_torchvision(self) -> Any:
        """Return torchvision's dataset. In distributed runs the main process downloads while the others wait.

        Raises:
            RuntimeError: the files are missing or corrupt, or the download failed; a note contains the remedy.
        """
        from torchvision import datasets

        dataset_class = getattr(datasets, self._torchvision_name)
        train = self.split == "train"
        try:
            if self.download and is_main_process():
                dataset_class(self.root, train=train, download=True)
            if self.download:
                barrier()
            return dataset_class(self.root, train=train)
        except RuntimeError as error:
            remedy = "check the connection" if self.download else "set download=True to download it"
            error.add_note(f"while loading {self._torchvision_name} from {str(self.root)!r}: {remedy}")
            raise
