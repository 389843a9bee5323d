"""Datasets for semantic segmentation: image files and mask files with the class of every pixel."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.formats.content import find_files
from trainwright.datasets.segmentation.transforms import as_classes, read_seg_map
from trainwright.datasets.transforms import oriented_size
from trainwright.engine.errors import MissingFileError
from trainwright.engine.fileio import list_from_file
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class BaseSegDataset(BaseDataset):
    """A folder of images and a folder of masks with matching file names.

    ::

        data_root/images/a/1.jpg      data_root/masks/a/1.png
        data_root/images/a/2.jpg      data_root/masks/a/2.png

    with ``data_prefix=dict(img_path="images", seg_map_path="masks")``, which is the default. A mask is a grayscale or
    palette image whose values are class indices; or, if ``metainfo`` sets ``palette``, an RGB image in the colors of
    the classes. Samples start as ``dict(img_path=str, seg_map_path=str, ...)``, sorted by name or in the order of
    ``ann_file``; ``LoadSegMap`` reads the mask. If ``data_prefix`` lacks ``seg_map_path``, samples have no masks.

    If ``metainfo=dict(classes=(...))`` is a subset of the classes in :attr:`METAINFO`, these classes are numbered in
    the order of ``metainfo``, and the pixels of all other classes are ignored.

    Args:
        img_suffix: suffix of image file names; if empty, all image files are used, whatever their suffix.
        seg_map_suffix: suffix of mask file names, which replaces that of the image.
        ann_file: text file with one sample name per line, without ``data_prefix`` and ``img_suffix``; all images if
            empty.
        label_map: maps mask values to class indices; values that are not in it are ignored. Takes precedence over the
            mapping implied by ``metainfo["classes"]``.
        reduce_zero_label: ignore mask value 0 and decrease all other values by one. Excludes ``label_map``.
        ignore_index: label of ignored pixels.
        metainfo, data_root, data_prefix, filter_cfg, indices, serialize_data, pipeline, test_mode, lazy_init,
            max_refetch: see :class:`BaseDataset`; ``metainfo["palette"]`` is a list with a color per class.

    Raises:
        FileNotFoundError: the image folder or ``ann_file`` is missing, or there are no images.
        ValueError: a class is not in :attr:`METAINFO`, or both ``label_map`` and ``reduce_zero_label`` are set.
    """

    def __init__(
        self,
        img_suffix: str = ".jpg",
        seg_map_suffix: str = ".png",
        ann_file: str = "",
        metainfo: Mapping[str, Any] | None = None,
        data_root: str | os.PathLike[str] = "",
        data_prefix: Mapping[str, str] | None = None,
        label_map: Mapping[int, int] | None = None,
        reduce_zero_label: bool = False,
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        if label_map is not None and reduce_zero_label:
            raise ValueError("label_map and reduce_zero_label exclude each other: omit 0 from label_map to ignore it")
        self.img_suffix = img_suffix
        self.seg_map_suffix = seg_map_suffix
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.label_map = None if label_map is None else dict(label_map)
        prefix = {"img_path": "images", "seg_map_path": "masks"} if data_prefix is None else data_prefix
        self._selected_labels = self._select_classes(metainfo)
        palette = (metainfo or {}).get("palette")
        self._mask_colors = tuple(map(tuple, palette)) if isinstance(palette, list | tuple) else None
        self._new_labels: list[int] | None = None
        super().__init__(ann_file=ann_file, metainfo=metainfo, data_root=data_root, data_prefix=prefix, **kwargs)
        if self.label_map is None and self._selected_labels is not None:
            self.label_map = self._selected_labels
            palette = self.METAINFO.get("palette")
            if palette and not (metainfo or {}).get("palette"):
                self._metainfo["palette"] = [palette[old] for old in self._selected_labels]

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the image and mask paths of every sample."""
        images = Path(self.data_prefix.get("img_path", ""))
        if not images.is_dir():
            raise MissingFileError(f"image folder {str(images)!r} not found: check data_root and data_prefix")
        if self.ann_file:
            names = [line.strip() for line in list_from_file(self.ann_file) if line.strip()]
        else:
            found = (
                [path for path in images.rglob(f"*{self.img_suffix}") if path.is_file()]
                if self.img_suffix
                else map(Path, find_files(images))
            )
            names = sorted(str(path.relative_to(images)).removesuffix(self.img_suffix) for path in found)
        if not names:
            if self.ann_file:
                raise MissingFileError(f"{self.ann_file} is empty: it must contain one sample name per line")
            raise MissingFileError(f"no files *{self.img_suffix} in {images}: check data_prefix and img_suffix")
        return [self._paths(name) for name in names]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the paths of a sample and the options for decoding its mask with :class:`LoadSegMap`."""
        info = super().get_data_info(idx)
        if "seg_map_path" in info:
            info.update(
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                ignore_index=self.ignore_index,
                palette=self._mask_colors,
                num_classes=len(self._new_labels or self._metainfo.get("classes", ())) or None,
                new_labels=self._new_labels,
            )
        return info

    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes of the masks; see :meth:`BaseDataset.remap_classes`."""
        new_labels, before = self._adopt_classes(classes), self._new_labels
        self._new_labels = new_labels if before is None else [new_labels[label] for label in before]

    def check_labels(self, indices: Iterable[int]) -> Iterator[str]:
        """Yield a line per problem in the values of the masks of some samples."""
        present: set[int] = set()
        for index in indices:
            info = self.get_data_info(index)
            if "seg_map_path" in info:
                try:
                    present.update(
                        np.unique(as_classes(read_seg_map(info["seg_map_path"], info.get("palette")), info)).tolist()
                    )
                except (OSError, ValueError) as error:
                    yield f"sample {index}: {error}"
        yield from self._value_problems(present)

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem: missing or corrupt files, size mismatches, unknown classes, empty masks."""
        present: set[int] = set()
        for index in range(len(self)):
            info = self.get_data_info(index)
            try:
                size = oriented_size(info["img_path"], self.pipeline)
                if "seg_map_path" not in info:
                    continue
                classes = as_classes(read_seg_map(info["seg_map_path"], info.get("palette")), info)
                if classes.shape != size:
                    yield (
                        f"sample {index}: the mask {info['seg_map_path']} has size {classes.shape}, but the image "
                        f"{info['img_path']} has size {size} (height, width): correct or remove the sample"
                    )
                values = np.unique(classes).tolist()
                present.update(values)
                if values == [self.ignore_index]:
                    yield f"sample {index}: all pixels of {info['seg_map_path']} are ignored: remove the sample"
            except OSError as error:
                yield f"sample {index}: {error}: check data_root, data_prefix and the suffixes"
            except ValueError as error:
                yield f"sample {index}: {error}"
        yield from self._value_problems(present)

    def _value_problems(self, present: set[int]) -> Iterator[str]:
        """Yield a problem if masks with these values, taken together, have a single class.

        Binary masks often consist of 0 and 255, so that the foreground would be ignored.
        """
        if present == {0, self.ignore_index} and len(self._metainfo.get("classes", ())) != 1:
            other = self.ignore_index
            yield (
                f"the masks in {self.data_prefix['seg_map_path']} have no values but 0 and {other}, which is ignored, "
                f"so all other pixels have the class 0. If {other} is the foreground of binary masks, set "
                f"label_map={{0: 0, {other}: 1}} for the dataset"
            )

    def _paths(self, name: str) -> dict[str, Any]:
        paths = {"img_path": os.path.join(self.data_prefix["img_path"], name + self.img_suffix)}  # noqa: PTH118  # strings stay short
        if "seg_map_path" in self.data_prefix:
            stem = name if self.img_suffix else os.path.splitext(name)[0]  # noqa: PTH122
            paths["seg_map_path"] = os.path.join(self.data_prefix["seg_map_path"], stem + self.seg_map_suffix)  # noqa: PTH118
        return paths

    def _select_classes(self, metainfo: Mapping[str, Any] | None) -> dict[int, int] | None:
        """Return the new label of each selected label of METAINFO, or None if ``metainfo`` selects no classes."""
        known = list(self.METAINFO.get("classes", ()))
        wanted = (metainfo or {}).get("classes")
        if not known or wanted is None or list(wanted) == known:
            return None
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"{type(self).__name__} has no class {unknown[0]!r}: must be one of {', '.join(known)}")
        return {known.index(name): new for new, name in enumerate(wanted)}


@DATASETS.register_module()
class VOCSegmentation(BaseSegDataset):
    """Pascal VOC 2012 for semantic segmentation: 20 classes and the background.

    ::

        data_root/JPEGImages/2007_000032.jpg
        data_root/SegmentationClass/2007_000032.png
        data_root/ImageSets/Segmentation/train.txt

    Args:
        data_root: the folder ``VOCdevkit/VOC2012``.
        ann_file: text file with the sample names of a split, relative to ``data_root``.
        data_prefix: folders of images and masks; by default as above.
        **kwargs: further arguments of :class:`BaseSegDataset`.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": (
            "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
            "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
        ),
        "palette": [
            (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
            (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128),
            (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
        ],
    }  # fmt: skip

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        ann_file: str = "ImageSets/Segmentation/train.txt",
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        prefix = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"}
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=prefix if data_prefix is None else data_prefix,
            **kwargs,
        )


_CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@DATASETS.register_module()
class Cityscapes(BaseSegDataset):
    """Cityscapes for semantic segmentation: 19 of its 34 labels are classes, the others are ignored.

    ::

        data_root/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
        data_root/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png

    Args:
        data_root: folder that contains ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val`` or ``test``.
        seg_map_suffix: ``_gtFine_labelIds.png`` for the original label ids, which are mapped to train ids;
            ``_gtFine_labelTrainIds.png`` for masks that were converted to train ids.
        img_suffix, data_prefix, label_map: see :class:`BaseSegDataset`.
        **kwargs: further arguments of :class:`BaseSegDataset`.
    """

    METAINFO: Mapping[str, Any] = {
        "classes": (
            "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
            "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
        ),
        "palette": [
            (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
            (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
            (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
        ],
    }  # fmt: skip

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        split: str = "train",
        img_suffix: str = "_leftImg8bit.png",
        seg_map_suffix: str = "_gtFine_labelIds.png",
        data_prefix: Mapping[str, str] | None = None,
        label_map: Mapping[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        prefix = {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"}
        from_ids = label_map is None and seg_map_suffix.endswith("labelIds.png")
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            data_root=data_root,
            data_prefix=prefix if data_prefix is None else data_prefix,
            label_map=_CITYSCAPES_TRAIN_IDS if from_ids else label_map,
            **kwargs,
        )
