"""Transforms that combine several images into one, for :class:`~trainwright.datasets.MultiImageMixDataset`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from trainwright.datasets.instances import (
    INSTANCE_KEYS,
    instances_of,
    join_instances,
    paste,
    place_instances,
    resize_nearest,
    select_instances,
)
from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.sample import sample_name

_IGNORED_PIXEL = 255


class _MixTransform:
    """Base class of transforms that combine a sample with others.

    The dataset calls :meth:`get_indices`, and stores the samples with these indices as ``results["mix_results"]``.
    """

    num_others = 1
    keys: tuple[str, ...] = INSTANCE_KEYS

    def get_indices(self, dataset: Any) -> list[int]:
        """Return the indices of the other samples, chosen at random."""
        return torch.randint(len(dataset), (self.num_others,)).tolist()

    def _samples(self, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the sample and the others, after checking that they can be combined."""
        name = type(self).__name__
        if "mix_results" not in results:
            raise ValueError(
                f"{name} needs other images: it must be a step of the pipeline of a MultiImageMixDataset, not of the "
                "dataset in it and not inside another transform"
            )
        samples = [results, *results["mix_results"]]
        for sample in samples:
            if "img" not in sample:
                raise ValueError(
                    f"{name}: a sample has no img, only {', '.join(sample)}: the pipeline of the dataset in "
                    "MultiImageMixDataset must load images and annotations (LoadImageFromFile, LoadAnnotations), and "
                    "must not pack them"
                )
            place = f"{name}: {sample_name(sample)}"
            if "instances" in sample and "gt_bboxes" not in sample:
                raise ValueError(f"{place}: the annotations are not loaded: LoadAnnotations must come before {name}")
            if unknown := [key for key in sample if key.startswith("gt_") and key not in self.keys]:
                raise ValueError(
                    f"{place} has {unknown[0]}, which {name} cannot combine: leave it out with KeepAnnotations"
                )
        return samples


@TRANSFORMS.register_module()
class Mosaic(_MixTransform):
    """Combine four images around a random center (Bochkovskiy et al. 2020, "YOLOv4").

    Each image is resized to fit ``img_scale``, keeping its aspect ratio, and touches the center with one corner. The
    result has twice the size of ``img_scale``; continue with ``RandomAffine`` and ``CenterCrop``, and remove small
    remainders of instances with ``SanitizeBoundingBoxes``. Boxes, masks, keypoints and ``gt_seg_map`` are combined too.

    Args:
        img_scale: (width, height) of each image, as in MMDetection, or one number for both.
        center_ratio_range: minimum and maximum position of the center, relative to ``img_scale``, within [0, 2].
        pad_val: value of pixels that no image covers.
        prob: probability of combining images, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    num_others = 3
    keys = (*INSTANCE_KEYS, "gt_seg_map")

    def __init__(
        self,
        img_scale: int | Sequence[int] = (640, 640),
        center_ratio_range: tuple[float, float] = (0.5, 1.5),
        pad_val: float = 114.0,
        prob: float = 1.0,
    ) -> None:
        if not 0 <= center_ratio_range[0] <= center_ratio_range[1] <= 2:
            raise ValueError(f"center_ratio_range must be increasing within [0, 2], not {center_ratio_range}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be in [0, 1], not {prob}")
        self.width, self.height = _scale(img_scale)
        self.center_ratio_range = (center_ratio_range[0], center_ratio_range[1])
        self.pad_val = pad_val
        self.prob = prob

    def get_indices(self, dataset: Any) -> list[int]:
        """Return the indices of three other samples, or none if this sample is to remain as it is."""
        return super().get_indices(dataset) if torch.rand(()) < self.prob else []

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the combined sample.

        Raises:
            ValueError: there are no other samples, or they cannot be combined.
        """
        samples = self._samples(results)
        if len(samples) == 1:
            return results
        x, y = (_uniform(*self.center_ratio_range) * side for side in (self.width, self.height))
        center = (round(y), round(x))
        size = (2 * self.height, 2 * self.width)
        image = samples[0]["img"].new_full((samples[0]["img"].shape[0], *size), self.pad_val).as_subclass(Tensor)
        classes = results["gt_seg_map"].new_full(size, _IGNORED_PIXEL) if "gt_seg_map" in results else None
        parts = []
        for number, sample in enumerate(samples):
            picture = _fit(sample["img"], (self.height, self.width))
            height, width = picture.shape[-2:]
            origin = (center[0] - height * (number < 2), center[1] - width * (number % 2 == 0))
            paste(image, picture, origin)
            parts.append(place_instances(instances_of(sample), sample["img"].shape[-2:], (height, width), origin, size))
            if classes is not None:
                paste(classes, resize_nearest(sample["gt_seg_map"].as_subclass(Tensor), (height, width)), origin)
        combined = _combined(results, image, join_instances(parts))
        if classes is not None:
            combined["gt_seg_map"] = tv_tensors.Mask(classes)
        return combined

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(img_scale={(self.width, self.height)}, "
            f"center_ratio_range={self.center_ratio_range}, pad_val={self.pad_val}, prob={self.prob})"
        )


