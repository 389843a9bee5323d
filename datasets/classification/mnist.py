"""MNIST, Fashion-MNIST, and a subset of Fashion-MNIST that ships with this package."""

import gzip
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainwright.datasets.classification.torchvision_files import TorchvisionDataset
from trainwright.engine.errors import MissingFileError
from trainwright.engine.registry import DATASETS

_FILE_PREFIX = {"train": "train", "test": "t10k"}
_IDX_UINT8 = 0x08


@DATASETS.register_module()
class MNIST(TorchvisionDataset):
    """Handwritten digits: 60,000 training and 10,000 test images, 28×28, grayscale (LeCun et al. 1998).

    Inputs are uint8 of shape (1, 28, 28), labels 0 to 9.

    Args:
        root: folder with the four IDX files (``train-images-idx3-ubyte.gz``, ..., compressed or not), or the ``root``
            of ``torchvision.datasets``.
        split: ``"train"`` or ``"test"``.
        download: download missing files to ``root`` with torchvision.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``, or a file is corrupt.
        RuntimeError: the files are not in ``root`` and ``download`` is False.
    """

    METAINFO: Mapping[str, Any] = {"classes": tuple("0123456789"), "image_shape": (1, 28, 28)}
    _torchvision_name = "MNIST"

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the images (N, 1, 28, 28), uint8, and the labels (N,), int64."""
        if files := _idx_files(self.root, self.split):
            images, labels = read_idx(files[0], ndim=3), read_idx(files[1], ndim=1)
        else:
            found = self.read_by_torchvision()
            images, labels = found.data, found.targets
        return images.unsqueeze(1), labels.long()


@DATASETS.register_module()
class FashionMNIST(MNIST):
    """Articles of clothing: 60,000 training and 10,000 test images, 28×28, grayscale (Xiao, Rasul & Vollgraf 2017).

    Inputs are uint8 of shape (1, 28, 28), labels 0 to 9. The arguments are those of :class:`MNIST`.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        "image_shape": (1, 28, 28),
    }
    _torchvision_name = "FashionMNIST"


@DATASETS.register_module()
class FashionMNISTSubset(FashionMNIST):
    """A sixth of Fashion-MNIST that ships with this package: 1,000 training and 200 test images per class.

    Args:
        split: ``"train"`` (10,000 images) or ``"test"`` (2,000 images).
        root: folder with the four files; the one in this package if None.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``, or a file is corrupt.
        FileNotFoundError: ``root`` does not contain the files.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        root: str | os.PathLike[str] | None = None,
        batch_transforms: Sequence[Mapping[str, Any] | Callable[[Tensor], Tensor]] = (),
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        indices: int | Sequence[int] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        root = Path(__file__).parents[1] / "data" / "fashion_mnist_subset" if root is None else Path(root)
        super().__init__(root, split, False, batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init)

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the images (N, 1, 28, 28), uint8, and the labels (N,), int64."""
        if not _idx_files(self.root, self.split):
            raise MissingFileError(f"{self.root} does not contain the IDX files of the split {self.split!r}")
        return super().load_tensors()


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read a file in LeCun's IDX format, gzip-compressed if its suffix is ``.gz``.

    Args:
        path: path of the file.
        ndim: expected number of dimensions of its array.

    Returns:
        the array, uint8.

    Raises:
        ValueError: the file is corrupt, truncated, or does not contain ``ndim`` dimensions of uint8.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt or truncated ({error}): download it again") from error
    expected_magic = bytes([0, 0, _IDX_UINT8, ndim])
    header_size = 4 + 4 * ndim
    if content[:4] != expected_magic or len(content) < header_size:
        raise ValueError(
            f"{path} is not an IDX file with {ndim} dimensions of uint8 (its first bytes are {content[:4].hex()!r})"
        )
    shape = np.frombuffer(content, dtype=">i4", count=ndim, offset=4).tolist()
    values = np.frombuffer(content, dtype=np.uint8, offset=header_size)
    if values.size != math.prod(shape):
        raise ValueError(f"{path} is truncated or too long: expected {math.prod(shape)} values, got {values.size}")
    return torch.from_numpy(values.reshape(shape).copy())


def _idx_files(root: Path, split: str) -> list[Path]:
    """Return the image file and the label file of a split, or an empty list if there are no images."""
    files = [_find_file(root / f"{_FILE_PREFIX[split]}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")]
    if files[0] is None:
        return []
    if files[1] is None:
        raise ValueError(
            f"the labels of {files[0]} are missing: {_FILE_PREFIX[split]}-labels-idx1-ubyte.gz not found next to it"
        )
    return [file for file in files if file is not None]


def _find_file(path: Path) -> Path | None:
    compressed = path.with_name(path.name + ".gz")
    return next((file for file in (compressed, path) if file.is_file()), None)
