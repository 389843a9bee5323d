"""Every transform of ``torchvision.transforms.v2`` under its own name.

They are registered as they are, but for those whose arguments cannot be written in a config: these take other
transforms as configs, and data types by name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import TVTensor, wrap

from trainwright.datasets.base import build_transform
from trainwright.engine.registry import TRANSFORMS

TransformLike = Mapping[str, Any] | Callable[..., Any]


@TRANSFORMS.register_module()
class RandomApply(v2.RandomApply):
    """Apply all of some transforms, or with probability ``1 - p`` none of them.

    Args:
        transforms: transforms, or their configs.
        p: probability, in [0, 1].
    """

    def __init__(self, transforms: Sequence[TransformLike], p: float = 0.5) -> None:
        super().__init__([build_transform(transform) for transform in transforms], p)


@TRANSFORMS.register_module()
class RandomChoice(v2.RandomChoice):
    """Apply one of some transforms.

    Args:
        transforms: transforms, or their configs.
        p: probability of each; all the same if None.
    """

    def __init__(self, transforms: Sequence[TransformLike], p: list[float] | None = None) -> None:
        super().__init__([build_transform(transform) for transform in transforms], p)


@TRANSFORMS.register_module()
class RandomOrder(v2.RandomOrder):
    """Apply some transforms in random order.

    Args:
        transforms: transforms, or their configs.
    """

    def __init__(self, transforms: Sequence[TransformLike]) -> None:
        super().__init__([build_transform(transform) for transform in transforms])


@TRANSFORMS.register_module()
class ToDtype(v2.ToDtype):
    """Convert images to another data type.

    Args:
        dtype: a ``torch.dtype``, its name (``"float32"``), or what else ``torchvision.transforms.v2.ToDtype``
            takes.
        scale: scale the values to the range of the new type, such as 0 to 1 for a float.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, dtype: torch.dtype | str | dict[Any, Any], scale: bool = False) -> None:
        super().__init__(_dtype(dtype), scale)


@TRANSFORMS.register_module()
class ConvertImageDtype(v2.ConvertImageDtype):
    """Convert images to another data type, and scales their values to its range.

    Args:
        dtype: a ``torch.dtype``, or its name (``"float32"``).

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, dtype: torch.dtype | str = torch.float32) -> None:
        super().__init__(_dtype(dtype))


@TRANSFORMS.register_module()
class AutoAugment(v2.AutoAugment):
    """Apply a policy that was learned on a dataset (Cubuk et al. 2019).

    Args:
        policy: ``"imagenet"``, ``"cifar10"`` or ``"svhn"``, or the member of ``AutoAugmentPolicy``.
        **kwargs: ``interpolation`` and ``fill``, as in ``torchvision.transforms.v2.AutoAugment``.

    Raises:
        ValueError: an unknown policy.
    """

    def __init__(self, policy: v2.AutoAugmentPolicy | str = v2.AutoAugmentPolicy.IMAGENET, **kwargs: Any) -> None:
        super().__init__(v2.AutoAugmentPolicy(policy), **kwargs)


@TRANSFORMS.register_module()
class RandomErasing(v2.RandomErasing):
    """Erase a rectangle of an image (Zhong et al. 2017).

    Args:
        p: probability, in [0, 1].
        scale: smallest and largest share of the area.
        ratio: smallest and largest ratio of the sides.
        value: what is written there: one value, one for each channel, or ``"random"`` for noise, which suits
            normalized float images only.
        inplace: change the image itself.
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


_OF_INSTANCES = (
    "gt_bboxes_labels", "gt_ignore_flags", "gt_masks", "gt_keypoints", "gt_keypoints_visible", "gt_areas",
)  # fmt: skip


@TRANSFORMS.register_module()
class SanitizeBoundingBoxes(v2.Transform):
    """Remove instances of whose box too little is left, such as by a crop.

    Everything that an instance has goes with its box ``gt_bboxes``: see :mod:`trainwright.datasets.transforms`.

    Args:
        min_size: least width and height of a box in pixels, at least 1.
        min_area: least area of a box in pixels, at least 1.
    """

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        super().__init__()
        if min_size < 1 or min_area < 1:
            raise ValueError(f"min_size and min_area must be at least 1, not {min_size} and {min_area}")
        self.min_size = min_size
        self.min_area = min_area

    def forward(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample; one without boxes as it is."""
        if "gt_bboxes" not in results:
            return results
        boxes, kept = v2.functional.sanitize_bounding_boxes(
            results["gt_bboxes"], min_size=self.min_size, min_area=self.min_area
        )
        results["gt_bboxes"] = boxes
        for key in _OF_INSTANCES:
            if key in results:
                value = results[key]
                selected = torch.as_tensor(value)[kept]
                results[key] = wrap(selected, like=value) if isinstance(value, TVTensor) else selected
        return results


def _dtype(dtype: Any) -> Any:
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{dtype!r} is no data type of torch: try 'float32' or 'uint8'")
    return found


def _register_the_others() -> None:
    for name, member in vars(v2).items():
        if not inspect.isclass(member) or not issubclass(member, v2.Transform) or member is v2.Transform:
            continue
        if name not in TRANSFORMS.module_dict:
            TRANSFORMS.register_module(module=member)


_register_the_others()
