"""Measure how long training waits for a checkpoint, saved in the foreground and in the background."""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from trainwright.engine import Runner
from trainwright.engine.run.hook import Hook


class Stalls(Hook):
    """Record the duration of the hooks after each iteration, including the checkpoint hook."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._begin = perf_counter()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self._begin:
            self.seconds.append(perf_counter() - self._begin)


class Wide(nn.Module):
    """A network with a given number of parameters and a nearly free training step."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(parameters // 20) for _ in range(20))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return sum(weight[:10].sum() for weight in self.weights)


def train(parameters: int, saves: int, async_save: bool) -> tuple[float, float, float, int]:
    """Train and save, and measure the stalls.

    Returns:
        The stall of the first save, the median stall of the others, the duration of the run (in seconds), and the file
        size in bytes.
    """
    folder = tempfile.mkdtemp()
    stalls = Stalls()
    interval = 40  # long enough for the previous save to finish
    runner = Runner(
        model=Wide(parameters),
        work_dir=folder,
        train_dataloader=dict(dataset=torch.utils.data.TensorDataset(torch.zeros(64, 2)), batch_size=1),
        train_cfg=dict(by_epoch=False, max_iters=interval * saves + 2),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=1e-3)),
        custom_hooks=[stalls],
        default_hooks=dict(
            checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=1, save_last=False, async_save=async_save)
        ),
        log_level="ERROR",
    )
    begin = perf_counter()
    runner.train()
    seconds = perf_counter() - begin
    size = next(Path(folder).glob("iter_*.pth")).stat().st_size
    shutil.rmtree(folder)
    first, *others = stalls.seconds[interval - 1 :: interval]
    return first, statistics.median(others), seconds, size


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parameters",
        type=float,
        default=100e6,
        help="parameters of the network, trained with Adam; default: 100 million",
    )
    parser.add_argument("--saves", type=int, default=4, help="checkpoints per run, at least 2; default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for async_save in (False, True):
        first, stall, seconds, size = train(int(arguments.parameters), arguments.saves, async_save)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        name = "in the background" if async_save else "in the foreground"
        print(
            f"{name:18} stall: first {first:.2f} s, then {stall:.2f} s   whole run {seconds:6.1f} s   "
            f"file {size / 1e9:.2f} GB   peak memory so far {peak:.2f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
