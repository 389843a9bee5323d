"""What annotations have in common once they are COCO-shaped."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainwright.datasets.formats.content import Content
from trainwright.tools.new.data import Found, Sample


def found_in_contents(
    name: str, contents: Mapping[str, Content], classes: list[str], pose: bool, entry: Callable[[Any], str]
) -> Found:
    """Return the data of COCO-shaped contents."""
    counts: Counter[str] = Counter()
    boxes, problems, left_out, notes = [], [], [], []
    splits = {}
    polygons = instances = 0
    for split, content in contents.items():
        names = {one["id"]: str(one["name"]) for one in content.categories}
        images = {image["id"]: image for image in content.images}
        labels: dict[Any, list[str]] = {key: [] for key in images}
        for annotation in content.annotations:
            label = names.get(annotation.get("category_id"))
            if "problem" not in annotation and label is not None and annotation.get("image_id") in labels:
                labels[annotation["image_id"]].append(label)
                image, box = images[annotation["image_id"]], annotation.get("bbox")
                if image.get("width") and isinstance(box, list) and len(box) == 4:
                    boxes.append((box[2] / image["width"], box[3] / image["height"]))
                instances += 1
                polygons += bool(annotation.get("segmentation"))
        counts.update(label for some in labels.values() for label in some)
        splits[split] = [
            Sample(image["file_name"], tuple(sorted(set(labels[key]))), entry(image))
            for key, image in images.items()
            if "problem" not in image
        ]
        problems += content.problems()
        left_out += content.left_out
        empty = sum(not labels[key] for key in images)
        if empty:
            notes.append(f"{empty} images of {split} have no annotations: background" if split != "all" else
                         f"{empty} images have no annotations: background")  # fmt: skip
    if pose:
        tasks: tuple[str, ...] = ("pose",)
    elif polygons and polygons == instances:
        tasks = ("instance_segmentation", "detection")
    else:
        tasks = ("detection",)
        if polygons:
            notes.append(f"{instances - polygons} of {instances} instances have no mask: only boxes are used")
    return Found(
        name, tasks, splits, classes, {}, {}, lambda path, samples: {}, problems, left_out, notes, counts, boxes
    )  # fmt: skip


def path_of_image(image: Mapping[str, Any]) -> str:
    """Return the path of an image with forward slashes."""
    return Path(image["file_name"]).as_posix()
