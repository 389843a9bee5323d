"""Samples with several parts: views of one image, and several images that are changed alike."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainwright.datasets.base import build_transform
from trainwright.engine.registry import TRANSFORMS

TransformLike = Mapping[str, Any] | Callable[..., Any]


@TRANSFORMS.register_module()
class MultiView:
    """Augment an image several times, as self-supervised and semi-supervised training needs.

    ``img`` becomes a list of views, in the order of the pipelines. ``PackInputs`` packs them as a list, and
    ``collate_fn="default_collate"`` makes one tensor of each view, so views may differ in size, as in the multi-crop of
    SwAV and DINO. Everything else in the sample stays as it was: annotations of places in the image describe none of
    the views.

    Example:
        >>> dict(type="MultiView", transforms=[[dict(type="RandomResizedCrop", size=32)]], num_views=2)

    Args:
        transforms: pipelines, each a list of transforms or their configs.
        num_views: number of views from all pipelines (if there is one), or from each.

    Raises:
        ValueError: the numbers of pipelines and of ``num_views`` differ, or a number is below 1.
    """

    def __init__(self, transforms: Sequence[Sequence[TransformLike]], num_views: int | Sequence[int] = 1) -> None:
        numbers = [num_views] * len(transforms) if isinstance(num_views, int) else list(num_views)
        if len(numbers) != len(transforms) or any(number < 1 for number in numbers) or not numbers:
            raise ValueError(
                f"num_views must have a positive number for each of {len(transforms)} pipelines: {num_views}"
            )
        self.num_views = tuple(numbers)
        self.pipelines = [[build_transform(transform) for transform in pipeline] for pipeline in transforms]

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with a list of views as ``img``."""
        views = []
        for pipeline, number in zip(self.pipelines, self.num_views):
            for _ in range(number):
                view = dict(results)
                for transform in pipeline:
                    view = transform(view)
                views.append(view["img"])
        return {**results, "img": views}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_views={self.num_views}, transforms={self.pipelines})"


@TRANSFORMS.register_module()
class ApplyAlike:
    """Apply transforms to several images of a sample, with the same random numbers for each.

    torchvision's transforms change all images and ``tv_tensors`` of a sample alike by themselves; this is for
    transforms that only see ``img``. Each image is given to them as ``img``, in a copy of the sample. What they change
    beside the image is kept from the first.

    Args:
        keys: keys of the images, such as ``["img", "gt_img"]``.
        transforms: transforms or their configs.
    """

    def __init__(self, keys: Sequence[str], transforms: Sequence[TransformLike]) -> None:
        self.keys = tuple(keys)
        self.transforms = [build_transform(transform) for transform in transforms]

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the changed images."""
        state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        changed: dict[str, Any] = {}
        others = {key: value for key, value in results.items() if key not in self.keys}
        for number, key in enumerate(self.keys):
            if number:
                random.setstate(state[0])
                np.random.set_state(state[1])
                torch.set_rng_state(state[2])
            part = {**others, "img": results[key]}
            for transform in self.transforms:
                part = transform(part)
            changed[key] = part.pop("img")
            changed = {**part, **changed}
        return {**others, **changed}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.keys}, transforms={self.transforms})"
