"""Modules that convert a batch from the data loader to the arguments of a model's forward."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainwright.engine.accelerator import has_own_memory, overlapping_copies
from trainwright.engine.data.several import NamedBatches
from trainwright.engine.errors import ConfigError, DataError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement

_MOVABLE = (Tensor, BaseDataElement)


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Move a batch to the device of the model.

    With several data loaders, each of their batches is preprocessed on its own; see also
    :class:`DataPreprocessorByLoader`.

    Args:
        non_blocking: copy the batch during the computation of the previous step; pinned memory makes this faster. On by
            default for accelerators with their own memory.
    """

    def __init__(self, non_blocking: bool | None = None) -> None:
        super().__init__()
        self._non_blocking = non_blocking
        self._device = torch.device("cpu")
        self._overlaps = False

    @property
    def device(self) -> torch.device:
        """Device that batches are moved to; follows the enclosing module."""
        return self._device

    def cast_data(self, data: Any) -> Any:
        """Move all tensors and data elements in nested containers to the device."""
        if not self._overlaps:
            return self._cast(data, self._move)
        with overlapping_copies(self._device) as copy:
            return self._cast(data, copy)

    def _move(self, data: Tensor | BaseDataElement) -> Any:
        return data.to(self._device, non_blocking=bool(self._non_blocking))

    def _cast(self, data: Any, move: Callable[[Any], Any]) -> Any:
        if isinstance(data, Tensor) and data.device == self._device:
            return data  # cheaper than a no-op `to`
        if isinstance(data, _MOVABLE):
            return move(data)
        if type(data) is list:
            device = self._device
            return [
                value if isinstance(value, Tensor) and value.device == device else self._cast(value, move)
                for value in data
            ]
        if isinstance(data, Mapping):
            return {key: self._cast(value, move) for key, value in data.items()}
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self._cast(value, move) for value in data))
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            return type(data)(self._cast(value, move) for value in data)  # type: ignore[call-arg]
        return data

    def __call__(self, data: Any, training: bool = False) -> Any:
        if isinstance(data, NamedBatches):
            return {name: self.of_loader(name)(batch, training) for name, batch in data.items()}
        return super().__call__(data, training)

    def of_loader(self, name: str) -> "BaseDataPreprocessor":
        """Return the preprocessor for the batches of one of several data loaders: this one."""
        return self

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch on the device.

        Args:
            data: a batch of the data loader.
            training: whether the batch is for a training step; subclasses may augment it.

        Returns:
            A dict of keyword arguments for the model, or a list or tuple of positional arguments.
        """
        return self.cast_data(data)

    def _convert_batch(self, data: Any, convert_images: Callable[[Any], Any]) -> Any:
        """Convert the images of a batch and move everything else to the device."""
        if isinstance(data, Mapping):
            batch = {key: self.cast_data(value) for key, value in data.items() if key != "inputs"}
            return {"inputs": convert_images(data.get("inputs")), "data_samples": None} | batch
        if isinstance(data, list | tuple):
            return [convert_images(data[0]), *self.cast_data(data[1:])]
        raise TypeError(f"a batch must be a dict, list or tuple, not {type(data).__name__}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every method that moves this module or an enclosing one calls _apply.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._device = fn(torch.empty(0, device=self._device)).device
        self._overlaps = self._non_blocking is not False and has_own_memory(self._device)
        return self


@MODELS.register_module()
class DataPreprocessorByLoader(BaseDataPreprocessor):
    """Preprocess the batches of several training data loaders, each in its own way.

    Example:
        >>> DataPreprocessorByLoader(
        ...     default=dict(type="ImgDataPreprocessor", mean=[127.5], std=[127.5]),
        ...     text=dict(type="BaseDataPreprocessor"),
        ... )

    Args:
        default: module or config for the batches of all other data loaders, also in validation and test;
            :class:`BaseDataPreprocessor` if None.
        **by_loader: module or config for the batches of each data loader, by its name.
    """

    def __init__(
        self, default: Mapping[str, Any] | nn.Module | None = None, **by_loader: Mapping[str, Any] | nn.Module
    ) -> None:
        super().__init__()
        self.default = MODELS.build({"type": "BaseDataPreprocessor"} if default is None else default)
        self.by_loader = nn.ModuleDict({name: MODELS.build(cfg) for name, cfg in by_loader.items()})
        self._known = False

    def __call__(self, data: Any, training: bool = False) -> Any:
        if not self._known and isinstance(data, NamedBatches):
            self._known = True
            for name in self.by_loader:
                if name not in data:
                    hint = did_you_mean(name, data) or f"the data loaders are {', '.join(data)}"
                    raise ConfigError(f"data_preprocessor.{name}", f"there is no data loader {name!r}", hint)
        return super().__call__(data, training)

    def of_loader(self, name: str) -> Any:
        """Return the preprocessor for the batches of one of several data loaders."""
        return self.by_loader[name] if name in self.by_loader else self.default  # noqa: SIM401  # it has no `get`

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return a batch that is not of one of several data loaders, as ``default`` preprocesses it."""
        return self.default(data, training)


