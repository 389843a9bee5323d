"""COCO-shaped content that is converted from another format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.datasets.transforms import oriented_size
from trainwright.engine.inference.images import IMAGE_SUFFIXES


@dataclass
class Content:
    """Annotations in COCO format.

    Bad images and annotations have a ``problem``, which the datasets report.

    Args:
        images: ``id``, ``file_name``, ``height`` and ``width`` of each image.
        annotations: the annotations, each with a ``source``, such as ``labels/7.txt:3``, which messages name.
        categories: ``id``, ``name`` and, for poses, ``keypoints`` of each class.
        left_out: sources of valid shapes that are of no use for the task.
        num_backgrounds: number of images without a label file.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    num_backgrounds: int = 0

    def add_image(self, path: str | os.PathLike[str], source: str = "") -> dict[str, Any]:
        """Add an image file and return its entry, with its size or a ``problem``."""
        name = os.fspath(path)
        image: dict[str, Any] = {"id": len(self.images), "file_name": name, "source": source or name}
        try:
            image["height"], image["width"] = oriented_size(name)
        except FileNotFoundError:
            image["problem"] = f"file_name: {name} not found"
        except (OSError, ValueError) as error:
            image["problem"] = f"file_name: {name} cannot be read: {error}"
        self.images.append(image)
        return image

    def add_annotation(self, image: dict[str, Any], source: str, **fields: Any) -> None:
        """Add an annotation of an image, or a bad one with its ``problem``."""
        number = len(self.annotations) + 1
        self.annotations.append({"id": number, "image_id": image["id"], "iscrowd": 0, "source": source, **fields})

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a file in COCO format."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}

    def problems(self) -> list[str]:
        """Return a line for each bad image and annotation."""
        return [f"{one['source']}: {one['problem']}" for one in (*self.images, *self.annotations) if "problem" in one]


def find_files(folder: str | os.PathLike[str], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """Return the sorted paths of the files in a folder and its subfolders, by default of images, except hidden ones."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            str(Path(parent, name)) for name in names if name.lower().endswith(tuple(suffixes)) and name[0] != "."
        ]
    return sorted(found)


def polygon_area(points: Sequence[float]) -> float:
    """Return the area of a polygon ``[x0, y0, x1, y1, …]``."""
    corners = list(zip(points[::2], points[1::2]))
    pairs = zip(corners, [*corners[1:], corners[0]])
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def box_around(points: Sequence[float]) -> list[float]:
    """Return left, top, width and height of the box around points ``[x0, y0, x1, y1, …]``."""
    left, top = min(points[::2]), min(points[1::2])
    return [left, top, max(points[::2]) - left, max(points[1::2]) - top]
