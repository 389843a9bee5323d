"""Recognize the format of data: each function returns the data that it finds in a place, or None."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.detection.voc import VOCDataset
from trainwright.datasets.formats import tables, yolo
from trainwright.datasets.formats.content import Content, find_files
from trainwright.datasets.formats.labelme import is_labelme, point_labels, read_labelme
from trainwright.datasets.pose.dataset import mirror_images
from trainwright.engine.errors import DataError
from trainwright.engine.inference.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trainwright.tools.new_data import Found, Sample, split_of, write_lines, write_table

_TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_MASK_NAMES = (
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
_IMAGE_NAMES = ("images", "image", "imgs", "img", "inputs", "jpegimages", "photos")
_MASKS_READ = 200


def find_formats(place: Path) -> list[Found]:
    """Return all data that is found in a folder or file, the likeliest first.

    Raises:
        DataError: a file of a known format is invalid.
    """
    if place.is_file():
        kinds: Mapping[str, Sequence[Callable[[Path], Found | None]]] = {
            ".yaml": [_yolo], ".yml": [_yolo], ".json": [_coco], ".csv": [_table], ".tsv": [_table], ".txt": [_table],
        }  # fmt: skip
        readers = kinds.get(place.suffix.lower(), [])
    else:
        readers = [_yolo, _coco, _labelme, _voc, _masks, _videos, _table, _class_folders]
    return [found for reader in readers if (found := reader(place)) is not None]


def describe(place: Path) -> str:
    """Return what a folder or file contains, for the message that nothing was recognized."""
    if place.is_file():
        return f"a file of type {place.suffix or 'unknown'}"
    suffixes = Counter(path.suffix.lower() or "(no suffix)" for path in place.rglob("*") if path.is_file())
    folders = sorted(path.name for path in place.iterdir() if path.is_dir())
    files = ", ".join(f"{number} {suffix}" for suffix, number in suffixes.most_common(6)) or "no files"
    return f"{files}; folders: {', '.join(folders[:8]) or 'none'}{', …' if len(folders) > 8 else ''}"


def _yolo(place: Path) -> Found | None:
    if place.is_file():
        descriptions = [place]
    else:
        descriptions = [*sorted(place.glob("*.yaml")), *sorted(place.glob("*.yml"))]
        descriptions = [file for file in descriptions if "names" in file.read_text("utf-8", errors="replace")]
    if not descriptions:
        return None if place.is_file() else _yolo_without_description(place)
    file = descriptions[0]
    description = yolo.read_description(str(file))
    contents = {split: yolo.read_yolo(str(file), split)[0] for split in description.splits}
    if not contents:  # some tools write only the names
        contents = {"all": yolo.read_yolo(str(file), ".", str(file.parent))[0]}
    pose = description.num_keypoints > 0
    found = _from_contents(
        "YOLO", contents, [description.classes[key] for key in sorted(description.classes)], pose, _sample_of_image
    )
    found.dataset = {"type": "YOLOPoseDataset" if pose else "YOLODataset", "ann_file": file.as_posix()}
    found.split_args = {split: {"split": split} for split in contents}
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    if pose:
        found.keypoints = list(description.keypoints)
        flips = description.flip_indices or mirror_images(description.keypoints)
        found.flip_indices = list(flips)
    return found


def _yolo_without_description(place: Path) -> Found | None:
    names = next((place / name for name in ("classes.txt", "obj.names") if (place / name).is_file()), None)
    if names is None:
        names = next(iter(sorted(place.glob("*/classes.txt"))), None)
    if names is None:
        return None
    classes = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    content, _ = yolo.read_yolo("", place.as_posix(), "", classes)
    found = _from_contents("YOLO", {"all": content}, classes, False, _sample_of_image)
    found.dataset = {"type": "YOLODataset"}
    found.write_list = lambda path, samples: {"split": write_lines(path, samples)}
    return found


def _coco(place: Path) -> Found | None:
    files = [place] if place.is_file() else [Path(file) for file in find_files(place, (".json",))]
    contents: dict[str, Content] = {}
    sources: dict[str, tuple[Path, Path]] = {}
    for file in files:
        loaded = _load_json(file) if place.is_file() or _looks_like(file, b'"annotations"') else None
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
    found = _from_contents("COCO JSON", contents, classes, pose, _sample_of_image)
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


def _labelme(place: Path) -> Found | None:
    files = [file for file in find_files(place, (".json",)) if _looks_like(Path(file), b'"shapes"')]
    files = [file for file in files if is_labelme(_load_json(Path(file)))]
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
    found = _from_contents("LabelMe JSON", contents, classes, bool(points), lambda image: image["source"])
    found.dataset = {"type": "LabelMePoseDataset" if points else "LabelMeDataset", "data_root": ""}
    if points:
        found.keypoints, found.flip_indices = points, list(mirror_images(points))
    if "all" not in by_split:
        folders = {split: place / Path(some[0]).relative_to(place).parts[0] for split, some in by_split.items()}
        found.split_args = {split: {"data_root": folder.as_posix()} for split, folder in folders.items()}
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    return found


def _voc(place: Path) -> Found | None:
    from xml.etree import ElementTree

    files = [Path(file) for file in find_files(place, (".xml",))]
    files = [file for file in files if _looks_like(file, b"<annotation")]
    if not files:
        return None
    ann_folder = Path(*_common(file.parent for file in files))
    content, classes, entries = Content(), set[str](), {}
    one_based = True  # as in VOC itself: the other tools that write this format measure from the edge of the image
    images = {Path(path).stem: path for path in find_files(place)}
    for file in files:
        name = file.relative_to(ann_folder).with_suffix("").as_posix()
        if (image_file := images.get(file.stem)) is None:
            content.images.append({"id": name, "file_name": name, "source": str(file), "problem": "has no image"})
            continue
        image = content.add_image(image_file, str(file))
        entries[image_file] = name
        try:
            objects = list(ElementTree.parse(file).getroot().iter("object"))
        except ElementTree.ParseError as error:
            image["problem"] = f"not a valid XML file: {error}"
            continue
        for number, element in enumerate(objects, 1):
            label = (element.findtext("name") or "").strip()
            corners = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
            source = f"{file}: object {number}"
            try:
                left, top, right, bottom = (float(corner or "") for corner in corners)
            except ValueError:
                content.add_annotation(image, source, problem="bndbox: missing or not numbers")
                continue
            classes.add(label)
            one_based = one_based and min(left, top) >= 1
            content.add_annotation(image, source, category_id=label, bbox=[left, top, right - left, bottom - top])
    content.categories = [{"id": name, "name": name} for name in sorted(classes)]
    found = _from_contents(
        "VOC XML", {"all": content}, sorted(classes), False, lambda image: entries[image["file_name"]]
    )
    folder = Path(*_common(Path(path).parent for path in entries)) if entries else place
    found.dataset = {
        "type": "VOCDataset", "data_root": "", "ann_folder": ann_folder.as_posix(),
        "data_prefix": {"img_path": folder.as_posix()},
        "one_based": one_based and classes <= set(VOCDataset.METAINFO["classes"]),
    }  # fmt: skip
    if not found.dataset["one_based"]:
        found.notes.append("the boxes are taken as they are; if pixels are counted from 1, set one_based=True")
    if any(
        sample.path != (folder / f"{entries[sample.path]}{Path(sample.path).suffix}").as_posix()
        for sample in found.samples
    ):
        found.notes.append("the names of some images differ from those of their XML files")
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    lists = {split: file for file in sorted(place.glob("ImageSets/Main/*.txt")) if (split := split_of(file.stem))
             and "_" not in file.stem and file.stem != "trainval"}  # fmt: skip
    if lists:
        names = {split: set(file.read_text(encoding="utf-8").split()) for split, file in lists.items()}
        everything = found.splits.pop("all")
        for split, wanted in names.items():
            found.splits[split] = [sample for sample in everything if sample.entry in wanted]
            found.split_args[split] = {"ann_file": lists[split].as_posix()}
        unused = len(everything) - sum(map(len, found.splits.values()))
        found.left_out += [f"{unused} XML files that are in no list of ImageSets/Main"] if unused > 0 else []
    return found


def _from_contents(
    name: str, contents: Mapping[str, Content], classes: list[str], pose: bool, entry: Callable[[Any], str]
) -> Found:
    """Return the data of COCO-shaped contents."""
    counts: Counter[str] = Counter()
    boxes, problems, left_out, notes = [], [], [], []
    splits = {}
    polygons = instances = 0
    for split, content in contents.items():
        names = {one["id"]: str(one["name"]) for one in content.categories}
        images = {image["id"]: image for image in content.images}
        labels: dict[Any, list[str]] = {key: [] for key in images}
        for annotation in content.annotations:
            label = names.get(annotation.get("category_id"))
            if "problem" not in annotation and label is not None and annotation.get("image_id") in labels:
                labels[annotation["image_id"]].append(label)
                image, box = images[annotation["image_id"]], annotation.get("bbox")
                if image.get("width") and isinstance(box, list) and len(box) == 4:
                    boxes.append((box[2] / image["width"], box[3] / image["height"]))
                instances += 1
                polygons += bool(annotation.get("segmentation"))
        counts.update(label for some in labels.values() for label in some)
        splits[split] = [
            Sample(image["file_name"], tuple(sorted(set(labels[key]))), entry(image))
            for key, image in images.items()
            if "problem" not in image
        ]
        problems += content.problems()
        left_out += content.left_out
        empty = sum(not labels[key] for key in images)
        if empty:
            notes.append(f"{empty} images of {split} have no annotations: background" if split != "all" else
                         f"{empty} images have no annotations: background")  # fmt: skip
    if pose:
        tasks: tuple[str, ...] = ("pose",)
    elif polygons and polygons == instances:
        tasks = ("instance_segmentation", "detection")
    else:
        tasks = ("detection",)
        if polygons:
            notes.append(f"{instances - polygons} of {instances} instances have no mask: only boxes are used")
    return Found(
        name, tasks, splits, classes, {}, {}, lambda path, samples: {}, problems, left_out, notes, counts, boxes
    )  # fmt: skip


def _sample_of_image(image: Mapping[str, Any]) -> str:
    return Path(image["file_name"]).as_posix()


def _masks(place: Path) -> Found | None:
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
    from PIL import Image

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
    images = next((folders[name] for name in _IMAGE_NAMES if name in folders), None)
    masks = next((folders[name] for name in _MASK_NAMES if name in folders and _has_images(folders[name])), None)
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


def _table(place: Path) -> Found | None:
    if place.is_file():
        files = [place]
    else:
        files = [path for path in sorted(place.iterdir()) if path.suffix.lower() in _TABLE_SUFFIXES[:2]]
    if not files:
        return None
    splits: dict[str, list[Sample]] = {}
    problems: list[str] = []
    parsed = {file: tables.read_table(str(file)) if file.suffix != ".txt" else _text_list(file) for file in files}
    multilabel = any(table.multilabel for table in parsed.values())
    classes: list[str] = []
    for file, table in parsed.items():
        classes += [name for name in tables.class_names(table) if name not in classes]
        rows = table.rows
        locate = _locator(file.parent, [row.path for row in rows])
        for row in rows:
            split = split_of(row.split) if row.split else (split_of(file.stem) if len(files) > 1 else None)
            path = locate(row.path)
            if path is None:
                problems.append(f"{row.source}: {row.path} not found, neither beside the list nor in its folders")
            else:
                splits.setdefault(split or "all", []).append(Sample(path, row.labels))
    if not splits:
        if place.is_file():
            raise DataError(f"{place}: none of its files was found. The first: {problems[0]}")
        return None
    if not any(table.classes for table in parsed.values()):
        numbers = all(name.isdecimal() for name in classes)
        classes = sorted(classes, key=int) if numbers else sorted(classes)
    is_video = all(sample.path.lower().endswith(VIDEO_SUFFIXES) for some in splits.values() for sample in some)
    task = "video" if is_video else "multilabel" if multilabel else "classification"
    found = Found("list of files with labels", (task,), splits, classes, {}, {}, lambda path, samples: {}, problems)
    _read_tables(found, task)
    return found


def _read_tables(found: Found, task: str) -> None:
    """Let the splits be read from tables that are written next to the config."""
    types = {"video": "VideoDataset", "multilabel": "MultiLabelDataset"}
    found.dataset = {"type": types.get(task, "CustomDataset")}
    multilabel = task == "multilabel"
    found.write_list = lambda path, samples: {"ann_file": write_table(path, samples, found.classes, multilabel)}


def _text_list(file: Path) -> tables.Table:
    """Return a list with a path and a label per line, separated by a space, or by a comma or tab."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any("," in line or "\t" in line for line in lines):
        return tables.read_table(str(file))
    table = tables.Table()
    for number, line in enumerate(lines, 1):
        path, _, label = line.strip().rpartition(" ")
        if not path:
            raise DataError(f"{file}:{number}: expected a path and a label, got {line!r}")
        table.rows.append(tables.Row(path.strip(), (label,), f"{file}:{number}"))
    return table


