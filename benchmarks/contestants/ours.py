"""Trainwright, with all its default hooks."""

from pathlib import Path
from typing import Any

import fashion_mnist
from jobs import Job
from torch import nn

from trainwright.engine import Config, Runner


def train_same(job: Job, network: nn.Module, folder: Path) -> None:
    """Train with exactly the optimizer of the bare loop."""
    build_runner(job, network, folder, {**job.optimizer, "fused": False}).train()


def train_shipped(job: Job, network: nn.Module, folder: Path) -> None:
    """Train with the default implementation of the optimizer: Adam is fused, SGD is not."""
    build_runner(job, network, folder, job.optimizer).train()


def build_runner(job: Job, network: nn.Module, folder: Path, optimizer: dict[str, Any]) -> Runner:
    """Build a runner for one epoch of a job. For the shipped job, it is built from the config alone."""
    if job.from_dataset:
        return _build_shipped_runner(job, folder, optimizer)
    return Runner(
        model=network,
        work_dir=str(folder),
        train_dataloader=job.build_loader() if job.own_loader else _loader_config(job),
        train_cfg={"by_epoch": False, "max_iters": job.steps}
        if job.own_loader
        else {"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": optimizer},
        randomness={"seed": 0},
    )


def _loader_config(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.build_dataset(job.size),
        "batch_size": job.batch_size,
        "collate_fn": {"type": "default_collate"},
    }


def _build_shipped_runner(job: Job, folder: Path, optimizer: dict[str, Any]) -> Runner:
    cfg = Config.fromfile(fashion_mnist.CONFIG_FILE)
    for mode in ("val", "test"):
        for part in ("dataloader", "cfg", "evaluator"):
            del cfg[f"{mode}_{part}"]
    cfg.work_dir = str(folder)
    cfg.train_cfg = {"by_epoch": True, "max_epochs": 1}
    cfg.default_hooks = {"logger": cfg.default_hooks.logger, "checkpoint": {"interval": 1}}
    cfg.optim_wrapper.optimizer = optimizer
    if job.size < fashion_mnist.NUM_IMAGES:
        cfg.train_dataloader.dataset.indices = job.size
    return Runner.from_cfg(cfg)
