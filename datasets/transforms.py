"""The first and the last step of an image pipeline: load and pack.

In between stand torchvision's v2 transforms, by name. A sample on its way through a pipeline is a dict:

    img_path    str, absolute or relative to the current folder
    gt_label    int, where the sample has a class; a list of int where it has several, or none
    gt_score    float (classes,): 1 for a class that the sample has, 0 for others, -1 for what does not count
    sample_idx  int, its position in the dataset
    img         tv_tensors.Image: (C, H, W), RGB or gray, uint8 (0 to 255)    from LoadImageFromFile on
    ori_shape   (height, width) of the image in the file                      from LoadImageFromFile on

and where it has them, with N instances and K keypoints each:

    gt_bboxes             tv_tensors.BoundingBoxes: (N, 4), float32, format XYXY, in pixels
    gt_bboxes_labels      int64 (N,): class of each instance
    gt_ignore_flags       bool (N,): instances that count neither as hit nor as missed (crowds, difficult ones)
    gt_masks              tv_tensors.Mask: (N, H, W), uint8, 0 or 1
    gt_keypoints          float32 (N, K, 2): x and y in pixels; the center of the first pixel is (0, 0)
    gt_keypoints_visible  float32 (N, K): 0 not labeled, 1 hidden, 2 visible
    gt_areas              float32 (N,): area of each instance in square pixels of the image in the file
    gt_seg_map            tv_tensors.Mask: (H, W), uint8 or int64, class of each pixel; 255 does not count

Every v2 transform gets the whole dict and changes what it knows the type of (images, and ``tv_tensors`` such
as boxes and masks that go with them), so other keys may be added freely.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample

if TYPE_CHECKING:
    from PIL import Image as PILImage

_PIL_MODES = {"color": "RGB", "grayscale": "L"}


@TRANSFORMS.register_module()
class LoadImageFromFile:
    """Read the image file at ``img_path``: sets ``img`` and ``ori_shape``.

    Args:
        to_float32: give float32 instead of uint8, with values still from 0 to 255.
        color_type: ``"color"`` for three channels (RGB), ``"grayscale"`` for one.
        ignore_empty: reject a sample whose file cannot be read, so that the dataset takes another one.

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
        """Return the sample with its image, or None if that is to be ignored.

        Raises:
            OSError: the file is missing or damaged, with a note that names it.
        """
        from torchvision.transforms.v2.functional import to_dtype, to_image

        path = results["img_path"]
        try:
            picture = self._read(path)
        except OSError as error:
            if self.ignore_empty:
                return None
            error.add_note(f"while reading the image {os.fspath(path)!r}")
            raise
        image = to_image(picture)
        results["img"] = to_dtype(image, torch.float32) if self.to_float32 else image
        results["ori_shape"] = tuple(image.shape[-2:])
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(to_float32={self.to_float32}, color_type={self.color_type!r}, "
            f"ignore_empty={self.ignore_empty})"
        )

    def _read(self, path: str | os.PathLike[str]) -> "PILImage.Image":
        from PIL import Image, ImageOps

        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert(_PIL_MODES[self.color_type])


@TRANSFORMS.register_module()
class KeepAnnotations:
    """Leave only some annotations in a sample: what a model does not need would cost time and clutter pictures.

    Args:
        keys: which of the keys ``gt_…`` stay. A sample need not have them.

    Raises:
        ValueError: a key that does not begin with ``gt_``.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        for key in keys:
            if not key.startswith("gt_"):
                raise ValueError(f"annotations begin with 'gt_', unlike {key!r}; all else stays in any case")
        self.keys = tuple(keys)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample without its other annotations."""
        return {key: value for key, value in results.items() if key in self.keys or not key.startswith("gt_")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.keys})"


# In the second line are those of videos, in the third those of top-down pose estimation.
_META_KEYS = (
    "sample_idx", "img_id", "img_path", "ori_shape", "img_shape", "gt_shape",
    "filename", "frame_dir",
    "bbox", "bbox_label", "bbox_score", "warp_matrix",
)  # fmt: skip
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
    """Make of a sample what a model takes: ``dict(inputs=Tensor, data_samples=DataSample)``.

    ``inputs`` is the image as a plain tensor of shape (C, H, W), of unchanged dtype. The data sample gets, of
    what the sample has:

    - ``gt_label``: int64, of shape () for one class, (L,) for a list of them;
    - ``gt_score``: float32 (classes,);
    - ``gt_instances`` with ``bboxes`` (N, 4), ``labels`` (N,), ``masks`` (N, H, W), ``keypoints`` (N, K, 2),
      ``keypoints_visible`` (N, K) and ``areas`` (N,); those with a true ``gt_ignore_flags`` go to
      ``ignored_instances`` instead;
    - ``gt_sem_seg`` with ``sem_seg``: int64 (1, H, W).

    Args:
        meta_keys: what to keep as meta information, where the sample has it. ``img_shape`` is always known:
            (height, width) of the packed image; ``gt_shape`` where there are boxes: that of the image they are for.
        input_key: name of the image in the sample.

    Raises:
        KeyError: the sample has no image.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = _META_KEYS,
        input_key: str = "img",
    ) -> None:
        self.meta_keys = tuple(meta_keys)
        self.input_key = input_key

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the packed sample."""
        if self.input_key not in results:
            raise KeyError(
                f"the sample has no {self.input_key!r}, only {', '.join(map(repr, results))}: "
                "does the pipeline begin with LoadImageFromFile?"
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
    """Return a (C, H, W) tensor for a tensor, an array (H, W[, C]) or a PIL image."""
    if isinstance(image, Tensor):
        return image.as_subclass(Tensor)
    array = np.asarray(image)
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1)))
