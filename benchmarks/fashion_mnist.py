"""The job from the shipped config, and its images as other training loops would load them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.datasets import FashionMNISTSubset
from trainwright.engine import Config

CONFIG_FILE = Path(__file__).parents[1] / "configs" / "classification" / "lenet_fashion_mnist.py"
CONFIG = Config.fromfile(CONFIG_FILE)
BATCH_SIZE: int = CONFIG.train_dataloader.batch_size
(MEAN,), (STD,) = CONFIG.data_preprocessor.mean, CONFIG.data_preprocessor.std
NUM_IMAGES = 10_000
STEPS = -(-NUM_IMAGES // BATCH_SIZE)


def read_images(size: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """Return the first ``size`` shipped training images, uint8 of shape (N, 1, 28, 28), and their labels, int64."""
    images, labels = FashionMNISTSubset(split="train").load_tensors()
    return images[:size], labels[:size]


class WholeBatches(Dataset[Any]):
    """A hand-written dataset of two tensors that returns whole batches, like Trainwright's dataset.

    Args:
        images: uint8 of shape (N, 1, 28, 28).
        labels: int64 of shape (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch, with each image flipped with probability 0.5."""
        chosen = torch.tensor(indices)
        images = self.images[chosen]
        flipped = torch.rand(len(images)) < 0.5
        images[flipped] = images[flipped].flip(-1)
        return images, self.labels[chosen]


def through_torchvision(images: Tensor, labels: Tensor, *, augment: bool) -> Dataset[Any]:
    """Return torchvision's FashionMNIST with these images, which converts each to a PIL image, then to a tensor.

    Args:
        images: uint8 of shape (N, 1, 28, 28).
        labels: int64 of shape (N,).
        augment: also flip images with probability 0.5 and normalize them, like the shipped job.
    """
    from torchvision import datasets, transforms

    class Shipped(datasets.FashionMNIST):
        def __init__(self, transform: Any) -> None:
            datasets.VisionDataset.__init__(self, root="", transform=transform)
            self.data, self.targets = images.squeeze(1), labels

    steps: list[Any] = [transforms.ToTensor()]
    if augment:
        normalize = transforms.Normalize([MEAN / 255], [STD / 255])
        steps = [transforms.RandomHorizontalFlip(), *steps, normalize]
    return Shipped(transforms.Compose(steps))


class NormalizedImages(nn.Module):
    """A network that normalizes uint8 images first; float images must be normalized already.

    Args:
        network: a module for float images of shape (N, 1, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images of shape (N, 1, H, W), uint8 or normalized floats."""
        if images.dtype == torch.uint8:
            images = (images.float() - MEAN) / STD
        logits: Tensor = self.network(images)
        return logits
