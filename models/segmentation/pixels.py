"""Reading segmentation maps from data samples, and writing predictions to them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name


def gather_seg_maps(data_samples: Any, size: Sequence[int], ignore_index: int = 255) -> Tensor:
    """Return the segmentation maps of a batch, padded at the bottom and right like its images.

    If a preprocessor has resized the images, and samples have their ``input_shape``, the maps are resized to it too.

    Args:
        data_samples: a list of data samples with ``gt_sem_seg.sem_seg`` of shape (1, h, w); or a tensor of shape
            (N, h, w) or (N, 1, h, w).
        size: height and width of the batch of images.
        ignore_index: label of the padding.

    Returns:
        int64, of shape (N, height, width).

    Raises:
        ValueError: a sample has no map, or a map that is larger than the images.
    """
    height, width = size
    if isinstance(data_samples, Tensor):
        maps: Any = data_samples.flatten(1, 2) if data_samples.dim() == 4 else data_samples
        return _pad(maps, height, width, ignore_index, None).long()
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no segmentation maps: its data samples are {data_samples!r}")
    maps = [
        _pad(_as_in_input(_seg_map(sample), sample), height, width, ignore_index, sample).reshape(height, width)
        for sample in data_samples
    ]
    return torch.stack(maps).long()


def add_seg_predictions(
    logits: Tensor, data_samples: Any = None, input_size: Sequence[int] | None = None
) -> list[DataSample]:
    """Return the data samples with ``pred_sem_seg``, in the size of the original images.

    The padding is removed, the logits are resized to ``ori_shape`` if the sample has it, and each pixel is assigned the
    class with the largest logit.

    Args:
        logits: shape (N, C, h, w); resized if their size differs from the images'.
        data_samples: a list of data samples, whose ``img_shape`` is the image size without padding; new ones are
            created if None.
        input_size: height and width of the padded images; by default ``batch_input_shape`` of the samples, or else the
            size of the logits.
    """
    samples = _as_samples(data_samples, len(logits))
    logits = logits.detach()
    shapes = [_shapes(sample, input_size, logits) for sample in samples]
    if len(set(shapes)) == 1:
        seg_maps = list(_classes(logits, *shapes[0]))
    else:
        seg_maps = [_classes(logits[index : index + 1], *shape)[0] for index, shape in enumerate(shapes)]
    for sample, seg_map in zip(samples, seg_maps):
        sample.pred_sem_seg = PixelData(sem_seg=seg_map[None])
    return samples


Size = tuple[int, int]


def _shapes(sample: BaseDataElement, input_size: Sequence[int] | None, logits: Tensor) -> tuple[Size, Size, Size]:
    """Return the sizes of the padded input, of the image without padding, and of the original image."""
    padded = _size(input_size or sample.get("batch_input_shape") or logits.shape[-2:])
    image = _size(sample.get("img_shape") or padded)
    return padded, image, _size(sample.get("ori_shape") or image)


def _classes(logits: Tensor, padded: Size, image: Size, original: Size) -> Tensor:
    logits = resize_logits(logits, padded)
    logits = logits[..., : image[0], : image[1]]
    return resize_logits(logits, original).argmax(1)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits (N, C, h, w) in a size (height, width), by bilinear interpolation if it differs from theirs."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _size(shape: Sequence[int]) -> Size:
    return int(shape[0]), int(shape[1])


def _as_samples(data_samples: Any, number: int) -> list[DataSample]:
    if isinstance(data_samples, list | tuple) and data_samples and isinstance(data_samples[0], BaseDataElement):
        return list(data_samples)
    samples = [DataSample() for _ in range(number)]
    if isinstance(data_samples, Tensor):
        for sample, seg_map in zip(samples, data_samples):
            sample.gt_sem_seg = PixelData(sem_seg=seg_map if seg_map.dim() == 3 else seg_map[None])
    return samples


def _seg_map(sample: BaseDataElement) -> Tensor:
    pixels = sample.get("gt_sem_seg")
    if pixels is None:
        raise ValueError(
            f"{sample_name(sample)} has no gt_sem_seg: does the dataset provide paths of segmentation maps, and does "
            "the pipeline load them (LoadSegMap)?"
        )
    seg_map: Tensor = pixels.sem_seg
    return seg_map


def _as_in_input(seg_map: Tensor, sample: BaseDataElement) -> Tensor:
    """Return a map that is resized like the image, if its preprocessor did that."""
    size = sample.get("input_shape")
    if size is None or seg_map.shape[-2:] in (size, torch.Size(size)) or seg_map.shape[-2:] != sample.get("img_shape"):
        return seg_map
    return F.interpolate(seg_map[None].float(), size=tuple(size), mode="nearest-exact")[0].to(seg_map.dtype)


def _pad(seg_map: Tensor, height: int, width: int, value: int, sample: BaseDataElement | None) -> Tensor:
    down, right = height - seg_map.shape[-2], width - seg_map.shape[-1]
    if down == right == 0:
        return seg_map
    if down < 0 or right < 0:
        name = "the batch" if sample is None else sample_name(sample)
        raise ValueError(
            f"the segmentation map of {name} has size {tuple(seg_map.shape[-2:])}, but the image has size "
            f"{(height, width)}: load the map before resizing, so that it is resized too"
        )
    return F.pad(seg_map, (0, right, 0, down), value=value)
