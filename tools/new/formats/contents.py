"""Data whose annotations are COCO-shaped, whatever their format."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainwright.datasets.annotation_fields import Rules, is_absent, is_id
from trainwright.datasets.annotations import AnnotationChecker
from trainwright.datasets.pose.dataset import keypoint_names_problem, mirror_images
from trainwright.engine.errors import DataError
from trainwright.tools.new.data import Found, Sample


def path_of_image(image: Mapping[str, Any], path: Path) -> str:
    """Return the path of an image with forward slashes, as its entry in a list."""
    return path.as_posix()


def found_in_contents(
    name: str,
    contents: Mapping[str, Any],
    dataset: dict[str, Any],
    entry: Callable[[Mapping[str, Any], Path], str] = path_of_image,
    sources: Mapping[str, tuple[Path | str, Path]] | None = None,
) -> Found:
    """Return the data, after the check that the datasets make of all annotations.

    Args:
        name: name of the format.
        contents: annotations in COCO format of each split.
        dataset: arguments of the dataset that are the same for all splits.
        entry: returns the entry in a list of samples, given that of the image in the content, and its path.
        sources: the annotation file and the image folder of each split; needed if the content does not have them.

    Raises:
        DataError: the content is not in COCO format, no image was found, or the keypoints are invalid.
    """
    found = Found(name, (), {}, [], dataset, {}, lambda path, samples: {}, counts=Counter())
    instances = masks = 0
    for split in sorted(contents, key=lambda split: split != "train"):  # whose classes come first
        file, folder = (sources or {}).get(split, ("", None))
        prefix = f"{file}: " if file else ""
        checker = AnnotationChecker(str(file) or name, str(folder or ""), Rules(), None)
        images, annotations, categories = checker.content(contents[split], ("images", "annotations", "categories"))
        known = checker.categories(categories, annotations)
        found.classes += [known[key]["name"] for key in _sorted(known) if known[key]["name"] not in found.classes]
        _set_keypoints(found, prefix, known)
        sizes = checker.images(images)
        sound = [one for one in annotations if isinstance(one, Mapping) and "problem" not in one]
        given = sum(not is_absent(one.get("segmentation")) for one in sound)
        checker.rules.num_keypoints = len(found.keypoints) or None
        checker.rules.clip_boxes = bool(found.keypoints)  # as the datasets of poses do
        checker.rules.with_mask = given == len(sound) and not found.keypoints
        good = checker.annotations(annotations, sizes, known)
        found.problems += [f"{prefix}{problem}" for problem in checker.problems]
        masks, instances = masks + given, instances + len(sound)
        origins = {one["id"]: one.get("source", f"{prefix}image {one['id']!r}") for one in images if _has_id(one)}
        found.splits[split] = _samples(found, origins, folder or Path(), sizes, good, known, entry)
        background = sum(not sample.labels for sample in found.splits[split])
        if background:
            part = "" if split == "all" else f" of {split}"
            found.notes.append(f"{background} images{part} have no annotations: background")
    if found.problems and not found.counts:
        raise DataError(f"all {len(found.problems)} annotations are bad, such as {found.problems[0]}")
    if found.problems:
        found.notes.append(
            'bad annotations stop a run: correct them, or leave them out by bad_annotations="skip" in the datasets'
        )
    if found.keypoints:
        found.tasks = ("pose",)
    elif masks and masks == instances:
        found.tasks = ("instance_segmentation", "detection")
    else:
        found.tasks = ("detection",)
        if masks:
            found.notes.append(f"{instances - masks} of {instances} instances have no mask: only boxes are used")
    return found


def _samples(
    found: Found,
    origins: Mapping[Any, str],
    folder: Path,
    images: Mapping[Any, Mapping[str, Any]],
    annotations: list[Any],
    categories: Mapping[Any, Mapping[str, Any]],
    entry: Callable[[Mapping[str, Any], Path], str],
) -> list[Sample]:
    """Return the samples of a split, and count and measure its instances."""
    labels: dict[Any, list[str]] = {key: [] for key in images}
    assert found.counts is not None
    for annotation in annotations:
        image, label = images[annotation["image_id"]], str(categories[annotation["category_id"]]["name"])
        labels[annotation["image_id"]].append(label)
        found.counts[label] += 1
        if "width" in image:
            _, _, width, height = annotation["bbox"]
            found.box_sizes.append((width / image["width"], height / image["height"]))
    samples, missing = [], []
    for key, image in images.items():
        path = folder / image["file_name"]
        if path.is_file():
            samples.append(Sample(path.as_posix(), tuple(sorted(set(labels[key]))), entry(image, path)))
        else:
            missing.append(f"{origins[key]}: {path} not found")
    if missing and not samples:
        raise DataError(
            f"none of the {len(missing)} annotated images was found. Name the folder that contains images and "
            f"annotations. The first: {missing[0]}"
        )
    found.problems += missing
    return samples


def _set_keypoints(found: Found, prefix: str, categories: Mapping[Any, Mapping[str, Any]]) -> None:
    for key, category in categories.items():
        if found.keypoints or not category.get("keypoints"):
            continue
        if problem := keypoint_names_problem(category):
            raise DataError(f"{prefix}category {key!r}: {problem}")
        found.keypoints = list(category["keypoints"])
        found.flip_indices = list(mirror_images(found.keypoints))


def _has_id(entry: Any) -> bool:
    return isinstance(entry, Mapping) and is_id(entry.get("id"))


def _sorted(categories: Mapping[Any, Any]) -> list[Any]:
    return sorted(categories, key=lambda key: (str(type(key)), key))
