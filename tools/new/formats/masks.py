"""Folders of images and masks."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from trainwright.datasets.formats.content import find_files
from trainwright.engine.errors import DataError
from trainwright.engine.inference.images import IMAGE_SUFFIXES
from trainwright.tools.new.data import Found, Sample, split_of, write_lines

MASK_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "annotations",
    "segmentation",
    "segmentations",
    "groundtruth",
    "gt",
    "targets",
)
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "inputs", "jpegimages", "photos")
_MASKS_READ = 200


def find_masks(place: Path) -> Found | None:
    """Return images with a mask for each, or None."""
    pairs = _mask_folders(place)
    if not pairs:
        return None
    splits: dict[str, list[Sample]] = {}
    left_out: list[str] = []
    problems: list[str] = []
    values, colors = Counter[int](), Counter[tuple[int, ...]]()
    suffixes: set[str] = set()
    for split, (images, masks) in pairs.items():
        mask_of = {str(Path(path).relative_to(masks).with_suffix("")): Path(path) for path in find_files(masks)}
        endings = ("", "_mask", "_label", "_gt", "_seg")
        splits[split] = []
        for path in find_files(images):
            stem = str(Path(path).relative_to(images).with_suffix(""))
            ending = next((end for end in endings if stem + end in mask_of), None)
            if ending is None:
                left_out.append(f"{path}: no mask of the same name in {masks}")
                continue
            suffixes.add(ending + mask_of[stem + ending].suffix)
            splits[split].append(Sample(Path(path).as_posix(), (), Path(path).relative_to(images).as_posix()))
        for sample in splits[split][:: max(1, len(splits[split]) // _MASKS_READ)]:
            name = str(Path(sample.entry).with_suffix(""))
            mask = next(mask_of[name + end] for end in endings if name + end in mask_of)
            _read_mask(mask, values, colors, problems)
    if not any(splits.values()):
        return None
    if len(suffixes) > 1:
        raise DataError(f"{place}: the masks have different endings ({', '.join(sorted(suffixes))}): rename them alike")
    found = Found("folders of images and masks", ("segmentation",), splits, [], {}, {}, lambda path, samples: {})
    found.problems, found.left_out = problems, left_out
    images, masks = next(iter(pairs.values()))
    found.dataset = {"type": "BaseSegDataset", "img_suffix": "", "seg_map_suffix": suffixes.pop()}
    found.split_args = {
        split: {"data_prefix": {"img_path": one.as_posix(), "seg_map_path": two.as_posix()}}
        for split, (one, two) in pairs.items()
    }
    prefix = {"img_path": images.as_posix(), "seg_map_path": masks.as_posix()}
    found.write_list = lambda path, samples: {"data_prefix": prefix, "ann_file": write_lines(path, samples)}
    _name_mask_classes(found, place, values, colors)
    return found


def _read_mask(path: Path, values: Counter[int], colors: Counter[tuple[int, ...]], problems: list[str]) -> None:
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture)
    except (OSError, ValueError, SyntaxError) as error:
        problems.append(f"{path}: the mask cannot be read: {error}")
        return
    if pixels.ndim == 3:
        unique = np.unique(pixels[..., :3].reshape(-1, 3), axis=0)
        colors.update(tuple(color) for color in unique.tolist()[:1000])
    elif np.issubdtype(pixels.dtype, np.floating):
        problems.append(f"{path}: the mask has values of type {pixels.dtype}, but classes are whole numbers")
    else:
        values.update(np.unique(pixels.astype(np.int64)).tolist())


def _name_mask_classes(found: Found, place: Path, values: Counter[int], colors: Counter[tuple[int, ...]]) -> None:
    """Set the classes, and how the values or colors of masks become classes."""
    if colors and values:
        found.problems.append("some masks are RGB images and some are gray: save all of them alike")
    if colors:
        if len(colors) > 64:
            found.problems.append(
                f"the masks are RGB images with {len(colors)} different colors, so they are not colors of classes "
                "(were they saved as JPEG, or with smooth edges?): save them as PNG with one value per class"
            )
        palette = sorted(colors)
        found.classes = [f"color_{red}_{green}_{blue}" for red, green, blue in palette]
        found.metainfo["palette"] = [tuple(color) for color in palette]
        found.notes.append("the masks are RGB images: each color is a class, in the order of the palette in the config")
        return
    names = next((place / name for name in ("classes.txt", "labels.txt") if (place / name).is_file()), None)
    given = [line.strip() for line in names.read_text("utf-8").splitlines() if line.strip()] if names else []
    present = sorted(values)
    if set(present) == {0, 255} or set(present) == {0, 1} or (len(present) == 2 and not given):
        found.classes = given if len(given) == 2 else ["background", "foreground"]
        if present != [0, 1]:
            found.dataset["label_map"] = {present[0]: 0, present[1]: 1}
            found.notes.append(f"the masks consist of {present[0]} and {present[1]}: mapped to the classes 0 and 1")
        return
    regular = [value for value in present if value != 255]
    if 255 in present:
        found.notes.append("pixels of value 255 are ignored, as is usual")
    number = len(given) or (max(regular, default=0) + 1)
    if number <= 2 * max(1, len(regular)) or given:
        found.classes = given or [f"class_{index}" for index in range(number)]
    else:  # values with large gaps, such as 0, 80, 160
        found.classes = [f"value_{value}" for value in regular]
        found.dataset["label_map"] = {value: index for index, value in enumerate(regular)}
        found.notes.append(f"the masks have the values {', '.join(map(str, regular))}, which are mapped to classes")


def _mask_folders(place: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks of each split."""
    folders = {path.name.lower(): path for path in sorted(place.iterdir()) if path.is_dir()}
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    masks = next((folders[name] for name in MASK_FOLDERS if name in folders and _has_images(folders[name])), None)
    if images is not None and masks is not None:
        inner = {split: path for path in sorted(images.iterdir()) if path.is_dir() and (split := split_of(path.name))}
        pairs = {split: (path, masks / path.name) for split, path in inner.items() if (masks / path.name).is_dir()}
        return pairs or {"all": (images, masks)}
    result = {}
    for folder in folders.values():
        if (split := split_of(folder.name)) and (pair := _mask_folders(folder)):
            result[split] = next(iter(pair.values()))
    return result


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))
