"""Annotations of LabelMe, with a JSON file for each image."""

from pathlib import Path

from trainwright.datasets.formats.content import find_files
from trainwright.datasets.formats.labelme import is_labelme, point_labels, read_labelme
from trainwright.engine.fileio import load
from trainwright.tools.new.data import Found, write_lines
from trainwright.tools.new.formats.contents import found_in_contents
from trainwright.tools.new.formats.files import looks_like


def find_labelme(place: Path) -> Found | None:
    """Return data with JSON files of LabelMe, or None."""
    files = [file for file in find_files(place, (".json",)) if looks_like(Path(file), b'"shapes"')]
    files = [file for file in files if is_labelme(load(file, "json"))]
    if not files:
        return None
    points = point_labels(files)
    content = read_labelme(files, None, points or None)
    kind = "LabelMePoseDataset" if points else "LabelMeDataset"
    json_files = {image["id"]: image["source"] for image in content.images}
    found = found_in_contents(
        "LabelMe JSON", {"all": content.as_dict()}, {"type": kind, "data_root": ""},
        lambda image, _: Path(json_files[image["id"]]).as_posix(),
    )  # fmt: skip
    found.left_out += content.left_out
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    return found
