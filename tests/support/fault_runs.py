"""Small runs with every kind of state in a checkpoint, faults to inject into them, and a comparison of the results.

A run is ``trainwright train`` in a process forked from that of the tests: it can be killed, stopped and resumed like
any other, without spending seconds on importing PyTorch.
"""

import json
import os
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_bits import different_bits
from forked import Process
from ranks import Ranks
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.engine.checkpoints.files import LAST
from trainwright.engine.registry import DATASETS, HOOKS, MODELS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.tools.cli import main

MAX_ITERS = 18
INTERVAL = 4
TRAINING_SAMPLES = 24
NOTES = ".notes"


@MODELS.register_module()
class NoisyNet(nn.Module):
    """A classifier of 4 x 4 images that draws from all random generators during training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images = images + random.gauss(0, 0.1) + 0.1 * float(np.random.rand())
        output: Tensor = self.layers(images)
        return output


@MODELS.register_module()
class SteadyNet(NoisyNet):
    """A classifier without any state of a single rank: neither batch norms nor random numbers of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[2] = nn.LayerNorm(24)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layers(images)
        return output


@DATASETS.register_module()
class NoisyImages(Dataset[tuple[Tensor, int]]):
    """Images of three classes, 4 x 4, augmented by all three random generators.

    Args:
        length: number of images.
    """

    def __init__(self, length: int = TRAINING_SAMPLES) -> None:
        self.labels = torch.arange(length) % 3
        noise = torch.randn(length, 4, 4, generator=torch.Generator().manual_seed(1))
        self.images = noise + self.labels[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index] + 0.1 * (random.random() + float(np.random.rand()) + torch.rand(4, 4))
        return image, int(self.labels[index])

    def describe_sample(self, index: int) -> str:
        return f"images/{index:03d}.png"


@HOOKS.register_module()
class Notes(Hook):
    """Record, next to the run's folder, the first iteration of a process and the iterations that it finished."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self._file = -1

    def before_train(self, runner: Runner) -> None:
        name = f"{NOTES}.{runner.rank}" if runner.rank else NOTES
        self._file = os.open(f"{runner.work_dir}{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file, f"begin {runner.iter}\n".encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        os.write(self._file, f"done {runner.iter + 1}\n".encode())


def write_config(folder: Path, *, by_epoch: bool = True, workers: int = 0, **changes: Any) -> Path:
    """Write the config of a small run and return its path.

    The run has random augmentation, dropout, accumulation over three batches, gradient clipping, two schedulers,
    averaged weights, early stopping, and a checkpoint every four iterations, of which the newest two and the best are
    kept.

    Args:
        folder: folder of the config, which is named after it.
        by_epoch: train three epochs of six iterations, with a validation after each; otherwise 18 iterations, with a
            validation after every five.
        workers: number of data workers.
        **changes: values by dotted key, with ``__`` in place of dots.
    """
    train_cfg = {"by_epoch": True, "max_epochs": 3} if by_epoch else {"max_iters": MAX_ITERS, "val_interval": 5}
    loader = {"batch_size": 4, "num_workers": workers, "collate_fn": "default_collate"}
    config = {
        "custom_imports": {"imports": ["fault_runs"]},
        "model": {
            "type": "ImageClassifier",
            "backbone": {"type": "NoisyNet"},
            "data_preprocessor": {"type": "BaseDataPreprocessor"},
        },
        "train_dataloader": {**loader, "dataset": {"type": "NoisyImages"}},
        "train_cfg": {"by_epoch": by_epoch, **train_cfg},
        "optim_wrapper": {
            "accumulative_counts": 3,
            "clip_grad": {"max_norm": 1.0},
            "optimizer": {"type": "AdamW", "lr": 0.01},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 5},
            {"type": "CosineAnnealingLR", "T_max": MAX_ITERS, "by_epoch": False},
        ],
        "val_dataloader": {**loader, "num_workers": 0, "dataset": {"type": "NoisyImages", "length": 9}},
        "val_cfg": {"with_loss": True},
        "val_evaluator": {"type": "Accuracy"},
        "default_hooks": {
            "logger": {"interval": 3},
            "checkpoint": {
                "by_epoch": False,
                "interval": INTERVAL,
                "max_keep_ckpts": 2,
                "save_best": "loss",
                "rule": "less",
            },
        },
        "custom_hooks": [
            {"type": "Notes"},
            {"type": "EMAHook", "momentum": 0.1},
            {"type": "NanGuardHook", "interval": 5},
            {"type": "EarlyStoppingHook", "monitor": "accuracy/top1", "patience": 50},
        ],
        "randomness": {"seed": 5},
        "device": "cpu",
    }
    for name, value in changes.items():
        *keys, last = [int(key) if key.isdigit() else key for key in name.split("__")]
        inner: Any = config
        for key in keys:
            inner = inner[key]
        inner[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{folder.name}.json"
    file.write_text(json.dumps(config))
    return file


def train(
    config: Path, work_dir: Path, *arguments: str, before: Callable[[], Any] | None = None, resume: bool = False
) -> Process:
    """Start ``trainwright train`` in a separate process.

    Args:
        config: path of the config.
        work_dir: folder of the run.
        *arguments: further command line arguments.
        before: called first in the new process, to set up faults.
        resume: resume from the newest checkpoint.
    """
    action = _training(config, work_dir, arguments, before, resume)
    work_dir.mkdir(parents=True, exist_ok=True)
    number = len(list(work_dir.parent.glob(f"{work_dir.name}.out.*")))
    return Process(action, work_dir.parent / f"{work_dir.name}.out.{number}")


def train_on_ranks(
    config: Path,
    work_dir: Path,
    *arguments: str,
    world_size: int = 2,
    before: Callable[[], Any] | None = None,
    resume: bool = False,
    **environment: str,
) -> Ranks:
    """Start ``trainwright train`` like :func:`train` in several ranks, with additional environment variables."""
    action = _training(config, work_dir, ("--launcher", "pytorch", *arguments), before, resume)
    return Ranks(world_size, action, work_dir.with_name(f"{work_dir.name}.out"), **environment)


def on(rank: int, fault: Callable[[], Any]) -> Callable[[], Any]:
    """Return the preparation of a fault on one rank."""
    return lambda: fault() if os.environ["RANK"] == str(rank) else None


def _training(
    config: Path, work_dir: Path, arguments: Sequence[str], before: Callable[[], Any] | None, resume: bool
) -> Callable[[], int]:
    def action() -> int:
        if before is not None:
            before()
        return main(["train", str(config), "--work-dir", str(work_dir), *(["--resume"] if resume else []), *arguments])

    return action


def at_forward(training: bool, number: int, act: Callable[[], Any]) -> None:
    """Make this process call a function during the n-th training step, or the n-th validation batch."""
    seen = count(1)

    def watch(net: type[NoisyNet]) -> None:
        forward = net.forward

        def watched(self: NoisyNet, images: Tensor) -> Any:
            output = forward(self, images)
            changed = act() if self.training == training and next(seen) == number else None
            return output if changed is None else output * changed

        net.forward = watched  # type: ignore[method-assign]

    watch(NoisyNet)
    watch(SteadyNet)


def at_sample(index: int, act: Callable[[], Any]) -> None:
    """Make this process, or its data workers, call a function whenever a training sample is loaded."""
    get = NoisyImages.__getitem__

    def watched(self: NoisyImages, asked: int) -> tuple[Tensor, int]:
        if asked == index and len(self) == TRAINING_SAMPLES:
            act()
        return get(self, asked)

    NoisyImages.__getitem__ = watched  # type: ignore[method-assign]


def when_saved(act: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that waits for a background save, and then calls another one."""

    def wait_and_act() -> None:
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        act()

    return wait_and_act


