"""A bare PyTorch loop."""

from dataclasses import replace
from pathlib import Path

import fashion_mnist
import torch
from jobs import Job
from torch import nn


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Train for one epoch, then save the model and the optimizer."""
    loader = job.build_loader()
    optimizer = job.build_optimizer(network)
    scheduler = job.build_scheduler(optimizer)
    network.train()
    for inputs, targets in loader:
        loss = job.loss(network(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "epoch_1.pth")


def train_through_pil(job: Job, network: nn.Module, folder: Path) -> None:
    """Do the same with torchvision's FashionMNIST and its usual transforms."""

    def build_dataset(size: int) -> torch.utils.data.Dataset[object]:
        return fashion_mnist.through_torchvision(*fashion_mnist.read_images(size), augment=True)

    train(replace(job, build_dataset=build_dataset), network, folder)
