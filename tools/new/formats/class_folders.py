"""Images or videos in one folder per class."""

from pathlib import Path

from trainwright.datasets.formats.content import find_files
from trainwright.engine.inference.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trainwright.tools.new.data import Found, Sample, split_of
from trainwright.tools.new.formats.masks import IMAGE_FOLDERS, MASK_FOLDERS
from trainwright.tools.new.formats.tables import use_tables


def find_videos(place: Path) -> Found | None:
    """Return videos in one folder per class, or None."""
    return _by_class(place, VIDEO_SUFFIXES, "video", "videos in one folder per class")


def find_class_folders(place: Path) -> Found | None:
    """Return images in one folder per class, or None."""
    return _by_class(place, IMAGE_SUFFIXES, "classification", "images in one folder per class")


def _by_class(place: Path, suffixes: tuple[str, ...], task: str, name: str) -> Found | None:
    folders = [path for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if {path.name.lower() for path in folders} <= {*IMAGE_FOLDERS, *MASK_FOLDERS}:
        return None
    by_split = {split: folder for folder in folders if (split := split_of(folder.name)) and split == _exactly(folder)}
    splits: dict[str, list[Sample]] = {}
    classes: list[str] = []
    left_out = []
    for split, root in by_split.items() if "train" in by_split else [("all", place)]:
        splits[split] = []
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            files = find_files(folder, suffixes)
            if folder.name.startswith(".") or not files:
                left_out.append(f"{folder}: not a class, since hidden or without files")
                continue
            classes += [folder.name] if folder.name not in classes else []
            splits[split] += [Sample(Path(path).as_posix(), (folder.name,)) for path in files]
        loose = [path for path in find_files(root, suffixes) if Path(path).parent == root]
        left_out += [f"{path}: lies in no class folder" for path in loose]
    if len(classes) < 2:
        return None
    found = Found(name, (task,), splits, sorted(classes), {}, {}, lambda path, samples: {}, left_out=left_out)
    use_tables(found, task)
    if "all" not in splits:
        key = "filename" if task == "video" else "img_path"
        found.split_args = {split: {"data_prefix": {key: by_split[split].as_posix()}} for split in splits}
    return found


def _exactly(folder: Path) -> str | None:
    """Return the split if the whole name of a folder is that of a split: a class may be named train-station."""
    return split_of(folder.name) if folder.name.isalpha() else None
