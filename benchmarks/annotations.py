"""Measure the memory that data workers use for annotations."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

BOXES = 7  # per image, as in COCO on average


def measure(annotations: int, workers: int, serialize: bool) -> int:
    """Return the memory of this process and its data workers after one epoch, in bytes.

    This is the proportional set size: a page that is shared by several processes is counted once.

    Args:
        annotations: number of annotated images, with 7 boxes each.
        workers: number of data workers; each reads a part of the annotations.
        serialize: store the annotations as bytes, as datasets do by default, instead of Python objects.
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

    # Like a real pipeline, it accesses everything in an annotation.
    dataset = Boxes(serialize_data=serialize, pipeline=[lambda info: len(str(info))])
    loader = build_dataloader(
        dict(
            dataset=dataset, batch_size=64, num_workers=workers, collate_fn=list,
            **({"persistent_workers": True} if workers else {}),
        ),
        seed=0, training=True,
    )  # fmt: skip
    read = sum(map(len, loader))
    assert read == annotations, f"expected {annotations} annotations, got {read}"
    children = multiprocessing.active_children()
    assert len(children) == workers, f"expected {workers} data workers, got {len(children)}"
    return sum(proportional_set_size(pid) for pid in (os.getpid(), *(child.pid for child in children)))


def proportional_set_size(pid: int | None) -> int:
    """Return the memory of a process in bytes, with shared pages divided among the processes that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report the proportional set size (Pss)")


def main() -> None:
    """Print a table, or the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", type=int, default=200_000, help="annotated images, with 7 boxes each; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=4, help="data workers; default: %(default)s")
    parser.add_argument("--objects", action="store_true", help="also measure annotations stored as Python objects")
    parser.add_argument("--json", action="store_true", help="print the numbers of bytes as JSON")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        workers, serialize = map(int, arguments.one)
        print(measure(arguments.annotations, workers, bool(serialize)))
        return
    numbers: dict[str, list[int]] = {}
    for name, serialize in (("bytes", 1), *([("objects", 0)] if arguments.objects else [])):
        for workers in (0, arguments.workers):
            # Use a fresh process, because memory from earlier measurements would be counted.
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
