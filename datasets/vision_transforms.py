"""Registration of all transforms of ``torchvision.transforms.v2`` under their own names, except ``MixUp``.

``MixUp`` is the transform of detection samples, as in MMDetection. torchvision's mixes batches of a classifier: use
``Mixup`` in ``batch_augments`` of ``ClsDataPreprocessor``.

Transforms whose arguments cannot be written in a config are wrapped: they accept other transforms as configs and data
types by name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainwright.datasets import resizing  # noqa: F401  # registers its transforms in place of torchvision's
from trainwright.datasets.base import build_transform
from trainwright.datasets.instances import instances_of, select_instances
from trainwright.engine.registry import TRANSFORMS

TransformLike = Mapping[str, Any] | Callable[..., Any]


@TRANSFORMS.register_module()
class RandomApply(v2.RandomApply):
    """Apply a list of transforms with probability ``p``, and none of them otherwise.

    Args:
        transforms: transforms or their configs.
        p: probability, in [0, 1].
    """

    def __init__(self, transforms: Sequence[TransformLike], p: float = 0.5) -> None:
        super().__init__([build_transform(transform) for transform in transforms], p)


@TRANSFORMS.register_module()
class RandomChoice(v2.RandomChoice):
    """Apply one transform of a list, chosen at random.

    Args:
        transforms: transforms or their configs.
        p: probability of each transform; uniform if None.
    """

    def __init__(self, transforms: Sequence[TransformLike], p: list[float] | None = None) -> None:
        super().__init__([build_transform(transform) for transform in transforms], p)


@TRANSFORMS.register_module()
class RandomOrder(v2.RandomOrder):
    """Apply a list of transforms in random order.

    Args:
        transforms: transforms or their configs.
    """

    def __init__(self, transforms: Sequence[TransformLike]) -> None:
        super().__init__([build_transform(transform) for transform in transforms])


@TRANSFORMS.register_module()
class ToDtype(v2.ToDtype):
    """Convert images to another data type.

    Args:
        dtype: a ``torch.dtype``, its name (``"float32"``), or a dict as in ``torchvision.transforms.v2.ToDtype``.
        scale: scale the values to the range of the new type, such as [0, 1] for floating point types.

    Raises:
        ValueError: an unknown data type.
    """

    def __init__(self, dtype: torch.dtype | str | dict[Any, Any], scale: bool = False) -> None:
        super().__init__(_dtype(dtype), scale)


@TRANSFORMS.register_module()
class ConvertImageDtype(v2.ConvertImageDtype):
    """Convert images to another data type and scale their values to its range.

    Args:
        dtype: a ``torch.dtype`` or its name (``"float32"``).

    Raises:
        ValueError: an unknown data type.
    """

    def __init__(self, dtype: torch.dtype | str = torch.float32) -> None:
        super().__init__(_dtype(dtype))


@TRANSFORMS.register_module()
class AutoAugment(v2.AutoAugment):
    """Apply an augmentation policy that was learned on a dataset (Cubuk et al. 2019).

    Args:
        policy: ``"imagenet"``, ``"cifar10"``, ``"svhn"``, or a member of ``AutoAugmentPolicy``.
        **kwargs: ``interpolation`` and ``fill``, as in ``torchvision.transforms.v2.AutoAugment``.

    Raises:
        ValueError: an unknown policy.
    """

    def __init__(self, policy: v2.AutoAugmentPolicy | str = v2.AutoAugmentPolicy.IMAGENET, **kwargs: Any) -> None:
        super().__init__(v2.AutoAugmentPolicy(policy), **kwargs)


@TRANSFORMS.register_module()
class RandomErasing(v2.RandomErasing):
    """Erase a random rectangle of an image (Zhong et al. 2017).

    Args:
        p: probability, in [0, 1].
        scale: minimum and maximum area of the rectangle, as a fraction of the image area.
        ratio: minimum and maximum aspect ratio of the rectangle.
        value: fill value: a number, one number per channel, or ``"random"`` for normally distributed noise, which is
            suitable for normalized float images only.
        inplace: modify the image in place.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | str | Sequence[float] = 0.0,
        inplace: bool = False,
    ) -> None:
        super().__init__(p, scale, ratio, value, inplace)


@TRANSFORMS.register_module()
class SanitizeBoundingBoxes(v2.Transform):
    """Remove instances whose boxes have become too small, for example by cropping.

    All annotations of an instance are removed together with its box in ``gt_bboxes``; see
    :mod:`trainwright.datasets.transforms`.

    Args:
        min_size: minimum width and height of a box in pixels, at least 1.
        min_area: minimum area of a box in square pixels, at least 1.

    Raises:
        ValueError: ``min_size`` or ``min_area`` is below 1.
    """

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        super().__init__()
        if min_size < 1 or min_area < 1:
            raise ValueError(f"min_size and min_area must be at least 1, got {min_size} and {min_area}")
        self.min_size = min_size
        self.min_area = min_area

    def forward(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the remaining instances; a sample without boxes is returned unchanged."""
        if "gt_bboxes" not in results:
            return results
        _, kept = v2.functional.sanitize_bounding_boxes(
            results["gt_bboxes"], min_size=self.min_size, min_area=self.min_area
        )
        return {**results, **select_instances(instances_of(results), kept)}


_GEOMETRIC = ("ElasticTransform", "Pad", "RandomAffine", "RandomCrop", "RandomPerspective", "RandomRotation",
              "RandomZoomOut")  # fmt: skip


def _with_fill_of_images(member: Any) -> Any:
    """Return a subclass whose ``fill``, unless it is a dict, only applies to images: masks are filled with 0.

    torchvision fills masks with the same value, so that ``fill=114`` would turn the padding into part of every object.
    """
    signature = inspect.signature(member)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        fill = given.get("fill", 0)
        if not isinstance(fill, Mapping):
            images = (tv_tensors.Image, tv_tensors.Video, torch.Tensor, Image.Image)
            given["fill"] = {**dict.fromkeys(images, fill), "others": 0}
        member.__init__(self, **given)

    name = member.__name__
    doc = f"``torchvision.transforms.v2.{name}``, whose ``fill`` only applies to images: masks are filled with 0."
    body = {"__init__": __init__, "__doc__": doc, "__module__": __name__, "__signature__": signature}
    return type(name, (member,), body)


def _dtype(dtype: Any) -> Any:
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{dtype!r} is not a data type of torch: try 'float32' or 'uint8'")
    return found


def _register_torchvision_transforms() -> None:
    for name, member in vars(v2).items():
        if not inspect.isclass(member) or not issubclass(member, v2.Transform) or member in (v2.Transform, v2.MixUp):
            continue
        if name in _GEOMETRIC:
            globals()[name] = member = _with_fill_of_images(member)  # a global, to be pickled for data workers
        known = TRANSFORMS.module_dict.get(name)
        if known is None or not known.__module__.startswith("trainwright."):
            TRANSFORMS.register_module(module=member)


_register_torchvision_transforms()
