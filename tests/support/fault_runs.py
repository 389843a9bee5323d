"""Small runs that have everything a checkpoint holds, each in a process of its own, faults for them, and a comparison.

A run is ``trainwright train`` in a process that is forked from the one of the tests: it is killed, stopped and resumed
like any other, but needs no seconds to import PyTorch.
"""

import json
import os
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_bits import different_bits
from forked import Process
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
    """A classifier of 4 x 4 images that draws from all random generators while it trains."""

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


@DATASETS.register_module()
class NoisyImages(Dataset[tuple[Tensor, int]]):
    """Images of three classes, 4 x 4, augmented by all three random generators.

    Args:
        length: how many.
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
    """Writes down, beside the run's folder, at which iteration a process began and which ones it finished."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self._file = -1

    def before_train(self, runner: Runner) -> None:
        self._file = os.open(f"{runner.work_dir}{NOTES}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file, f"begin {runner.iter}\n".encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        os.write(self._file, f"done {runner.iter + 1}\n".encode())


def write_config(folder: Path, *, by_epoch: bool = True, workers: int = 0, **changes: Any) -> Path:
    """Writes the config of a small run and returns its file.

    It has random augmentation, dropout, accumulation over three batches, gradient clipping, two schedules, an average
    of the weights, early stopping, and a checkpoint every four iterations, of which the newest two are kept and the
    best.

    Args:
        folder: where to; its name is the config's.
        by_epoch: three epochs of six iterations each and a validation after each; or 18 iterations, and a validation
            after every five.
        workers: data workers.
        **changes: dotted keys, with ``__`` for the dots, and their values.
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
    """Starts ``trainwright train`` in a process of its own.

    Args:
        config: the config's file.
        work_dir: the run's folder.
        *arguments: further words of the command.
        before: called in the new process, first; here faults are prepared.
        resume: go on from the newest checkpoint.
    """

    def action() -> int:
        if before is not None:
            before()
        words = ["train", str(config), "--work-dir", str(work_dir), *(["--resume"] if resume else []), *arguments]
        return main(words)

    work_dir.mkdir(parents=True, exist_ok=True)
    number = len(list(work_dir.parent.glob(f"{work_dir.name}.out.*")))
    return Process(action, work_dir.parent / f"{work_dir.name}.out.{number}")


def at_forward(training: bool, number: int, act: Callable[[], Any]) -> None:
    """Makes this process do something within the n-th training step, or the n-th batch of the validations."""
    seen = count(1)
    forward = NoisyNet.forward

    def watched(self: NoisyNet, images: Tensor) -> Any:
        output = forward(self, images)
        changed = act() if self.training == training and next(seen) == number else None
        return output if changed is None else output * changed

    NoisyNet.forward = watched  # type: ignore[method-assign]


def at_sample(index: int, act: Callable[[], Any]) -> None:
    """Makes this process, or its data workers, do something whenever a training sample is loaded."""
    get = NoisyImages.__getitem__

    def watched(self: NoisyImages, asked: int) -> tuple[Tensor, int]:
        if asked == index and len(self) == TRAINING_SAMPLES:
            act()
        return get(self, asked)

    NoisyImages.__getitem__ = watched  # type: ignore[method-assign]


def when_saved(act: Callable[[], Any]) -> Callable[[], None]:
    """Returns what waits for a save in the background, and then does something."""

    def wait_and_act() -> None:
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        act()

    return wait_and_act


def send(*numbers: int) -> None:
    """Sends this process signals, one after the other."""
    for number in numbers:
        os.kill(os.getpid(), number)


def lost_iterations(work_dir: Path) -> list[int]:
    """Returns for each resume how many finished iterations had to be done again."""
    lost = []
    done = 0
    for what, number in re.findall(r"(begin|done) (\d+)", notes_of(work_dir)):
        if what == "begin":
            lost.append(done - int(number))
        done = int(number)
    return lost[1:]


def notes_of(work_dir: Path) -> str:
    """Returns what a run has noted: when it began and which iterations are done."""
    file = work_dir.with_name(f"{work_dir.name}{NOTES}")
    return file.read_text() if file.exists() else ""


def files_of(work_dir: Path) -> list[str]:
    """Returns the names of the checkpoints in a folder, and of whatever lies hidden beside them."""
    return sorted(path.name for path in work_dir.iterdir() if path.suffix == ".pth" or path.name.startswith("."))


def differences(work_dir: Path, reference: Path) -> list[str]:
    """Compares all that two runs have left: the same files, and in each the same bits.

    Only times, and what has the folder's name in it, may differ.
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
    """What became of all faults of a kind."""

    faults: int = 0
    resumed: int = 0
    compared: int = 0
    identical: int = 0
    lost: list[int] = field(default_factory=list)


class Tally:
    """Counts faults, and compares what is left after them with what a run without them leaves."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self._rows = rows

    def row(self, kind: str) -> Row:
        """Returns the counts of a kind of fault."""
        return self._rows.setdefault(kind, Row())

    def note(self, kind: str, *, faults: int, identical: bool, resumed: int = 0) -> None:
        """Takes note of a comparison that was made elsewhere."""
        row = self.row(kind)
        row.faults += faults
        row.resumed += resumed
        row.compared += 1
        row.identical += identical

    def compare(self, kind: str, work_dir: Path, reference: Path, *, faults: int = 1, most_lost: int) -> None:
        """Takes note of a run that survived faults, and fails unless it ended with the bits of the reference.

        Args:
            kind: kind of fault.
            work_dir: the run's folder.
            reference: that of the run that nothing disturbed.
            faults: how many faults there were.
            most_lost: how many iterations may at most have been done again after one fault.
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
    """A run that nothing disturbed.

    Args:
        config: its config.
        work_dir: what it left.
        seconds: how long it took.
    """

    config: Path
    work_dir: Path
    seconds: float
