"""Boxes, polygons and poses in YOLO format."""

from pathlib import Path

from trainwright.datasets.formats import yolo
from trainwright.engine.fileio import read_text
from trainwright.tools.new.data import Found, write_lines
from trainwright.tools.new.formats.contents import found_in_contents


def find_yolo(place: Path) -> Found | None:
    """Return data with a ``data.yaml`` or a list of class names, or None."""
    if place.is_file():
        descriptions = [place]
    else:
        descriptions = [*sorted(place.glob("*.yaml")), *sorted(place.glob("*.yml"))]
        descriptions = [file for file in descriptions if "names" in file.read_text("utf-8", errors="replace")]
    if not descriptions:
        return None if place.is_file() else _find_without_description(place)
    file = descriptions[0]
    description = yolo.read_description(str(file))
    contents = {split: yolo.read_yolo(str(file), split)[0].as_dict() for split in description.splits}
    if not contents:  # some tools write only the names
        contents = {"all": yolo.read_yolo(str(file), ".", str(file.parent))[0].as_dict()}
    kind = "YOLOPoseDataset" if description.num_keypoints else "YOLODataset"
    found = found_in_contents("YOLO", contents, {"type": kind, "ann_file": file.as_posix()})
    found.split_args = {split: {"split": split} for split in description.splits}
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    if description.flip_indices:
        found.flip_indices = list(description.flip_indices)
    found.notes += [
        f"{file}: path: {folder} not found: paths are relative to the file instead"
        for folder in description.folders
        if not folder.is_dir()
    ]
    return found


def _find_without_description(place: Path) -> Found | None:
    names = next((place / name for name in ("classes.txt", "obj.names") if (place / name).is_file()), None)
    if names is None:
        names = next(iter(sorted(place.glob("*/classes.txt"))), None)
    if names is None:
        return None
    classes = [line.strip() for line in read_text(names).splitlines() if line.strip()]
    content, _ = yolo.read_yolo("", place.as_posix(), "", classes)
    found = found_in_contents("YOLO", {"all": content.as_dict()}, {"type": "YOLODataset"})
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    return found
