"""``trainwright browse-dataset --stats``: counts and sizes of a dataset, as tables and as a picture."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainwright.datasets.segmentation.transforms import as_classes, read_seg_map
from trainwright.datasets.transforms import oriented_size
from trainwright.datasets.video.readers import FrameFolder
from trainwright.datasets.video.video_file import VideoFile

# Large datasets are sampled evenly: annotations are cheap to read, drawn images, file headers and masks are not.
_MAX_ANNOTATIONS, _MAX_DRAWN, _MAX_HEADERS, _MAX_MASKS, _MAX_VIDEOS = 200_000, 2_000, 10_000, 300, 300
_LIMITS = (32**2, 96**2)
_IGNORED = 255


@dataclass
class DatasetStats:
    """What was counted in a dataset; lists have an entry per sample or box, and are empty where unknown."""

    total: int
    samples: int = 0
    """Samples whose annotations were counted: all, or an even selection."""
    labels: Counter[int] = field(default_factory=Counter)
    """Objects of each class or, without boxes, samples of each class."""
    with_class: Counter[int] = field(default_factory=Counter)
    """Samples with each class."""
    boxes_per_image: list[int] = field(default_factory=list)
    box_sizes: list[tuple[float, float]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    ignored: int = 0
    unlabeled: int = 0
    keypoints: Counter[int] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    masks: int = 0
    frames: list[int] = field(default_factory=list)


def count_dataset(dataset: Any) -> DatasetStats:
    """Count the annotations of a dataset, or of the one inside a wrapper without ``get_data_info``."""
    while not hasattr(dataset, "get_data_info") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    stats = DatasetStats(len(dataset))
    if not hasattr(dataset, "get_data_info") or not len(dataset):
        return stats
    first = dataset.get_data_info(0)
    is_drawn = any(key in first for key in ("img", "array"))
    chosen = _evenly(len(dataset), _MAX_DRAWN if is_drawn else _MAX_ANNOTATIONS)
    stats.samples = len(chosen)
    headers, masks, videos = (set(_evenly(len(chosen), limit)) for limit in (_MAX_HEADERS, _MAX_MASKS, _MAX_VIDEOS))
    for number, index in enumerate(chosen):
        try:
            info = dataset.get_data_info(index)
        except (ValueError, OSError):  # a bad annotation, which is reported by check_annotations
            stats.unreadable += 1
            continue
        _count_labels(stats, info)
        if number in headers:
            _measure(stats, info)
        if number in masks:
            _count_pixels(stats, info)
        if number in videos:
            _count_frames(stats, info)
    return stats


def _count_labels(stats: DatasetStats, info: Mapping[str, Any]) -> None:
    objects = info.get("instances")
    labels: list[int]
    if objects is not None:
        kept = [each for each in objects if not each.get("ignore_flag") and not each.get("crowd")]
        stats.ignored += len(objects) - len(kept)
        boxes = np.array([each["bbox"] for each in kept], dtype=float).reshape(-1, 4)
        labels = [each["bbox_label"] if "bbox_label" in each else each["label"] for each in kept]
        areas: Any = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    elif "gt_bboxes" in info:
        ignored = torch.as_tensor(info.get("gt_ignore_flags", torch.zeros(len(info["gt_bboxes"])))).bool()
        stats.ignored += int(ignored.sum())
        boxes = np.asarray(torch.as_tensor(info["gt_bboxes"]), dtype=float).reshape(-1, 4)[~ignored.numpy()]
        labels = torch.as_tensor(info.get("gt_bboxes_labels", torch.zeros(len(ignored))))[~ignored].long().tolist()
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    else:
        given = info.get("gt_label")
        labels = [] if given is None else torch.as_tensor(given).long().reshape(-1).tolist()
        if given is not None:
            _add(stats, labels)
        return
    stats.boxes_per_image.append(len(labels))
    stats.box_sizes += [(float(w), float(h)) for w, h in boxes[:, 2:] - boxes[:, :2]]
    stats.areas += [float(area) for area in areas]
    _add(stats, labels)
    visible = info.get("gt_keypoints_visible")
    if visible is not None:
        seen = (torch.as_tensor(visible) > 0).reshape(-1, visible.shape[-1]).sum(0).tolist()
        stats.keypoints.update(dict(enumerate(seen)))


def _add(stats: DatasetStats, labels: Sequence[int]) -> None:
    stats.labels.update(labels)
    stats.with_class.update(set(labels))
    stats.unlabeled += not labels


def _measure(stats: DatasetStats, info: Mapping[str, Any]) -> None:
    image = info.get("img", info.get("array"))
    try:
        if image is not None:
            is_clip = "img" not in info
            stats.sizes.append(tuple(image.shape[1:3] if is_clip else image.shape[-2:]))
        elif info.get("img_path"):
            stats.sizes.append(oriented_size(info["img_path"]))
    except OSError:
        stats.unreadable += 1


def _count_pixels(stats: DatasetStats, info: Mapping[str, Any]) -> None:
    try:
        if "gt_seg_map" in info:
            plane = np.asarray(info["gt_seg_map"])
        elif info.get("seg_map_path"):
            plane = as_classes(read_seg_map(info["seg_map_path"]), info)
        else:
            return
    except (OSError, ValueError):
        stats.unreadable += 1
        return
    labels, counts = np.unique(plane, return_counts=True)
    stats.pixels.update(dict(zip(labels.tolist(), counts.tolist())))
    stats.masks += 1


def _count_frames(stats: DatasetStats, info: Mapping[str, Any]) -> None:
    try:
        if "total_frames" in info:
            stats.frames.append(int(info["total_frames"]))
        elif "filename" in info:
            video = VideoFile(info["filename"])
            stats.frames.append(len(video))
            video.close()
        elif "frame_dir" in info:
            stats.frames.append(len(FrameFolder(info["frame_dir"])))
    except (OSError, ValueError):
        stats.unreadable += 1


def print_stats(stats: DatasetStats, meta: Mapping[str, Any], name: str) -> None:
    """Print tables of what was counted.

    Args:
        stats: the counts.
        meta: metadata of the dataset, with its classes.
        name: name of the dataset.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    overview = Table("", "", title=name, show_header=False)
    for label, value in _overview(stats):
        overview.add_row(label, value)
    console.print(overview)
    for title, columns, rows in _tables(stats, meta):
        table = Table(title=title)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def draw_stats(stats: DatasetStats, meta: Mapping[str, Any], file: Path) -> bool:
    """Draw charts of what was counted to an image file, and return whether there was anything to draw."""
    from trainwright.engine.visualization import charts

    images = []
    if stats.labels:
        what = "Objects per class" if stats.boxes_per_image else "Samples per class"
        images.append(charts.bar_chart(_named(stats.labels, meta.get("classes")), what))
    if stats.pixels:
        total = sum(stats.pixels.values())
        shares = {name: 100 * count / total for name, count in _named_pixels(stats, meta).items()}
        images.append(charts.bar_chart(shares, "Pixels per class (%)"))
    if stats.sizes:
        heights, widths = np.array(stats.sizes, dtype=float).T
        sides, ratios = np.sqrt(heights * widths), widths / heights
        if len(np.unique(sides)) > 1:
            images.append(charts.histogram(sides, "Image sizes", "square root of the area (pixels)"))
        if len(np.unique(ratios)) > 1:
            images.append(charts.histogram(ratios, "Aspect ratios", "width / height"))
    if stats.boxes_per_image:
        images.append(charts.histogram(stats.boxes_per_image, "Boxes per image", "boxes"))
    if stats.areas:
        images.append(charts.histogram(np.sqrt(stats.areas), "Box sizes", "square root of the area (pixels)"))
    if stats.keypoints and meta.get("keypoints"):
        named = _named(stats.keypoints, meta.get("keypoints"))
        images.append(charts.bar_chart(named, "Labeled keypoints"))
    if stats.frames:
        images.append(charts.histogram(stats.frames, "Lengths of videos", "frames"))
    if images:
        charts.stack(images).save(file)
    return bool(images)


