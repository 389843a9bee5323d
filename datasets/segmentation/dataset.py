"""Datasets for semantic segmentation: images with a class for every pixel, as files on disk."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.datasets.base import BaseDataset, force_full_init
from trainwright.datasets.segmentation.transforms import as_classes, read_seg_map
from trainwright.engine.fileio import list_from_file
from trainwright.engine.registry import DATASETS

_ORIENTATION, _LYING = 0x0112, 5  # the tag of EXIF, and from where on it says that height and width are swapped


@DATASETS.register_module()
class BaseSegDataset(BaseDataset):
    """A folder of images and a folder of masks with the same names.

    ::

        data_root/images/a/1.jpg      data_root/masks/a/1.png
        data_root/images/a/2.jpg      data_root/masks/a/2.png

    with ``data_prefix=dict(img_path="images", seg_map_path="masks")``. A mask is a gray or palette image whose values
    are the classes. Samples start as ``dict(img_path=str, seg_map_path=str, ...)``, in the order of their names, or of
    ``ann_file``; ``LoadSegMap`` reads the mask. Without ``seg_map_path`` in ``data_prefix`` there are only images.

    If ``metainfo=dict(classes=(...))`` names only some of the classes of :attr:`METAINFO`, these are numbered in their
    order there, and the pixels of all others do not count.

    Args:
        img_suffix: ending of the file names of images.
        seg_map_suffix: ending of the file names of masks, in its place.
        ann_file: text file with the names to take, one a line, without folder and ending; all if empty.
        label_map: new number of each value of a mask; others do not count. Goes before what the names of the classes
            say.
        reduce_zero_label: value 0 of a mask does not count, and all others are one less. Not with ``label_map``.
        ignore_index: label of pixels that do not count.
        metainfo, data_root, data_prefix, filter_cfg, indices, serialize_data, pipeline, test_mode, lazy_init,
            max_refetch: see :class:`BaseDataset`; ``palette`` in ``metainfo`` has a color for each class.

    Raises:
        FileNotFoundError: the folder of images, or the list, is missing, or there are no images.
        ValueError: a class that :attr:`METAINFO` does not name; or ``label_map`` beside ``reduce_zero_label``.
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
            raise ValueError("label_map and reduce_zero_label exclude each other: write 0: 255 into the map")
        self.img_suffix = img_suffix
        self.seg_map_suffix = seg_map_suffix
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.label_map = None if label_map is None else dict(label_map)
        prefix = {"img_path": "images", "seg_map_path": "masks"} if data_prefix is None else data_prefix
        self._choose_classes(metainfo)
        super().__init__(ann_file=ann_file, metainfo=metainfo, data_root=data_root, data_prefix=prefix, **kwargs)
        if self.label_map is None and self._chosen is not None:
            self.label_map = self._chosen
            palette = self.METAINFO.get("palette")
            if palette and not (metainfo or {}).get("palette"):
                self._metainfo["palette"] = [palette[old] for old in self._chosen]

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the paths of image and mask of every sample."""
        images = Path(self.data_prefix.get("img_path", ""))
        if not images.is_dir():
            raise FileNotFoundError(f"there is no folder {str(images)!r}: check data_root and data_prefix")
        if self.ann_file:
            names = [line.strip() for line in list_from_file(self.ann_file) if line.strip()]
        else:
            found = (path for path in images.rglob(f"*{self.img_suffix}") if path.is_file())
            names = sorted(str(path.relative_to(images)).removesuffix(self.img_suffix) for path in found)
        if not names:
            where = self.ann_file or f"{images}: no files *{self.img_suffix}"
            raise FileNotFoundError(f"there are no images in {where}")
        return [self._paths(name) for name in names]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a sample with the paths, and what :class:`LoadSegMap` needs to know about its mask."""
        info = super().get_data_info(idx)
        if "seg_map_path" in info:
            info.update(
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                ignore_index=self.ignore_index,
                num_classes=len(self._metainfo.get("classes", ())) or None,
            )
        return info

    @force_full_init
    def check_annotations(self) -> Iterator[str]:
        """Yield a line for each problem: files that are missing or damaged, sizes that differ, unknown classes."""
        from PIL import Image

        for index in range(len(self)):
            info = self.get_data_info(index)
            try:
                with Image.open(info["img_path"]) as picture:
                    width, height = picture.size
                    if picture.getexif().get(_ORIENTATION, 1) >= _LYING:
                        width, height = height, width
                if "seg_map_path" not in info:
                    continue
                classes = as_classes(read_seg_map(info["seg_map_path"]), info)
                if classes.shape != (height, width):
                    yield (
                        f"sample {index}: {info['seg_map_path']} has the size {classes.shape}, its image "
                        f"{info['img_path']} {(height, width)}: one of the two is wrong"
                    )
                if np.all(classes == self.ignore_index):
                    yield f"sample {index}: {info['seg_map_path']} has no pixel that counts: leave it out"
            except OSError as error:
                yield f"sample {index}: {error}: check data_root, data_prefix and the suffixes"
            except ValueError as error:
                yield f"sample {index}: {error}"

    def _paths(self, name: str) -> dict[str, Any]:
        paths = {"img_path": os.path.join(self.data_prefix["img_path"], name + self.img_suffix)}  # noqa: PTH118  # strings stay short
        if "seg_map_path" in self.data_prefix:
            paths["seg_map_path"] = os.path.join(self.data_prefix["seg_map_path"], self._mask_name(name))  # noqa: PTH118
        return paths

    def _mask_name(self, name: str) -> str:
        return name + self.seg_map_suffix

    def _choose_classes(self, metainfo: Mapping[str, Any] | None) -> None:
        """Record the new number of each class of METAINFO, where metainfo names only some of them."""
        known = list(self.METAINFO.get("classes", ()))
        wanted = (metainfo or {}).get("classes")
        self._chosen: dict[int, int] | None = None
        if not known or wanted is None or list(wanted) == known:
            return
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"{type(self).__name__} has no class {unknown[0]!r}, only {', '.join(known)}")
        self._chosen = {known.index(name): new for new, name in enumerate(wanted)}


@DATASETS.register_module()
class VOCSegmentation(BaseSegDataset):
    """Pascal VOC 2012, semantic segmentation: 20 classes and the background.

    ::

        data_root/JPEGImages/2007_000032.jpg
        data_root/SegmentationClass/2007_000032.png
        data_root/ImageSets/Segmentation/train.txt

    Args:
        data_root: the folder ``VOCdevkit/VOC2012``.
        ann_file: list of the names of a split, such as ``ImageSets/Segmentation/train.txt``.
        **kwargs: as for :class:`BaseSegDataset`.
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
    """Cityscapes, semantic segmentation: 19 classes of the 34 labels; the others do not count.

    ::

        data_root/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
        data_root/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png

    Args:
        data_root: folder of the two.
        split: ``train``, ``val`` or ``test``.
        seg_map_suffix: ``_gtFine_labelIds.png`` for the label ids of the dataset as it comes;
            ``_gtFine_labelTrainIds.png`` for masks that were converted to train ids before.
        **kwargs: as for :class:`BaseSegDataset`.
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
