"""Measure the per-sample cost of seeding a separate random stream for each sample."""

import argparse
import os
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from torch.utils.data import Dataset

from trainwright.engine import build_dataloader

BATCH_SIZE = 64


class Numbers(Dataset[int]):
    """A dataset whose samples cost nothing to load.

    Args:
        deterministic: declare that samples do not depend on random numbers.
        fetches_batches: load whole batches at once.
        length: the number of samples.
    """

    def __init__(self, deterministic: bool, fetches_batches: bool, length: int = 6400) -> None:
        self.deterministic = deterministic
        self.fetches_batches = fetches_batches
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="passes over the samples; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)

    loaders = {(batches, fixed): _build_loader(fixed, batches) for batches in (False, True) for fixed in (True, False)}
    seconds: dict[tuple[bool, bool], list[float]] = {key: [] for key in loaders}
    for number in range(arguments.rounds + 1):
        for key, loader in loaders.items():
            begin = perf_counter()
            for _ in loader:
                pass
            if number:
                seconds[key].append((perf_counter() - begin) / len(loader.dataset))
    print(f"batches of {BATCH_SIZE}, no data workers, medians of {arguments.rounds} rounds, in µs per sample")
    for batches in (False, True):
        fixed, seeded = (1e6 * median(seconds[batches, deterministic]) for deterministic in (True, False))
        name = "whole batches" if batches else "single samples"
        print(f"{name:16} deterministic {fixed:6.2f}   seeded {seeded:6.2f}   seeding {seeded - fixed:6.2f}")
    return 0


def _build_loader(deterministic: bool, fetches_batches: bool) -> Any:
    dataset = Numbers(deterministic, fetches_batches)
    return build_dataloader({"dataset": dataset, "batch_size": BATCH_SIZE, "collate_fn": list}, seed=0, training=True)


if __name__ == "__main__":
    raise SystemExit(main())