def _locator(folder: Path, names: Sequence[str]) -> Callable[[str], str | None]:
    """Return a function from a path in a list to the file: relative to the list or a folder beside it."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    suffixes = ("", *IMAGE_SUFFIXES)

    def locate(name: str) -> str | None:
        for one in folders:
            for suffix in suffixes:
                if (path := one / f"{name}{suffix}").is_file():
                    folders.remove(one)
                    folders.insert(0, one)  # the next one is likely there too
                    return path.as_posix()
        return Path(name).as_posix() if Path(name).is_file() else None

    return locate


def _videos(place: Path) -> Found | None:
    return _by_class(place, VIDEO_SUFFIXES, "video", "videos in one folder per class")


def _class_folders(place: Path) -> Found | None:
    return _by_class(place, IMAGE_SUFFIXES, "classification", "images in one folder per class")


def _by_class(place: Path, suffixes: tuple[str, ...], task: str, name: str) -> Found | None:
    folders = [path for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if {path.name.lower() for path in folders} <= {*_IMAGE_NAMES, *_MASK_NAMES}:
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
    _read_tables(found, task)
    if "all" not in splits:
        key = "filename" if task == "video" else "img_path"
        found.split_args = {split: {"data_prefix": {key: by_split[split].as_posix()}} for split in splits}
    return found


def _exactly(folder: Path) -> str | None:
    """Return the split if the whole name of a folder is that of a split: a class may be named train-station."""
    return split_of(folder.name) if folder.name.isalpha() else None


def _looks_like(file: Path, text: bytes) -> bool:
    """Return whether a file contains a text in its first or last 64 kB, without parsing large files."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(65536)
        stream.seek(max(0, size - 65536))
        return text in head or text in stream.read() or size > 10_000_000


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is not valid JSON: {error}") from error


def _common(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return the parts of the deepest folder that contains all folders."""
    all_parts = [folder.parts for folder in folders]
    shortest = min(all_parts, key=len)
    for depth, part in enumerate(shortest):
        if any(parts[depth] != part for parts in all_parts):
            return shortest[:depth]
    return shortest
