"""CIFAR-10 and CIFAR-100."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainwright.datasets.classification.torchvision_files import TorchvisionDataset
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class CIFAR10(TorchvisionDataset):
    """Tiny photographs: 50,000 training and 10,000 test images, 32×32, RGB, in 10 classes (Krizhevsky 2009).

    Inputs are uint8 of shape (3, 32, 32), labels 0 to 9.

    Args:
        root: the ``root`` of ``torchvision.datasets``.
        split: ``"train"`` or ``"test"``.
        download: download missing files to ``root`` with torchvision.
        batch_transforms, pipeline, indices, metainfo, test_mode, lazy_init: see :class:`InMemoryDataset`.

    Raises:
        ValueError: an unknown ``split``.
        RuntimeError: the files are corrupt, or they are not in ``root`` and ``download`` is False.
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
    """Tiny photographs: 50,000 training and 10,000 test images, 32×32, RGB, in 100 classes (Krizhevsky 2009).

    Inputs are uint8 of shape (3, 32, 32), labels 0 to 99; class names are read from the files. The arguments are those
    of :class:`CIFAR10`.
    """

    METAINFO: Mapping[str, Any] = {"image_shape": (3, 32, 32)}
    _torchvision_name = "CIFAR100"
