"""Check annotations in COCO format when they are read: bad ones are refused or left out, and always named."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from trainwright.datasets.annotation_fields import (
    Rules,
    Sizes,
    are_corners,
    are_fractions,
    are_good,
    find_problem,
    is_id,
    is_whole,
)
from trainwright.datasets.transforms import oriented_size
from trainwright.engine.errors import DataError, did_you_mean
from trainwright.engine.records.logger import print_log
from trainwright.engine.structures.masks import shown

BAD_ANNOTATIONS = ("error", "skip", "raise")  # "raise" is an older name of "error"
_CHUNK = 4096  # annotations that are checked together
_NAMED = 10
_OUTSIDE = re.compile("^bbox: is (partly )?outside")


class Problem(NamedTuple):
    """A bad entry of an annotation file.

    Args:
        kind: ``image``, ``annotation``, ``category`` or ``detection``.
        name: its id or source, such as ``annotation 5``.
        image: path of its image, or an empty string.
        reason: what is wrong, beginning with the name of the field.
    """

    kind: str
    name: str
    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}{f' ({self.image})' if self.image else ''}: {self.reason}"


class AnnotationChecker:
    """Check the parts of an annotation file one after the other, and collect the problems.

    Every entry is either returned or has a :class:`Problem`. An entry may have a ``source``, which messages name
    instead of its id, and a ``problem``, with which a reader of another format reports it as bad.

    Args:
        file: the annotation file, for messages.
        folder: the image folder.
        rules: the fields to check in annotations.
        pipeline: the pipeline that loads the images, for the sizes that the file does not state.
    """

    def __init__(self, file: str, folder: str, rules: Rules, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.file = file
        self.folder = folder
        self.rules = rules
        self.problems: list[Problem] = []
        self._num_settled = 0
        self._hint = ""
        self._numbers: Counter[str] = Counter()
        self._left_out: dict[str, set[Any]] = {"image": set(), "category": set()}

    def content(self, content: Any, required: Sequence[str]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the lists of images, annotations and categories.

        Raises:
            DataError: the content is not a dict with these lists.
        """
        if not isinstance(content, Mapping):
            raise DataError(
                f"{self.file} is not an annotation file in COCO format: expected a dict with "
                f"{', '.join(required)}, got a {type(content).__name__}"
            )
        if missing := [name for name in required if name not in content]:
            raise DataError(
                f"{self.file} is not an annotation file in COCO format: {' and '.join(missing)} missing; it has "
                f"{', '.join(map(str, content)) or 'nothing'}"
            )
        lists = [content.get(name, []) for name in ("images", "annotations", "categories")]
        for name, entries in zip(("images", "annotations", "categories"), lists):
            if not isinstance(entries, list | tuple):
                raise DataError(f"{self.file}: {name} must be a list, not a {type(entries).__name__}")
        return lists[0], lists[1], lists[2]

    def categories(self, entries: Sequence[Any], annotations: Sequence[Any]) -> dict[Any, Mapping[str, Any]]:
        """Return the good categories by id. Of several with the same name, the one in use is good."""
        by_name: dict[str, list[Any]] = {}
        names: dict[Any, set[str]] = {}
        for entry in entries:
            if isinstance(entry, Mapping) and is_id(entry.get("id")) and isinstance(entry.get("name"), str):
                by_name.setdefault(entry["name"], []).append(entry)
                names.setdefault(entry["id"], set()).add(entry["name"])
        used: Counter[Any] = Counter()
        if any(len(several) > 1 for several in by_name.values()):
            used.update(
                one["category_id"] for one in annotations if isinstance(one, Mapping) and is_id(one.get("category_id"))
            )
        best = {name: max(several, key=lambda entry: used[entry["id"]]) for name, several in by_name.items()}

        def problem(entry: Mapping[str, Any]) -> str | None:
            if reason := _id_problem(entry):
                return reason
            if not isinstance(entry.get("name"), str) or not entry["name"]:
                return _field_problem(entry, "name", "text")
            if best[entry["name"]] is not entry:
                other = best[entry["name"]]["id"]
                if other != entry["id"]:
                    return f"name: {entry['name']!r} is also the name of category {other!r}"
                return f"id: category {other!r} is listed several times"
            if len(names[entry["id"]]) > 1:
                return f"id: {entry['id']!r} is the id of several categories: {', '.join(sorted(names[entry['id']]))}"
            return None

        good = self._checked("category", "categories", entries, problem)
        return {entry["id"]: entry for entry in good}

    def images(self, entries: Sequence[Any]) -> dict[Any, dict[str, Any]]:
        """Return the good images by id, each with ``file_name`` and, if known, ``height`` and ``width``.

        The sizes of images for which the file states none are read from the image files.
        """
        files: dict[Any, Any] = {}
        ids: dict[Any, list[Mapping[str, Any]]] = {}
        for entry in entries:
            if isinstance(entry, Mapping) and is_id(entry.get("id")):
                ids.setdefault(entry["id"], []).append(entry)
                if isinstance(entry.get("file_name"), str):
                    files.setdefault(entry["file_name"], entry)

        def problem(entry: Mapping[str, Any]) -> str | None:
            if reason := _id_problem(entry):
                return reason
            if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
                return _field_problem(entry, "file_name", "text")
            for name, other in (("height", "width"), ("width", "height")):
                if name in entry and not (is_whole(entry[name]) and entry[name] > 0):
                    return f"{name}: must be a positive whole number, got {shown(entry[name])}"
                if name not in entry and other in entry:
                    return f"{name}: missing, but there is a {other}"
            same = ids[entry["id"]]
            if len(same) > 1 and any(one.get("file_name") != entry["file_name"] for one in same):
                return f"id: {entry['id']!r} is the id of several images"
            if files[entry["file_name"]] is not entry:
                other = files[entry["file_name"]]["id"]
                where = "several times" if other == entry["id"] else f"as image {other!r} too"
                return f"file_name: {entry['file_name']!r} is listed {where}"
            return None

        images = {}
        for entry in self._checked("image", "images", entries, problem):
            images[entry["id"]] = {"id": entry["id"], "file_name": entry["file_name"]}
            if "height" in entry:
                images[entry["id"]].update(height=int(entry["height"]), width=int(entry["width"]))
        self._read_sizes([image for image in images.values() if "height" not in image])
        return images

    def annotations(
        self,
        entries: Sequence[Any],
        images: Mapping[Any, Mapping[str, Any]],
        categories: Mapping[Any, Any],
        kind: str = "annotation",
    ) -> list[Any]:
        """Return the good annotations.

        Args:
            entries: the annotations.
            images: the images that they may refer to, by id.
            categories: the categories that they may refer to, by id.
            kind: ``annotation`` or ``detection``, for messages.

        Raises:
            DataError: all boxes are fractions of the image.
        """
        self._numbers[kind] += len(entries)
        sizes, num_problems = Sizes(images), len(self.problems)
        good: list[Any] = []
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            certain = are_good(chunk, sizes, categories, self.rules)
            if certain.all():
                good.extend(chunk)
                continue
            for number, (annotation, is_good) in enumerate(zip(chunk, certain.tolist()), start):
                reason = None if is_good else self._annotation_problem(annotation, sizes, categories)
                if reason is None:
                    good.append(annotation)
                else:
                    self._add(kind, f"{kind}s", number, annotation, reason, images)
        if are_fractions(good):
            raise DataError(
                f"{self.file}: all boxes are fractions of the image, such as {shown(good[0]['bbox'])}, but must be in "
                "pixels: multiply them by the width and height of their image"
            )
        outside = [problem for problem in self.problems[num_problems:] if _OUTSIDE.search(problem.reason)]
        if outside and are_corners(entries, sizes, self.rules):
            self._hint = (
                "All boxes fit into their images if they are (left, top, right, bottom), but COCO's are (left, top, "
                "width, height).\n"
            )
        return self._without_repeated_ids(good, kind, images)

    def settle(self, bad_annotations: str) -> None:
        """Raise an error that names the bad entries found since the last call, or log a warning if they are skipped.

        Args:
            bad_annotations: ``error`` or ``skip``.

        Raises:
            DataError: there are bad entries, which are not to be skipped.
        """
        problems = self.problems[self._num_settled :]
        self._num_settled = len(self.problems)
        if not problems:
            return
        counts = Counter(problem.kind for problem in problems)
        bad = " and ".join(
            f"{number} of {self._numbers[kind]} {'categories' if kind == 'category' else f'{kind}s'}"
            for kind, number in counts.items()
        )
        lines = [f"    {problem}" for problem in problems[:_NAMED]]
        if len(problems) > _NAMED:
            lines.append(f"    … and {len(problems) - _NAMED} more")
        listed = "\n".join(lines)
        if bad_annotations == "skip":
            message = f"{self.file}: skipped {bad}, which are bad (`trainwright browse-dataset` lists all)\n{listed}"
            message += f"\n{self._hint}".rstrip()
            print_log(message, "current", logging.WARNING)
            return
        raise DataError(
            f"{self.file}: {bad} are bad\n{listed}\n{self._hint}Correct them, or set bad_annotations='skip' in the "
            "dataset to leave them out (`trainwright browse-dataset` lists all)"
        )

    def _checked(
        self,
        kind: str,
        place: str,
        entries: Sequence[Any],
        find: Callable[[Mapping[str, Any]], str | None],
    ) -> list[Mapping[str, Any]]:
        """Return the good images or categories, and remember the ids of the others."""
        self._numbers[kind] += len(entries)
        good, bad_ids = [], set()
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                reason: str | None = f"must be a dict, got {shown(entry)}"
            else:
                reason = str(entry["problem"]) if "problem" in entry else find(entry)
            if reason is None:
                good.append(entry)
                continue
            self._add(kind, place, number, entry, reason, {})
            if isinstance(entry, Mapping) and is_id(entry.get("id")):
                bad_ids.add(entry["id"])
        self._left_out[kind] = bad_ids - {entry["id"] for entry in good}
        return good

    def _annotation_problem(self, annotation: Any, sizes: Sizes, categories: Mapping[Any, Any]) -> str | None:
        if not isinstance(annotation, Mapping):
            return f"must be a dict, got {shown(annotation)}"
        if "problem" in annotation:
            return str(annotation["problem"])
        names = self.rules.names
        for field, known, kind in (("image_id", sizes, "image"), ("category_id", categories, "category")):
            name, value = names.get(field, field), annotation.get(field)
            if not is_id(value):
                return _field_problem(annotation, field, "a whole number or text", name)
            if value in self._left_out[kind]:
                return f"{name}: {kind} {value!r} is left out, because it is bad"
            if value not in known:
                return f"{name}: {_unknown_id(value, known, kind)}"
        return find_problem(annotation, sizes[annotation["image_id"]], self.rules)

    def _without_repeated_ids(
        self, annotations: list[Any], kind: str, images: Mapping[Any, Mapping[str, Any]]
    ) -> list[Any]:
        ids = [annotation.get("id") for annotation in annotations]
        given = [key for key in ids if key is not None]
        if len(set(given)) == len(given):
            return annotations
        good, seen = [], set()
        for number, (key, annotation) in enumerate(zip(ids, annotations)):
            if key is not None and key in seen:
                self._add(kind, f"{kind}s", number, annotation, f"id: {key!r} occurs several times", images)
            else:
                good.append(annotation)
                seen.add(key)
        return good

    def _add(
        self,
        kind: str,
        place: str,
        number: int,
        entry: Any,
        reason: str,
        images: Mapping[Any, Mapping[str, Any]],
    ) -> None:
        fields = entry if isinstance(entry, Mapping) else {}
        name = f"{kind} {fields['id']!r}" if is_id(fields.get("id")) else f"{place}[{number}]"
        if isinstance(fields.get("source"), str):
            name = fields["source"]
        image = (
            fields if kind == "image" else images.get(fields["image_id"], {}) if is_id(fields.get("image_id")) else {}
        )
        file = image.get("file_name")
        path = os.path.join(self.folder, file) if isinstance(file, str) and file else ""  # noqa: PTH118  # strings stay short
        self.problems.append(Problem(kind, name, path, reason))

    def _read_sizes(self, images: Sequence[dict[str, Any]]) -> None:
        if not images:
            return
        print_log(f"{self.file}: reading the sizes of {len(images)} images, which it does not state", "current")
        for image in images:
            try:
                path = os.path.join(self.folder, image["file_name"])  # noqa: PTH118  # strings stay short
                image["height"], image["width"] = oriented_size(path, self.pipeline)
            except OSError:  # loading the image raises the error
                continue


