"""Convert user inputs (paths, arrays, PIL images, tensors) to model inputs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import MissingFileError
from trainwright.engine.images.reader import ColorType, ImageReader
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
        raise MissingFileError(f"no images in {folder}: supported extensions are {', '.join(IMAGE_SUFFIXES)}")
    return paths


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
        channels = None if self.shape is None else self.shape[0]
        color_type: ColorType = "grayscale" if channels == 1 else "color"
        self.reader: ImageReader = getattr(self.loader, "reader", None) or ImageReader(color_type)
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
        image = self._image(source)
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
                raise ValueError(f"{type(step).__name__} rejected this image: {source}")
        return sample

    def _image(self, source: Any) -> Any:
        """Return an image, converted as the loader would; without a loader, numbers keep their values."""
        if self.loader is not None:
            return self.reader.convert(source)
        if isinstance(source, str | os.PathLike):
            return self.reader.read(source)
        if not isinstance(source, np.ndarray | Tensor):
            return self.reader.convert(source)
        image = ImageReader("unchanged").convert(source)
        return image if self.shape is None else _with_channels(image, self.shape[0])

    def _resized(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms.v2.functional import resize

        image = sample.pop("img")
        if self.shape is not None and tuple(image.shape[-2:]) != self.shape[1:]:
            image = resize(image, list(self.shape[1:]), antialias=True)
        metainfo = {**sample, "img_shape": tuple(image.shape[-2:])}
        return {"inputs": image.as_subclass(Tensor), "data_samples": DataSample(metainfo=metainfo)}


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] not in (1, 2, 3, 4, channels):
        raise ValueError(f"an image must have 1 to 4 channels or {channels}, got shape {tuple(image.shape)} (C, H, W)")
    if image.shape[0] in (2, 4) and channels != image.shape[0]:
        image = image[:-1]
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    return rgb_to_grayscale(image) if channels == 1 else image
