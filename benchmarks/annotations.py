"""Measure the memory that data workers use for annotations, and the time to check a file in COCO format."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
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


def measure_checks(annotations: int) -> tuple[float, float]:
    """Return the CPU time to read a file in COCO format and to check it, in seconds.

    Args:
        annotations: number of annotations, each with a box, a polygon of 24 points and 17 keypoints.
    """
    import numpy as np

    from trainwright.datasets.annotation_fields import Rules
    from trainwright.datasets.annotations import AnnotationChecker
    from trainwright.engine.fileio import dump, load

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = 30 * np.stack([np.cos(angles), np.sin(angles)], 1)
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [
            {"id": index, "file_name": f"{index:012d}.jpg", "height": 480, "width": 640}
            for index in range(annotations // BOXES + 1)
        ],
        "categories": [{"id": index, "name": f"class {index}"} for index in range(80)],
        "annotations": [],
    }
    for index, center in enumerate(generator.random((annotations, 2)) * [540, 380] + 50):
        keypoints = np.concatenate([generator.integers(0, 400, (17, 2)), generator.integers(0, 3, (17, 1))], 1)
        content["annotations"].append({
            "id": index, "image_id": index // BOXES, "category_id": index % 80, "iscrowd": 0, "area": 2700.5,
            "bbox": [*(center - 30).round(2).tolist(), 60.0, 60.0],
            "segmentation": [(ring + center).round(2).ravel().tolist()],
            "keypoints": keypoints.ravel().tolist(), "num_keypoints": 17,
        })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/annotations.json"
        dump(content, file)
        start = time.process_time()
        content = load(file)
        read = time.process_time()
    checker = AnnotationChecker(file, "", Rules(with_mask=True, num_keypoints=17), pipeline=None)
    lists = checker.content(content, ("images", "annotations", "categories"))
    good = checker.annotations(lists[1], checker.images(lists[0]), checker.categories(lists[2], lists[1]))
    end = time.process_time()
    assert len(good) == annotations, checker.problems[0]
    return read - start, end - read


def main() -> None:
    """Print a table, or the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", type=int, default=200_000, help="annotated images, with 7 boxes each; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=4, help="data workers; default: %(default)s")
    parser.add_argument("--objects", action="store_true", help="also measure annotations stored as Python objects")
    parser.add_argument("--checks", action="store_true", help="measure the time to check annotations instead")
    parser.add_argument("--json", action="store_true", help="print the numbers of bytes as JSON")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        workers, serialize = map(int, arguments.one)
        print(measure(arguments.annotations, workers, bool(serialize)))
        return
    if arguments.checks:
        read, checked = measure_checks(arguments.annotations)
        print(f"{arguments.annotations} annotations: read in {read:.2f} s, checked in {checked:.2f} s of CPU time")
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
