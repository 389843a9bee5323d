"""Market-1501, for the re-identification of people."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset
from trainwright.engine.errors import DataError, MissingFileError
from trainwright.engine.registry import DATASETS

_TRAIN, _QUERY, _GALLERY = "bounding_box_train", "query", "bounding_box_test"
_BADLY_CUT = "-1"


@DATASETS.register_module()
class Market1501(BaseDataset):
    """People seen by six cameras (Zheng et al. 2015): 12,936 images of 751 people to train, and 750 others to test.

    The folders are those of the distribution: ``bounding_box_train``, ``query`` and ``bounding_box_test``. Names of
    files begin with the number of the person and of the camera: ``0002_c1s1_000451_03.jpg``; those of DukeMTMC-reID
    have the same form. Badly cut images, of person -1, are left out, as in the protocol. Person 0 stands for
    distractors, which match no query.

    Samples start as ``dict(img_path=str, gt_label=int, camera=int, is_query=bool)``. Labels are numbers of classes,
    whose names are the numbers of the people. For ``RetrievalMetric(other="camera")``, pack them with
    ``PackInputs``, and use ``collate_fn="pseudo_collate"``.

    Args:
        data_root: folder that contains the three folders.
        split: ``"train"``, or ``"test"`` for queries and gallery.
        pipeline: transforms or their configs, from ``LoadImageFromFile`` to ``PackInputs``.
        metainfo, indices, serialize_data, test_mode, lazy_init, max_refetch: see :class:`BaseDataset`.

    Raises:
        ValueError: an unknown ``split``.
        FileNotFoundError: a folder is missing or has no images.
        DataError: the name of an image has another form, or ``metainfo`` has classes, but not all people.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str = "train",
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', not {split!r}")
        self.split = split
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=pipeline,
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path, person, camera and role of every image."""
        folders = (_TRAIN,) if self.split == "train" else (_QUERY, _GALLERY)
        found = [sample for folder in folders for sample in self._samples(folder)]
        people = sorted({person for person, _ in found}, key=int)
        label_of = {name: label for label, name in enumerate(self._metainfo.setdefault("classes", tuple(people)))}
        if unknown := [person for person in people if person not in label_of]:
            raise DataError(f"{self.data_root}: metainfo['classes'] lacks person {', '.join(unknown[:5])}")
        return [{**sample, "gt_label": label_of[person]} for person, sample in found]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list."""
        return [self.get_data_info(idx)["gt_label"]]

    def _samples(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        folder = Path(self.data_root) / name
        paths = sorted(folder.glob("*.jpg")) + sorted(folder.glob("*.png"))
        if not paths:
            raise MissingFileError(f"no images found in {folder}")
        samples = []
        for path in paths:
            parts = re.match(r"(-1|\d+)_c(\d+)", path.name)
            if parts is None:
                raise DataError(
                    f"{path}: the name must begin like 0002_c1, with the numbers of the person and the camera"
                )
            person, camera = parts.groups()
            if person != _BADLY_CUT:
                sample = {"img_path": str(path), "camera": int(camera), "is_query": name == _QUERY}
                samples.append((person, sample))
        return samples
