"""Annotations of LabelMe, with a JSON file for each image."""

from pathlib import Path

from trainwright.datasets.formats.content import find_files
from trainwright.datasets.formats.labelme import is_labelme, point_labels, read_labelme
from trainwright.datasets.pose.dataset import mirror_images
from trainwright.tools.new.data import Found, split_of, write_lines
from trainwright.tools.new.formats.contents import found_in_contents
from trainwright.tools.new.formats.files import load_json, looks_like


def find_labelme(place: Path) -> Found | None:
    """Return data with JSON files of LabelMe, or None."""
    files = [file for file in find_files(place, (".json",)) if looks_like(Path(file), b'"shapes"')]
    files = [file for file in files if is_labelme(load_json(Path(file)))]
    if not files:
        return None
    points = point_labels(files)
    by_split: dict[str, list[str]] = {}
    for file in files:
        parts = Path(file).relative_to(place).parts[:-1]
        by_split.setdefault((split_of(parts[0]) if parts else None) or "all", []).append(file)
    if "all" in by_split:
        by_split = {"all": files}
    classes = [one["name"] for one in read_labelme(files, None, points or None).categories]
    contents = {split: read_labelme(some, classes, points or None) for split, some in by_split.items()}
    found = found_in_contents("LabelMe JSON", contents, classes, bool(points), lambda image: image["source"])
    found.dataset = {"type": "LabelMePoseDataset" if points else "LabelMeDataset", "data_root": ""}
    if points:
        found.keypoints, found.flip_indices = points, list(mirror_images(points))
    if "all" not in by_split:
        folders = {split: place / Path(some[0]).relative_to(place).parts[0] for split, some in by_split.items()}
        found.split_args = {split: {"data_root": folder.as_posix()} for split, folder in folders.items()}
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    return found
