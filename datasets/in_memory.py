"""Datasets that are kept in memory as one tensor and return whole batches."""

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
    """Base class of datasets that keep all inputs in one tensor and all labels in another.

    A subclass implements :meth:`load_tensors`. Fetching a batch is then a single indexing operation
    (``__getitems__``), many times faster than one object per sample. A per-sample ``pipeline`` disables this.

    A sample is ``dict(inputs=Tensor, data_samples=DataSample(gt_label=<int64, shape ()>))``, a batch
    ``dict(inputs=<(N, ...)>, data_samples=DataSample(gt_label=<int64, shape (N,)>))``.

    Args:
        batch_transforms: callables, or configs of registered transforms, that transform the inputs of a whole batch:
            ``BatchRandomCrop``, ``BatchRandomHorizontalFlip``, or any deterministic torchvision transform (a random
            one would draw only once per batch).
        pipeline: transforms, or their configs, of one sample ``dict(img=..., gt_label=int, sample_idx=int)``, where
            images are ``tv_tensors.Image`` of shape (C, H, W) and dtype uint8. The last one is ``PackInputs``.
        indices: keep only the first ``indices`` samples (the last ones if negative), or the samples at these indices.
        metainfo: meta information that takes precedence over :attr:`METAINFO`.
        test_mode: raise an error if the pipeline rejects a sample.
        lazy_init: load the data on first use.

    Raises:
        ValueError: both ``batch_transforms`` and ``pipeline`` are set, or the numbers of inputs and labels differ.
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
                "batch_transforms and pipeline exclude each other: the former transform whole batches, the latter "
                "single samples"
            )
        self.batch_transforms = [build_transform(transform) for transform in batch_transforms]
        super().__init__(
            metainfo=metainfo, pipeline=pipeline, indices=indices, test_mode=test_mode, lazy_init=lazy_init
        )

    def load_tensors(self) -> tuple[Tensor, Tensor]:
        """Return the inputs (N, ...) and the labels (N,), int64."""
        raise NotImplementedError(f"{type(self).__name__} must implement load_tensors()")

    def full_init(self) -> None:
        """Load the tensors. Idempotent."""
        if self._fully_initialized:
            return
        inputs, labels = self.load_tensors()
        if len(inputs) != len(labels):
            raise ValueError(f"{type(self).__name__} has {len(inputs)} inputs but {len(labels)} labels")
        self._set_tensors(inputs, labels, self._indices)
        self._fully_initialized = True

    @property
    def fetches_batches(self) -> bool:
        """Whether ``__getitems__`` returns a whole batch that needs no collation."""
        return not self.pipeline.transforms

    @property
    def deterministic(self) -> bool:
        """Whether samples never depend on random numbers."""
        return not self.pipeline.transforms and not self.batch_transforms

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], dict[str, Any]] | None:
        """Fetch a whole batch at once; None if there is a pipeline, so that torch's DataLoader fetches samples."""
        return self._get_batch if self.fetches_batches else None

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the input of the pipeline: ``dict(img=..., gt_label=int, sample_idx=int)``."""
        position = position_of(idx, len(self.labels))
        return {
            "img": _as_image(self.inputs[position]),
            "gt_label": int(self.labels[position]),
            "sample_idx": position,
        }

    def prepare_data(self, idx: int) -> Any:
        """Return a sample transformed by the pipeline or batch transforms; None if the pipeline rejects it."""
        if self.pipeline.transforms:
            return super().prepare_data(idx)
        position = position_of(idx, len(self.labels))
        inputs = self._transform_batch(self.inputs[position : position + 1])
        return {"inputs": inputs[0], "data_samples": DataSample(gt_label=self.labels[position])}

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list."""
        return [int(self.labels[idx])]

    @force_full_init
    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes; see :meth:`BaseDataset.remap_classes`."""
        self.labels = torch.tensor(self._adopt_classes(classes))[self.labels]

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Reduce the dataset in place; see :meth:`BaseDataset.get_subset_`."""
        self._set_tensors(self.inputs, self.labels, indices)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> Self:
        """Return a subset; see :meth:`BaseDataset.get_subset_`."""
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
    """Return (C, H, W) tensors as ``tv_tensors.Image``, and other tensors unchanged."""
    if values.ndim != 3:
        return values
    from torchvision.tv_tensors import Image

    return Image(values)  # type: ignore[no-any-return]  # torchvision has no types