def send(*numbers: int) -> None:
    """Send signals to this process, one after the other."""
    for number in numbers:
        os.kill(os.getpid(), number)


def lost_iterations(work_dir: Path) -> list[int]:
    """Return the number of finished iterations that were repeated, for each resume."""
    lost = []
    done = 0
    for what, number in re.findall(r"(begin|done) (\d+)", notes_of(work_dir)):
        if what == "begin":
            lost.append(done - int(number))
        done = int(number)
    return lost[1:]


def notes_of(work_dir: Path) -> str:
    """Return the records of a run: the first iteration of each process, and finished iterations."""
    file = work_dir.with_name(f"{work_dir.name}{NOTES}")
    return file.read_text() if file.exists() else ""


def files_of(work_dir: Path) -> list[str]:
    """Return the names of the checkpoints and hidden files in a folder."""
    return sorted(
        path.name for path in work_dir.iterdir() if path.suffix in (".pth", ".dist") or path.name.startswith(".")
    )


def differences(work_dir: Path, reference: Path) -> list[str]:
    """Compare the output of two runs, which must have the same files with the same bits.

    Only times, and entries with the name of the folder, may differ.
    """
    here, there = files_of(work_dir), files_of(reference)
    if here != there:
        return [f"files: {here}, not {there}"]
    notes = [(folder / LAST).read_text() for folder in (work_dir, reference)]
    if notes[0] != notes[1]:
        return [f"{LAST}: {notes[0]}, not {notes[1]}"]
    different = []
    for name in here:
        different += [f"{name}: {line}" for line in different_bits(work_dir / name, reference / name)]
    return different


@dataclass
class Row:
    """Counts of the outcomes of one kind of fault."""

    faults: int = 0
    resumed: int = 0
    compared: int = 0
    identical: int = 0
    lost: list[int] = field(default_factory=list)


class Tally:
    """A counter of faults that compares the results with those of an uninterrupted run."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self._rows = rows

    def row(self, kind: str) -> Row:
        """Return the counts of a kind of fault."""
        return self._rows.setdefault(kind, Row())

    def note(self, kind: str, *, faults: int, identical: bool, resumed: int = 0) -> None:
        """Record the result of a comparison made elsewhere."""
        row = self.row(kind)
        row.faults += faults
        row.resumed += resumed
        row.compared += 1
        row.identical += identical

    def compare(self, kind: str, work_dir: Path, reference: Path, *, faults: int = 1, most_lost: int) -> None:
        """Record a run that survived faults, and fail unless it is bit-identical to the reference.

        Args:
            kind: kind of fault.
            work_dir: folder of the run.
            reference: folder of the uninterrupted run.
            faults: number of faults.
            most_lost: maximum number of repeated iterations per fault.
        """
        row = self.row(kind)
        lost = lost_iterations(work_dir)
        different = differences(work_dir, reference)
        row.faults += faults
        row.resumed += len(lost)
        row.compared += 1
        row.identical += not different
        row.lost += lost
        assert not different, "\n".join(different)
        assert max(lost, default=0) <= most_lost


@dataclass
class Reference:
    """An uninterrupted run.

    Args:
        config: path of its config.
        work_dir: its folder.
        seconds: its duration.
    """

    config: Path
    work_dir: Path
    seconds: float