def image_problem(info: Mapping[str, Any], pipeline: Any) -> str | None:
    """Return what is wrong with the image file of a sample, or None: missing, unreadable, or of another size."""
    path = info["img_path"]
    try:
        size = oriented_size(path, pipeline)
    except FileNotFoundError:
        return f"{path} not found: check data_root and data_prefix"
    except OSError as error:
        return f"{path} cannot be read: {getattr(error, 'reason', error)}: replace the file or remove the sample"
    stated = (info.get("height"), info.get("width"))
    if None not in stated and size != stated:
        return f"{path} has size {size} (height, width), but its annotation states {stated}: correct one of them"
    return None


def labels_of(file: str, names: Mapping[Any, str], classes: Any) -> dict[Any, int]:
    """Return the label of each selected category by its id, and log classes that the file lacks.

    Args:
        file: the annotation file, for messages.
        names: name of each category by its id.
        classes: names of the selected classes, in the order of their labels.

    Raises:
        DataError: the file has none of the classes, or a class seems to be misspelled.
    """
    is_list = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    if not is_list or len(set(classes)) < len(classes):
        raise DataError(f"metainfo['classes'] must be a list of different names, got {shown(classes)}")
    found = set(names.values())
    missing = [name for name in classes if name not in found]
    for name in missing:
        if hint := did_you_mean(name, sorted(found.difference(classes))):
            raise DataError(
                f"{file} has no class {name!r}: {hint} Correct it in metainfo=dict(classes=(...)), or, if it is "
                "another class, which does not occur in this file, add it to the categories of the file"
            )
    if found and len(missing) == len(classes):
        raise DataError(
            f"{file} has none of the classes {', '.join(map(repr, classes))}: its classes are "
            f"{', '.join(map(repr, sorted(found)))}; set metainfo=dict(classes=(...)) to those to use"
        )
    if missing:
        text = f"{file} lacks {len(missing)} of the {len(classes)} classes: {', '.join(missing)}"
        print_log(text, "current", logging.WARNING)
    label_of = {name: label for label, name in enumerate(classes)}
    return {key: label_of[name] for key, name in names.items() if name in label_of}