def _overview(stats: DatasetStats) -> Iterable[tuple[str, str]]:
    yield "samples", f"{stats.total:,}"
    if stats.samples < stats.total:
        yield "counted samples", f"{stats.samples:,}, evenly selected" if stats.samples else "none: no get_data_info()"
    if stats.labels or stats.unlabeled:
        yield "classes that occur", f"{len(stats.labels):,}"
        yield "samples without labels", f"{stats.unlabeled:,}"
    if stats.boxes_per_image:
        number = np.array(stats.boxes_per_image)
        yield "boxes", f"{number.sum():,}, and {stats.ignored:,} ignored ones"
        yield "boxes per image", f"{number.mean():.2f} on average, at most {number.max():,}"
    if stats.areas:
        small, medium = (int((np.array(stats.areas) < limit).sum()) for limit in _LIMITS)
        shares = 100 * np.array([small, medium - small, len(stats.areas) - medium]) / len(stats.areas)
        names = ("small (below 32²)", "medium", "large (from 96²)")
        yield "box areas", ", ".join(f"{name} {share:.1f} %" for name, share in zip(names, shares))
        sides = np.array(stats.box_sizes)
        yield "box widths, heights", "; ".join(_range(column) for column in sides.T)
    if stats.sizes:
        sizes = np.array(stats.sizes)
        selected = f" (of {len(sizes):,} images)" if len(sizes) < stats.samples else ""
        yield "image heights", _range(sizes[:, 0]) + selected
        yield "image widths", _range(sizes[:, 1])
        yield "aspect ratios (w / h)", _range(sizes[:, 1] / sizes[:, 0], ".2f")
        (height, width), count = Counter(map(tuple, sizes.tolist())).most_common(1)[0]
        yield "most frequent size", f"{width} x {height}, {100 * count / len(sizes):.0f} % of the images"
    if stats.masks:
        yield "masks counted", f"{stats.masks:,}" + (", evenly selected" if stats.masks < stats.samples else "")
    if stats.frames:
        selected = f" (of {len(stats.frames):,} videos)" if len(stats.frames) < stats.samples else ""
        yield "frames per video", _range(np.array(stats.frames)) + selected
    if stats.unreadable:
        yield "could not be read", f"{stats.unreadable:,}: browse-dataset without --stats lists them"


