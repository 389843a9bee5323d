"""A bare PyTorch loop."""

from pathlib import Path

import torch
from jobs import Job
from torch import nn


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Trains for one epoch and saves the model and the optimizer."""
    loader = job.loader()
    optimizer = job.build_optimizer(network)
    scheduler = job.build_scheduler(optimizer)
    network.train()
    for inputs, targets in loader:
        loss = nn.functional.cross_entropy(network(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "epoch_1.pth")
