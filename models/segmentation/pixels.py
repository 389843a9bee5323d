"""Class maps into and out of the data samples of a segmentation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name


def gather_seg_maps(data_samples: Any, size: Sequence[int], ignore_index: int = 255) -> Tensor:
    """Return the true classes of the pixels of a batch, padded at the bottom and right like its images.

    Args:
        data_samples: a list of data samples with ``gt_sem_seg.sem_seg`` of shape (1, h, w); or a tensor of shape
            (N, h, w) or (N, 1, h, w).
        size: height and width of the batch of images.
        ignore_index: label of the padding.

    Returns:
        int64, of shape (N, height, width).

    Raises:
        ValueError: a sample has no map, or one that is larger than the images; its file is named.
    """
    height, width = size
    if isinstance(data_samples, Tensor):
        planes: Any = data_samples.flatten(1, 2) if data_samples.dim() == 4 else data_samples
        return _padded(planes, height, width, ignore_index, None).long()
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no class maps: its data samples are {data_samples!r}")
    planes = [
        _padded(_seg_map(sample), height, width, ignore_index, sample).reshape(height, width) for sample in data_samples
    ]
    return torch.stack(planes).long()


def add_seg_predictions(
    logits: Tensor, data_samples: Any = None, input_size: Sequence[int] | None = None
) -> list[DataSample]:
    """Return the data samples with ``pred_sem_seg``, in the size of the original images.

    The padding is cut off, the logits are resized to ``ori_shape`` where the sample knows it, and each pixel gets
    the class of its largest logit.

    Args:
        logits: shape (N, C, h, w); of another size than the images, they are resized.
        data_samples: a list of data samples, whose ``img_shape`` says how much of the input is image; new ones are
            made if None.
        input_size: height and width of the padded images; ``batch_input_shape`` of the samples if None, else the
            size of the logits.
    """
    samples = _as_samples(data_samples, len(logits))
    logits = logits.detach()
    shapes = [_shapes(sample, input_size, logits) for sample in samples]
    if len(set(shapes)) == 1:
        for sample, plane in zip(samples, _classes(logits, *shapes[0])):
            _set_prediction(sample, plane)
        return samples
    for index, (sample, shape) in enumerate(zip(samples, shapes)):
        _set_prediction(sample, _classes(logits[index : index + 1], *shape)[0])
    return samples


Size = tuple[int, int]


def _shapes(sample: BaseDataElement, input_size: Sequence[int] | None, logits: Tensor) -> tuple[Size, Size, Size]:
    """Return the sizes of the padded input, of the image in it, and of the original image."""
    padded = _size(input_size or sample.get("batch_input_shape") or logits.shape[-2:])
    image = _size(sample.get("img_shape") or padded)
    return padded, image, _size(sample.get("ori_shape") or image)


def _classes(logits: Tensor, padded: Size, image: Size, original: Size) -> Tensor:
    if logits.shape[-2:] != padded:
        logits = _resize(logits, padded)
    logits = logits[..., : image[0], : image[1]]
    if image != original:
        logits = _resize(logits, original)
    return logits.argmax(1)


def _resize(logits: Tensor, size: Size) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _size(shape: Sequence[int]) -> Size:
    return int(shape[0]), int(shape[1])


def _set_prediction(sample: DataSample, plane: Tensor) -> None:
    sample.pred_sem_seg = PixelData(sem_seg=plane[None])


def _as_samples(data_samples: Any, number: int) -> list[DataSample]:
    if isinstance(data_samples, list | tuple) and data_samples and isinstance(data_samples[0], BaseDataElement):
        return list(data_samples)
    samples = [DataSample() for _ in range(number)]
    if isinstance(data_samples, Tensor):
        for sample, plane in zip(samples, data_samples):
            sample.gt_sem_seg = PixelData(sem_seg=plane if plane.dim() == 3 else plane[None])
    return samples


def _seg_map(sample: BaseDataElement) -> Tensor:
    pixels = sample.get("gt_sem_seg")
    if pixels is None:
        raise ValueError(
            f"{sample_name(sample)} has no gt_sem_seg: does the pipeline load class maps (LoadSegMap), "
            "and does the dataset know where they are?"
        )
    plane: Tensor = pixels.sem_seg
    return plane


def _padded(plane: Tensor, height: int, width: int, value: int, sample: BaseDataElement | None) -> Tensor:
    down, right = height - plane.shape[-2], width - plane.shape[-1]
    if down == right == 0:
        return plane
    if down < 0 or right < 0:
        name = "the batch" if sample is None else sample_name(sample)
        raise ValueError(
            f"the class map of {name} has the size {tuple(plane.shape[-2:])}, its image {(height, width)}: "
            "load it before the image is resized, so that both are"
        )
    return F.pad(plane, (0, right, 0, down), value=value)
