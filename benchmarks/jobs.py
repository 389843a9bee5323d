"""What is trained, the same for every contestant."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLOCKS = {"wall": perf_counter, "cpu": process_time}
FASHION_BATCH_SIZE = 64
FASHION_MEAN, FASHION_STD = 72.9, 90.0
Batch = tuple[Tensor, Tensor]


class Clocked(nn.Module):
    """A network that notes when each of its forward passes begins: the same clock for every contestant.

    Args:
        network: takes a batch of inputs and returns logits.
        clock: returns seconds.
    """

    def __init__(self, network: nn.Module, clock: Callable[[], float]) -> None:
        super().__init__()
        self.network = network
        self._clock = clock
        self.begins: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the logits."""
        self.begins.append(self._clock())
        logits: Tensor = self.network(inputs)
        return logits

    def seconds_per_step(self, warm_up: int) -> float:
        """Returns the mean time from one forward pass to the next, without the first ``warm_up`` steps."""
        return (self.begins[-1] - self.begins[warm_up]) / (len(self.begins) - 1 - warm_up)


class NormalizedImages(nn.Module):
    """Normalises grey uint8 images before the network; float images are taken as normalised.

    Args:
        network: takes float images.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of uint8 images of shape (N, 1, H, W)."""
        if images.dtype == torch.uint8:
            images = (images.float() - FASHION_MEAN) / FASHION_STD
        logits: Tensor = self.network(images)
        return logits


class WholeBatches(Dataset[Any]):
    """The shipped images and labels as two tensors; a batch is one indexing operation, flipped at random.

    Args:
        images: uint8 of shape (N, 1, 28, 28).
        labels: int64 of shape (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        images = self.images[chosen]
        flipped = torch.rand(len(images)) < 0.5
        images[flipped] = images[flipped].flip(-1)
        return images, self.labels[chosen]


@dataclass(frozen=True)
class Job:
    """One thing to train for one epoch.

    Args:
        name: as on the command line.
        title: what it is, for people.
        steps: training steps in its epoch.
        batch_size: samples in a step.
        build_network: makes a network that takes inputs and returns logits.
        build_dataset: makes a dataset of ``(inputs, label)`` samples; its argument is their number.
        optimizer: arguments of our optimizer, of which ``type`` names a class of ``torch.optim``.
        from_dataset: the whole epoch is measured, from reading the data to the checkpoint at its end.
        one_cycle: arguments of a one-cycle learning rate, by iteration; none if empty.
    """

    name: str
    title: str
    steps: int
    batch_size: int
    build_network: Callable[[], nn.Module]
    build_dataset: Callable[[int], Dataset[Any]]
    optimizer: dict[str, Any]
    from_dataset: bool = False
    one_cycle: dict[str, Any] | None = None

    @property
    def warm_up(self) -> int:
        """Steps that do not count."""
        return self.steps // 10

    def dataset(self) -> Dataset[Any]:
        """Returns the data of one epoch."""
        return self.build_dataset(self.steps * self.batch_size)

    def loader(self) -> DataLoader[Any]:
        """Returns the loader that a bare loop has: shuffled, in this process."""
        dataset = self.dataset()
        whole = {"collate_fn": _unchanged} if hasattr(dataset, "__getitems__") else {}
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=True, **whole)

    def build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of a bare loop: PyTorch's own defaults, which on a CPU are not fused."""
        settings = {key: value for key, value in self.optimizer.items() if key != "type"}
        optimizer: torch.optim.Optimizer = getattr(torch.optim, self.optimizer["type"])(
            network.parameters(), **settings
        )
        return optimizer

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Returns the schedule that is stepped after each iteration, if the job has one."""
        if self.one_cycle is None:
            return None
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, **self.one_cycle)


def mlp() -> Job:
    """A network so small that almost all of a step is what surrounds it."""
    return Job(
        name="mlp",
        title="2-layer MLP, batch 8",
        steps=2000,
        batch_size=8,
        build_network=lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)),
        build_dataset=lambda size: TensorDataset(torch.randn(size, 32), torch.randint(10, (size,))),
        optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9},
    )


def resnet18() -> Job:
    """A network of ordinary cost."""
    return Job(
        name="resnet18",
        title="ResNet-18 on 32x32 images, batch 4",
        steps=40,
        batch_size=4,
        build_network=_small_resnet18,
        build_dataset=lambda size: TensorDataset(torch.randn(size, 3, 32, 32), torch.randint(10, (size,))),
        optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    )


def fashion_mnist() -> Job:
    """The shipped job ``configs/classification/lenet_fashion_mnist``, for one of its epochs."""
    epoch_length = -(-10_000 // FASHION_BATCH_SIZE)
    return Job(
        name="fashion_mnist",
        title="LeNet on Fashion-MNIST, from dataset to epoch end",
        steps=epoch_length,
        batch_size=FASHION_BATCH_SIZE,
        build_network=_normalized_lenet,
        build_dataset=lambda size: WholeBatches(*fashion_mnist_tensors(size)),
        optimizer={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05},
        from_dataset=True,
        one_cycle={"max_lr": 4e-3, "total_steps": 8 * epoch_length},
    )


def fashion_mnist_tensors(size: int) -> Batch:
    """Returns the first shipped training images (N, 1, 28, 28), uint8, and their labels, int64."""
    from trainwright.datasets import FashionMNISTSubset

    return FashionMNISTSubset(split="train", indices=min(size, 10_000)).load_tensors()


JOBS: dict[str, Callable[[], Job]] = {"mlp": mlp, "resnet18": resnet18, "fashion_mnist": fashion_mnist}


def build_job(name: str, steps: int | None) -> Job:
    """Returns a job.

    Args:
        name: a key of :data:`JOBS`.
        steps: other than its own number of steps; ``fashion_mnist`` has at most one epoch of them.
    """
    job = JOBS[name]()
    if steps is None:
        return job
    return replace(job, steps=min(steps, job.steps) if job.from_dataset else steps)


def _small_resnet18() -> nn.Module:
    from torchvision.models import resnet18 as torchvision_resnet18

    network = torchvision_resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _normalized_lenet() -> nn.Module:
    from trainwright.models import LeNet

    return NormalizedImages(LeNet(num_classes=10))


def _unchanged(batch: Batch) -> Batch:
    return batch
