"""Datasets for multi-label classification."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.detection.voc import VOCDataset
from trainwright.datasets.formats.tables import TABLE_SUFFIXES, labeled_files
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import read_text
from trainwright.engine.registry import DATASETS, TRANSFORMS

_MAX_PROBLEMS_SHOWN = 20


@DATASETS.register_module()
class MultiLabelDataset(BaseDataset):
    """Images with any number of classes each, read from an annotation file.

    The file (JSON, YAML or pickle) has the format of :class:`BaseDataset`; ``gt_label`` is a list of class indices or
    names::

        {"metainfo": {"classes": ["cat", "dog", "tree"]},
         "data_list": [{"img_path": "1.jpg", "gt_label": [0, 2]}, {"img_path": "2.jpg", "gt_label": []}]}

    Or it is a table (``.csv`` or ``.tsv``) with a column for each class, or with several labels per image; see
    :func:`~trainwright.datasets.formats.tables.read_table`::

        path,cat,dog,tree
        1.jpg,1,0,1
        2.jpg,0,0,0

    Samples start as ``dict(img_path=str, gt_label=list[int])``, and with ``gt_score`` if the table has -1, for unknown.

    Args:
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        ValueError: there are no classes in ``metainfo``, or samples have no ``gt_label`` or an unknown class; the
            message lists up to 20 of these samples.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and class indices of every image."""
        if self.ann_file.endswith(TABLE_SUFFIXES):
            folder = Path(self.data_prefix["img_path"])
            return labeled_files(self.ann_file, folder, "img_path", self._metainfo, multilabel=True)
        self._problems: list[str] = []
        data_list = super().load_data_list()
        if self._problems:
            more = len(self._problems) - _MAX_PROBLEMS_SHOWN
            lines = [*self._problems[:_MAX_PROBLEMS_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
            raise ValueError(f"{self.ann_file}: invalid annotations\n" + "\n".join(f"    {line}" for line in lines))
        return data_list

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a sample with joined paths and class indices."""
        classes = list(self._metainfo.get("classes", ()))
        if not classes:
            raise ValueError(
                f"{self.ann_file}: metainfo has no classes: add them to the file or to the metainfo of the dataset"
            )
        labels = raw_data_info.get("gt_label")
        try:
            if not isinstance(labels, list | tuple):
                raise ValueError(f"gt_label must be a list of classes, not {labels!r}")
            raw_data_info["gt_label"] = sorted({_class_index(label, classes) for label in labels})
        except ValueError as error:
            self._problems.append(f"{raw_data_info.get('img_path', 'a sample')}: {error}")
        return super().parse_data_info(raw_data_info)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of a sample."""
        labels: list[int] = self.get_data_info(idx)["gt_label"]
        return labels


@DATASETS.register_module()
class VOC(BaseDataset):
    """Pascal VOC for multi-label classification: which of 20 classes an image shows.

    ::

        data_root/JPEGImages/000005.jpg
        data_root/ImageSets/Main/aeroplane_trainval.txt    (one file per class; each line: image name and 1, 0 or -1)

    Samples start as ``dict(img_path=str, gt_label=list[int], gt_score=array)``, where ``gt_score`` is 1 for present and
    0 for absent classes. Classes of which all objects are marked as difficult (0 in the files) have a ``gt_score`` of
    -1: they are ignored, as in the official evaluation.

    Args:
        data_root: a folder such as ``VOCdevkit/VOC2007``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        data_prefix: ``dict(img_path=folder)``: the image folder, relative to ``data_root``.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the file of a class is missing.
        ValueError: a line is invalid, or the files list different images.
    """

    METAINFO: Mapping[str, Any] = VOCDataset.METAINFO

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str = "trainval",
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.split = split
        prefix = {"img_path": "JPEGImages"} if data_prefix is None else data_prefix
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and class indices of every image."""
        folder = Path(self.data_root, "ImageSets", "Main")
        files = [folder / f"{name}_{self.split}.txt" for name in self._metainfo["classes"]]
        columns = [_read_flags(file) for file in files]
        names = list(columns[0])
        for file, column in zip(files, columns):
            if column.keys() != columns[0].keys():
                raise ValueError(f"{file} and {files[0]} list different images")
        flags = np.array([[column[name] for column in columns] for name in names], np.int8)
        # Values in the files: 1 for present, 0 for difficult, -1 for absent.
        scores = np.select([flags == 1, flags == 0], [1, -1], 0).astype(np.int8)
        images = Path(self.data_prefix["img_path"])
        return [
            {"img_path": str(images / f"{name}.jpg"), "gt_label": np.flatnonzero(row == 1).tolist(), "gt_score": row}
            for name, row in zip(names, scores)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of a sample."""
        labels: list[int] = self.get_data_info(idx)["gt_label"]
        return labels


@TRANSFORMS.register_module()
class LabelsFromInstances:
    """Set ``gt_label`` to the classes of a sample's instances, to turn a detection dataset into a multi-label one.

    Place it after transforms that remove boxes, such as a crop with ``SanitizeBoundingBoxes``. A sample without
    ``gt_bboxes_labels``, such as an image for inference, is returned unchanged.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its sorted class indices."""
        if "gt_bboxes_labels" in results:
            results["gt_label"] = sorted({int(label) for label in results["gt_bboxes_labels"]})
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _class_index(label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, str):
        if label not in classes:
            hint = did_you_mean(label, classes) or f"must be one of {', '.join(classes)}"
            raise ValueError(f"unknown class {label!r}: {hint}")
        return classes.index(label)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(classes):
        raise ValueError(f"unknown class {label!r}: must be from 0 to {len(classes) - 1}")
    return label


def _read_flags(file: Path) -> dict[str, int]:
    flags = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if words:
            if len(words) != 2 or words[1] not in ("1", "0", "-1"):
                raise ValueError(f"{file}:{number}: expected an image name and 1, 0 or -1, got {line!r}")
            flags[words[0]] = int(words[1])
    return flags
