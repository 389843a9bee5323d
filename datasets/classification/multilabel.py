"""Images with any number of classes each."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.detection.dataset import VOCDataset
from trainwright.engine.errors import did_you_mean
from trainwright.engine.registry import DATASETS, TRANSFORMS

_PROBLEMS_SHOWN = 20


@DATASETS.register_module()
class MultiLabelDataset(BaseDataset):
    """Images with any number of classes each, listed in an annotation file.

    The file (json, yaml or pickle) is that of :class:`BaseDataset`; ``gt_label`` lists classes by number or name::

        {"metainfo": {"classes": ["cat", "dog", "tree"]},
         "data_list": [{"img_path": "1.jpg", "gt_label": [0, 2]}, {"img_path": "2.jpg", "gt_label": []}]}

    Samples start as ``dict(img_path=str, gt_label=list[int])``.

    Args:
        **kwargs: as for :class:`BaseDataset`.

    Raises:
        ValueError: the file names no classes, or samples have no ``gt_label``, or one of an unknown class; the message
            names all these samples.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return path and classes of every image."""
        self._problems: list[str] = []
        data_list = super().load_data_list()
        if self._problems:
            more = len(self._problems) - _PROBLEMS_SHOWN
            lines = [*self._problems[:_PROBLEMS_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
            raise ValueError(f"{self.ann_file}: bad annotations\n" + "\n".join(f"    {line}" for line in lines))
        return data_list

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a sample with its path joined and its classes as numbers."""
        classes = list(self._metainfo.get("classes", ()))
        if not classes:
            raise ValueError(f"{self.ann_file}: metainfo names no classes")
        labels = raw_data_info.get("gt_label")
        try:
            if not isinstance(labels, list | tuple):
                raise ValueError(f"gt_label must be a list of classes, not {labels!r}")
            raw_data_info["gt_label"] = sorted({_number_of(label, classes) for label in labels})
        except ValueError as error:
            self._problems.append(f"{raw_data_info.get('img_path', 'a sample')}: {error}")
        return super().parse_data_info(raw_data_info)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of a sample."""
        labels: list[int] = self.get_data_info(idx)["gt_label"]
        return labels


@DATASETS.register_module()
class VOC(BaseDataset):
    """Pascal VOC, classification: which of 20 classes an image shows.

    ::

        data_root/JPEGImages/000005.jpg
        data_root/ImageSets/Main/aeroplane_trainval.txt    (and one for each class: an image and 1, 0 or -1 a line)

    Samples start as ``dict(img_path=str, gt_label=list[int], gt_score=array)``. A class that shows only in objects that
    are marked as difficult (0 in the files) does not count, as in the official evaluation: -1 in ``gt_score``.

    Args:
        data_root: the folder ``VOCdevkit/VOC2007``, or that of another year.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        data_prefix: folder of the images, within ``data_root``.
        **kwargs: as for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: a list of a class is missing.
        ValueError: a line of it cannot be read, or the lists are not of the same images.
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
        """Return path and classes of every image."""
        folder = Path(self.data_root, "ImageSets", "Main")
        files = [folder / f"{name}_{self.split}.txt" for name in self._metainfo["classes"]]
        columns = [_read_flags(file) for file in files]
        names = list(columns[0])
        for file, column in zip(files, columns):
            if column.keys() != columns[0].keys():
                raise ValueError(f"{file} is not of the same images as {files[0]}")
        flags = np.array([[column[name] for column in columns] for name in names], np.int8)
        # In the files 0 is difficult and -1 absent.
        scores = np.select([flags == 1, flags == 0], [1, -1], 0).astype(np.int8)
        images = Path(self.data_prefix["img_path"])
        return [
            {"img_path": str(images / f"{name}.jpg"), "gt_label": np.flatnonzero(row == 1).tolist(), "gt_score": row}
            for name, row in zip(names, scores)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of a sample."""
        labels: list[int] = self.get_data_info(idx)["gt_label"]
        return labels


@TRANSFORMS.register_module()
class LabelsFromInstances:
    """Set ``gt_label`` to the classes of the instances that a sample (still) has: detection becomes multi-label.

    Put it after what removes boxes, such as a crop with ``SanitizeBoundingBoxes``. A sample without instances, such as
    an image to predict, is left as it is.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its classes, sorted."""
        if "gt_bboxes_labels" in results:
            results["gt_label"] = sorted({int(label) for label in results["gt_bboxes_labels"]})
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _number_of(label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, str):
        if label not in classes:
            hint = did_you_mean(label, classes) or f"there are {', '.join(classes)}"
            raise ValueError(f"no class {label!r}: {hint}")
        return classes.index(label)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(classes):
        raise ValueError(f"no class {label!r}: there are {len(classes)}, from 0")
    return label


def _read_flags(file: Path) -> dict[str, int]:
    flags = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if words:
            if len(words) != 2 or words[1] not in ("1", "0", "-1"):
                raise ValueError(f"{file}:{number}: expected an image and 1, 0 or -1, not {line!r}")
            flags[words[0]] = int(words[1])
    return flags
