"""Convert user inputs (paths, arrays, PIL images, tensors) to model inputs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.sample import DataSample

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"
)  # fmt: skip


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted paths of the image files in a folder.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no images in {folder}: supported extensions are {', '.join(IMAGE_SUFFIXES)}")
    return paths


def read_image(source: Any, channels: int | None = None) -> Any:
    """Return an image as a ``tv_tensors.Image`` of shape (C, H, W), without changing its values.

    Args:
        source: path of an image file; a PIL image; an RGB array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or
            a tensor of shape (H, W) or (C, H, W).
        channels: 1 for gray, 3 for RGB; None keeps the channels of the image.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: ``source`` has another type.
        ValueError: an array or tensor has another shape.
    """
    from PIL import Image, ImageOps
    from torchvision.transforms.v2.functional import to_image
    from torchvision.tv_tensors import Image as ImageTensor

    if isinstance(source, str | os.PathLike):
        with Image.open(source) as picture:
            picture.load()
        source = picture
    if isinstance(source, Image.Image):
        source = ImageOps.exif_transpose(source)
        if channels is not None or source.mode not in ("L", "RGB"):
            source = source.convert("L" if channels == 1 else "RGB")
        return to_image(source)
    if isinstance(source, np.ndarray):
        if source.ndim == 3:
            source = source.transpose(2, 0, 1)
        source = torch.from_numpy(np.ascontiguousarray(source))
    if not isinstance(source, Tensor):
        raise TypeError(f"an image must be a path, PIL image, array or tensor, got {type(source).__name__}")
    tensor = source.as_subclass(Tensor)
    tensor = tensor.unsqueeze(0) if tensor.ndim == 2 else tensor
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4, channels):
        expected = "(H, W), (H, W, C) as an array or (C, H, W) as a tensor, with 1, 3 or 4 channels"
        raise ValueError(f"an image must have shape {expected}; got a tensor of shape {tuple(tensor.shape)}")
    return ImageTensor(_with_channels(tensor, channels))


class ImagePipeline:
    """A pipeline that converts an image of any kind to ``dict(inputs=..., data_samples=...)`` for a model.

    Args:
        transforms: the steps of a dataset's pipeline, including packing. For anything but a path, a first step that
            loads a file is skipped.
        shape: (channels, height, width) of the inputs that the model was trained on, if the steps do not determine it:
            images are converted to these channels, and without ``transforms`` resized to this size. A shape with
            another number of dimensions means that inputs are not images; they are passed on as float tensors.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]] = (), shape: Sequence[int] | None = None) -> None:
        self.shape = None if shape is None else tuple(shape)
        first = transforms[0] if transforms else None
        self.loader = first if type(first).__name__.startswith("Load") else None
        self.steps = list(transforms[1:] if self.loader is not None else transforms)

    @property
    def has_transforms(self) -> bool:
        """Whether there are steps; without them, all inputs have the same shape."""
        return self.loader is not None or bool(self.steps)

    @property
    def takes_images(self) -> bool:
        """Whether inputs are images, rather than points or other numbers."""
        return self.has_transforms or self.shape is None or len(self.shape) == 3

    def __call__(self, source: Any, extra: Mapping[str, Any] | None = None) -> Any:
        """Return the sample for a path, PIL image, array or tensor.

        The steps also receive the entries in ``extra``, such as a box.

        Raises:
            ValueError: a step rejects the image, or numbers do not have the shape that the model was trained on.
        """
        if not self.takes_images:
            numbers = torch.as_tensor(source, dtype=torch.float32)
            if tuple(numbers.shape) != self.shape:
                raise ValueError(f"inputs must have shape {self.shape} as in training, got {tuple(numbers.shape)}")
            return {"inputs": numbers, "data_samples": DataSample()}
        return self.transform({**self.load(source), **(extra or {})}, source)

    def load(self, source: Any) -> dict[str, Any]:
        """Return the image for a path, PIL image, array or tensor as a sample: ``img``, ``ori_shape`` and the path.

        Raises:
            ValueError: the loader rejects the image.
        """
        is_path = isinstance(source, str | os.PathLike)
        sample: dict[str, Any] = {"img_path": os.fspath(source)} if is_path else {}
        if self.loader is not None and is_path:
            loaded: dict[str, Any] | None = self.loader(sample)
            if loaded is None:
                raise ValueError(f"{type(self.loader).__name__} rejected this image: {source}")
            return loaded
        image = read_image(source, self._channels())
        return {**sample, "img": image, "ori_shape": tuple(image.shape[-2:])}

    def transform(self, sample: Any, source: Any = "") -> Any:
        """Return the transformed sample of an image; ``source`` is named in errors.

        Raises:
            ValueError: a step rejects the image.
        """
        if not self.steps:
            return self._resized(sample)
        for step in self.steps:
            sample = step(sample)
            if sample is None:
                raise ValueError(f"{type(step).__name__} rejected this image")
        return sample

    def _channels(self) -> int | None:
        if self.loader is not None:
            return 1 if getattr(self.loader, "color_type", "color") == "grayscale" else 3
        return None if self.shape is None else self.shape[0]

    def _resized(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms.v2.functional import resize

        image = sample.pop("img")
        if self.shape is not None and tuple(image.shape[-2:]) != self.shape[1:]:
            image = resize(image, list(self.shape[1:]), antialias=True)
        metainfo = {**sample, "img_shape": tuple(image.shape[-2:])}
        return {"inputs": image.as_subclass(Tensor), "data_samples": DataSample(metainfo=metainfo)}


def _with_channels(image: Tensor, channels: int | None) -> Tensor:
    if channels is None or channels == image.shape[0]:
        return image
    if image.shape[0] == 4:
        image = image[:3]
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    return rgb_to_grayscale(image) if channels == 1 else image
