"""A training loop with Hugging Face Accelerate."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from jobs import Job
from torch import nn


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Train for one epoch, then save the model and the optimizer."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()  # these singletons outlive an Accelerator
    accelerator = Accelerator(cpu=True)
    optimizer = job.build_optimizer(network)
    scheduler = job.build_scheduler(optimizer)
    network, optimizer, loader = accelerator.prepare(network, optimizer, job.build_loader())
    network.train()
    for inputs, targets in loader:
        loss = job.loss(network(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "epoch_1.pth")
