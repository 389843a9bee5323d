"""MMEngine's Runner with all its default hooks."""

from pathlib import Path

from jobs import Job
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn


class _Model(BaseModel):
    def __init__(self, job: Job, network: nn.Module) -> None:
        super().__init__()
        self.job = job
        self.network = network

    def forward(self, inputs: Tensor, targets: Tensor, mode: str) -> dict[str, Tensor]:
        assert mode == "loss"
        return {"loss": self.job.loss(self.network(inputs), targets)}


def train(job: Job, network: nn.Module, folder: Path) -> None:
    """Train for one epoch. MMEngine saves a checkpoint at the end."""
    schedulers = []
    if job.one_cycle is not None:
        cycle = job.one_cycle
        schedulers = [
            {
                "type": "OneCycleLR",
                "eta_max": cycle["max_lr"],
                "total_steps": cycle["total_steps"],
                "by_epoch": False,
            }
        ]
    Runner(
        model=_Model(job, network),
        work_dir=str(folder),
        train_dataloader=job.build_loader(),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper=OptimWrapper(optimizer=job.build_optimizer(network)),
        param_scheduler=schedulers,
        randomness={"seed": 0},
        experiment_name=folder.name,  # MMEngine keeps a global record of each name
    ).train()
