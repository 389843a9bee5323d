"""Data preprocessing for image classification."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trainwright.engine.errors import DataError
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.classification.batch_augment import build_batch_augment
from trainwright.models.classification.multilabel import gather_multi_hot
from trainwright.models.classification.samples import gather_labels
from trainwright.models.preprocessor import ImgDataPreprocessor


@MODELS.register_module()
class ClsDataPreprocessor(ImgDataPreprocessor):
    """Batch images for classification, and optionally mix them in training.

    All images of a batch must have the same size. Padding them would make the scores of an image depend on the others
    in its batch; to do so on purpose, use :class:`ImgDataPreprocessor`.

    Args:
        mean: mean of the pixels by channel, see :class:`ImgDataPreprocessor`.
        std: standard deviation of the pixels by channel.
        pad_size_divisor: pad the height and width of the batch to multiples of this number.
        pad_value: value of the padding, after normalization.
        to_rgb: convert BGR images to RGB.
        num_classes: number of classes, for the batch augmentations.
        batch_augments: config of a batch augmentation, such as ``dict(type='Mixup', alpha=0.2)``, or a list of them,
            one of which is drawn for each batch. The labels become probabilities of shape (N, C).
        non_blocking: see :class:`BaseDataPreprocessor`.

    Raises:
        DataError: the images of a batch differ in size.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        to_rgb: bool = False,
        num_classes: int | None = None,
        batch_augments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        non_blocking: bool | None = None,
    ) -> None:
        super().__init__(mean, std, pad_size_divisor, pad_value, to_rgb, non_blocking=non_blocking)
        self.num_classes = num_classes
        self.batch_augments = build_batch_augment(batch_augments, num_classes)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor, mixed in training.

        Args:
            data: see :class:`ImgDataPreprocessor`, with data samples that have a ``gt_label`` of one or more classes or
                a ``gt_score``, or with a tensor of labels.
            training: mix the images and labels, if ``batch_augments`` are given.
        """
        try:
            return self._batch(data, training)
        except _DifferentSizesError as error:
            samples = data.get("data_samples") if isinstance(data, Mapping) else None
            raise _different_sizes(error.args[0], samples) from None

    def _batch(self, data: Any, training: bool) -> Any:
        if not training:
            return super().forward(data)
        if isinstance(data, Mapping):
            data = {**data, "data_samples": _batch_samples(data.get("data_samples"))}
        batch = super().forward(data)
        if self.batch_augments is None:
            return batch
        images, target = ("inputs", "data_samples") if isinstance(batch, dict) else (0, 1)
        batch[images], batch[target] = self.batch_augments(batch[images], self._labels(batch[target]))
        return batch

    def _stack_different(self, images: Sequence[Tensor]) -> Tensor:
        sizes = [tuple(image.shape[-2:]) for image in images]
        if len(set(sizes)) > 1:
            raise _DifferentSizesError(sizes)
        return super()._stack_different(images)

    def _labels(self, data_samples: Any) -> Tensor:
        """Return the labels to mix: classes (N,) or multi-hot labels (N, C)."""
        several = isinstance(data_samples, list) and any(
            "gt_label" in sample and sample.gt_label.numel() != 1 for sample in data_samples
        )
        if not several:
            return gather_labels(data_samples)
        if self.num_classes is None:
            raise ValueError("mixing multi-label images needs num_classes: set it for the preprocessor")
        return gather_multi_hot(data_samples, self.num_classes).clamp(min=0)


class _DifferentSizesError(Exception):
    """The images of a batch differ in size; the argument is the list of their sizes."""


def _different_sizes(sizes: Sequence[tuple[int, ...]], samples: Any) -> DataError:
    """Return the error for images of different sizes, with the name of one of them."""
    index = next(index for index, size in enumerate(sizes) if size != sizes[0])
    known = isinstance(samples, list | tuple) and all(isinstance(sample, DataSample) for sample in samples)
    names = [sample_name(samples[number]) if known else f"image {number} of the batch" for number in (0, index)]
    return DataError(
        f"the images of a batch have different sizes (height, width): {sizes[0]}, {names[0]}, and {sizes[index]}, "
        f"{names[1]}. Resize them in the pipeline, with Resize(size=(224, 224)), RandomResizedCrop or CenterCrop, or "
        "set batch_size=1. To pad them, use data_preprocessor=dict(type='ImgDataPreprocessor')"
    )


def _batch_samples(data_samples: Any) -> Any:
    """Convert a list of samples to one batched sample if possible, so that the labels are moved in one transfer."""
    if isinstance(data_samples, list | tuple) and data_samples and all(map(_has_only_label, data_samples)):
        return DataSample(gt_label=gather_labels(data_samples))
    return data_samples


def _has_only_label(sample: Any) -> bool:
    """Return whether a sample has a single label and no other fields."""
    return isinstance(sample, DataSample) and list(sample.keys()) == ["gt_label"] and sample.gt_label.numel() == 1
