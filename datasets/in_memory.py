"""Datasets that lie in memory as one tensor, and hand over whole batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from trainwright.datasets.base import (
    BaseDataset,
    build_transform,
    chosen_positions,
    force_full_init,
    position_of,
)
from trainwright.engine.structures.sample import DataSample


class InMemoryDataset(BaseDataset):
    """A dataset whose inputs are one tensor and whose labels are another.

    A subclass implements :meth:`load_tensors`. A batch is then one indexing operation (``__getitems__``),
    many times faster than one object a sample. A per-sample ``pipeline`` switches that off.

    A sample is ``dict(inputs=Tensor, data_samples=DataSample(gt_label=<int64, shape ()>))``, a batch
    ``dict(inputs=<(N, ...)>, data_samples=DataSample(gt_label=<int64, shape (N,)>))``.

    Args:
        batch_transforms: callables, or configs of registered transforms, that take the inputs of a whole
            batch and return them: ``BatchRandomCrop``, ``BatchRandomHorizontalFlip``, or any of torchvision's
            that is not random (a random one would draw once for the batch).
        pipeline: transforms of one sample ``dict(img=..., gt_label=int, sample_idx=int)``, or their configs;
            images are ``tv_tensors.Image`` of shape (C, H, W) and dtype uint8. It ends with ``PackInputs``.
        indices: keep only the first ``indices`` samples (the last ones, if negative), or those listed.
        metainfo: goes before :attr:`METAINFO`.
        test_mode: every sample counts: one that the pipeline rejects is an error.
        lazy_init: read the data at their first use.

    Raises:
        ValueError: both ``batch_transforms`` and ``pipeline`` are given, or the inputs and labels differ in
            number.
    """

    inputs: Tensor
    labels: Tensor
    _annotation_names = ("inputs", "labels")

    def __init__(
        self,
        batch_transforms: Sequence[Mapping[str, Any] | Callable[[Tensor], Tensor]] = (),
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        indices: int | Sequence[int] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if batch_transforms and pipeline:
            raise ValueError(
                "batch_transforms work on whole batches and a pipeline on single samples: give one of them"
            )
        self.batch_transforms = [build_transform(transform) for transform in batch_transforms]
        super().__init__(
            metainfo=metainfo, pipeline=pipeline, indices=indices, test_mode=test_mode, lazy_init=lazy_init
        )

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the inputs (N, ...) and the labels (N,), int64."""
        raise NotImplementedError(f"{type(self).__name__} must implement load_tensors()")

    def full_init(self) -> None:
        """Read the tensors, unless that is done already."""
        if self._fully_initialized:
            return
        inputs, labels = self.load_tensors()
        if len(inputs) != len(labels):
            raise ValueError(f"{type(self).__name__} has {len(inputs)} inputs but {len(labels)} labels")
        self._set_tensors(inputs, labels, self._indices)
        self._fully_initialized = True

    @property
    def fetches_batches(self) -> bool:
        """Whether ``__getitems__`` returns a whole batch, so that there is nothing to collate."""
        return not self.pipeline.transforms

    @property
    def deterministic(self) -> bool:
        """Whether a sample never depends on random numbers."""
        return not self.pipeline.transforms and not self.batch_transforms

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], dict[str, Any]] | None:
        """Fetch a whole batch at once; with a pipeline None, so that torch's loader asks for samples."""
        return self._get_batch if self.fetches_batches else None

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return what the pipeline starts from: ``dict(img=..., gt_label=int, sample_idx=int)``."""
        position = position_of(idx, len(self.labels))
        return {
            "img": _as_image(self.inputs[position]),
            "gt_label": int(self.labels[position]),
            "sample_idx": position,
        }

    def prepare_data(self, idx: int) -> Any:
        """Return a sample, after the pipeline if there is one; None if that rejects it."""
        if self.pipeline.transforms:
            return super().prepare_data(idx)
        position = position_of(idx, len(self.labels))
        inputs = self._transform_batch(self.inputs[position : position + 1])
        return {"inputs": inputs[0], "data_samples": DataSample(gt_label=self.labels[position])}

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample, as a list."""
        return [int(self.labels[idx])]

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only the first ``indices`` samples (the last ones, if negative), or those listed."""
        self._set_tensors(self.inputs, self.labels, indices)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> Self:
        """Return a dataset with only some samples; see :meth:`get_subset_`."""
        subset = self._copy_without_annotation()
        subset._set_tensors(self.inputs, self.labels, indices)
        return subset

    def _get_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        if not self._fully_initialized:
            self.full_init()
        chosen = torch.tensor(indices)
        inputs = self._transform_batch(self.inputs.index_select(0, chosen))
        return {"inputs": inputs, "data_samples": DataSample(gt_label=self.labels.index_select(0, chosen))}

    def _transform_batch(self, inputs: Tensor) -> Tensor:
        for transform in self.batch_transforms:
            inputs = transform(inputs)
        return inputs

    def _set_tensors(self, inputs: Tensor, labels: Tensor, indices: int | Sequence[int] | None) -> None:
        if indices is not None:
            chosen = torch.tensor(chosen_positions(indices, len(labels)), dtype=torch.int64)
            inputs, labels = inputs[chosen], labels[chosen]
        self.inputs, self.labels = inputs, labels

    def _num_annotations(self) -> int:
        return len(self.labels)


def _as_image(values: Tensor) -> Tensor:
    """Return (C, H, W) values as the image type that torchvision's transforms know; others unchanged."""
    if values.ndim != 3:
        return values
    from torchvision.tv_tensors import Image

    return Image(values)  # type: ignore[no-any-return]  # torchvision has no types
