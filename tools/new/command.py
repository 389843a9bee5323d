"""``trainwright new``: look at data, report what it is, and write a config that trains on it."""

from collections.abc import Sequence
from pathlib import Path

from trainwright.engine.errors import ConfigError, DataError, did_you_mean
from trainwright.tools.new.config import write_config
from trainwright.tools.new.data import TASKS, Found, count_labels, make_split
from trainwright.tools.new.formats.finding import describe, find_formats
from trainwright.tools.new.images import ImageSummary, find_damaged_videos, summarize_images
from trainwright.tools.new.weights import CANDIDATES, Weights, choose_weights

_SHOWN = 10


def new(task: str | None, data: str, output: str, weights: str | None, force: bool) -> int:
    """Write a config, and the lists of a split next to it if the data has none.

    Args:
        task: one of :data:`TASKS`; None to infer it from the data.
        data: a folder or file.
        output: path of the config.
        weights: see :func:`choose_weights`.
        force: overwrite files.

    Returns:
        The number of problems in the data.

    Raises:
        ConfigError: the task is unknown, the output exists, or there are no such weights.
        DataError: the data fits no format, or not the task.
    """
    if task is not None and task not in TASKS:
        raise ConfigError("TASK", f"unknown: {task!r}", did_you_mean(task, TASKS) or f"one of {', '.join(TASKS)}")
    out, place = Path(output), Path(data)
    if out.suffix != ".py":
        raise ConfigError("--output", f"a config is a file that ends with .py, not {output!r}")
    lists = out.parent / f"{out.stem}_split"
    for path in (out, lists):
        if path.exists() and not force:
            raise ConfigError("--output", f"{path} exists", "choose another name, or overwrite it with --force")
    if not place.exists():
        raise DataError(f"there is no folder or file {data!r}")
    found, others = _choose(find_formats(place), task, place)
    chosen = task or found.tasks[0]
    best = choose_weights(chosen, weights)
    print(f"{data}: {found.format}, for {chosen.replace('_', ' ')}")
    for other in dict.fromkeys(one for one in (*found.tasks, *others) if one != chosen):
        print(f"  also possible: trainwright new {other} {data}")
    paths = [sample.path for sample in found.samples]
    images = ImageSummary(damaged=find_damaged_videos(paths)) if chosen == "video" else summarize_images(paths)
    problems = [*found.problems, *(f"{path}: damaged: {reason}" for path, reason in images.damaged.items())]
    had = set(found.splits)
    _set_splits(found, images, lists, force)
    problems += _class_problems(found)
    _report(found, images, had, lists, problems)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(write_config(chosen, found, images, best, out.as_posix()), encoding="utf-8")
    _say_what_was_written(out, chosen, best, data)
    return len(problems)


def _choose(formats: Sequence[Found], task: str | None, place: Path) -> tuple[Found, list[str]]:
    """Return the data to use, and the tasks that other data in the same place is good for."""
    if not formats:
        raise DataError(
            f"{place}: found no data of a known format. Looked for class folders of images or videos, images/ and "
            f"masks/, data.yaml or classes.txt (YOLO), JSON of COCO or LabelMe, XML of VOC, and CSV lists; there are "
            f"{describe(place)}. See docs/your-data.md for the layout of each"
        )
    fitting = [found for found in formats if task is None or task in found.tasks]
    if not fitting:
        listed = "; ".join(f"{found.format}, for {' or '.join(found.tasks)}" for found in formats)
        raise DataError(f"{place}: no data for {task}, but this: {listed}")
    return fitting[0], [one for found in formats if found is not fitting[0] for one in found.tasks]


def _set_splits(found: Found, images: ImageSummary, lists: Path, force: bool) -> None:
    """Give the data a training and a validation split, in lists of files if it has none, without damaged images."""
    source = "all" if "all" in found.splits else "train"
    if "val" in found.splits and "train" in found.splits:
        return
    if source not in found.splits:
        raise DataError(f"there is only the split {' and '.join(found.splits)}: training needs another one")
    usable = [sample for sample in found.splits.pop(source) if sample.path not in images.damaged]
    if len(usable) < 2:
        raise DataError(f"{len(usable)} usable samples are too few: training and validation need at least one each")
    found.splits["train"], found.splits["val"] = make_split(usable)
    found.split_args.pop("all", None)
    lists.mkdir(parents=True, exist_ok=force)
    for split in ("train", "val"):
        found.split_args[split] = found.write_list(lists / split, found.splits[split])
    if "test" in found.splits and "test" not in found.split_args:
        found.split_args["test"] = found.write_list(lists / "test", found.splits["test"])


def _class_problems(found: Found) -> list[str]:
    """Return problems with the classes of the splits, and with data that cannot be learned."""
    train = found.labels_of("train")
    problems = [
        f"the class {name!r} occurs in {split}, but not in train: it cannot be learned"
        for split in ("val", "test")
        for name in found.classes
        if name not in train and found.labels_of(split)[name]
    ]
    if len(found.classes) < 2 and found.dataset["type"] in ("CustomDataset", "VideoDataset"):
        problems.append("there is only one class, so that there is nothing to distinguish")
    return problems


def _report(found: Found, images: ImageSummary, had: set[str], lists: Path, problems: Sequence[str]) -> None:
    counts = count_labels(found)
    if any(counts.values()):
        shown = ", ".join(f"{name} {number}" for name, number in list(counts.items())[:30])
        print(f"  classes ({len(counts)}): {shown}{', …' if len(counts) > 30 else ''}")
    else:
        print(f"  classes ({len(found.classes)}): {', '.join(found.classes)}")
    if found.keypoints:
        print(f"  keypoints ({len(found.keypoints)}): {', '.join(found.keypoints)}")
    for line in images.lines() if images.total else ():
        print(f"  images: {line}")
    sizes = ", ".join(
        f"{len(found.splits[split])} {split}" for split in ("train", "val", "test") if split in found.splits
    )
    made = "" if {"train", "val"} <= had else f" (made here, in {lists}; a fifth of each class is for validation)"
    print(f"  samples: {sizes}{made}")
    for title, lines in (("note", found.notes), ("left out", found.left_out), ("problem", problems)):
        for line in lines[:_SHOWN]:
            print(f"  {title}: {line}")
        if len(lines) > _SHOWN:
            print(f"  {title}: … and {len(lines) - _SHOWN} more")


def _say_what_was_written(out: Path, task: str, weights: Weights | None, data: str) -> None:
    if weights is None:
        name = CANDIDATES[task][-1][0]
        print(
            f"Wrote {out}, which trains from scratch: no pretrained weights are at hand. To fine-tune, which needs "
            f"less data: --weights FILE, or --weights {name}, which are downloaded when the training starts"
        )
    else:
        origin = "are downloaded when the training starts" if weights.downloads else "are at hand"
        print(f"Wrote {out}, which fine-tunes {weights.name}: its weights ({weights.weights}) {origin}")
    print(f"Next: trainwright check {out}; trainwright browse-dataset {out}; trainwright train {out}")
