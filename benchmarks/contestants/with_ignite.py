"""Ignite's supervised trainer, logging the loss every ten iterations."""

import logging
from pathlib import Path

from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.metrics import RunningAverage
from jobs import Job
from torch import nn


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Train for one epoch, then save the model and the optimizer."""
    optimizer = job.build_optimizer(network)
    scheduler = job.build_scheduler(optimizer)
    trainer = create_supervised_trainer(network, optimizer, job.loss)
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    logger = logging.Logger("ignite")
    logger.addHandler(logging.FileHandler(folder / "train.log"))

    @trainer.on(Events.ITERATION_COMPLETED(every=10))
    def log(engine: Engine) -> None:
        logger.info("iteration %d: loss %.4f", engine.state.iteration, engine.state.metrics["loss"])

    if scheduler is not None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    saver = Checkpoint({"model": network, "optimizer": optimizer}, DiskSaver(folder, require_empty=False), n_saved=1)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
    trainer.run(job.build_loader(), max_epochs=1)
