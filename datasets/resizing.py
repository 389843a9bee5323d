"""Resizing with torchvision, on images as decoders leave them in memory, or with OpenCV."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from trainwright.engine.images.decoders import import_cv2
from trainwright.engine.registry import TRANSFORMS

Interpolation = str | int | Any  # or a member of InterpolationMode
Backend = Literal["torchvision", "cv2"]
Window = tuple[slice, slice]

_PLAIN = (int, float, str)
_CV2_NAMES = {
    "nearest": "INTER_NEAREST",
    "nearest-exact": "INTER_NEAREST_EXACT",
    "bilinear": "INTER_LINEAR",
    "bicubic": "INTER_CUBIC",
    "lanczos": "INTER_LANCZOS4",
}


class _Resizer:
    """Resize images of any dtype; other inputs, such as masks, are left to torchvision.

    Args:
        backend: ``"torchvision"`` or ``"cv2"``.
        interpolation: interpolation in torchvision's names.
        antialias: whether torchvision smooths an image before it shrinks it.

    Raises:
        ValueError: an unknown backend, or an interpolation that OpenCV does not have.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(self, backend: Backend, interpolation: Interpolation, antialias: bool | None) -> None:
        if backend not in ("torchvision", "cv2"):
            raise ValueError(f"backend must be 'torchvision' or 'cv2', not {backend!r}")
        self.backend = backend
        self.interpolation = interpolation
        self.antialias = antialias
        if backend == "cv2":
            name = str(getattr(interpolation, "value", interpolation))
            if name not in _CV2_NAMES:
                raise ValueError(f"OpenCV has no interpolation {interpolation!r}: use one of {', '.join(_CV2_NAMES)}")
            self._flag: int = getattr(import_cv2(), _CV2_NAMES[name])

    def __call__(
        self, image: Tensor, size: Sequence[int] | None, max_size: int | None = None, window: Window | None = None
    ) -> Tensor:
        """Return the image, or a window of it, resized as ``torchvision.transforms.v2.functional.resize`` would.

        Args:
            image: shape (C, H, W).
            size: (height, width), the length of the shorter side in a list, or None.
            max_size: maximum of the longer side.
            window: the rows and columns to resize.
        """
        image = image.as_subclass(Tensor)
        if self.backend == "cv2" and image.dtype in (torch.uint8, torch.float32):
            resized = self._resize_with_opencv(image, size, max_size, window)
        else:
            options = {"interpolation": self.interpolation, "max_size": max_size, "antialias": self.antialias}
            resized = functional.resize_image(image if window is None else _cut(image, window), size, **options)
        return resized.as_subclass(tv_tensors.Image)  # type: ignore[no-any-return]  # torchvision has no types

    def _resize_with_opencv(
        self, image: Tensor, size: Sequence[int] | None, max_size: int | None, window: Window | None
    ) -> Tensor:
        if size is not None and len(size) == 2:
            height, width = size
        else:  # of an image without channels, torchvision only computes the size
            height, width = functional.resize_image(image[:0], size, max_size=max_size).shape[-2:]
        pixels = image.permute(1, 2, 0).numpy()
        cv2 = import_cv2()
        resized = cv2.resize(pixels if window is None else pixels[window], (width, height), interpolation=self._flag)
        channels = 1 if resized.ndim == 2 else resized.shape[2]
        planes = np.empty((channels, height, width), resized.dtype)
        cv2.split(resized, list(planes))  # several times faster than a transposed copy
        return torch.from_numpy(planes)


# Within it, operations on a tensor of a subclass cost no more than those on any tensor.
_plain_tensors = torch._C.DisableTorchFunctionSubclass


def _is_image(value: Any) -> bool:
    if type(value) is not tv_tensors.Image:
        return False
    with _plain_tensors():
        return bool(value.ndim == 3 and value.device.type == "cpu")


def _has_only_image(sample: Any) -> bool:
    """Whether a sample consists of an image, numbers and strings, so that only the image can be transformed."""
    return (
        type(sample) is dict
        and _is_image(sample.get("img"))
        and all(key in ("img", "ori_shape") or isinstance(value, _PLAIN) for key, value in sample.items())
    )


def _cut(image: Tensor, window: Window) -> Tensor:
    """Return a window of an image, without gaps if its memory is (H, W, C), because it is then resized faster."""
    if image.stride(0) != 1:
        return image[:, *window]
    return torch.from_numpy(np.ascontiguousarray(image.permute(1, 2, 0).numpy()[window])).permute(2, 0, 1)


