"""Boxes and polygons in XML of Pascal VOC, as many tools write it."""

import os
from collections.abc import Iterable
from pathlib import Path

from trainwright.datasets.detection.voc import VOCDataset
from trainwright.datasets.formats.content import find_files
from trainwright.engine.fileio import read_text
from trainwright.tools.new.data import Found, split_of, write_lines
from trainwright.tools.new.formats.contents import found_in_contents
from trainwright.tools.new.formats.files import looks_like


def find_voc(place: Path) -> Found | None:
    """Return data with an XML file for each image, or None."""
    files = [Path(file) for file in find_files(place, (".xml",))]
    files = [file for file in files if looks_like(file, b"<annotation")]
    if not files:
        return None
    stems = {file.stem for file in files}
    ann_folder = _common(map(str, files))
    folder = _common(path for path in find_files(place) if Path(path).stem in stems)
    dataset = {
        "type": "VOCDataset", "data_root": "", "ann_folder": ann_folder, "data_prefix": {"img_path": folder},
    }  # fmt: skip
    reader = VOCDataset(
        "", "", ann_folder, data_prefix={"img_path": folder}, one_based=False, metainfo={"classes": []}, lazy_init=True
    )
    content = reader.read_content()
    found = found_in_contents(
        "VOC XML", {"all": content}, dataset, lambda image, _: str(image["id"]),
        {"all": ("", Path(folder))},
    )  # fmt: skip
    # Tools that write this format measure from the edge of the image, but VOC itself counts pixels from 1.
    corners = [min(one["bbox"][:2]) for one in content["annotations"] if "problem" not in one]
    found.dataset["one_based"] = min(corners, default=0) >= 1 and {*found.classes} <= {*VOCDataset.METAINFO["classes"]}
    if not found.dataset["one_based"]:
        found.notes.append("the boxes are taken as they are; if pixels are counted from 1, set one_based=True")
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    _use_lists(found, place)
    return found


def _use_lists(found: Found, place: Path) -> None:
    """Use the splits in ``ImageSets/Main``, if there are any."""
    lists = {split: file for file in sorted(place.glob("ImageSets/Main/*.txt")) if (split := split_of(file.stem))
             and "_" not in file.stem and file.stem != "trainval"}  # fmt: skip
    if not lists:
        return
    everything = found.splits.pop("all")
    for split, file in lists.items():
        wanted = {line.strip() for line in read_text(file).splitlines()}
        found.splits[split] = [sample for sample in everything if sample.entry in wanted]
        found.split_args[split] = {"ann_file": file.as_posix()}
    unused = len(everything) - sum(map(len, found.splits.values()))
    found.left_out += [f"{unused} XML files that are in no list of ImageSets/Main"] if unused > 0 else []


def _common(files: Iterable[str]) -> str:
    """Return the deepest folder that contains all files."""
    folders = {os.path.dirname(file) for file in files}  # noqa: PTH120
    return Path(os.path.commonpath(folders)).as_posix() if folders else ""
