"""The epoch of samplers is set, also in custom data loaders, with and without DistSamplerSeedHook."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points
from torch.utils.data import BatchSampler, DataLoader, Sampler

from trainwright.engine.run.runner import Runner


class EpochSampler(Sampler[int]):
    """A sampler that yields all indices and records the epochs that are set."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        return iter(range(8))

    def __len__(self) -> int:
        return 8


@pytest.mark.parametrize("hook", [{"type": "DistSamplerSeedHook"}, None], ids=["hook", "no hook"])
@pytest.mark.parametrize("in_batch_sampler", [False, True])
def test_the_sampler_knows_the_epoch(tmp_path: Path, in_batch_sampler: bool, hook: Any) -> None:
    sampler = EpochSampler()
    if in_batch_sampler:
        loader = DataLoader(Points(), batch_sampler=BatchSampler(sampler, 4, False))
    else:
        loader = DataLoader(Points(), sampler=sampler, batch_size=4)
    model = Line()
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg={"max_epochs": 3},
        optim_wrapper=torch.optim.SGD(model.parameters(), lr=0.1),
        default_hooks={"checkpoint": None, "sampler_seed": hook},
    )
    runner.train()
    assert sorted(set(sampler.epochs)) == [0, 1, 2]
    assert sampler.epochs == sorted(sampler.epochs)


def test_every_epoch_is_shuffled_differently(tmp_path: Path) -> None:
    model = Line()
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        train_cfg={"max_epochs": 3},
        randomness={"seed": 0},
        train_dataloader={"dataset": Points(), "batch_size": 8, "collate_fn": {"type": "default_collate"}},
        optim_wrapper=torch.optim.SGD(model.parameters(), lr=0.1),
        default_hooks={"checkpoint": None},
    )
    runner.train()
    first, second, third = (tuple(targets.tolist()) for targets in model.seen)
    assert len({first, second, third}) == 3
    assert sorted(first) == sorted(second) == sorted(third)
