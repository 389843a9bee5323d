"""Modules that turn a batch of the data loader into the arguments of a model's forward."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement

_MOVABLE = (Tensor, BaseDataElement)


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Moves a batch to the device of the model.

    Args:
        non_blocking: overlap the copy with computation; requires pinned memory.
    """

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__()
        self._non_blocking = non_blocking
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where batches are moved to: it follows the module that this one is part of."""
        return self._device

    def cast_data(self, data: Any) -> Any:
        """Move all tensors and data elements in nested containers to the device."""
        if isinstance(data, Tensor) and data.device == self._device:
            return data  # the question is cheaper than a move to where it is
        if isinstance(data, _MOVABLE):
            return data.to(self._device, non_blocking=self._non_blocking)
        if type(data) is list:
            device = self._device
            return [
                value if isinstance(value, Tensor) and value.device == device else self.cast_data(value)
                for value in data
            ]
        if isinstance(data, Mapping):
            return {key: self.cast_data(value) for key, value in data.items()}
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self.cast_data(value) for value in data))
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            return type(data)(self.cast_data(value) for value in data)  # type: ignore[call-arg]
        return data

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch on the device.

        Args:
            data: a batch of the data loader.
            training: whether it is for a training step; a subclass may augment it then.

        Returns:
            A dict, whose items are keyword arguments of the model, or a list or tuple of positional ones.
        """
        return self.cast_data(data)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every way to move a module comes through here, also that of an outer module.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._device = fn(torch.empty(0, device=self._device)).device
        return self


@MODELS.register_module()
class ImgDataPreprocessor(BaseDataPreprocessor):
    """Batches images: moves them to the device, orders channels, normalizes, pads at the bottom and right.

    The images travel as they are (uint8 is a quarter of the bytes), and become floats on the device.

    Args:
        mean: mean of the pixels by channel, after the change of order; 3 values, or 1 for gray images and for
            all channels alike. Not normalized if None.
        std: standard deviation of the pixels, likewise.
        pad_size_divisor: height and width of the batch become multiples of it.
        pad_value: value of the padding, after normalizing.
        bgr_to_rgb: turn blue-green-red into red-green-blue.
        rgb_to_bgr: turn red-green-blue into blue-green-red.
        non_blocking: overlap the copy with computation; requires pinned memory.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given, or not 1 or 3 values; or both orders are asked
            for.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr cannot both be True")
        if (mean is None) != (std is None):
            raise ValueError("mean and std must be given together")
        if mean is not None and std is not None:
            if len(mean) not in (1, 3) or len(std) not in (1, 3):
                raise ValueError(f"mean and std must have 1 or 3 values, not {len(mean)} and {len(std)}")
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self._enable_normalize = mean is not None
        self._channel_conversion = bgr_to_rgb or rgb_to_bgr
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor.

        Args:
            data: dict with ``inputs``, or a tuple or list that begins with them: a list of tensors of shape
                (C, H, W), of any sizes, or one tensor of shape (N, C, H, W).
            training: unused.

        Returns:
            The dict with ``inputs`` of shape (N, C, H, W) and ``data_samples`` (None if there are none), or a
            list.

        Raises:
            TypeError: there are no images where they belong.
            ValueError: the images have other dimensions or channels than the mean.
        """
        if isinstance(data, Mapping):
            batch = {key: self.cast_data(value) for key, value in data.items() if key != "inputs"}
            return {"inputs": self.batch_images(data.get("inputs")), "data_samples": None} | batch
        if isinstance(data, list | tuple):
            return [self.batch_images(data[0]), *self.cast_data(data[1:])]
        raise TypeError(f"a batch must be a dict, list or tuple, not {type(data).__name__}")

    def batch_images(self, images: Any) -> Tensor:
        """Return one normalized and padded float tensor of shape (N, C, H, W) on the device."""
        if isinstance(images, list | tuple) and images and all(isinstance(image, Tensor) for image in images):
            if any(image.shape != images[0].shape or image.dtype != images[0].dtype for image in images):
                images = [self._normalize(self.cast_data(image)) for image in images]
                return stack_batch(images, self.pad_size_divisor, self.pad_value)
            images = torch.stack(tuple(images))
        if not isinstance(images, Tensor):
            raise TypeError(f"'inputs' must be a tensor or a list of tensors, not {type(images).__name__}")
        if images.dim() != 4:
            raise ValueError(f"images must have the shape (N, C, H, W), or (C, H, W) in a list, not {images.shape}")
        batch: Tensor = self._normalize(self.cast_data(images))
        height, width = (_round_up(size, self.pad_size_divisor) for size in batch.shape[-2:])
        if (height, width) == batch.shape[-2:]:
            return batch
        padding = (0, width - batch.shape[-1], 0, height - batch.shape[-2])
        return nn.functional.pad(batch, padding, value=self.pad_value)

    def _normalize(self, images: Tensor) -> Tensor:
        if self._channel_conversion:
            images = images.flip(-3)
        images = images.float()
        if not self._enable_normalize:
            return images
        if self.mean.shape[0] == 3 and images.shape[-3] != 3:
            raise ValueError(f"mean and std have 3 values, the images {images.shape[-3]} channels")
        return (images - self.mean).div_(self.std)


def stack_batch(tensor_list: Sequence[Tensor], pad_size_divisor: int = 1, pad_value: float = 0) -> Tensor:
    """Pad tensors of shape (C, ...) at the end of each axis but the first to a common size, and stacks them.

    Args:
        tensor_list: tensors with the same number of dimensions, at least one.
        pad_size_divisor: the common sizes become multiples of it.
        pad_value: value of the padding.

    Returns:
        Tensor of shape (N, C, ...).

    Raises:
        ValueError: there are no tensors, or they differ in their number of dimensions.
    """
    if len({tensor.dim() for tensor in tensor_list}) != 1:
        raise ValueError(f"tensors of as many dimensions are needed, not of {[tensor.dim() for tensor in tensor_list]}")
    first = tensor_list[0]
    sizes = [max(tensor.shape[axis] for tensor in tensor_list) for axis in range(1, first.dim())]
    batch = first.new_full(
        (len(tensor_list), first.shape[0], *(_round_up(size, pad_size_divisor) for size in sizes)), pad_value
    )
    for padded, tensor in zip(batch, tensor_list):
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return batch


def _round_up(size: int, divisor: int) -> int:
    return math.ceil(size / divisor) * divisor
