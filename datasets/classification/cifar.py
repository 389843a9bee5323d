"""CIFAR-10 and CIFAR-100."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainwright.datasets.classification.torchvision_files import TorchvisionDataset
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class CIFAR10(TorchvisionDataset):
    """Tiny photographs: 50,000 + 10,000 RGB images of 32×32 in 10 classes (Krizhevsky 2009).

    Inputs are uint8 of shape (3, 32, 32), labels 0 to 9.

    Args:
        root: folder where ``torchvision.datasets`` keeps the files.
        split: ``"train"`` or ``"test"``.
        download: let torchvision download the files into ``root`` if they are not there.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``.
        RuntimeError: the files are not in ``root`` and not to be downloaded, or are damaged.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "image_shape": (3, 32, 32),
    }
    _torchvision_name = "CIFAR10"

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the images (N, 3, 32, 32), uint8, and the labels (N,), int64."""
        found = self.read_by_torchvision()
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        self._metainfo.setdefault("classes", tuple(found.classes))
        return images, torch.tensor(found.targets, dtype=torch.int64)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """Tiny photographs: 50,000 + 10,000 RGB images of 32×32 in 100 classes (Krizhevsky 2009).

    Labels are 0 to 99; the names of the classes come from the files. The arguments are those of
    :class:`CIFAR10`.
    """

    METAINFO: Mapping[str, Any] = {"image_shape": (3, 32, 32)}
    _torchvision_name = "CIFAR100"
