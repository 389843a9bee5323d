"""Boxes, polygons and poses in JSON of COCO."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.annotation_fields import is_id
from trainwright.datasets.formats.content import find_files
from trainwright.engine.errors import DataError
from trainwright.engine.fileio import load
from trainwright.tools.new.data import Found, Sample, split_of
from trainwright.tools.new.formats.contents import found_in_contents
from trainwright.tools.new.formats.files import looks_like


def find_coco(place: Path) -> Found | None:
    """Return data with one annotation file per split, or None."""
    files = [place] if place.is_file() else [Path(file) for file in find_files(place, (".json",))]
    contents: dict[str, Any] = {}
    sources: dict[str, tuple[Path, Path]] = {}
    for file in files:
        loaded = load(file, "json") if place.is_file() or looks_like(file, b'"annotations"') else None
        if not isinstance(loaded, dict) or not {"images", "annotations", "categories"} <= loaded.keys():
            continue
        split = split_of(file.stem) or split_of(file.parent.name) or "all"
        if split in contents:
            raise DataError(f"{sources[split][0]} and {file} are both annotations of {split!r}: name one of them")
        contents[split] = loaded
        sources[split] = (file, _image_folder(file, place, loaded["images"]))
    if not contents:
        return None
    if len(contents) > 1 and "all" in contents:
        contents["train"], sources["train"] = contents.pop("all"), sources.pop("all")
    found = found_in_contents("COCO JSON", contents, {}, sources=sources)
    found.dataset["type"] = "BaseCocoStyleDataset" if found.keypoints else "CocoDataset"
    found.split_args = {
        split: {"ann_file": file.as_posix(), "data_prefix": {"img_path": folder.as_posix()}}
        for split, (file, folder) in sources.items()
    }
    divided = sources.get("train") or next(iter(sources.values()))
    found.write_list = lambda path, samples: _write_coco(path, samples, *divided)
    return found


def _write_coco(path: Path, samples: Sequence[Sample], file: Path, folder: Path) -> dict[str, Any]:
    loaded = load(file, "json")
    chosen = {Path(sample.path) for sample in samples}
    named = [one for one in loaded["images"] if isinstance(one, dict) and isinstance(one.get("file_name"), str)]
    images = [one for one in named if is_id(one.get("id")) and folder / one["file_name"] in chosen]
    ids = {one["id"] for one in images}
    annotations = [
        one
        for one in loaded["annotations"]
        if isinstance(one, dict) and is_id(one.get("image_id")) and one["image_id"] in ids
    ]
    written = path.with_suffix(".json")
    content = {**loaded, "images": images, "annotations": annotations}
    written.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return {"ann_file": written.as_posix(), "data_prefix": {"img_path": folder.as_posix()}}


def _image_folder(file: Path, place: Path, images: Any) -> Path:
    """Return the folder that the file names of images are relative to; if ``place`` is a folder, one within it."""
    entries = [one for one in images if isinstance(one, dict)] if isinstance(images, list) else []
    names = [one["file_name"] for one in entries if isinstance(one.get("file_name"), str)][:20]
    split = split_of(file.stem)
    for parent in (file.parent, file.parent.parent):
        if place.is_dir() and not parent.is_relative_to(place):
            break
        inside = [folder for folder in sorted(parent.iterdir()) if folder.is_dir()]
        deeper = [folder for one in inside for folder in sorted(one.iterdir()) if folder.is_dir()]
        candidates = [parent, *sorted([*inside, *deeper], key=lambda one: split_of(one.name) != split)]
        numbers = [sum((folder / name).is_file() for name in names) for folder in candidates]
        if max(numbers):
            return candidates[numbers.index(max(numbers))]
    return file.parent
