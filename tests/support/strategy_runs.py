"""Tiny runs under every strategy, in forked processes."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from forked import Process
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.engine.run.runner import Runner
from trainwright.models.base import BaseModel

WIDTH, CLASSES, SAMPLES, GLOBAL_BATCH = 16, 5, 48, 8


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random inputs with random labels."""

    metainfo = ()

    def __init__(self, length: int = SAMPLES) -> None:
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(length, WIDTH, generator=generator)
        self.labels = torch.randint(0, CLASSES, (length,), generator=generator)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.fc2(nn.functional.gelu(self.fc1(self.norm(inputs))))  # type: ignore[no-any-return]


class Net(BaseModel):
    """Residual blocks and a head whose size no number of processes divides."""

    def __init__(self, freeze: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, CLASSES)
        if freeze:
            self.stem.requires_grad_(False)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        scores = self.head(self.blocks(self.stem(inputs)))
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(scores, data_samples)}
        if mode == "predict":
            return {"pred_score": scores.softmax(1), "gt_label": data_samples}
        return scores


def config(folder: Path, strategy: Any = "auto", share: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the config of a run of two epochs.

    Args:
        folder: the folder of the run.
        strategy: the strategy.
        share: the number of processes that share a batch.
        **changes: top-level keys; dicts are merged.
    """
    loader = {"batch_size": GLOBAL_BATCH // share, "collate_fn": {"type": "default_collate"}}
    cfg: dict[str, Any] = {
        "model": {"type": Net},
        "work_dir": str(folder),
        "train_dataloader": {"dataset": Samples(), **loader},
        "train_cfg": {"max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "randomness": {"seed": 3},
        "strategy": strategy,
        "log_level": "WARNING",
    }
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) and isinstance(cfg.get(key), dict) else value
    return cfg


def run_ranks(world_size: int, action: Callable[[], Any], folder: Path, timeout: float = 60) -> list[Any]:
    """Call a function in several processes with the environment of a launcher, and return the results by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def of_rank(rank: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(1)
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
            torch.save(action(), folder / f"result_{rank}.pt")

        return run

    processes = [Process(of_rank(rank), folder / f"out_{rank}.txt") for rank in range(world_size)]
    try:
        statuses = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            if process._status is None:
                process.kill()
    outputs = "\n".join(f"rank {rank}:\n{process.printed}" for rank, process in enumerate(processes))
    assert statuses == [0] * world_size, outputs
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world_size)]


def train(cfg: dict[str, Any]) -> dict[str, Any]:
    """Train in this process as one of several, if the environment says so, and return facts about the run."""
    launcher = "pytorch" if "RANK" in os.environ else "none"
    runner = Runner.from_cfg({**cfg, "launcher": launcher, "env_cfg": {"dist_cfg": {"timeout": 50}}})
    runner.train()
    return {"iter": runner.iter, "strategy": type(runner.strategy).__name__}


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the contents of the newest checkpoint in a folder."""
    name = (folder / "last_checkpoint").read_text().strip()
    return torch.load(folder / Path(name).name, weights_only=True)  # type: ignore[no-any-return]


def train_in(
    folder: Path, strategy: Any, world_size: int, data_size: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Train in forked processes and return the newest checkpoint."""
    cfg = config(folder, strategy, data_size or world_size, **changes)
    run_ranks(world_size, lambda: train(cfg), folder / "ranks") if world_size > 1 else train(cfg)
    return last_checkpoint(folder)


def difference(one: dict[str, Any], other: dict[str, Any], names: Sequence[str] = ("state_dict",)) -> float:
    """Return the largest absolute difference of the weights in two checkpoints."""
    pairs = [(one[name][key], other[name][key]) for name in names for key in one[name]]
    assert all(one[name].keys() == other[name].keys() for name in names)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())
