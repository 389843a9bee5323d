"""Batches of clips."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.models.classification.samples import gather_labels
from trainwright.models.preprocessor import BaseDataPreprocessor


@MODELS.register_module()
class ActionDataPreprocessor(BaseDataPreprocessor):
    """Batches clips: moves them to the device as they are, and normalizes them there.

    Args:
        mean: mean of the pixels by channel: 3 values, or 1 for all channels alike; not normalized if None.
        std: standard deviation of the pixels, likewise.
        num_classes: number of classes, for the batch augmentations.
        batch_augments: config of an augmentation of whole batches in training, such as ``dict(type='Mixup',
            alpha=0.8)``, or a list of several, one of which is drawn for each batch. Takes one clip a video.
        non_blocking: overlap the copy with computation; requires pinned memory.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given, or not 1 or 3 values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        num_classes: int | None = None,
        batch_augments: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if (mean is None) != (std is None):
            raise ValueError("mean and std must be given together")
        self._normalizes = mean is not None
        if mean is not None and std is not None:
            if len(mean) not in (1, 3) or len(std) not in (1, 3):
                raise ValueError(f"mean and std must have 1 or 3 values, not {len(mean)} and {len(std)}")
            for name, values in (("mean", mean), ("std", std)):
                shaped = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
                self.register_buffer(name, shaped, persistent=False)
        if isinstance(batch_augments, list | tuple):
            batch_augments = {"type": "RandomBatchAugment", "augments": batch_augments}
        self.batch_augments = None
        if batch_augments is not None:
            self.batch_augments = MODELS.build(batch_augments, num_classes=num_classes)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its clips as one float tensor.

        Args:
            data: dict with ``inputs``: a list of tensors of shape (clips, C, T, H, W), or one tensor with a leading
                batch dimension; and ``data_samples`` with a ``gt_label``, if there are any.
            training: augment the batch, if ``batch_augments`` are given.

        Returns:
            The dict with ``inputs`` of shape (N, clips, C, T, H, W) and ``data_samples``.

        Raises:
            ValueError: the clips differ in shape, or are no clips.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a batch of clips is a dict with inputs and data_samples, not a {type(data).__name__}")
        clips, samples = self._clips(data.get("inputs")), data.get("data_samples")
        if training and isinstance(samples, list | tuple) and all(isinstance(one, BaseDataElement) for one in samples):
            # The labels travel at once; the rest of the samples is of no use in training.
            samples = DataSample(gt_label=gather_labels(samples))
        samples = self.cast_data(samples)
        if training and self.batch_augments is not None:
            if clips.shape[1] != 1:
                raise ValueError(f"batch_augments take one clip a video, not {clips.shape[1]}")
            mixed, samples = self.batch_augments(clips[:, 0].flatten(1, 2), gather_labels(samples))
            clips = mixed.view_as(clips)
        return {**data, "inputs": clips, "data_samples": samples}

    def _clips(self, inputs: Any) -> Tensor:
        if isinstance(inputs, list | tuple):
            shapes = {tuple(clips.shape) for clips in inputs}
            if len(shapes) > 1:
                raise ValueError(f"clips of different shapes {sorted(shapes)} cannot be batched: crop them to one size")
            inputs = torch.stack(tuple(inputs))
        if not isinstance(inputs, Tensor) or inputs.dim() != 6:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(f"inputs are (clips, C, T, H, W) for each video, as FormatShape gives them, not {shape}")
        clips: Tensor = self.cast_data(inputs).float()
        return (clips - self.mean).div_(self.std) if self._normalizes else clips
