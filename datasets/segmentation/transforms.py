"""Transforms of semantic segmentation: those that torchvision's v2, which moves masks with images, does not have."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.engine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegMap:
    """Read the mask at ``seg_map_path``: sets ``gt_seg_map``, a ``tv_tensors.Mask`` (H, W) of classes.

    The dataset says what its values mean: ``label_map`` gives the class of each value, ``reduce_zero_label`` makes 0
    ignored and all others one less. Put it before what resizes the image; only a test pipeline may have it after that,
    to be measured in the size of the files. A sample without ``seg_map_path``, such as an image to predict, is left as
    it is.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its classes.

        Raises:
            OSError: the file is missing or damaged, with a note that names it.
            ValueError: the mask has another size than the image in its file, more than one value a pixel, or an
                unknown class; the message names the file.
        """
        from torchvision import tv_tensors

        path = results.get("seg_map_path")
        if path is None:
            return results
        try:
            values = read_seg_map(path)
        except OSError as error:
            error.add_note(f"while reading the mask {os.fspath(path)!r} of {results.get('img_path')}")
            raise
        expected = results.get("ori_shape")
        if expected is not None and values.shape != tuple(expected):
            raise ValueError(
                f"{path} has the size {values.shape}, its image {results.get('img_path')} {tuple(expected)}: "
                "one of the two is wrong (`trainwright browse-dataset` lists all such samples)"
            )
        results["gt_seg_map"] = tv_tensors.Mask(torch.from_numpy(as_classes(values, results)))
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def read_seg_map(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the values of a mask file, of shape (H, W): of a palette image the indices.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: it has several values a pixel.
    """
    from PIL import Image

    with Image.open(path) as picture:
        values = np.array(picture)
    if values.ndim != 2:
        raise ValueError(f"{path} has {values.shape[-1]} values a pixel: a mask is a gray or palette image of classes")
    return values.astype(np.uint8) if values.dtype == bool else values


def as_classes(values: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Return the class of each pixel, uint8 if that can hold all, else int64, for the values of a mask.

    Args:
        values: integers of shape (H, W).
        info: ``label_map``, ``reduce_zero_label``, ``ignore_index`` (255) and ``num_classes``, as far as known, and
            ``seg_map_path`` for messages.

    Raises:
        ValueError: a class beyond ``num_classes``.
    """
    ignored = info.get("ignore_index", 255)
    label_map = info.get("label_map")
    if label_map is not None:
        table = np.full(max(256, int(values.max()) + 1), ignored, np.int64)
        for old, new in label_map.items():
            if 0 <= int(old) < len(table):
                table[int(old)] = new
        values = table[values]
    elif info.get("reduce_zero_label"):
        values = np.where((values == 0) | (values == ignored), ignored, values.astype(np.int64) - 1)
    number = info.get("num_classes")
    if number is not None:
        unknown = ((values < 0) | (values >= number)) & (values != ignored)
        if unknown.any():
            classes = ", ".join(map(str, np.unique(values[unknown])[:5]))
            raise ValueError(
                f"{info.get('seg_map_path')} has pixels of the class {classes}, but there are only {number} classes, "
                f"from 0, and {ignored} for those that do not count: map it by label_map, or name it in metainfo"
            )
    fits = values.size == 0 or (values.min() >= 0 and values.max() <= np.iinfo(np.uint8).max)
    return np.ascontiguousarray(values, dtype=np.uint8 if fits else np.int64)


@TRANSFORMS.register_module()
class SegRandomCrop:
    """Crop image and masks at a random place; where they are smaller, they are padded at the bottom and right first.

    Args:
        crop_size: height and width in pixels, or one number for both.
        cat_max_ratio: a place is drawn anew, up to ten times, while one class has more than this share of the pixels
            that count, or is the only one; in (0, 1]. 1 takes the first.
        ignore_index: label of pixels that do not count, and of the padding.
        fill: value of the padding of images.

    Raises:
        ValueError: ``cat_max_ratio`` is out of range.
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        cat_max_ratio: float = 1.0,
        ignore_index: int = 255,
        fill: float = 0,
    ) -> None:
        if not 0 < cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio must lie in (0, 1], not at {cat_max_ratio}")
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index
        self.fill = fill

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the cropped sample: everything in it that is a ``tv_tensor``."""
        from torchvision.transforms.v2 import functional
        from torchvision.tv_tensors import TVTensor

        moved = {key: value for key, value in results.items() if isinstance(value, TVTensor)}
        height, width = moved["img"].shape[-2:]
        down, right = max(0, self.crop_size[0] - height), max(0, self.crop_size[1] - width)
        if down or right:
            for key, value in moved.items():
                fill = {"img": self.fill, "gt_seg_map": self.ignore_index}.get(key, 0)
                moved[key] = functional.pad(value, [0, 0, right, down], fill=fill)
        place = self._place(moved.get("gt_seg_map"), height + down, width + right)
        return results | {key: functional.crop(value, *place) for key, value in moved.items()}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(crop_size={self.crop_size}, cat_max_ratio={self.cat_max_ratio}, "
            f"ignore_index={self.ignore_index}, fill={self.fill})"
        )

    def _place(self, classes: torch.Tensor | None, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the crop."""
        down, right = self.crop_size
        for _ in range(10):
            top = int(torch.randint(0, height - down + 1, ()))
            left = int(torch.randint(0, width - right + 1, ()))
            if (
                classes is None
                or self.cat_max_ratio == 1
                or self._is_mixed(classes[top : top + down, left : left + right])
            ):
                break
        return top, left, down, right

    def _is_mixed(self, classes: torch.Tensor) -> bool:
        plane = classes.as_subclass(torch.Tensor)
        _, counts = torch.unique(plane[plane != self.ignore_index], return_counts=True)
        return len(counts) > 1 and int(counts.max()) <= self.cat_max_ratio * int(counts.sum())
