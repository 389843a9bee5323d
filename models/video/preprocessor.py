"""Data preprocessing for video classification."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.models.classification.batch_augment import build_batch_augment
from trainwright.models.classification.samples import gather_labels
from trainwright.models.preprocessor import BaseDataPreprocessor, register_mean_and_std


@MODELS.register_module()
class ActionDataPreprocessor(BaseDataPreprocessor):
    """Batch clips: move them to the device unchanged, and normalize them there.

    Args:
        mean: mean of the pixels by channel: 3 values, or 1 for all channels. Clips are not normalized if None.
        std: standard deviation of the pixels, in the same form.
        num_classes: number of classes, for the batch augmentations.
        batch_augments: config of a batch augmentation for training, such as ``dict(type='Mixup', alpha=0.8)``, or a
            list of them, one of which is drawn for each batch. Requires one clip per video.
        non_blocking: see :class:`BaseDataPreprocessor`.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given, or either does not have 1 or 3 values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        num_classes: int | None = None,
        batch_augments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        non_blocking: bool | None = None,
    ) -> None:
        super().__init__(non_blocking)
        self._enable_normalize = register_mean_and_std(self, mean, std, (-1, 1, 1, 1))
        self.batch_augments = build_batch_augment(batch_augments, num_classes)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its clips as one float tensor.

        Args:
            data: dict with ``inputs``, a list of tensors of shape (clips, C, T, H, W) or one tensor of shape
                (N, clips, C, T, H, W), and optionally ``data_samples`` with a ``gt_label``.
            training: augment the batch, if ``batch_augments`` are given.

        Returns:
            The dict with ``inputs`` of shape (N, clips, C, T, H, W) and ``data_samples``.

        Raises:
            TypeError: ``data`` is not a dict.
            ValueError: the clips differ in shape, or are not clips.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a batch must be a dict with inputs and data_samples, not a {type(data).__name__}")
        clips, samples = self._clips(data.get("inputs")), data.get("data_samples")
        if training and isinstance(samples, list | tuple) and all(isinstance(one, BaseDataElement) for one in samples):
            # Move all labels in one transfer; training needs nothing else from the samples.
            samples = DataSample(gt_label=gather_labels(samples))
        samples = self.cast_data(samples)
        if training and self.batch_augments is not None:
            if clips.shape[1] != 1:
                raise ValueError(f"batch_augments require one clip per video, not {clips.shape[1]}")
            mixed, samples = self.batch_augments(clips[:, 0].flatten(1, 2), gather_labels(samples))
            clips = mixed.view_as(clips)
        return {**data, "inputs": clips, "data_samples": samples}

    def _clips(self, inputs: Any) -> Tensor:
        if isinstance(inputs, list | tuple):
            shapes = {tuple(clips.shape) for clips in inputs}
            if len(shapes) > 1:
                raise ValueError(f"clips of different shapes {sorted(shapes)} cannot be batched: crop them to one size")
            inputs = torch.stack(tuple(self.cast_data(inputs)))
        if not isinstance(inputs, Tensor) or inputs.dim() != 6:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(
                "inputs must have the shape (N, clips, C, T, H, W), or (clips, C, T, H, W) in a list, as returned by "
                f"FormatShape, not {shape}"
            )
        clips: Tensor = self.cast_data(inputs).float()
        return (clips - self.mean).div_(self.std) if self._enable_normalize else clips
