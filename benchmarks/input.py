"""Compare the throughput of data pipelines, in images per second of CPU time, with one thread."""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import input_files
import input_memory
import torch
from report import table

# Each returns, by name, the functions to compare, which process all images once and return their number. The first one
# is the baseline.
TASKS: dict[str, Callable[[Path], dict[str, Callable[[], int]]]] = {
    "memory": input_memory.contestants,
    "classification": input_files.classification,
    "detection": input_files.detection,
    "segmentation": input_files.segmentation,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="passes over the images; default: %(default)s")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.tasks:
            contestants = TASKS[task](Path(folder))
            print(f"\n{task}\n{_measure(contestants, arguments.rounds)}", flush=True)
    return 0


def _measure(contestants: dict[str, Callable[[], int]], rounds: int) -> str:
    """Return the table of a task. The contestants alternate, and a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, read in contestants.items():
            torch.manual_seed(number)
            begin = process_time()
            num_images = read()
            if number:
                seconds[name].append((process_time() - begin) / num_images)
    baseline = next(iter(seconds))
    return table(seconds, baseline, "images/s", lambda time: f"{1 / time:,.0f}", speedup=True)


if __name__ == "__main__":
    raise SystemExit(main())