@TRANSFORMS.register_module()
class RandomResizedCrop(v2.RandomResizedCrop):
    """Crop a random part of an image, and resize it (Szegedy et al. 2014).

    Args:
        size: (height, width) of the result, or one number for both.
        scale: minimum and maximum area of the part, as a fraction of the image area.
        ratio: minimum and maximum aspect ratio of the part, width by height.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, or a member of
            ``InterpolationMode``.
        antialias: whether to smooth an image before it is shrunk; the backend ``"cv2"`` never does.
        backend: ``"torchvision"``, or ``"cv2"`` for OpenCV (``pip install 'trainwright[cv2]'``), which is faster.

    Raises:
        ValueError: an unknown backend, or an interpolation that OpenCV does not have.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        antialias: bool | None = True,
        backend: Backend = "torchvision",
    ) -> None:
        super().__init__(size, scale, ratio, interpolation, antialias)
        self._resizer = _Resizer(backend, interpolation, antialias)

    def forward(self, *inputs: Any) -> Any:
        """Return a sample cropped and resized."""
        sample = inputs[0]
        if len(inputs) > 1 or not _has_only_image(sample):
            return super().forward(*inputs)
        # The same as torchvision does, without the search for other inputs, which takes a tenth of the time.
        with _plain_tensors():
            return {**sample, "img": self._resized(sample["img"], **self.make_params([sample["img"]]))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return an input cropped and resized."""
        if not _is_image(inpt):
            return super().transform(inpt, params)
        return self._resized(inpt, **params)

    def _resized(self, image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
        return self._resizer(image, self.size, window=(slice(top, top + height), slice(left, left + width)))


@TRANSFORMS.register_module()
class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """Flip an image, its masks and its boxes from left to right, at random.

    Args:
        p: probability, in [0, 1].
    """

    def forward(self, *inputs: Any) -> Any:
        """Return a sample, flipped or not."""
        sample = inputs[0]
        if len(inputs) > 1 or not _has_only_image(sample):
            return super().forward(*inputs)
        if torch.rand(1).item() >= self.p:
            return sample
        with _plain_tensors():
            return {**sample, "img": sample["img"].flip(-1).as_subclass(tv_tensors.Image)}


@TRANSFORMS.register_module()
class Resize(v2.Resize):
    """Resize an image, its masks and its boxes.

    Args:
        size: (height, width) of the result; one number for the shorter side; None for ``max_size`` to decide.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, or a member of
            ``InterpolationMode``.
        max_size: maximum of the longer side, which takes precedence over ``size``.
        antialias: whether to smooth an image before it is shrunk; the backend ``"cv2"`` never does.
        backend: ``"torchvision"``, or ``"cv2"`` for OpenCV (``pip install 'trainwright[cv2]'``), which is faster.

    Raises:
        ValueError: an unknown backend, or an interpolation that OpenCV does not have.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None,
        interpolation: Interpolation = "bilinear",
        max_size: int | None = None,
        antialias: bool | None = True,
        backend: Backend = "torchvision",
    ) -> None:
        super().__init__(size, interpolation, max_size, antialias)
        self._resizer = _Resizer(backend, interpolation, antialias)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return an input resized."""
        if not _is_image(inpt):
            return super().transform(inpt, params)
        return self._resizer(inpt, self.size, self.max_size)


@TRANSFORMS.register_module()
class RandomResize(v2.RandomResize):
    """Resize an image, its masks and its boxes so that the shorter side has a random length.

    Args:
        min_size: minimum length in pixels.
        max_size: maximum length in pixels, exclusive.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, or a member of
            ``InterpolationMode``.
        antialias: whether to smooth an image before it is shrunk; the backend ``"cv2"`` never does.
        backend: ``"torchvision"``, or ``"cv2"`` for OpenCV (``pip install 'trainwright[cv2]'``), which is faster.

    Raises:
        ValueError: an unknown backend, or an interpolation that OpenCV does not have.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(
        self,
        min_size: int,
        max_size: int,
        interpolation: Interpolation = "bilinear",
        antialias: bool | None = True,
        backend: Backend = "torchvision",
    ) -> None:
        super().__init__(min_size, max_size, interpolation, antialias)
        self._resizer = _Resizer(backend, interpolation, antialias)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return an input resized."""
        if not _is_image(inpt):
            return super().transform(inpt, params)
        return self._resizer(inpt, params["size"])
