"""The shipped job, with what its config says, and its images as its competitors would load them."""

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
    """Returns the first shipped training images, uint8 of shape (N, 1, 28, 28), and their labels, int64."""
    images, labels = FashionMNISTSubset(split="train").load_tensors()
    return images[:size], labels[:size]


class WholeBatches(Dataset[Any]):
    """A dataset of two tensors that hands over whole batches: what our dataset does, written by hand.

    Args:
        images: uint8 of shape (N, 1, 28, 28).
        labels: int64 of shape (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Returns a batch, half of its images flipped."""
        chosen = torch.tensor(indices)
        images = self.images[chosen]
        flipped = torch.rand(len(images)) < 0.5
        images[flipped] = images[flipped].flip(-1)
        return images, self.labels[chosen]


def through_torchvision(images: Tensor, labels: Tensor, *, augment: bool) -> Dataset[Any]:
    """Returns torchvision's FashionMNIST of these images: each becomes a PIL image, then a float tensor.

    Args:
        images: uint8 of shape (N, 1, 28, 28).
        labels: int64 of shape (N,).
        augment: flip half of the images and normalise all, as the shipped job does; else ``ToTensor`` alone.
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
    """A network and the normalisation before it; float images are taken as normalised.

    Args:
        network: takes float images of shape (N, 1, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images of shape (N, 1, H, W), uint8 or normalised."""
        if images.dtype == torch.uint8:
            images = (images.float() - MEAN) / STD
        logits: Tensor = self.network(images)
        return logits
