"""Folders of images and masks."""

from collections import Counter
from pathlib import Path

import numpy as np

from trainwright.datasets.formats.content import find_files
from trainwright.datasets.transforms import oriented_size
from trainwright.engine.errors import DataError
from trainwright.engine.fileio import read_text
from trainwright.engine.images.files import read_indices
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
_ENDINGS = ("", "_mask", "_label", "_gt", "_seg")
_MASKS_READ = 200
_MAX_COLORS = 64


def find_masks(place: Path) -> Found | None:
    """Return images with a mask for each, or None."""
    pairs = _mask_folders(place)
    if not pairs:
        return None
    found = Found("folders of images and masks", ("segmentation",), {}, [], {}, {}, lambda path, samples: {})
    values, colors = Counter[int](), Counter[tuple[int, ...]]()
    suffixes: set[str] = set()
    for split, (images, folder) in pairs.items():
        matches = _match(found, images, folder, suffixes)
        masks = {image: mask for image, mask in matches.items() if _fits(mask, image, found.problems)}
        found.splits[split] = [Sample(image.as_posix(), (), image.relative_to(images).as_posix()) for image in masks]
        step = max(1, len(masks) // _MASKS_READ)
        for mask in list(masks.values())[::step]:
            _count_values(mask, values, colors, found.problems)
        if step > 1:
            found.notes.append(f"only every {step}th mask was read to find the classes")
    if not any(found.splits.values()):
        return None
    if len(suffixes) > 1:
        raise DataError(f"{place}: the masks have different endings ({', '.join(sorted(suffixes))}): rename them alike")
    images, folder = pairs.get("train") or next(iter(pairs.values()))
    found.dataset = {"type": "BaseSegDataset", "img_suffix": "", "seg_map_suffix": suffixes.pop()}
    found.split_args = {
        split: {"data_prefix": {"img_path": one.as_posix(), "seg_map_path": two.as_posix()}}
        for split, (one, two) in pairs.items()
    }
    prefix = {"img_path": images.as_posix(), "seg_map_path": folder.as_posix()}
    found.write_list = lambda path, samples: {"data_prefix": prefix, "ann_file": write_lines(path, samples)}
    if colors and values:
        raise DataError(f"{place}: some masks are RGB images and some are gray: save all of them alike")
    if colors:
        _use_colors(found, place, colors)
    else:
        _use_values(found, place, values)
    return found


def _match(found: Found, images: Path, folder: Path, suffixes: set[str]) -> dict[Path, Path]:
    """Return the mask of each image, and collect the endings of their names."""
    masks = {str(Path(path).relative_to(folder).with_suffix("")): Path(path) for path in find_files(folder)}
    result = {}
    for path in map(Path, find_files(images)):
        stem = str(path.relative_to(images).with_suffix(""))
        ending = next((ending for ending in _ENDINGS if stem + ending in masks), None)
        if ending is None:
            found.left_out.append(f"{path}: no mask of the same name in {folder}")
            continue
        result[path] = masks[stem + ending]
        suffixes.add(ending + result[path].suffix)
    return result


def _fits(mask: Path, image: Path, problems: list[str]) -> bool:
    """Return whether a mask has the size of its image; a damaged image is reported elsewhere."""
    try:
        sizes = oriented_size(mask), oriented_size(image)
    except OSError:
        return True
    if sizes[0] != sizes[1]:
        problems.append(f"{mask}: the mask has the size {sizes[0]} (height, width), but its image has {sizes[1]}")
    return sizes[0] == sizes[1]


def _count_values(path: Path, values: Counter[int], colors: Counter[tuple[int, ...]], problems: list[str]) -> None:
    """Count the values or colors that occur in a mask, one for each."""
    try:
        pixels = read_indices(path)
    except OSError as error:
        problems.append(f"{path}: the mask cannot be read: {getattr(error, 'reason', error)}")
        return
    if pixels.ndim == 3:
        unique = np.unique(pixels[..., :3].reshape(-1, 3), axis=0)
        colors.update(tuple(color) for color in unique.tolist()[:1000])
    elif np.issubdtype(pixels.dtype, np.floating):
        problems.append(f"{path}: the mask has values of type {pixels.dtype}, but classes are whole numbers")
    else:
        values.update(np.unique(pixels.astype(np.int64)).tolist())


def _use_colors(found: Found, place: Path, colors: Counter[tuple[int, ...]]) -> None:
    if len(colors) > _MAX_COLORS:
        raise DataError(
            f"{place}: the masks are RGB images with {len(colors)} different colors, so they are not colors of classes "
            "(were they saved as JPEG, or with smooth edges?): save them as PNG with one value per class"
        )
    palette = sorted(colors)
    found.classes = ["color_{}_{}_{}".format(*color) for color in palette]
    found.counts = Counter({name: colors[color] for name, color in zip(found.classes, palette)})
    found.metainfo["palette"] = palette
    found.notes.append("the masks are RGB images: each color is a class, in the order of the palette in the config")


def _use_values(found: Found, place: Path, values: Counter[int]) -> None:
    """Set the classes, and how the values of masks become classes."""
    file = next((place / name for name in ("classes.txt", "labels.txt") if (place / name).is_file()), None)
    given = [line.strip() for line in read_text(file).splitlines() if line.strip()] if file else []
    present = sorted(values)
    regular = [value for value in present if value != 255]
    if set(present) <= {0, 1} or (len(present) == 2 and (not given or 255 in present)):
        found.classes = given if len(given) == 2 else ["background", "foreground"]
        numbers = dict(enumerate(present))
        if present not in ([0, 1], [0], [1]):
            found.dataset["label_map"] = {value: number for number, value in numbers.items()}
            found.notes.append(f"the masks consist of {present[0]} and {present[1]}: mapped to the classes 0 and 1")
    elif given or regular[-1] < 2 * len(regular):
        found.classes = given or [f"class_{index}" for index in range(regular[-1] + 1)]
        numbers = {value: value for value in regular}
        if unknown := [value for value in regular if value >= len(found.classes)]:
            found.problems.append(f"the masks have the values {unknown}, but {file} names {len(given)} classes from 0")
    else:  # values with large gaps, such as 0, 80, 160
        found.classes = [f"value_{value}" for value in regular]
        numbers = dict(enumerate(regular))
        found.dataset["label_map"] = {value: number for number, value in numbers.items()}
        found.notes.append(f"the masks have the values {', '.join(map(str, regular))}, which are mapped to classes")
    if 255 in present and 255 not in found.dataset.get("label_map", ()):
        found.notes.append("pixels of value 255 are ignored, as is usual")
    names = dict(enumerate(found.classes))
    found.counts = Counter({names[number]: values[value] for number, value in numbers.items() if number in names})


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
