"""The first and last steps of an image pipeline: loading and packing.

The steps in between are usually torchvision's v2 transforms, referenced by name. A sample in a pipeline is a dict:

    img_path    str, absolute or relative to the working directory
    tile        (top, left, height, width) of the part of the file to read, if not the whole    set by TiledDataset
    gt_label    int for single-label classification, list of int for multi-label (may be empty)
    gt_score    float (classes,): 1 for classes that are present, 0 for absent, -1 for ignored
    sample_idx  int, index in the dataset
    img         tv_tensors.Image: (C, H, W), RGB or grayscale, uint8 (0 to 255)    set by LoadImageFromFile
    ori_shape   (height, width) of the image file                                  set by LoadImageFromFile

and optionally, for N instances with K keypoints each:

    gt_bboxes             tv_tensors.BoundingBoxes: (N, 4), float32, format XYXY, in pixels
    gt_bboxes_labels      int64 (N,): class of each instance
    gt_ignore_flags       bool (N,): instances to ignore in evaluation (crowd or difficult)
    gt_masks              tv_tensors.Mask: (N, H, W), uint8, 0 or 1
    gt_keypoints          float32 (N, K, 2): x and y in pixels; the center of the top left pixel is (0, 0)
    gt_keypoints_visible  float32 (N, K): 0 not labeled, 1 labeled but not visible, 2 visible
    gt_areas              float32 (N,): area of each instance in square pixels of the image file
    gt_seg_map            tv_tensors.Mask: (H, W), uint8 or int64, class of each pixel; 255 is ignored

Every v2 transform receives the whole dict and transforms values by type (images and ``tv_tensors`` such as boxes and
masks), so other keys may be added freely.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DataError, did_you_mean
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name

T = TypeVar("T")
_PIL_MODES = {"color": "RGB", "grayscale": "L"}


@TRANSFORMS.register_module()
class LoadImageFromFile:
    """Read the image file at ``img_path`` and set ``img`` and ``ori_shape``.

    Args:
        to_float32: convert to float32 instead of uint8; the values remain in [0, 255].
        color_type: ``"color"`` for three channels (RGB), ``"grayscale"`` for one channel.
        ignore_empty: reject samples with unreadable files, so that the dataset returns another sample.

    Raises:
        ValueError: an unknown ``color_type``.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: Literal["color", "grayscale"] = "color",
        ignore_empty: bool = False,
    ) -> None:
        if color_type not in _PIL_MODES:
            raise ValueError(f"color_type must be 'color' or 'grayscale', not {color_type!r}")
        self.to_float32 = to_float32
        self.color_type = color_type
        self.ignore_empty = ignore_empty

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return the sample with its image, or None if the file is unreadable and ``ignore_empty`` is set.

        Raises:
            OSError: the file is missing or corrupt; a note contains its path.
        """
        from torchvision.transforms.v2.functional import to_dtype
        from torchvision.tv_tensors import Image

        path = results["img_path"]
        try:
            image = read_tile(self._read, path, results.get("tile"))
        except OSError as error:
            if self.ignore_empty:
                return None
            error.add_note(f"while reading the image {os.fspath(path)!r}")
            raise
        image = Image(image)
        results["img"] = to_dtype(image, torch.float32) if self.to_float32 else image
        results["ori_shape"] = tuple(image.shape[-2:])
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(to_float32={self.to_float32}, color_type={self.color_type!r}, "
            f"ignore_empty={self.ignore_empty})"
        )

    def _read(self, path: str | os.PathLike[str]) -> Tensor:
        from PIL import Image, ImageOps
        from torchvision.transforms.v2.functional import to_image

        with Image.open(path) as picture:
            image: Tensor = to_image(ImageOps.exif_transpose(picture).convert(_PIL_MODES[self.color_type]))
        return image


def read_tile(read: Callable[[Any], T], path: Any, tile: Sequence[int] | None) -> T:
    """Return the pixels of a file, or only those of a tile, see :class:`~trainwright.datasets.TiledDataset`.

    Args:
        read: returns the pixels of a file: an array or tensor of shape (..., H, W).
        path: path of the file.
        tile: (top, left, height, width) in pixels, or None for the whole image.

    Raises:
        DataError: the tile is not inside the image.
    """
    if tile is None:
        return read(path)
    whole: Any = _read_recently(read, path)
    top, left, height, width = tile
    part: Any = whole[..., top : top + height, left : left + width]
    if tuple(part.shape[-2:]) != (height, width):
        raise DataError(
            f"{os.fspath(path)} has size {tuple(whole.shape[-2:])} (height, width), which does not contain the tile "
            f"from row {top} to {top + height} and column {left} to {left + width}: its annotation states another size"
        )
    copied: Any = part.clone() if isinstance(part, Tensor) else part.copy()  # transforms may change it
    return copied  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=2)  # an image and its mask, for consecutive tiles of the same file
def _read_recently(read: Callable[[Any], Any], path: Any) -> Any:
    return read(path)


def oriented_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of an image file as :class:`LoadImageFromFile` loads it, without decoding the pixels."""
    from PIL import ExifTags, Image

    with Image.open(path) as picture:
        width, height = picture.size
        is_transposed = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_transposed else (height, width)


