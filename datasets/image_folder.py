"""Images in one folder a class, or listed with their labels in a text file."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset
from trainwright.engine.registry import DATASETS

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Images for classification, on disk as ImageNet's are.

    Either the folder of a file names its class::

        data_root/split/dog/1.jpg
        data_root/split/dog/more/2.jpg
        data_root/split/cat/3.png

    Classes are then numbered in the order of ``metainfo["classes"]``, or of their sorted names. Or a text
    file lists the images, one ``path label`` a line, where ``label`` is a number, or the name of a class in
    ``metainfo["classes"]``::

        dog/1.jpg 0
        cat/3.png 1

    Samples start as ``dict(img_path=str, gt_label=int)``, in the order of their paths or of the list.

    Args:
        data_root: folder of the data set.
        split: folder within it, such as ``"train"``.
        ann_file: text file that lists the images, relative to ``data_root``; the paths in it are relative to
            ``data_root/split``.
        pipeline: transforms, or their configs: ``LoadImageFromFile`` first, ``PackInputs`` last.
        metainfo: ``dict(classes=(...))`` gives the names of the classes.
        extensions: endings of file names that count as images, in any case.
        filter_cfg, indices, serialize_data, test_mode, lazy_init, max_refetch: see :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the folder or the list is missing, or holds no images.
        ValueError: a class that ``metainfo`` does not name, or a line that cannot be read.
    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str = "",
        ann_file: str = "",
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        extensions: Sequence[str] = _IMAGE_SUFFIXES,
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
        """Returns path and label of every image."""
        folder = Path(self.data_prefix["img_path"])
        data_list = self._from_list(folder) if self.ann_file else self._from_folders(folder)
        if not data_list:
            raise FileNotFoundError(f"{self.ann_file or folder}: no images (of {', '.join(self.extensions)})")
        return data_list

    def get_cat_ids(self, idx: int) -> list[int]:
        """Returns the label of a sample, as a list."""
        return [self.get_data_info(idx)["gt_label"]]

    def _from_folders(self, folder: Path) -> list[dict[str, Any]]:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {str(folder)!r}: check data_root and split")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        classes = self._metainfo.setdefault("classes", tuple(found))
        if unknown := [name for name in found if name not in classes]:
            raise ValueError(f"{folder}: metainfo names no class {', '.join(map(repr, unknown))}")
        label_of = {name: label for label, name in enumerate(classes)}
        return [
            {"img_path": path, "gt_label": label_of[name]}
            for name in found
            for path in sorted(self._image_paths(folder / name))
        ]

    def _image_paths(self, folder: Path) -> Iterator[str]:
        for parent, _, names in os.walk(folder, followlinks=True):
            yield from (f"{parent}{os.sep}{name}" for name in names if name.lower().endswith(self.extensions))

    def _from_list(self, folder: Path) -> list[dict[str, Any]]:
        label_of = {str(name): label for label, name in enumerate(self._metainfo.get("classes", ()))}
        data_list = []
        for number, line in enumerate(Path(self.ann_file).read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    path, label = _path_and_label(line.strip(), label_of)
                except ValueError as error:
                    raise ValueError(f"{self.ann_file}:{number}: {error}") from None
                data_list.append({"img_path": str(folder / path), "gt_label": label})
        return data_list


def _path_and_label(line: str, label_of: Mapping[str, int]) -> tuple[str, int]:
    path, _, word = line.rpartition(" ")
    label = label_of[word] if word in label_of else int(word) if word.isdecimal() else None
    if not path or label is None:
        raise ValueError(f"expected 'path label', the label a number or a class, not {line!r}")
    if label_of and label >= len(label_of):
        raise ValueError(f"label {label}, but metainfo names only {len(label_of)} classes")
    return path.rstrip(), label