@MODELS.register_module()
class ImgDataPreprocessor(BaseDataPreprocessor):
    """Batch images: move them to the device, reorder channels, normalize, and pad at the bottom and right.

    Images are transferred unchanged (uint8 is a quarter of the bytes) and converted to float on the device.

    Args:
        mean: mean of the pixels by channel, after reordering the channels: 3 values, or 1 for gray images or for all
            channels. Images are not normalized if None.
        std: standard deviation of the pixels, in the same form.
        pad_size_divisor: pad the height and width of the batch to multiples of this number.
        pad_value: value of the padding, after normalization.
        bgr_to_rgb: convert BGR images to RGB.
        rgb_to_bgr: convert RGB images to BGR.
        non_blocking: see :class:`BaseDataPreprocessor`.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given, either does not have 1 or 3 values, or both
            ``bgr_to_rgb`` and ``rgb_to_bgr`` are True.
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
        non_blocking: bool | None = None,
    ) -> None:
        super().__init__(non_blocking)
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr cannot both be True")
        self._enable_normalize = register_mean_and_std(self, mean, std, (-1, 1, 1))
        self._channel_conversion = bgr_to_rgb or rgb_to_bgr
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor.

        Args:
            data: dict with ``inputs``, or a tuple or list whose first item is the inputs: a list of tensors of shape
                (C, H, W), of any sizes, or one tensor of shape (N, C, H, W); or a list of several views, or a dict of
                several inputs, each of this form.
            training: unused.

        Returns:
            The dict with ``inputs`` of shape (N, C, H, W) and ``data_samples`` (None if missing), or a list.

        Raises:
            TypeError: the inputs are not images.
            ValueError: the images have the wrong number of dimensions.
            DataError: the images have the wrong number of channels.
        """
        return self._convert_batch(data, self.batch_images)

    @property
    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation that images are normalized with, by channel; None if they are not."""
        return (self.mean.flatten().tolist(), self.std.flatten().tolist()) if self._enable_normalize else None

    def batch_images(self, images: Any) -> Any:
        """Return one normalized and padded float tensor of shape (N, C, H, W) on the device.

        Of several views, return a list of tensors, and of a dict of inputs, a dict, in which images are batched.
        """
        if isinstance(images, Mapping):
            return {
                name: self.batch_images(part) if _are_images(part) else self.cast_data(part)
                for name, part in images.items()
            }
        if _are_views(images):
            return [self.batch_images(view) for view in images]
        if isinstance(images, list | tuple) and images and all(isinstance(image, Tensor) for image in images):
            images = self.cast_data(images)
            if any(image.shape != images[0].shape or image.dtype != images[0].dtype for image in images):
                return self._stack_different(images)
            images = torch.stack(tuple(images))
        if not isinstance(images, Tensor):
            raise TypeError(f"'inputs' must be a tensor or a list of tensors, not {type(images).__name__}")
        if images.dim() != 4:
            raise ValueError(f"images must have the shape (N, C, H, W), or (C, H, W) in a list, not {images.shape}")
        batch: Tensor = self._normalize(self.cast_data(images))
        height, width = (_round_up(size, self.pad_size_divisor) for size in batch.shape[-2:])
        if self.pad_size_divisor == 1 or (not torch.compiler.is_exporting() and (height, width) == batch.shape[-2:]):
            return batch
        padding = (0, width - batch.shape[-1], 0, height - batch.shape[-2])
        return nn.functional.pad(batch, padding, value=self.pad_value)

    def _stack_different(self, images: Sequence[Tensor]) -> Tensor:
        """Return the batch of images on the device that differ in size or dtype."""
        images = [self._normalize(image) for image in images]
        return stack_batch(images, self.pad_size_divisor, self.pad_value)

    def _normalize(self, images: Tensor) -> Tensor:
        if self._channel_conversion:
            images = images.flip(-3)
        images = images.float()
        if not self._enable_normalize:
            return images
        if self.mean.shape[0] == 3 and images.shape[-3] != 3:
            raise DataError(
                f"mean and std have 3 values, but the images have {images.shape[-3]} channels: list one value for gray "
                "images, or load color images (color_type='color')"
            )
        return (images - self.mean).div_(self.std)


def _are_images(inputs: Any) -> bool:
    """Return whether inputs are a batch of images, a list of images, or views of these."""
    if isinstance(inputs, Tensor):
        return inputs.dim() == 4
    return _are_views(inputs) or (
        isinstance(inputs, list | tuple)
        and bool(inputs)
        and all(isinstance(image, Tensor) and image.dim() == 3 for image in inputs)
    )


def _are_views(inputs: Any) -> bool:
    """Return whether inputs are several batches or lists of images."""
    return isinstance(inputs, list | tuple) and bool(inputs) and all(
        _are_images(view) if isinstance(view, list | tuple) else isinstance(view, Tensor) and view.dim() == 4
        for view in inputs
    )  # fmt: skip


def register_mean_and_std(
    module: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, shape: Sequence[int]
) -> bool:
    """Register the buffers ``mean`` and ``std``, if they are given, and return whether they are.

    Args:
        module: module to register the buffers on.
        mean: mean of the pixels by channel, 1 or 3 values.
        std: standard deviation of the pixels by channel, 1 or 3 values.
        shape: shape of the buffers, such as (-1, 1, 1) to broadcast over height and width.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given, or either does not have 1 or 3 values.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together")
    if mean is None or std is None:
        return False
    if len(mean) not in (1, 3) or len(std) not in (1, 3):
        raise ValueError(f"mean and std must have 1 or 3 values, not {len(mean)} and {len(std)}")
    module.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(*shape), persistent=False)
    module.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(*shape), persistent=False)
    return True


