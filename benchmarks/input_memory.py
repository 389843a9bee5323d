"""Pipelines for data in memory: Fashion-MNIST, as in the shipped config and with torchvision's dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fashion_mnist
from torch.utils.data import DataLoader

from trainwright.engine import MODELS, build_dataloader


def contestants(folder: Path) -> dict[str, Callable[[], int]]:
    """Return functions that read all images once, in batches, and return their number, by name."""
    images, labels = fashion_mnist.read_images()

    def torchvision_loader(augment: bool) -> DataLoader[Any]:
        dataset = fashion_mnist.through_torchvision(images, labels, augment=augment)
        return DataLoader(dataset, batch_size=fashion_mnist.BATCH_SIZE, shuffle=True)

    cfg = fashion_mnist.CONFIG
    ours = build_dataloader(cfg.train_dataloader, seed=0, training=True)
    preprocessor = MODELS.build(cfg.data_preprocessor)
    plain, augmented = torchvision_loader(augment=False), torchvision_loader(augment=True)
    return {
        "torchvision: PIL, ToTensor": lambda: sum(len(batch[1]) for batch in plain),
        "torchvision: PIL, flip, ToTensor, Normalize": lambda: sum(len(batch[1]) for batch in augmented),
        "ours: flip": lambda: sum(len(batch["inputs"]) for batch in ours),
        "ours: flip, normalized by the preprocessor": lambda: sum(
            len(preprocessor(batch, True)["inputs"]) for batch in ours
        ),
    }
