"""Boxes, polygons and poses in JSON of COCO."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.formats.content import Content, find_files
from trainwright.datasets.pose.dataset import mirror_images
from trainwright.engine.errors import DataError
from trainwright.tools.new.data import Found, Sample, split_of
from trainwright.tools.new.formats.contents import found_in_contents, path_of_image
from trainwright.tools.new.formats.files import load_json, looks_like


def find_coco(place: Path) -> Found | None:
    """Return data with one annotation file per split, or None."""
    files = [place] if place.is_file() else [Path(file) for file in find_files(place, (".json",))]
    contents: dict[str, Content] = {}
    sources: dict[str, tuple[Path, Path]] = {}
    for file in files:
        loaded = load_json(file) if place.is_file() or looks_like(file, b'"annotations"') else None
        if not isinstance(loaded, dict) or not {"images", "annotations", "categories"} <= loaded.keys():
            continue
        split = split_of(file.stem) or split_of(file.parent.name) or "all"
        if split in contents:
            raise DataError(f"{sources[split][0]} and {file} are both annotations of {split!r}: name one of them")
        folder = _image_folder(file, [str(one.get("file_name")) for one in loaded["images"] if isinstance(one, dict)])
        contents[split] = _coco_content(loaded, folder, file)
        sources[split] = (file, folder)
    if not contents:
        return None
    if len(contents) > 1 and "all" in contents:
        contents["train"], sources["train"] = contents.pop("all"), sources.pop("all")
    categories = next(iter(contents.values())).categories
    pose = any(category.get("keypoints") for category in categories)
    classes = [str(one["name"]) for one in sorted(categories, key=lambda one: one["id"])]
    found = found_in_contents("COCO JSON", contents, classes, pose, path_of_image)
    found.dataset = {"type": "BaseCocoStyleDataset" if pose else "CocoDataset"}
    found.split_args = {
        split: {"ann_file": file.as_posix(), "data_prefix": {"img_path": folder.as_posix()}}
        for split, (file, folder) in sources.items()
    }
    if pose:
        found.keypoints = [str(name) for one in categories for name in one.get("keypoints") or ()]
        found.flip_indices = list(mirror_images(found.keypoints))
    found.write_list = lambda path, samples: _write_coco(path, samples, sources)
    return found


def _coco_content(loaded: dict[str, Any], folder: Path, file: Path) -> Content:
    content = Content(categories=loaded["categories"])
    known = {}
    for image in loaded["images"]:
        path = folder / str(image.get("file_name"))
        entry = {**image, "file_name": str(path), "source": f"{file}: image {image.get('id')}"}
        if not path.is_file():
            entry["problem"] = f"file_name: {path} not found"
        known[image.get("id")] = entry
        content.images.append(entry)
    for annotation in loaded["annotations"]:
        content.annotations.append({**annotation, "source": f"{file}: annotation {annotation.get('id')}"})
        if annotation.get("image_id") not in known:
            content.annotations[-1]["problem"] = f"image_id: {annotation.get('image_id')!r} is not in the file"
    return content


def _write_coco(path: Path, samples: Sequence[Sample], sources: Mapping[str, tuple[Path, Path]]) -> dict[str, Any]:
    file, folder = next(iter(sources.values()))
    loaded = json.loads(file.read_text(encoding="utf-8"))
    chosen = {str(Path(sample.path)) for sample in samples}
    images = [one for one in loaded["images"] if str(folder / one["file_name"]) in chosen]
    ids = {one["id"] for one in images}
    annotations = [one for one in loaded["annotations"] if one.get("image_id") in ids]
    written = path.with_suffix(".json")
    content = {**loaded, "images": images, "annotations": annotations}
    written.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return {"ann_file": written.as_posix(), "data_prefix": {"img_path": folder.as_posix()}}


def _image_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder that the file names of images in an annotation file are relative to."""
    parents = [file.parent, file.parent.parent]
    inside = [folder for parent in parents for folder in sorted(parent.iterdir()) if folder.is_dir()]
    deeper = [folder for one in inside for folder in sorted(one.iterdir()) if folder.is_dir()]
    split = split_of(file.stem)
    candidates = [*parents, *sorted([*inside, *deeper], key=lambda one: split_of(one.name) != split)]
    best = max(candidates, key=lambda folder: sum((folder / name).is_file() for name in names[:20]))
    return best if any((best / name).is_file() for name in names[:20]) else file.parent
