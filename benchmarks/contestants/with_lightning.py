"""Lightning's Trainer with its default callbacks, without progress bar, logging to a file."""

from pathlib import Path
from typing import Any

import lightning
from jobs import Job
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn


class _Module(lightning.LightningModule):
    def __init__(self, job: Job, network: nn.Module) -> None:
        super().__init__()
        self.job = job
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = self.job.loss(self.network(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.job.build_optimizer(self.network)
        scheduler = self.job.build_scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Train for one epoch. Lightning saves a checkpoint at the end."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        default_root_dir=folder,
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Module(job, network), job.build_loader())
