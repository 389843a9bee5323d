"""Datasets of videos, stored as video files or as folders of frames."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.class_folders import class_folders
from trainwright.datasets.formats.tables import TABLE_SUFFIXES, labeled_files
from trainwright.datasets.video.readers import FrameFolder, read_images
from trainwright.datasets.video.video_file import VideoFile
from trainwright.engine.errors import MissingFileError
from trainwright.engine.fileio import read_text
from trainwright.engine.inference.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trainwright.engine.registry import DATASETS


class _BaseVideoDataset(BaseDataset):
    """Base class of datasets of videos in one folder per class, or listed with their labels in a text file.

    Loading a sample with an unknown label, which is recorded as its ``problem``, raises an error.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and label of each video."""
        root = Path(self.data_prefix[self._key])
        data_list = self._from_list(root) if self.ann_file else self._from_folders(root)
        if not data_list:
            raise MissingFileError(f"no videos found in {self.ann_file or root}: {self._remedy}")
        return data_list

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the path and label of a video.

        Raises:
            ValueError: the label is unknown; the message contains the sample and its path.
        """
        info = super().get_data_info(idx)
        if "problem" in info:
            raise ValueError(
                f"sample {info['sample_idx']} ({info[self._key]}): {info['problem']} "
                "(`trainwright browse-dataset` lists all such samples)"
            )
        return info

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem: unknown labels, missing, unreadable or incomplete videos."""
        for index in range(len(self)):
            info = super().get_data_info(index)
            if "problem" in info:
                yield f"sample {index} ({info[self._key]}): {info['problem']}"
            try:
                if found := self._check_video(info):
                    yield f"sample {index} ({info[self._key]}): {found}"
            except OSError as error:
                yield f"sample {index}: {error}: check data_root or remove the sample"

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list."""
        return [self.get_data_info(idx)["gt_label"]]

    _key: str
    _remedy: str

    @abstractmethod
    def _videos_of(self, folder: Path) -> list[Path]:
        """Return the videos of a class."""

    @abstractmethod
    def _check_video(self, info: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a readable video, or None.

        Raises:
            OSError: a file is missing or damaged.
        """

    @abstractmethod
    def _parse_line(self, words: list[str]) -> tuple[dict[str, Any], str]:
        """Return the path of a video with further information, and its label, from a line of ``ann_file``."""

    def _from_folders(self, root: Path) -> list[dict[str, Any]]:
        found = class_folders(root, self._videos_of, self._metainfo.get("classes", ()))
        classes = self._metainfo.setdefault("classes", tuple(found))
        label_of = {name: label for label, name in enumerate(classes)}
        data_list = []
        for name, videos in found.items():
            label = label_of.get(name)
            problem = {} if label is not None else {"problem": f"the class {name!r} is not in metainfo"}
            data_list += [{self._key: str(path), "gt_label": label, **problem} for path in videos]
        return data_list

    def _from_list(self, root: Path) -> list[dict[str, Any]]:
        if self.ann_file.endswith(TABLE_SUFFIXES):
            return labeled_files(self.ann_file, root, self._key, self._metainfo)
        classes = [str(name) for name in self._metainfo.get("classes", ())]
        data_list = []
        for number, line in enumerate(read_text(self.ann_file).splitlines(), 1):
            if not line.strip():
                continue
            try:
                info, word = self._parse_line(line.split())
            except ValueError as error:
                raise ValueError(f"{self.ann_file}:{number}: {error}, got {line!r}") from None
            info[self._key] = str(root / info[self._key])
            label = classes.index(word) if word in classes else int(word) if word.isdecimal() else None
            if label is None or (classes and label >= len(classes)):
                expected = f"one of {len(classes)} classes" if classes else "a number"
                info["problem"] = f"the label {word!r} in line {number} of {self.ann_file} is not {expected}"
            data_list.append({**info, "gt_label": label})
        return data_list


@DATASETS.register_module()
class VideoDataset(_BaseVideoDataset):
    """Video files for classification.

    Either the folder of a file is its class, as in Kinetics::

        data_root/train/archery/-1q7jA3DXQM_000005_000015.mp4
        data_root/train/yoga/--Yis6JnGiM.mp4

    with ``data_prefix=dict(filename="train")``; classes are numbered in the order of ``metainfo["classes"]``, or else
    of their sorted names. Or a text file lists one ``path label`` per line, where ``label`` is a class index, or a
    class name without spaces. A list that ends with ``.csv`` or ``.tsv`` is a table with or without a header
    (``path,label``), in which names may contain spaces. Samples start as ``dict(filename=str, gt_label=int)``; the
    pipeline starts with :class:`PyAVInit`.

    Args:
        ann_file: text file with one ``path label`` per line, relative to ``data_root``; if empty, folders are classes.
        data_prefix: ``dict(filename=folder)``: the folder of the files, relative to ``data_root``.
        extensions: file name extensions of videos; case is ignored.
        data_root, metainfo, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the folder or ``ann_file`` is missing or has no videos.
        ValueError: a line of ``ann_file`` is invalid.
    """

    _key = "filename"
    _remedy = "check data_root, data_prefix and extensions"

    def __init__(
        self,
        ann_file: str = "",
        data_prefix: Mapping[str, str] | None = None,
        extensions: Sequence[str] = VIDEO_SUFFIXES,
        **kwargs: Any,
    ) -> None:
        self.extensions = tuple(extension.lower() for extension in extensions)
        super().__init__(
            ann_file=ann_file, data_prefix={"filename": ""} if data_prefix is None else data_prefix, **kwargs
        )

    def _videos_of(self, folder: Path) -> list[Path]:
        return sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in self.extensions and not path.name.startswith(".")
        )

    def _parse_line(self, words: list[str]) -> tuple[dict[str, Any], str]:
        if len(words) < 2:
            raise ValueError("expected 'path label'")
        return {"filename": " ".join(words[:-1])}, words[-1]

    def _check_video(self, info: Mapping[str, Any]) -> str | None:
        video = VideoFile(info["filename"])
        try:
            video.count()
        finally:
            video.close()
        return None


@DATASETS.register_module()
class RawframeDataset(_BaseVideoDataset):
    """Videos for classification, each stored as a folder with an image per frame.

    Either the parent of the folder is its class::

        data_root/train/archery/-1q7jA3DXQM/img_00001.jpg

    with ``data_prefix=dict(frame_dir="train")``, or a text file lists one ``path frames label`` per line, as in
    MMAction2, or a table (``.csv`` or ``.tsv``) has the columns ``path`` and ``label``. Samples start as
    ``dict(frame_dir=str, total_frames=int, gt_label=int, filename_tmpl=str, start_index=int)``; :class:`RawFrameDecode`
    reads the frames.

    Args:
        ann_file: text file with one ``path frames label`` per line, relative to ``data_root``; if empty, folders are
            classes.
        data_prefix: ``dict(frame_dir=folder)``: the parent folder of the listed or class folders, relative to
            ``data_root``.
        filename_tmpl: format string for the file name of a frame, given its number.
        start_index: number of the first frame in the file names.
        data_root, metainfo, indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: see
            :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the folder or ``ann_file`` is missing or has no videos.
        ValueError: a line of ``ann_file`` is invalid.
    """

    _key = "frame_dir"
    _remedy = "check data_root and data_prefix"

    def __init__(
        self,
        ann_file: str = "",
        data_prefix: Mapping[str, str] | None = None,
        filename_tmpl: str = "img_{:05}.jpg",
        start_index: int = 1,
        **kwargs: Any,
    ) -> None:
        self.filename_tmpl = filename_tmpl
        self.start_index = start_index
        prefix = {"frame_dir": ""} if data_prefix is None else data_prefix
        super().__init__(ann_file=ann_file, data_prefix=prefix, **kwargs)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the frame folder of a sample, the number and names of its frames, and its label."""
        info = super().get_data_info(idx)
        if "total_frames" not in info:
            info["total_frames"] = _count_images(info["frame_dir"])
        return info | {"filename_tmpl": self.filename_tmpl, "start_index": self.start_index}

    def _videos_of(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _parse_line(self, words: list[str]) -> tuple[dict[str, Any], str]:
        if len(words) < 3 or not words[-2].isdecimal():
            raise ValueError("expected 'path frames label'")
        return {"frame_dir": " ".join(words[:-2]), "total_frames": int(words[-2])}, words[-1]

    def _check_video(self, info: Mapping[str, Any]) -> str | None:
        stated = info.get("total_frames", len(FrameFolder(info["frame_dir"])))
        for index in range(self.start_index, self.start_index + stated):
            name = self.filename_tmpl.format(index)
            if not Path(info["frame_dir"], name).is_file():
                return f"the frame {name} is missing, expected {stated} frames: check filename_tmpl and start_index"
            read_images([Path(info["frame_dir"], name)])
        return None if stated else "it has no frames"


def _count_images(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries)
