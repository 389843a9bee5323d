"""MNIST, Fashion-MNIST, and the part of it that ships with this package."""

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
from trainwright.engine.registry import DATASETS

_FILE_PREFIX = {"train": "train", "test": "t10k"}
_IDX_UINT8 = 0x08


@DATASETS.register_module()
class MNIST(TorchvisionDataset):
    """Handwritten digits: 60,000 + 10,000 gray images of 28×28 (LeCun et al. 1998).

    Inputs are uint8 of shape (1, 28, 28), labels 0 to 9.

    Args:
        root: folder with the four IDX files (``train-images-idx3-ubyte.gz``, ..., packed or not), or one
            where ``torchvision.datasets`` keeps its files.
        split: ``"train"`` or ``"test"``.
        download: let torchvision download the files into ``root`` if they are not there.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``, or a damaged file.
        RuntimeError: the files are not in ``root``, and not to be downloaded.
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
    """Articles of clothing: 60,000 + 10,000 gray images of 28×28 (Xiao, Rasul & Vollgraf 2017).

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
    """A sixth of Fashion-MNIST, shipped with this package: of each class 1,000 training and 200 test images.

    Args:
        split: ``"train"`` (10,000 images) or ``"test"`` (2,000 images).
        root: folder with the four files; the one in this package if None.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.
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
            raise FileNotFoundError(f"{self.root} holds no images of the split {self.split!r}")
        return super().load_tensors()


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read a file in the IDX format (LeCun's), packed by gzip or not.

    Args:
        path: the file.
        ndim: how many dimensions its array must have.

    Returns:
        the array, uint8.

    Raises:
        ValueError: the file is damaged, cut short, or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): fetch it again") from error
    expected_magic = bytes([0, 0, _IDX_UINT8, ndim])
    header_size = 4 + 4 * ndim
    if content[:4] != expected_magic or len(content) < header_size:
        raise ValueError(f"{path} is no IDX file of {ndim} dimensions of uint8 (it begins with {content[:4].hex()!r})")
    shape = np.frombuffer(content, dtype=">i4", count=ndim, offset=4).tolist()
    values = np.frombuffer(content, dtype=np.uint8, offset=header_size)
    if values.size != math.prod(shape):
        raise ValueError(f"{path} is cut short or too long: {values.size} values instead of {math.prod(shape)}")
    return torch.from_numpy(values.reshape(shape).copy())


def _idx_files(root: Path, split: str) -> list[Path]:
    """Return the files of the images and of the labels in a folder, or nothing if it has no images."""
    files = [_packed_or_not(root / f"{_FILE_PREFIX[split]}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")]
    if files[0] is None:
        return []
    if files[1] is None:
        raise ValueError(f"{files[0]} has no labels beside it ({_FILE_PREFIX[split]}-labels-idx1-ubyte.gz)")
    return [file for file in files if file is not None]


def _packed_or_not(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return next((file for file in (packed, path) if file.is_file()), None)
