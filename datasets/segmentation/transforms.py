"""Transforms for semantic segmentation that torchvision's v2 does not provide."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.datasets.transforms import read_tile
from trainwright.engine.errors import DataError
from trainwright.engine.images.files import read_indices
from trainwright.engine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegMap:
    """Read the mask file at ``seg_map_path`` and set ``gt_seg_map``, a ``tv_tensors.Mask`` (H, W) of class indices.

    The dataset defines the meaning of mask values: ``label_map`` maps them to classes, ``reduce_zero_label`` ignores
    value 0 and decreases all others by one. Place this transform before any that resize the image. Test pipelines may
    place it after resizing, to evaluate at the size of the mask file. A sample without ``seg_map_path``, such as an
    image for inference, is returned unchanged.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its segmentation map.

        Raises:
            DamagedFileError: the file cannot be decoded.
            OSError: the file is missing or cannot be accessed.
            ValueError: the mask differs in size from the image file, has several values per pixel, or contains an
                unknown class; the message contains the path.
        """
        from torchvision import tv_tensors

        path = results.get("seg_map_path")
        if path is None:
            return results
        try:
            values = read_tile(read_seg_map, path, results.get("tile"), results.get("palette"))
        except OSError as error:
            error.add_note(f"while reading the mask of {results.get('img_path')}")
            raise
        expected = results.get("ori_shape")
        if expected is not None and values.shape != tuple(expected):
            raise ValueError(
                f"the mask {path} has size {values.shape}, but the image {results.get('img_path')} has size "
                f"{tuple(expected)} (height, width): correct or remove the sample "
                "(`trainwright browse-dataset` lists all such samples)"
            )
        results["gt_seg_map"] = tv_tensors.Mask(torch.from_numpy(as_classes(values, results)))
        results.pop("label_map", None)  # torchvision's transforms would visit each of its entries
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def read_seg_map(path: str | os.PathLike[str], palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Return the values of a mask file, of shape (H, W); for palette images, the palette indices.

    Args:
        path: the file.
        palette: the color of each value in an RGB mask, from 0 to 255; without it, RGB masks are refused.

    Raises:
        DamagedFileError: the file cannot be decoded.
        OSError: the file is missing or cannot be accessed.
        DataError: the file has several values per pixel and there is no palette, or a color is not in the palette.
    """
    values = read_indices(path)
    if values.ndim == 3 and palette is not None:
        return _values_of_colors(values, palette, path)
    if values.ndim != 2:
        raise DataError(
            f"{path} has {values.shape[-1]} values per pixel: a mask must be a grayscale or palette image. If its "
            "colors are classes, set metainfo=dict(classes=(...), palette=[(red, green, blue), ...]) for the dataset"
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def _values_of_colors(pixels: np.ndarray, palette: Sequence[Sequence[int]], path: str | os.PathLike[str]) -> np.ndarray:
    """Return the position of each pixel's color in the palette, of shape (H, W); alpha is not used."""
    codes = pixels[..., :3].astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    values = np.full(codes.shape, -1, np.int16)
    for index, (red, green, blue) in enumerate(palette):
        values[codes == 65536 * red + 256 * green + blue] = index
    if (values < 0).any():
        unknown = np.unique(codes[values < 0])
        colors = ", ".join(str((int(code) >> 16, int(code) >> 8 & 255, int(code) & 255)) for code in unknown[:5])
        raise DataError(
            f"{path} has {len(unknown)} colors that are not in the palette, such as {colors}: add them to the palette "
            "in metainfo (masks must be saved without loss, as PNG)"
        )
    return values


def as_classes(values: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Convert mask values to class indices, as uint8 if all of them fit, else int64.

    Args:
        values: integers of shape (H, W).
        info: a sample with the optional keys ``label_map``, ``reduce_zero_label``, ``ignore_index`` (default 255),
            ``num_classes``, ``new_labels``, the final label of each class, and ``seg_map_path`` for error messages.

    Raises:
        DataError: a class index is neither below ``num_classes`` nor ``ignore_index``.
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
            raise DataError(
                f"{info.get('seg_map_path')} contains the unknown class {classes}: expected 0 to {number - 1}, or "
                f"{ignored} for ignored pixels; add it to label_map or to the classes in metainfo"
            )
    if (new_labels := info.get("new_labels")) is not None:
        table = np.full(max(len(new_labels), ignored + 1), ignored, np.int64)
        table[: len(new_labels)] = new_labels
        table[ignored] = ignored
        values = table[values]
    fits = values.size == 0 or (values.min() >= 0 and values.max() <= np.iinfo(np.uint8).max)
    return np.ascontiguousarray(values, dtype=np.uint8 if fits else np.int64)


@TRANSFORMS.register_module()
class SegRandomCrop:
    """Crop image and masks at a random position, after padding smaller ones at the bottom and right.

    Args:
        crop_size: (height, width) in pixels, or one number for both.
        cat_max_ratio: maximum fraction of non-ignored pixels that a single class may occupy, in (0, 1]. Up to ten
            positions are drawn until this holds and the crop has at least two classes; 1 accepts the first position.
        ignore_index: label of ignored pixels, also used to pad ``gt_seg_map``.
        fill: padding value of images.

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
            raise ValueError(f"cat_max_ratio must be in (0, 1], not {cat_max_ratio}")
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index
        self.fill = fill

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with all its ``tv_tensors`` cropped."""
        from torchvision.transforms.v2 import functional
        from torchvision.tv_tensors import TVTensor

        tensors = {key: value for key, value in results.items() if isinstance(value, TVTensor)}
        height, width = tensors["img"].shape[-2:]
        down, right = max(0, self.crop_size[0] - height), max(0, self.crop_size[1] - width)
        if down or right:
            for key, value in tensors.items():
                fill = {"img": self.fill, "gt_seg_map": self.ignore_index}.get(key, 0)
                tensors[key] = functional.pad(value, [0, 0, right, down], fill=fill)
        window = self._choose_window(tensors.get("gt_seg_map"), height + down, width + right)
        return results | {key: functional.crop(value, *window) for key, value in tensors.items()}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(crop_size={self.crop_size}, cat_max_ratio={self.cat_max_ratio}, "
            f"ignore_index={self.ignore_index}, fill={self.fill})"
        )

    def _choose_window(self, classes: torch.Tensor | None, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the crop."""
        down, right = self.crop_size
        for _ in range(10):
            top = int(torch.randint(0, height - down + 1, ()))
            left = int(torch.randint(0, width - right + 1, ()))
            if (
                classes is None
                or self.cat_max_ratio == 1
                or self._is_diverse(classes[top : top + down, left : left + right])
            ):
                break
        return top, left, down, right

    def _is_diverse(self, classes: torch.Tensor) -> bool:
        plane = classes.as_subclass(torch.Tensor)
        _, counts = torch.unique(plane[plane != self.ignore_index], return_counts=True)
        return len(counts) > 1 and int(counts.max()) <= self.cat_max_ratio * int(counts.sum())