def _tables(stats: DatasetStats, meta: Mapping[str, Any]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    if stats.labels:
        names, total = _named(stats.labels, meta.get("classes")), sum(stats.labels.values())
        within = list(_named(stats.with_class, meta.get("classes"), stats.labels).values())
        rows = [
            [name, f"{count:,}", f"{100 * count / total:.1f}", *([f"{n:,}"] if stats.boxes_per_image else [])]
            for (name, count), n in zip(names.items(), within)
        ]
        columns = ["class", "objects", "%", "images"] if stats.boxes_per_image else ["class", "samples", "%"]
        yield "Classes", columns, rows
    if stats.pixels:
        total = sum(stats.pixels.values())
        rows = [[name, f"{100 * n / total:.2f}"] for name, n in _named_pixels(stats, meta).items()]
        yield "Pixels", ["class", "%"], rows
    if stats.keypoints and meta.get("keypoints"):
        rows = [[name, f"{n:,}"] for name, n in _named(stats.keypoints, meta.get("keypoints")).items()]
        yield "Keypoints", ["keypoint", "labeled"], rows


def _named(counts: Counter[int], names: Any, others: Iterable[int] = ()) -> dict[str, int]:
    """Return counts by name, for all names, and by number for labels without a name."""
    names = [str(name) for name in names or ()]
    labels = [*range(len(names)), *sorted(label for label in {*counts, *others} if not 0 <= label < len(names))]
    shown = [names[label] if 0 <= label < len(names) else str(label) for label in labels]
    return {
        name if shown.count(name) == 1 else f"{name} ({label})": counts[label] for label, name in zip(labels, shown)
    }


def _named_pixels(stats: DatasetStats, meta: Mapping[str, Any]) -> dict[str, int]:
    counts = Counter({label: number for label, number in stats.pixels.items() if label != _IGNORED})
    named = _named(counts, meta.get("seg_classes") or meta.get("classes"))
    return named | ({"ignored": stats.pixels[_IGNORED]} if stats.pixels[_IGNORED] else {})


def _range(values: Any, form: str = ".0f") -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}, median {middle:{form}}"


def _evenly(length: int, limit: int) -> list[int]:
    return np.linspace(0, length - 1, min(length, limit)).round().astype(int).tolist() if length else []