def stack_batch(tensor_list: Sequence[Tensor], pad_size_divisor: int = 1, pad_value: float = 0) -> Tensor:
    """Pad tensors of shape (C, ...) to a common size, at the end of every axis except the first, and stack them.

    The batch has the memory format of the tensors, as ``torch.stack`` gives it.

    Args:
        tensor_list: tensors with the same number of dimensions, at least one.
        pad_size_divisor: round the common sizes up to multiples of this number.
        pad_value: value of the padding.

    Returns:
        Tensor of shape (N, C, ...).

    Raises:
        ValueError: there are no tensors, or their numbers of dimensions differ.
        DataError: their sizes in the first dimension, the channels, differ.
    """
    if len({tensor.dim() for tensor in tensor_list}) != 1:
        raise ValueError(
            "tensor_list must contain tensors with the same number of dimensions, not "
            f"{[tensor.dim() for tensor in tensor_list]}"
        )
    first = tensor_list[0]
    if len(channels := {tensor.shape[0] for tensor in tensor_list}) > 1:
        raise DataError(
            f"images with {' and '.join(map(str, sorted(channels)))} channels cannot be batched: load all of them with "
            "the same color_type"
        )
    sizes = [max(tensor.shape[axis] for tensor in tensor_list) for axis in range(1, first.dim())]
    shape = (first.shape[0], *(_round_up(size, pad_size_divisor) for size in sizes))
    if all(tensor.shape == shape for tensor in tensor_list):
        return torch.stack(tuple(tensor_list))
    if not all(tensor.is_contiguous() for tensor in tensor_list):  # keep channels last: it decides the kernels used
        return torch.stack([_pad_at_end(tensor, shape, pad_value) for tensor in tensor_list])
    batch = first.new_full((len(tensor_list), *shape), pad_value)
    for padded, tensor in zip(batch, tensor_list):
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return batch


def _pad_at_end(tensor: Tensor, shape: Sequence[int], value: float) -> Tensor:
    missing = [(0, size - present) for size, present in zip(shape, tensor.shape)]
    return nn.functional.pad(tensor, tuple(side for pair in reversed(missing) for side in pair), value=value)


def _round_up(size: int, divisor: int) -> int:
    return (size + divisor - 1) // divisor * divisor  # for symbolic sizes, too


def with_preprocessor(part: Mapping[str, Any] | nn.Module, data_preprocessor: Any, name: str) -> Any:
    """Return the config of the part of a model whose preprocessor prepares the batches of the whole model.

    Args:
        part: the part, or its config.
        data_preprocessor: module or config; None to leave the part as it is.
        name: what the part is called.

    Raises:
        ConfigError: the part has a preprocessor of its own, too.
    """
    if data_preprocessor is None:
        return part
    if isinstance(part, nn.Module) or part.get("data_preprocessor") is not None:
        message = f"the {name} of the model has a preprocessor of its own"
        raise ConfigError("data_preprocessor", message, "remove one of them")
    return {**part, "data_preprocessor": data_preprocessor}
