"""Boxes, polygons and poses in YOLO format."""

from pathlib import Path

from trainwright.datasets.formats import yolo
from trainwright.datasets.pose.dataset import mirror_images
from trainwright.tools.new.data import Found, write_lines
from trainwright.tools.new.formats.contents import found_in_contents, path_of_image


def find_yolo(place: Path) -> Found | None:
    """Return data with a ``data.yaml`` or a list of class names, or None."""
    if place.is_file():
        descriptions = [place]
    else:
        descriptions = [*sorted(place.glob("*.yaml")), *sorted(place.glob("*.yml"))]
        descriptions = [file for file in descriptions if "names" in file.read_text("utf-8", errors="replace")]
    if not descriptions:
        return None if place.is_file() else _yolo_without_description(place)
    file = descriptions[0]
    description = yolo.read_description(str(file))
    contents = {split: yolo.read_yolo(str(file), split)[0] for split in description.splits}
    if not contents:  # some tools write only the names
        contents = {"all": yolo.read_yolo(str(file), ".", str(file.parent))[0]}
    pose = description.num_keypoints > 0
    found = found_in_contents(
        "YOLO", contents, [description.classes[key] for key in sorted(description.classes)], pose, path_of_image
    )
    found.dataset = {"type": "YOLOPoseDataset" if pose else "YOLODataset", "ann_file": file.as_posix()}
    found.split_args = {split: {"split": split} for split in contents}
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    if pose:
        found.keypoints = list(description.keypoints)
        flips = description.flip_indices or mirror_images(description.keypoints)
        found.flip_indices = list(flips)
    return found


def _yolo_without_description(place: Path) -> Found | None:
    names = next((place / name for name in ("classes.txt", "obj.names") if (place / name).is_file()), None)
    if names is None:
        names = next(iter(sorted(place.glob("*/classes.txt"))), None)
    if names is None:
        return None
    classes = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    content, _ = yolo.read_yolo("", place.as_posix(), "", classes)
    found = found_in_contents("YOLO", {"all": content}, classes, False, path_of_image)
    found.dataset = {"type": "YOLODataset"}
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    return found
