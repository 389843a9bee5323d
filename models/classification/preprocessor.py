"""Batches of images for classification."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.sample import DataSample
from trainwright.models.classification.multilabel import gather_multi_hot
from trainwright.models.classification.samples import gather_labels
from trainwright.models.preprocessor import ImgDataPreprocessor


@MODELS.register_module()
class ClsDataPreprocessor(ImgDataPreprocessor):
    """Batches images for classification, and mixes them in training.

    Args:
        mean: mean of the pixels by channel, see :class:`ImgDataPreprocessor`.
        std: standard deviation of the pixels by channel.
        pad_size_divisor: height and width of the batch become multiples of it.
        pad_value: value of the padding, after normalizing.
        to_rgb: turn blue-green-red into red-green-blue.
        num_classes: number of classes, for the batch augmentations.
        batch_augments: config of one augmentation of whole batches, such as ``dict(type='Mixup',
            alpha=0.2)``, or a list of several, one of which is drawn for each batch. The labels become
            probabilities of shape (N, C).
        non_blocking: overlap the copy with computation; requires pinned memory.
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
        non_blocking: bool = False,
    ) -> None:
        super().__init__(mean, std, pad_size_divisor, pad_value, to_rgb, non_blocking=non_blocking)
        if isinstance(batch_augments, list | tuple):
            batch_augments = {"type": "RandomBatchAugment", "augments": batch_augments}
        self.num_classes = num_classes
        self.batch_augments: nn.Module | None = None
        if batch_augments is not None:
            self.batch_augments = MODELS.build(batch_augments, num_classes=num_classes)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor, mixed in training.

        Args:
            data: see :class:`ImgDataPreprocessor`; data samples with a ``gt_label`` of one class or several, or with
                ``gt_score``; or a tensor of labels.
            training: mix the images and labels, if ``batch_augments`` are given.
        """
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

    def _labels(self, data_samples: Any) -> Tensor:
        """Return what can be mixed: classes (N,), or a share of each class (N, C)."""
        several = isinstance(data_samples, list) and any(
            "gt_label" in sample and sample.gt_label.numel() != 1 for sample in data_samples
        )
        if not several:
            return gather_labels(data_samples)
        if self.num_classes is None:
            raise ValueError("mixing images of several classes needs num_classes: give it to the preprocessor")
        return gather_multi_hot(data_samples, self.num_classes).clamp(min=0)


def _batch_samples(data_samples: Any) -> Any:
    """One batched sample instead of a list, so that the labels travel to the device at once."""
    if isinstance(data_samples, list | tuple) and data_samples and all(map(_has_only_label, data_samples)):
        return DataSample(gt_label=gather_labels(data_samples))
    return data_samples


def _has_only_label(sample: Any) -> bool:
    """Whether a sample has one class, and nothing else."""
    return isinstance(sample, DataSample) and list(sample.keys()) == ["gt_label"] and sample.gt_label.numel() == 1