@TRANSFORMS.register_module()
class MixUp(_MixTransform):
    """Blend an image with another one, half and half, and keep the instances of both (Ge et al. 2021, "YOLOX").

    The other image is resized to fit ``img_scale``, scaled by a random factor, and placed at a random position; the
    result has the size of the first image. To flip it as well, flip in the pipeline of the wrapped dataset.

    Args:
        img_scale: (width, height) of the other image, as in MMDetection, or one number for both.
        ratio_range: minimum and maximum of the factor.
        pad_val: value to blend with where the other image does not cover the first one.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        img_scale: int | Sequence[int] = (640, 640),
        ratio_range: tuple[float, float] = (0.5, 1.5),
        pad_val: float = 114.0,
    ) -> None:
        if not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f"ratio_range must be positive and increasing, not {ratio_range}")
        self.width, self.height = _scale(img_scale)
        self.ratio_range = (ratio_range[0], ratio_range[1])
        self.pad_val = pad_val

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the blended sample.

        Raises:
            ValueError: there is no other sample, or it cannot be combined.
        """
        first, second = self._samples(results)
        factor = _uniform(*self.ratio_range)
        picture = _fit(second["img"], (max(1, round(self.height * factor)), max(1, round(self.width * factor))))
        size = (first["img"].shape[-2], first["img"].shape[-1])
        top, left = (_random_offset(new, old) for new, old in zip(picture.shape[-2:], size))
        image = first["img"].as_subclass(Tensor)
        other = paste(torch.full_like(image, self.pad_val), picture, (top, left))
        blended = (image.float() + other) / 2
        mixed = blended.to(image.dtype) if image.is_floating_point() else blended.round().to(image.dtype)
        placed = place_instances(
            instances_of(second), second["img"].shape[-2:], (picture.shape[-2], picture.shape[-1]), (top, left), size
        )
        return _combined(results, mixed, join_instances([instances_of(first), placed]))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(img_scale={(self.width, self.height)}, ratio_range={self.ratio_range}, "
            f"pad_val={self.pad_val})"
        )


