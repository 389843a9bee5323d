"""Images in one folder per class, or listed with their labels in a text file."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.class_folders import class_folders
from trainwright.datasets.formats.tables import TABLE_SUFFIXES, labeled_files
from trainwright.engine.errors import MissingFileError
from trainwright.engine.fileio import read_text
from trainwright.engine.inference.images import IMAGE_SUFFIXES
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Image files for classification, with one folder per class or an annotation list.

    Either the folder of an image is its class::

        data_root/split/dog/1.jpg
        data_root/split/dog/more/2.jpg
        data_root/split/cat/3.png

    Classes are numbered in the order of ``metainfo["classes"]``, or else of their sorted names; hidden folders and
    folders without images are not classes. Or a text file lists
    one ``path label`` per line, where ``label`` is a class index or a name in ``metainfo["classes"]``::

        dog/1.jpg 0
        cat/3.png 1

    A list that ends with ``.csv`` or ``.tsv`` is a table, with or without a header (``path,label``); its labels are
    class indices or names, and the classes are its sorted labels unless ``metainfo`` sets them.

    Samples start as ``dict(img_path=str, gt_label=int)``, sorted by path or in the order of the list.

    Args:
        data_root: root folder of the dataset.
        split: folder in ``data_root``, such as ``"train"``.
        ann_file: text file that lists the images, relative to ``data_root``; the paths in it are relative to
            ``data_root/split``.
        pipeline: transforms or their configs, from ``LoadImageFromFile`` to ``PackInputs``.
        metainfo: ``dict(classes=(...))`` sets the class names.
        extensions: file name extensions of images; case is ignored.
        filter_cfg, indices, serialize_data, test_mode, lazy_init, max_refetch: see :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the folder or ``ann_file`` is missing or has no images.
        ValueError: a class is not in ``metainfo``, or a line of ``ann_file`` is invalid.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str = "",
        ann_file: str = "",
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        filter_cfg: Mapping[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        self.split = split
        self.extensions = tuple(extension.lower() for extension in extensions)
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix={"img_path": split},
            filter_cfg=filter_cfg,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=pipeline,
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and label of every image."""
        folder = Path(self.data_prefix["img_path"])
        data_list = self._from_list(folder) if self.ann_file else self._from_folders(folder)
        if not data_list:
            raise MissingFileError(
                f"no images found in {self.ann_file or folder} (extensions: {', '.join(self.extensions)})"
            )
        return data_list

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list."""
        return [self.get_data_info(idx)["gt_label"]]

    def _from_folders(self, folder: Path) -> list[dict[str, Any]]:
        images = class_folders(folder, self._image_paths, self._metainfo.get("classes", ()))
        label_of = self._label_of_folders(folder, list(images))
        return [{"img_path": path, "gt_label": label_of[name]} for name, paths in images.items() for path in paths]

    def _label_of_folders(self, folder: Path, found: list[str]) -> dict[str, int]:
        classes = self._metainfo.setdefault("classes", tuple(found))
        if unknown := [name for name in found if name not in classes]:
            raise ValueError(
                f"{folder}: unknown class {', '.join(map(repr, unknown))}: add it to the classes in metainfo or "
                "remove its folder"
            )
        return {name: label for label, name in enumerate(classes)}

    def _image_paths(self, folder: Path) -> list[str]:
        """Return the sorted paths of the images in a folder, except hidden ones."""
        return sorted(
            f"{parent}{os.sep}{name}"
            for parent, _, names in os.walk(folder, followlinks=True)
            for name in names
            if name.lower().endswith(self.extensions) and not name.startswith(".")
        )

    def _from_list(self, folder: Path) -> list[dict[str, Any]]:
        if self.ann_file.endswith(TABLE_SUFFIXES):
            return labeled_files(self.ann_file, folder, "img_path", self._metainfo)
        label_of = {str(name): label for label, name in enumerate(self._metainfo.get("classes", ()))}
        data_list = []
        for number, line in enumerate(read_text(self.ann_file).splitlines(), 1):
            if line.strip():
                try:
                    path, label = _path_and_label(line.strip(), label_of)
                except ValueError as error:
                    raise ValueError(f"{self.ann_file}:{number}: {error}") from None
                data_list.append({"img_path": str(folder / path), "gt_label": label})
        return data_list


@DATASETS.register_module()
class CustomDataset(ImageFolder):
    """Image files for classification, with MMPretrain's argument names; see :class:`ImageFolder`.

    Args:
        data_root: root folder of the dataset.
        data_prefix: folder in ``data_root``, or ``dict(img_path=...)``.
        ann_file: text file with one ``path label`` per line, relative to ``data_root``; if empty, folders are classes.
        with_label: whether the images have labels. Otherwise folders are arbitrary, and lines of ``ann_file`` consist
            of a ``path`` only.
        **kwargs: arguments of :class:`ImageFolder` except ``split``.

    Raises:
        FileNotFoundError, ValueError: as for :class:`ImageFolder`.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str] = "",
        data_prefix: str | Mapping[str, str] = "",
        ann_file: str = "",
        with_label: bool = True,
        **kwargs: Any,
    ) -> None:
        self.with_label = with_label
        folder = data_prefix if isinstance(data_prefix, str) else data_prefix.get("img_path", "")
        super().__init__(data_root, folder, ann_file, **kwargs)

    def _from_folders(self, folder: Path) -> list[dict[str, Any]]:
        if self.with_label:
            return super()._from_folders(folder)
        return [{"img_path": path} for path in self._image_paths(folder)]

    def _from_list(self, folder: Path) -> list[dict[str, Any]]:
        if self.with_label:
            return super()._from_list(folder)
        lines = read_text(self.ann_file).splitlines()
        return [{"img_path": str(folder / line.strip())} for line in lines if line.strip()]


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet-1k (Russakovsky et al. 2015): 1,000 classes, 1,281,167 images in ``train`` and 50,000 in ``val``.

    ::

        data_root/train/n01440764/n01440764_10026.JPEG
        data_root/val/n01440764/ILSVRC2012_val_00000293.JPEG

    The 50,000 validation images may also be in one folder, as distributed, with their classes in a list::

        data_root/val/ILSVRC2012_val_00000293.JPEG
        data_root/meta/val.txt              ILSVRC2012_val_00000293.JPEG 0

    Classes are numbered in the usual order, by sorted folder name, and have English names.

    Args:
        data_root: folder that contains ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
        ann_file: text file with one ``path label`` per line, relative to ``data_root``; if empty, folders are classes.
        **kwargs: further arguments of :class:`ImageFolder`.

    Raises:
        FileNotFoundError: as for :class:`ImageFolder`.
        ValueError: the number of class folders is not 1,000, or a line of ``ann_file`` is invalid.
    """

    def __init__(
        self, data_root: str | os.PathLike[str], split: str = "train", ann_file: str = "", **kwargs: Any
    ) -> None:
        super().__init__(data_root, split, ann_file, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        from torchvision.models import ResNet50_Weights

        return {"classes": tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"]), **super()._load_metainfo(metainfo)}

    def _label_of_folders(self, folder: Path, found: list[str]) -> dict[str, int]:
        classes = self._metainfo["classes"]
        if len(found) != len(classes):
            raise ValueError(
                f"{folder} has {len(found)} folders, expected {len(classes)}, one per ImageNet class: "
                "set ann_file if all images are in one folder, or use ImageFolder for a subset of the classes"
            )
        return {name: label for label, name in enumerate(found)}


def _path_and_label(line: str, label_of: Mapping[str, int]) -> tuple[str, int]:
    path, _, word = line.rpartition(" ")
    label = label_of[word] if word in label_of else int(word) if word.isdecimal() else None
    if not path or label is None:
        raise ValueError(f"expected 'path label', where label is a class index or name, got {line!r}")
    if label_of and label >= len(label_of):
        raise ValueError(f"label {label} is out of range: metainfo has {len(label_of)} classes")
    return path.rstrip(), label