def select(
    file: str,
    entries: Sequence[Any],
    names: Mapping[Any, str],
    labels: Mapping[Any, int],
    noun: str = "annotations",
) -> list[Any]:
    """Return the annotations without those of classes that are not selected, whose number is logged.

    Args:
        file: the annotation file, for messages.
        entries: the annotations.
        names: name of each category by its id.
        labels: label of each selected category by its id.
        noun: what the entries are, for messages.
    """
    others = names.keys() - labels.keys()
    if not others:
        return list(entries)

    def category(entry: Any) -> Any:
        key = entry.get("category_id") if isinstance(entry, Mapping) else None
        return key if is_id(key) else None

    chosen = [entry for entry in entries if category(entry) not in others]
    counts = Counter(names[key] for key in map(category, entries) if key in others)
    if counts:
        text = ", ".join(f"{name} ({number})" for name, number in counts.items())
        message = f"{file}: left out {counts.total()} {noun} of classes that are not selected: {text}"
        print_log(message, "current")
    return chosen


def _id_problem(entry: Mapping[str, Any]) -> str | None:
    return None if is_id(entry.get("id")) else _field_problem(entry, "id", "a whole number or text")


def _field_problem(entry: Mapping[str, Any], field: str, expected: str, name: str = "") -> str:
    return f"{name or field}: " + (f"must be {expected}, got {shown(entry[field])}" if field in entry else "missing")


def _unknown_id(value: Any, known: Container[Any], kind: str) -> str:
    other = int(value) if isinstance(value, str) and value.strip().lstrip("-").isdecimal() else str(value)
    hint = f"; there is {other!r}, which is of another type" if other in known else ""
    return f"no {kind} has the id {value!r}{hint}"
