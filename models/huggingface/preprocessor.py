"""Data preprocessing by the image processors of transformers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.models.classification.preprocessor import ClsDataPreprocessor


@MODELS.register_module()
class HuggingFacePreprocessor(ClsDataPreprocessor):
    """Resize, crop, rescale, normalize and pad images by the image processor of a Hugging Face model, on its device.

    Images that already have the size of the network's input, such as those from RandomResizedCrop, are not resized or
    cropped again. Samples get the meta information ``input_shape``, the height and width of the image in the batch
    without its padding. Annotations are not changed.

    Args:
        image_processor: the image processor; models of Hugging Face pass theirs.
        num_classes: number of classes, for the batch augmentations.
        batch_augments: see :class:`ClsDataPreprocessor`.
        non_blocking: see :class:`BaseDataPreprocessor`.

    Raises:
        ConfigError: there is no image processor.
        DataError: the images of a batch have different sizes after processing, and the image processor does not pad.
    """

    def __init__(
        self,
        image_processor: Any = None,
        num_classes: int | None = None,
        batch_augments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        non_blocking: bool | None = None,
    ) -> None:
        if image_processor is None:
            message = "HuggingFacePreprocessor is only for models of Hugging Face, which pass their image processor"
            raise ConfigError("data_preprocessor", message, "set data_preprocessor=None")
        super().__init__(num_classes=num_classes, batch_augments=batch_augments, non_blocking=non_blocking)
        self.image_processor = image_processor
        self._input_size = input_size(image_processor)

    def process(self, images: Any, portable: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the images (N, 3, H, W) as input of the network, and their mask (N, H, W) if they are padded.

        Args:
            images: a list of tensors of shape (3, h, w), or one tensor of shape (N, 3, h, w), from 0 to 255.
            portable: resize in floating point, because no other runtime rounds bytes exactly like PyTorch.

        Raises:
            TypeError: these are not images.
        """
        images = list(self.cast_data(images)) if isinstance(images, Tensor | list | tuple) else images
        if not isinstance(images, list) or not all(isinstance(image, Tensor) and image.dim() == 3 for image in images):
            raise TypeError(f"'inputs' must be a list of images of shape (3, H, W), not {type(images).__name__}")
        sizes = {tuple(image.shape[-2:]) for image in images}
        options = {} if sizes != {self._input_size} else {"do_resize": False, "do_center_crop": False}
        options = {key: value for key, value in options.items() if hasattr(self.image_processor, key)}
        with _resizing_floats(self.image_processor) if portable else nullcontext():
            features = self.image_processor(images, input_data_format="channels_first", **options)
        values, mask = features["pixel_values"], features.get("pixel_mask")
        if not isinstance(values, Tensor):
            different = {tuple(value.shape[-2:]) for value in values}
            if len(different) > 1:
                raise DataError(
                    f"the images of a batch have different sizes after {type(self.image_processor).__name__}: "
                    f"{', '.join(map(str, sorted(different)))}. Resize them in the pipeline, set batch_size=1, or set "
                    "image_processor=dict(size=dict(height=..., width=...)) in the model"
                )
            values = torch.stack(tuple(values))
        return values, mask if mask is None or isinstance(mask, Tensor) else torch.stack(tuple(mask))

    def batch_images(self, images: Any) -> Tensor:
        """Return the images as input of the network."""
        return self.process(images)[0]

    def _convert_batch(self, data: Any, convert_images: Any) -> Any:
        if not isinstance(data, Mapping):
            return super()._convert_batch(data, convert_images)
        values, mask = self.process(data.get("inputs"))
        batch = super()._convert_batch({**data, "inputs": None}, lambda _: values)
        samples = batch["data_samples"]
        if isinstance(samples, list | tuple):
            _record_sizes(samples, data["inputs"], values, mask)
        return batch if mask is None else {**batch, "pixel_mask": mask}


@contextmanager
def _resizing_floats(image_processor: Any) -> Iterator[None]:
    resize = image_processor.resize
    image_processor.resize = lambda image, *args, **kwargs: resize(image.float(), *args, **kwargs).clamp(0, 255)
    try:
        yield
    finally:
        del image_processor.resize


def _record_sizes(samples: Sequence[Any], images: Any, values: Tensor, mask: Tensor | None) -> None:
    """Set the size of each image in the input, and the size before processing if it is unknown."""
    whole = (int(values.shape[-2]), int(values.shape[-1]))
    same = mask is None or (len({tuple(image.shape) for image in images}) == 1 and bool(mask.all()))
    sizes: list[Any] = [whole] * len(samples) if same else sizes_of_masks(mask)
    for sample, image, size in zip(samples, images, sizes):
        if isinstance(sample, BaseDataElement):
            own = {} if "img_shape" in sample else {"img_shape": tuple(image.shape[-2:])}
            sample.set_metainfo({**own, "input_shape": size, "batch_input_shape": whole})


def sizes_of_masks(mask: Any) -> list[tuple[int, int]]:
    """Return the height and width of each image without its padding, from a mask of shape (N, H, W)."""
    height, width = mask.any(2).sum(1), mask.any(1).sum(1)
    return [(rows, columns) for rows, columns in torch.stack([height, width], 1).tolist()]


def input_size(image_processor: Any) -> tuple[int, int] | None:
    """Return the size (height, width) to which an image processor brings all images; None if that varies."""
    probes = [torch.zeros(3, 64, 96, dtype=torch.uint8), torch.zeros(3, 96, 64, dtype=torch.uint8)]
    sizes: set[tuple[int, int]] = set()
    for probe in probes:
        try:
            values = image_processor([probe], input_data_format="channels_first")["pixel_values"]
        except (TypeError, ValueError, KeyError, RuntimeError):  # one that needs more than images
            return None
        sizes.add((int(values[0].shape[-2]), int(values[0].shape[-1])))
    return sizes.pop() if len(sizes) == 1 else None