@TRANSFORMS.register_module()
class CopyPaste(_MixTransform):
    """Copy instances of another image onto this one by their masks (Ghiasi et al. 2021, "Simple copy-paste").

    The instances keep their position, relative to the top left corner. What they cover is removed from the masks, boxes
    and areas of the other instances; covered keypoints become invisible. Crowds are not copied. In the paper, both
    images are first transformed by large-scale jitter: put it into the pipeline of the wrapped dataset.

    Args:
        max_num_pasted: maximum number of instances to copy; the number is drawn between 0 and this or all of them.
        bbox_occluded_thr: keep an instance if no side of its box has moved by more than this, in pixels, …
        mask_occluded_thr: … or if more than this number of its pixels remain visible.
        selected: choose instances at random; False copies all.
        paste_by_box: copy the boxes of instances, for samples without masks.

    Raises:
        ValueError: ``max_num_pasted`` is below 1, or a threshold is negative.
    """

    keys = (*INSTANCE_KEYS, "gt_seg_map")

    def __init__(
        self,
        max_num_pasted: int = 100,
        bbox_occluded_thr: int = 10,
        mask_occluded_thr: int = 300,
        selected: bool = True,
        paste_by_box: bool = False,
    ) -> None:
        if max_num_pasted < 1 or bbox_occluded_thr < 0 or mask_occluded_thr < 0:
            raise ValueError(
                "max_num_pasted must be at least 1 and the thresholds at least 0, got "
                f"{max_num_pasted}, {bbox_occluded_thr} and {mask_occluded_thr}"
            )
        self.max_num_pasted = max_num_pasted
        self.bbox_occluded_thr = bbox_occluded_thr
        self.mask_occluded_thr = mask_occluded_thr
        self.selected = selected
        self.paste_by_box = paste_by_box

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the copied instances.

        Raises:
            ValueError: there is no other sample, it cannot be combined, or there are no masks.
        """
        first, second = self._samples(results)
        size = (first["img"].shape[-2], first["img"].shape[-1])
        base = self._with_masks(instances_of(first), size)
        source_size = (second["img"].shape[-2], second["img"].shape[-1])
        source = self._with_masks(instances_of(second), source_size)
        pasted = place_instances(self._chosen(source), source_size, source_size, (0, 0), size)
        covered = pasted["gt_masks"].as_subclass(Tensor).bool().any(0)
        image = first["img"].as_subclass(Tensor)
        other = paste(torch.zeros_like(image), second["img"].as_subclass(Tensor), (0, 0))
        combined = _combined(
            results, torch.where(covered, other, image), join_instances([self._behind(base, covered), pasted])
        )
        if self.paste_by_box and "gt_masks" not in first:
            del combined["gt_masks"]
        if "gt_seg_map" in first:
            classes = first["gt_seg_map"].as_subclass(Tensor)
            others = paste(torch.zeros_like(classes), second["gt_seg_map"].as_subclass(Tensor), (0, 0))
            combined["gt_seg_map"] = tv_tensors.Mask(torch.where(covered, others, classes))
        return combined

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(max_num_pasted={self.max_num_pasted}, bbox_occluded_thr={self.bbox_occluded_thr}, "
            f"mask_occluded_thr={self.mask_occluded_thr}, selected={self.selected}, paste_by_box={self.paste_by_box})"
        )

    def _with_masks(self, instances: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """Return the instances with masks, by default those of their boxes."""
        if "gt_masks" in instances:
            return instances
        if not self.paste_by_box or "gt_bboxes" not in instances:
            raise ValueError(
                "CopyPaste needs masks: set LoadAnnotations(with_mask=True), or paste_by_box=True to copy boxes"
            )
        rows, columns = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
        left, top, right, bottom = instances["gt_bboxes"].as_subclass(Tensor)[:, :, None].unbind(1)
        masks = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
        return {**instances, "gt_masks": tv_tensors.Mask(masks.to(torch.uint8))}

    def _chosen(self, source: dict[str, Any]) -> dict[str, Any]:
        """Return the instances to copy."""
        candidates = torch.arange(len(source["gt_bboxes"]))
        if "gt_ignore_flags" in source:
            candidates = candidates[~torch.as_tensor(source["gt_ignore_flags"], dtype=torch.bool)]
        if self.selected:
            number = int(torch.randint(min(len(candidates), self.max_num_pasted) + 1, ()))
            candidates = candidates[torch.randperm(len(candidates))[:number]]
        return select_instances(source, candidates)

    def _behind(self, base: dict[str, Any], covered: Tensor) -> dict[str, Any]:
        """Return the instances with what remains visible behind the copied ones, without those that are hidden."""
        before = base["gt_masks"].as_subclass(Tensor)
        masks = before * ~covered
        touched = (masks != before).flatten(1).any(1)
        old = base["gt_bboxes"].as_subclass(Tensor)
        boxes = torch.where(touched[:, None], _boxes_of(masks).to(old.dtype), old)
        areas = masks.sum((1, 2))
        moved = (boxes - old).abs().amax(1) > self.bbox_occluded_thr
        kept = ~touched | ((areas > 0) & (~moved | (areas > self.mask_occluded_thr)))
        changed = {
            "gt_masks": tv_tensors.Mask(masks),
            "gt_bboxes": tv_tensors.wrap(boxes, like=base["gt_bboxes"]),
        }
        if "gt_areas" in base:
            changed["gt_areas"] = torch.where(touched, areas.to(base["gt_areas"].dtype), base["gt_areas"])
        if "gt_keypoints" in base:
            x, y = base["gt_keypoints"].round().long().unbind(-1)
            height, width = covered.shape
            hidden = covered[y.clamp(0, height - 1), x.clamp(0, width - 1)]
            hidden &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
            seen = base["gt_keypoints_visible"]
            changed["gt_keypoints_visible"] = torch.where(hidden, seen.clamp(max=1), seen)
        return select_instances({key: changed.get(key, base[key]) for key in base}, kept)


def _boxes_of(masks: Tensor) -> Tensor:
    """Return the bounding boxes of masks, float32 (N, 4); zeros for empty masks."""
    ends = []
    for flags in (masks.bool().any(1), masks.bool().any(2)):  # columns, rows
        length = flags.shape[1]
        numbers = torch.arange(length)
        first = torch.where(flags, numbers, length).amin(1) if length else numbers.new_zeros(len(flags))
        last = torch.where(flags, numbers + 1, 0).amax(1) if length else first
        ends.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1).float()


def _combined(results: Mapping[str, Any], image: Tensor, instances: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample with a new image and new annotations, and the other entries of ``results``."""
    others = {key: value for key, value in results.items() if key not in ("mix_results", "instances")}
    return {
        **others, **instances, "img": tv_tensors.Image(image), "ori_shape": (image.shape[-2], image.shape[-1])
    }  # fmt: skip


def _fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image (C, H, W) resized to the largest size within ``size`` that has its aspect ratio."""
    height, width = image.shape[-2:]
    factor = min(size[0] / height, size[1] / width)
    new = [max(1, min(limit, round(side * factor))) for side, limit in zip((height, width), size)]
    plain = image.as_subclass(Tensor)
    resized: Tensor = plain if new == [height, width] else functional.resize(plain, new, antialias=True)
    return resized


def _scale(img_scale: int | Sequence[int]) -> tuple[int, int]:
    width, height = (img_scale, img_scale) if isinstance(img_scale, int) else img_scale
    if width < 1 or height < 1:
        raise ValueError(f"img_scale must be positive, not {img_scale}")
    return width, height


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _random_offset(length: int, available: int) -> int:
    """Return a random position of a side on another one: one of the two lies within the other."""
    free = available - length
    return min(free, 0) + int(torch.randint(abs(free) + 1, ()))
