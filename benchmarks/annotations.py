"""How much memory data workers take for annotations: ``python benchmarks/annotations.py --help``."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

BOXES = 7  # of an image of COCO, on average


def measure(annotations: int, workers: int, serialize: bool) -> int:
    """Returns the memory of this process and its data workers after one epoch, in bytes.

    It is the proportional set size: a page that several processes share counts once.

    Args:
        annotations: number of images with 7 boxes each.
        workers: number of data workers; each reads its share of all annotations.
        serialize: keep the annotations as bytes, as datasets do, or as Python objects.
    """
    import numpy as np

    from trainwright.datasets import BaseDataset
    from trainwright.engine.data.loader import build_dataloader

    class Boxes(BaseDataset):
        def load_data_list(self) -> list[dict[str, Any]]:
            generator = np.random.default_rng(0)
            return [
                {
                    "img_path": f"data/coco/train2017/{index:012d}.jpg",
                    "img_id": index,
                    "ori_shape": (480, 640),
                    "instances": [
                        {"bbox": box, "bbox_label": index % 80, "ignore_flag": 0}
                        for box in (generator.random((BOXES, 4)) * 480).tolist()
                    ],
                }
                for index in range(annotations)
            ]

    # As pipelines do, it looks at everything in an annotation.
    dataset = Boxes(serialize_data=serialize, pipeline=[lambda info: len(str(info))])
    loader = build_dataloader(
        dict(
            dataset=dataset, batch_size=64, num_workers=workers, collate_fn=list,
            **({"persistent_workers": True} if workers else {}),
        ),
        seed=0, training=True,
    )  # fmt: skip
    read = sum(map(len, loader))
    assert read == annotations, f"{read} of {annotations} annotations were read"
    children = multiprocessing.active_children()
    assert len(children) == workers, f"{len(children)} of {workers} workers are there"
    return sum(proportional_set_size(pid) for pid in (os.getpid(), *(child.pid for child in children)))


def proportional_set_size(pid: int | None) -> int:
    """Returns the memory of a process in bytes, shared pages divided by the number of processes that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not tell the proportional set size")


def main() -> None:
    """Prints a table, or with ``--json`` the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", type=int, default=200_000, help="default: %(default)s images with 7 boxes each"
    )
    parser.add_argument("--workers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--objects", action="store_true", help="also keep the annotations as Python objects")
    parser.add_argument("--json", action="store_true", help="print bytes by name")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        workers, serialize = map(int, arguments.one)
        print(measure(arguments.annotations, workers, bool(serialize)))
        return
    numbers: dict[str, list[int]] = {}
    for name, serialize in (("bytes", 1), *([("objects", 0)] if arguments.objects else [])):
        for workers in (0, arguments.workers):
            # In a process of its own: what was there before would count too.
            command = [sys.executable, __file__, "--annotations", str(arguments.annotations)]
            command += ["--one", str(workers), str(serialize)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            numbers.setdefault(name, []).append(int(output.split()[-1]))
    if arguments.json:
        print(json.dumps(numbers))
        return
    for name, (none, several) in numbers.items():
        print(
            f"annotations as {name:8} no workers {none / 1e6:6.0f} MB   {arguments.workers} workers "
            f"{several / 1e6:6.0f} MB   {several / none:.2f} times"
        )


if __name__ == "__main__":
    main()
