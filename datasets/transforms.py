"""The first and last steps of an image pipeline: loading and packing.

The steps in between are usually torchvision's v2 transforms, referenced by name. A sample in a pipeline is a dict:

    img_path    str, absolute or relative to the working directory
    tile        (top, left, height, width) of the part of the file to read, if not the whole    set by TiledDataset
    gt_label    int for single-label classification, list of int for multi-label (may be empty)
    gt_score    float (classes,): 1 for classes that are present, 0 for absent, -1 for ignored
    gt_caption  str, or list of str: one or several texts on the image
    sample_idx  int, index in the dataset
    img         tv_tensors.Image: (C, H, W), RGB or grayscale, uint8 (0 to 255)    set by LoadImageFromFile
    apply_exif  False if the image is stored in another orientation                set by LoadImageFromFile
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
    gt_depth_map          tv_tensors.Mask: (H, W), float32, depth of each pixel; 0 is unknown

Every v2 transform receives the whole dict and transforms values by type (images and ``tv_tensors`` such as boxes and
masks), so other keys may be added freely.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import DamagedFileError, DataError, MissingFileError, did_you_mean
from trainwright.engine.images.reader import ColorType, ImageReader, ImdecodeBackend
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name

T = TypeVar("T")


@TRANSFORMS.register_module()
class LoadImageFromFile:
    """Read the image file at ``img_path`` and set ``img`` and ``ori_shape``.

    Values of more than 8 bits are converted to 8 bits: integers of 16 bits by the range of their type, as in OpenCV,
    other numbers by ``value_range``. To keep them, set ``color_type="unchanged"`` or ``to_float32=True``. Of a file
    with several pages or frames, the first is read.

    Args:
        to_float32: convert to float32 instead of uint8; the values remain in [0, 255], without being rounded.
        color_type: ``"color"`` for three channels (RGB), ``"grayscale"`` for one channel, ``"unchanged"`` for the
            channels and values of the file, as uint8, int32 (for integers of 16 or 32 bits) or float32. For the latter,
            give the preprocessor a ``mean`` and ``std`` in the range of the values; augmentations of color assume
            values from 0 to 255. ``"color_ignore_orientation"`` and ``"grayscale_ignore_orientation"`` are mmcv's
            names for ``apply_exif=False``.
        imdecode_backend: decoder of JPEG files, with equal pixels: ``"torchvision"``, ``"pillow"`` or ``"cv2"``. All
            other files are read with Pillow; ``"cv2"`` (OpenCV, ``pip install 'trainwright[cv2]'``) also reads those
            that Pillow cannot, such as TIFF with more than 8 bits in color.
        ignore_empty: reject samples with unreadable files, so that the dataset returns another sample.
        apply_exif: turn the image as its EXIF orientation specifies. Set it to False if the annotations refer to the
            pixels as they are stored.
        value_range: values of the file that become 0 and 255. Values beyond are clipped to them.
        key: key of the image in a sample with several; its path is then at ``KEY_path``, and its original size at
            ``ori_KEY_shape``.

    Raises:
        ValueError: an unknown ``color_type`` or ``imdecode_backend``, or an invalid ``value_range``.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: ColorType = "color",
        imdecode_backend: ImdecodeBackend = "torchvision",
        *,
        ignore_empty: bool = False,
        apply_exif: bool = True,
        value_range: Sequence[float] | None = None,
        key: str = "img",
    ) -> None:
        self.key = key
        self._size_key = "ori_shape" if key == "img" else f"ori_{key}_shape"
        self.reader = ImageReader(color_type, imdecode_backend, apply_exif, value_range, to_float32)
        self.ignore_empty = ignore_empty

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return the sample with its image, or None if the file is unreadable and ``ignore_empty`` is set.

        Raises:
            DamagedFileError: the file cannot be decoded.
            DataError: its values have no known range.
            OSError: the file is missing or cannot be accessed.
        """
        from torchvision.tv_tensors import Image

        try:
            image = read_tile(self.reader.read, results[f"{self.key}_path"], results.get("tile"))
        except OSError as error:
            if self.ignore_empty:
                return None
            if isinstance(error, DamagedFileError | MissingFileError):
                is_missing = isinstance(error, MissingFileError)
                remedy = "check data_root and data_prefix, remove" if is_missing else "replace the file, remove"
                error.add_note(
                    f"{remedy} the sample, or skip such samples with LoadImageFromFile(ignore_empty=True) or "
                    "train_dataloader.skip_bad_samples; `trainwright browse-dataset` lists all"
                )
            raise
        results[self.key] = image.as_subclass(Image)
        results[self._size_key] = tuple(image.shape[-2:])
        if not self.reader.apply_exif:
            results["apply_exif"] = False
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reader.options}, ignore_empty={self.ignore_empty})"


def read_tile(read: Callable[..., T], path: Any, tile: Sequence[int] | None, *options: Any) -> T:
    """Return the pixels of a file, or only those of a tile, see :class:`~trainwright.datasets.TiledDataset`.

    Args:
        read: returns the pixels of a file: an array or tensor of shape (..., H, W).
        path: path of the file.
        tile: (top, left, height, width) in pixels, or None for the whole image.
        *options: further arguments of ``read``; hashable.

    Raises:
        DataError: the tile is not inside the image.
    """
    if tile is None:
        return read(path, *options)
    whole: Any = _read_recently(read, path, *options)
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
def _read_recently(read: Callable[..., Any], path: Any, *options: Any) -> Any:
    return read(path, *options)


def reader_of(pipeline: Any) -> ImageReader:
    """Return the reader with which a pipeline loads images, or one with default settings."""
    for transform in getattr(pipeline, "transforms", ()):
        if isinstance(reader := getattr(transform, "reader", None), ImageReader):
            return reader
    return ImageReader()


def oriented_size(path: str | os.PathLike[str], pipeline: Any = None) -> tuple[int, int]:
    """Return (height, width) of an image file as a pipeline loads it, without decoding JPEG files."""
    return reader_of(pipeline).size(path)


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
    "sample_idx", "img_id", "img_path", "ori_shape", "img_shape", "gt_shape", "apply_exif",
    "filename", "frame_dir",
    "bbox", "bbox_label", "bbox_score", "warp_matrix", "camera", "is_query",
)  # fmt: skip
_OTHER_FIELDS = ("gt_label", "gt_score", "gt_caption", "gt_seg_map", "gt_depth_map", "gt_ignore_flags")
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

    ``inputs`` is the image as a plain, contiguous tensor of shape (C, H, W), with its dtype unchanged; of several views
    (see ``MultiView``), a list of them. With several ``input_key``, it is a dict of inputs, in which arrays become
    tensors of the same shape, and text stays text.

    The data sample contains the following fields, if the sample has them:

    - ``gt_label``: int64 of shape () for one class, (L,) for a list of classes;
    - ``gt_score``: float32 (classes,);
    - ``gt_caption``: text, or a list of texts;
    - ``gt_instances`` with ``bboxes`` (N, 4), ``labels`` (N,), ``masks`` (N, H, W), ``keypoints`` (N, K, 2),
      ``keypoints_visible`` (N, K) and ``areas`` (N,); instances whose ``gt_ignore_flags`` is true are moved to
      ``ignored_instances``;
    - ``gt_sem_seg`` with ``sem_seg``: int64 (1, H, W);
    - ``gt_depth_map`` with ``data``: float32 (1, H, W).

    An annotation under another key is an error, since the model would not receive it. A subclass that packs more
    adds their keys to ``packed_keys``.

    Args:
        meta_keys: keys to store as meta information, if the sample has them. Two keys are computed: ``img_shape``,
            (height, width) of the packed image, and, for samples with boxes, ``gt_shape``, (height, width) of the
            image that the boxes refer to.
        input_key: key of the image in the sample, or keys of several inputs: images, arrays such as points, and text.

    Raises:
        KeyError: the sample lacks an ``input_key``.
    """

    packed_keys: ClassVar[tuple[str, ...]] = (*_OTHER_FIELDS, *_INSTANCE_FIELDS)

    def __init__(
        self,
        meta_keys: Sequence[str] = _META_KEYS,
        input_key: str | Sequence[str] = "img",
    ) -> None:
        self.meta_keys = tuple(meta_keys)
        self.input_key = input_key
        self._keys = (input_key,) if isinstance(input_key, str) else tuple(input_key)
        self._known = {*self.packed_keys, *self.meta_keys, *self._keys, *(f"{key}_path" for key in self._keys)}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the packed sample.

        Raises:
            DataError: an annotation would be lost.
        """
        for key in results:
            if key.startswith("gt_") and key not in self._known:
                close = did_you_mean(key[3:], [name[3:] for name in self.packed_keys]).replace("'", "'gt_", 1)
                raise DataError(
                    f"{sample_name(results)}: {type(self).__name__} does not pack {key!r}: {close and f'{close} '}"
                    "KeepAnnotations drops it, meta_keys stores it, and a subclass with packed_keys packs it"
                )
        for key in self._keys:
            if key not in results:
                raise KeyError(
                    f"the sample has no key {key!r}, only {', '.join(map(repr, results))}: "
                    "does the pipeline start with LoadImageFromFile?"
                )
        several = not isinstance(self.input_key, str)
        inputs: Any = {key: _as_part(results[key]) if several else _as_images(results[key]) for key in self._keys}
        known = dict(results)
        images = [each for value in inputs.values() for each in (value if isinstance(value, list) else [value])]
        if (first := next((each for each in images if isinstance(each, Tensor) and each.dim() >= 3), None)) is not None:
            known["img_shape"] = tuple(first.shape[-2:])
        if not several:
            (inputs,) = inputs.values()
        if (canvas := getattr(results.get("gt_bboxes"), "canvas_size", None)) is not None:
            known["gt_shape"] = tuple(canvas)
        sample = DataSample(metainfo={key: known[key] for key in self.meta_keys if key in known})
        if "gt_label" in results:
            sample.gt_label = torch.as_tensor(results["gt_label"], dtype=torch.int64)
        if "gt_score" in results:
            sample.gt_score = torch.as_tensor(results["gt_score"], dtype=torch.float32)
        if "gt_caption" in results:
            sample.gt_caption = results["gt_caption"]
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
                if ignored.any():  # otherwise masks would be copied
                    instances = instances[~ignored]
            sample.gt_instances = instances
        if "gt_seg_map" in results:
            plane = torch.as_tensor(results["gt_seg_map"]).as_subclass(Tensor).to(torch.int64)
            sample.gt_sem_seg = PixelData(sem_seg=plane[None])
        if "gt_depth_map" in results:
            depths = torch.as_tensor(results["gt_depth_map"], dtype=torch.float32).as_subclass(Tensor)
            sample.gt_depth_map = PixelData(data=depths[None])
        return {"inputs": inputs, "data_samples": sample}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(meta_keys={self.meta_keys}, input_key={self.input_key!r})"


def _as_images(value: Any) -> Any:
    """Convert an image, or each of several views, to a plain tensor."""
    return [_as_plain_tensor(view) for view in value] if isinstance(value, list) else _as_plain_tensor(value)


def _as_part(value: Any) -> Any:
    """Convert one of several inputs: an image, views, an array, or anything else, which stays unchanged."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    is_image = isinstance(value, Tensor) or hasattr(value, "convert")  # of Pillow
    views = isinstance(value, list) and bool(value) and all(isinstance(view, Tensor) for view in value)
    return _as_images(value) if is_image or views else value


def _as_plain_tensor(image: Any) -> Tensor:
    """Convert a tensor (C, H, W), an array (H, W[, C]) or a PIL image to a plain, contiguous tensor (C, H, W)."""
    if not isinstance(image, Tensor):
        return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)))
    tensor = image.as_subclass(Tensor)
    if tensor.is_contiguous() or tensor.device.type != "cpu":
        return tensor
    # Images of files are (H, W, C) in memory. NumPy reorders them twice as fast as torch.
    return torch.from_numpy(np.ascontiguousarray(tensor.numpy()))