@TRANSFORMS.register_module()
class KeepAnnotations:
    """Keep only the listed annotations of a sample: unused ones cost time and clutter visualizations.

    Args:
        keys: annotations to keep, each a key starting with ``gt_``. A sample may lack them.

    Raises:
        ValueError: a key does not start with ``gt_``.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        for key in keys:
            if not key.startswith("gt_"):
                raise ValueError(f"keys must start with 'gt_', got {key!r}; all other keys are always kept")
        self.keys = tuple(keys)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample without the annotations that are not listed."""
        return {key: value for key, value in results.items() if key in self.keys or not key.startswith("gt_")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.keys})"


# Any sample; videos; top-down pose estimation.
_META_KEYS = (
    "sample_idx", "img_id", "img_path", "ori_shape", "img_shape", "gt_shape",
    "filename", "frame_dir",
    "bbox", "bbox_label", "bbox_score", "warp_matrix",
)  # fmt: skip
_OTHER_FIELDS = ("gt_label", "gt_score", "gt_seg_map", "gt_ignore_flags")
_INSTANCE_FIELDS = {
    "gt_bboxes": "bboxes",
    "gt_bboxes_labels": "labels",
    "gt_masks": "masks",
    "gt_keypoints": "keypoints",
    "gt_keypoints_visible": "keypoints_visible",
    "gt_areas": "areas",
}


@TRANSFORMS.register_module()
class PackInputs:
    """Pack a sample into model inputs: ``dict(inputs=Tensor, data_samples=DataSample)``.

    ``inputs`` is the image as a plain tensor of shape (C, H, W), with its dtype unchanged. The data sample contains
    the following fields, if the sample has them:

    - ``gt_label``: int64 of shape () for one class, (L,) for a list of classes;
    - ``gt_score``: float32 (classes,);
    - ``gt_instances`` with ``bboxes`` (N, 4), ``labels`` (N,), ``masks`` (N, H, W), ``keypoints`` (N, K, 2),
      ``keypoints_visible`` (N, K) and ``areas`` (N,); instances whose ``gt_ignore_flags`` is true are moved to
      ``ignored_instances``;
    - ``gt_sem_seg`` with ``sem_seg``: int64 (1, H, W).

    An annotation under another key is an error, since the model would not receive it. A subclass that packs more
    adds their keys to ``packed_keys``.

    Args:
        meta_keys: keys to store as meta information, if the sample has them. Two keys are computed: ``img_shape``,
            (height, width) of the packed image, and, for samples with boxes, ``gt_shape``, (height, width) of the
            image that the boxes refer to.
        input_key: key of the image in the sample.

    Raises:
        KeyError: the sample lacks ``input_key``.
    """

    packed_keys: ClassVar[tuple[str, ...]] = (*_OTHER_FIELDS, *_INSTANCE_FIELDS)

    def __init__(
        self,
        meta_keys: Sequence[str] = _META_KEYS,
        input_key: str = "img",
    ) -> None:
        self.meta_keys = tuple(meta_keys)
        self.input_key = input_key

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the packed sample.

        Raises:
            DataError: an annotation would be lost.
        """
        for key in results:
            if key.startswith("gt_") and key not in self.packed_keys and key not in self.meta_keys:
                close = did_you_mean(key[3:], [name[3:] for name in self.packed_keys]).replace("'", "'gt_", 1)
                raise DataError(
                    f"{sample_name(results)}: {type(self).__name__} does not pack {key!r}: {close and f'{close} '}"
                    "KeepAnnotations drops it, meta_keys stores it, and a subclass with packed_keys packs it"
                )
        if self.input_key not in results:
            raise KeyError(
                f"the sample has no key {self.input_key!r}, only {', '.join(map(repr, results))}: "
                "does the pipeline start with LoadImageFromFile?"
            )
        inputs = _as_plain_tensor(results[self.input_key])
        known = dict(results, img_shape=tuple(inputs.shape[-2:]))
        if (canvas := getattr(results.get("gt_bboxes"), "canvas_size", None)) is not None:
            known["gt_shape"] = tuple(canvas)
        sample = DataSample(metainfo={key: known[key] for key in self.meta_keys if key in known})
        if "gt_label" in results:
            sample.gt_label = torch.as_tensor(results["gt_label"], dtype=torch.int64)
        if "gt_score" in results:
            sample.gt_score = torch.as_tensor(results["gt_score"], dtype=torch.float32)
        fields = {
            field: torch.as_tensor(results[key]).as_subclass(Tensor)
            for key, field in _INSTANCE_FIELDS.items()
            if key in results
        }
        if fields:
            instances = InstanceData()
            instances.set_data(fields)
            if "gt_ignore_flags" in results:
                ignored = torch.as_tensor(results["gt_ignore_flags"], dtype=torch.bool)
                sample.ignored_instances = instances[ignored]
                instances = instances[~ignored]
            sample.gt_instances = instances
        if "gt_seg_map" in results:
            plane = torch.as_tensor(results["gt_seg_map"]).as_subclass(Tensor).to(torch.int64)
            sample.gt_sem_seg = PixelData(sem_seg=plane[None])
        return {"inputs": inputs, "data_samples": sample}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(meta_keys={self.meta_keys}, input_key={self.input_key!r})"


def _as_plain_tensor(image: Any) -> Tensor:
    """Convert a tensor (C, H, W), an array (H, W[, C]) or a PIL image to a plain tensor (C, H, W)."""
    if isinstance(image, Tensor):
        return image.as_subclass(Tensor)
    array = np.asarray(image)
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1)))
