"""The training jobs, identical for all contestants."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import fashion_mnist
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trainwright.engine import MODELS


class Clocked(nn.Module):
    """A wrapper that records the start time of each forward pass, so that all contestants are timed alike.

    Args:
        network: a module that maps a batch of inputs to logits.
        clock: a function that returns the time in seconds.
    """

    def __init__(self, network: nn.Module, clock: Callable[[], float]) -> None:
        super().__init__()
        self.network = network
        self._clock = clock
        self.begins: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        self.begins.append(self._clock())
        logits: Tensor = self.network(inputs)
        return logits

    def seconds_per_step(self, warm_up: int) -> float:
        """Return the mean time between forward passes, without the first ``warm_up`` steps."""
        return (self.begins[-1] - self.begins[warm_up]) / (len(self.begins) - 1 - warm_up)


@dataclass(frozen=True)
class Job:
    """A training of one epoch.

    Args:
        name: its name on the command line.
        title: a description for the printed report.
        steps: training steps per epoch. Many short rounds are more robust than a few long ones if the speed of the
            machine drifts.
        rounds: the default number of measured rounds.
        batch_size: samples per step.
        build_network: builds a network that maps inputs to logits.
        build_dataset: builds a dataset of inputs and labels with the given number of samples.
        optimizer: config of the optimizer: ``type``, the name of a class in ``torch.optim``, and its arguments.
        label_smoothing: label smoothing of the cross entropy loss.
        from_dataset: measure the whole epoch, from reading the data to the final checkpoint, instead of only the
            steps.
        one_cycle: arguments of a ``OneCycleLR`` that is stepped after each iteration, if any.
        own_loader: pass the data loader of the bare loop as an object, and train by iterations.
    """

    name: str
    title: str
    steps: int
    rounds: int
    batch_size: int
    build_network: Callable[[], nn.Module]
    build_dataset: Callable[[int], Dataset[Any]]
    optimizer: dict[str, Any]
    label_smoothing: float = 0.0
    from_dataset: bool = False
    one_cycle: dict[str, Any] | None = None
    own_loader: bool = False

    @property
    def warm_up(self) -> int:
        """Number of initial steps that are not measured."""
        return self.steps // 10

    @property
    def size(self) -> int:
        """Number of samples per epoch."""
        return self.steps * self.batch_size

    def build_loader(self) -> DataLoader[Any]:
        """Build the data loader of a bare loop, shuffled and without workers."""
        dataset = self.build_dataset(self.size)
        whole_batches = {"collate_fn": _unchanged} if hasattr(dataset, "__getitems__") else {}
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=True, **whole_batches)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def build_optimizer(self, network: nn.Module) -> Optimizer:
        """Build the optimizer of a bare loop with PyTorch's defaults; on a CPU it is not fused."""
        settings = {key: value for key, value in self.optimizer.items() if key != "type"}
        optimizer: Optimizer = getattr(torch.optim, self.optimizer["type"])(network.parameters(), **settings)
        return optimizer

    def build_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Build the scheduler that is stepped after each iteration, if the job has one."""
        return None if self.one_cycle is None else OneCycleLR(optimizer, **self.one_cycle)


def _mlp() -> Job:
    return Job(
        name="mlp",
        title="2-layer MLP, batch 8, Adam, steps only",
        steps=600,
        rounds=21,
        batch_size=8,
        build_network=lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)),
        build_dataset=lambda size: TensorDataset(torch.randn(size, 32), torch.randint(10, (size,))),
        optimizer={"type": "Adam", "lr": 1e-3},
    )


def _mlp_sgd() -> Job:
    optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9}
    return replace(_mlp(), name="mlp_sgd", title="2-layer MLP, batch 8, SGD, steps only", optimizer=optimizer)


def _own_loader() -> Job:
    return replace(
        _mlp(), name="own_loader", title="2-layer MLP, Adam, a DataLoader object, steps only", own_loader=True
    )


def _own_loader_sgd() -> Job:
    title = "2-layer MLP, SGD, a DataLoader object, steps only"
    return replace(_mlp_sgd(), name="own_loader_sgd", title=title, own_loader=True)


def _resnet18() -> Job:
    return Job(
        name="resnet18",
        title="ResNet-18 on 32x32 images, batch 4, SGD, steps only",
        steps=20,
        rounds=5,
        batch_size=4,
        build_network=_small_resnet18,
        build_dataset=lambda size: TensorDataset(torch.randn(size, 3, 32, 32), torch.randint(10, (size,))),
        optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    )


def _fashion_mnist() -> Job:
    cfg = fashion_mnist.CONFIG
    cycle = cfg.param_scheduler
    return Job(
        name="fashion_mnist",
        title="the shipped lenet_fashion_mnist, from reading the data to the checkpoint after one epoch",
        steps=fashion_mnist.STEPS,
        rounds=5,
        batch_size=fashion_mnist.BATCH_SIZE,
        build_network=lambda: fashion_mnist.NormalizedImages(MODELS.build(cfg.model.backbone)),
        build_dataset=lambda size: fashion_mnist.WholeBatches(*fashion_mnist.read_images(size)),
        optimizer=cfg.optim_wrapper.optimizer.to_dict(),
        label_smoothing=cfg.model.loss.label_smoothing,
        from_dataset=True,
        one_cycle={"max_lr": cycle.eta_max, "total_steps": cycle.total_steps * fashion_mnist.STEPS},
    )


JOBS: dict[str, Callable[[], Job]] = {
    "mlp": _mlp,
    "mlp_sgd": _mlp_sgd,
    "own_loader": _own_loader,
    "own_loader_sgd": _own_loader_sgd,
    "resnet18": _resnet18,
    "fashion_mnist": _fashion_mnist,
}


def build_job(name: str, steps: int | None = None) -> Job:
    """Build a job.

    Args:
        name: a key of :data:`JOBS`.
        steps: overrides the number of steps; ``fashion_mnist`` uses at most the steps of an epoch.
    """
    job = JOBS[name]()
    if steps is None:
        return job
    return replace(job, steps=min(steps, job.steps) if job.from_dataset else steps)


def _small_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _unchanged(batch: Any) -> Any:
    return batch
