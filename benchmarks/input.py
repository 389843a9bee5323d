"""Compare the throughput of data pipelines, in images per second."""

import argparse
import os
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import fashion_mnist
import torch
from report import table
from torch.utils.data import DataLoader

from trainwright.engine import MODELS, build_dataloader


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="passes over the images; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)

    loaders = _build_loaders()
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(arguments.rounds + 1):
        for name, read in loaders.items():
            begin = perf_counter()
            num_images = read()
            if number:
                seconds[name].append((perf_counter() - begin) / num_images)
    print(f"batches of {fashion_mnist.BATCH_SIZE}, one process, {arguments.rounds} rounds")
    baseline = next(iter(seconds))
    print(table(seconds, baseline, "images/s", lambda time: f"{1 / time:,.0f}", speedup=True))
    return 0


def _build_loaders() -> dict[str, Callable[[], int]]:
    """Return functions that read all images once and return their number, by name."""
    images, labels = fashion_mnist.read_images()

    def torchvision_loader(augment: bool) -> DataLoader[Any]:
        dataset = fashion_mnist.through_torchvision(images, labels, augment=augment)
        return DataLoader(dataset, batch_size=fashion_mnist.BATCH_SIZE, shuffle=True)

    cfg = fashion_mnist.CONFIG
    ours = build_dataloader(cfg.train_dataloader, seed=0, training=True)
    preprocessor = MODELS.build(cfg.data_preprocessor)
    plain, augmented = torchvision_loader(augment=False), torchvision_loader(augment=True)
    return {
        "torchvision: PIL, ToTensor": lambda: sum(len(batch[1]) for batch in plain),
        "torchvision: PIL, flip, ToTensor, Normalize": lambda: sum(len(batch[1]) for batch in augmented),
        "ours: flip": lambda: sum(len(batch["inputs"]) for batch in ours),
        "ours: flip, normalized by the preprocessor": lambda: sum(
            len(preprocessor(batch, True)["inputs"]) for batch in ours
        ),
    }


if __name__ == "__main__":
    raise SystemExit(main())
