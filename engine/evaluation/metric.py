"""Base classes of metrics."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainwright.engine.data.names import names_of
from trainwright.engine.distributed import (
    all_gather_object,
    broadcast_object_list,
    collect_results,
    gather_object,
    get_world_size,
    is_main_process,
    one_per_data_rank,
)
from trainwright.engine.errors import DataError
from trainwright.engine.evaluation.report import Section
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.records.logger import print_log
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.trees import map_leaves


class BaseMetric(ABC):
    """Base class of metrics, which process batches and compute results at the end.

    A subclass implements :meth:`process`, which appends one item per sample to ``self.results``, and
    :meth:`compute_metrics`. In distributed runs, items of all ranks are gathered in dataset order, without the
    samples that the sampler added as padding.

    Example:
        >>> @METRICS.register_module()
        ... class MeanError(BaseMetric):
        ...     default_prefix = "error"
        ...     higher_is_better = False
        ...
        ...     def process(self, data_batch, data_samples):
        ...         for sample in data_samples:
        ...             self.results.append((sample["pred_value"] - sample["gt_value"]).abs())
        ...
        ...     def compute_metrics(self, results):
        ...         return {"mean": torch.stack(results).mean().item()}

    Args:
        collect_device: ``"cpu"`` or ``"gpu"``: see :func:`~trainwright.engine.distributed.collect_results`.
        prefix: prefix of the names of results, as in ``prefix/name``; :attr:`default_prefix` if None.
        collect_dir: folder shared by all processes, for results too large to send.

    Raises:
        ValueError: ``collect_device`` is unknown, or ``collect_dir`` is set for ``"gpu"``.
    """

    default_prefix: str | None = None
    accepts_batches: ClassVar[bool] = False
    """Whether :meth:`process` also accepts a batched sample, as one dictionary."""
    writes_files: bool = False
    """Whether :meth:`compute_metrics` writes files, so that ``trainwright check --data`` does not call it."""
    higher_is_better: bool | Mapping[str, bool] | None = None
    """Whether higher results are better: one value for all, or by name without prefix.

    If None, it is inferred from words in the name, such as ``acc`` or ``error``. Used by ``save_best`` and early
    stopping.
    """

    reporting: bool = False
    """Whether to keep the collected items after :meth:`evaluate`, as ``collected``, for :meth:`report`.

    ``ReportHook`` sets it during a test; :meth:`process` may then record more than the results require."""
    collected: Any = None

    def __init__(
        self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | Path | None = None
    ) -> None:
        if collect_device not in ("cpu", "gpu"):
            raise ValueError(f"collect_device must be 'cpu' or 'gpu', not {collect_device!r}")
        if collect_dir is not None and collect_device != "cpu":
            raise ValueError("collect_dir can only be used with collect_device='cpu'")
        self.collect_device = collect_device
        self.collect_dir = collect_dir
        self.prefix = prefix or self.default_prefix
        self.results: list[Any] = []
        self._dataset_meta: dict[str, Any] | None = None
        if self.prefix is None:
            self._warn("has no prefix: names of its results may clash with other metrics")

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Metadata of the dataset, such as its classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta

    def check_dataset_meta(self) -> None:
        """Check before the first batch that this metric and :attr:`dataset_meta` agree.

        The default compares ``num_classes``, if the metric has it, with the number of classes.

        Raises:
            DataError: they do not agree.
        """
        number, classes = getattr(self, "num_classes", None), names_of(self.dataset_meta, "classes")
        if isinstance(number, int) and number < len(classes):
            raise DataError(
                f"{type(self).__name__} has num_classes={number}, but the dataset has {len(classes)} classes: leave "
                "num_classes out"
            )

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Process the predictions for one batch, and append items to ``self.results``.

        Args:
            data_batch: the batch from the data loader.
            data_samples: one dictionary per sample, with annotations and predictions. With :attr:`accepts_batches`,
                also one dictionary whose values have a leading batch dimension.
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Return the results by name, on rank 0 from the gathered items of all ranks."""

    def report(self, results: Any, num_samples: int) -> Sequence[Section]:
        """Return tables, matrices, curves and samples for the report on a test; none by default.

        Called on rank 0 after :meth:`compute_metrics`, with the same items. A number in it that is also a result must
        be computed by the same code.

        Args:
            results: the items that :meth:`compute_metrics` received.
            num_samples: maximum number of samples in each :class:`~trainwright.engine.evaluation.report.Samples`.
        """
        return ()

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the results for the whole dataset by ``prefix/name``, the same on all ranks, and reset.

        Args:
            size: number of samples in distributed runs; see :func:`~trainwright.engine.distributed.collect_results`.
        """
        is_empty = not any(all_gather_object(bool(self.results)))  # a rank may have no samples
        if is_empty:
            self._warn("has no results: its process() appended nothing to self.results")
        collected = self.collect(size)
        metrics: list[dict[str, Any]] = [{}]
        if is_main_process():
            assert collected is not None
            metrics = [self.with_prefix(self.compute_metrics(collected))]
            self.collected = collected if self.reporting else None
        broadcast_object_list(metrics)
        self.reset()
        return metrics[0]

    def collect(self, size: int) -> list[Any] | None:
        """Return the items of all ranks in dataset order on the CPU; None except on rank 0."""
        collected = collect_results(to_cpu(self.results), size, self.collect_device, self.collect_dir)
        return collected if is_main_process() else None

    def with_prefix(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return results by ``prefix/name``."""
        return {f"{self.prefix}/{name}": value for name, value in metrics.items()} if self.prefix else metrics

    def reset(self) -> None:
        """Clear the items."""
        self.results.clear()

    def _warn(self, problem: str) -> None:
        print_log(f"the metric {type(self).__name__} {problem}", logger="current", level=logging.WARNING)


class BatchMetric(BaseMetric):
    """Base class of metrics that process whole batches and synchronize with the device only at the end.

    :meth:`process` appends a tuple of tensors per batch with samples along dim 0; they may stay on the device.
    :meth:`compute_metrics` receives them concatenated on the CPU, with one row per sample of the dataset.

    Args:
        collect_device: as for :class:`BaseMetric`.
        prefix: as for :class:`BaseMetric`.
    """

    accepts_batches = True

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)

    def collect(self, size: int) -> list[Tensor] | None:
        """Return each tensor with the rows of all ranks in dataset order; None except on rank 0.

        Raises:
            ValueError: there are no samples.
        """
        parts = gather_object([torch.cat(column).cpu() for column in zip(*self.results)])
        if parts is None:
            return None
        filled = [part for part in one_per_data_rank(parts) if part]
        if not filled:
            raise ValueError(f"{type(self).__name__} has processed no samples: the data loader yielded no batches")
        return [_interleave(rows)[: size if get_world_size() > 1 else None] for rows in zip(*filled)]


def column_of(data_samples: Any, name: str) -> Tensor | None:
    """Return one field of a batch as a tensor, or None if it is missing.

    The shape is (N, ...), or (N,) for one number per sample.

    Args:
        data_samples: one dictionary of batched tensors, or a list with one dictionary per sample.
        name: the field.

    Raises:
        TypeError: the samples are not dictionaries.
    """
    if isinstance(data_samples, dict):
        column = data_samples.get(name)
        if column is None or not isinstance(column, list | tuple):
            return None if column is None else torch.as_tensor(column)
        values = [torch.as_tensor(value) for value in column]
    else:
        if not all(isinstance(sample, Mapping) for sample in data_samples):
            raise TypeError(
                f"expected one dictionary or data sample per sample, not {describe(data_samples)}: predict must return "
                "a list of these, or one dictionary of tensors with samples along dim 0"
            )
        if not data_samples or data_samples[0].get(name) is None:
            return None
        values = [torch.as_tensor(sample[name]) for sample in data_samples]
    if all(value.numel() == 1 for value in values):
        return torch.cat([value.reshape(1) for value in values])
    return torch.stack(values)


def get_metric_value(indicator: str, metrics: dict[str, Any]) -> Any:
    """Return a result by its full name (``COCO/AP``) or unique last part (``AP``); else raise a ``ValueError``."""
    if indicator in metrics:
        return metrics[indicator]
    matches = [] if "/" in indicator else [name for name in metrics if name.rpartition("/")[2] == indicator]
    if len(matches) > 1:
        raise ValueError(f"{indicator!r} matches several results, use a full name: {', '.join(matches)}")
    if not matches:
        raise ValueError(f"no result {indicator!r}, available: {', '.join(metrics) or 'none'}")
    return metrics[matches[0]]


def _interleave(parts: Sequence[Tensor]) -> Tensor:
    """Interleave rows round-robin, undoing the distribution by samplers."""
    if len(parts) == 1:
        return parts[0]
    lengths = [len(part) for part in parts]
    row = torch.cat([torch.arange(length) for length in lengths])
    rank = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(lengths))
    return torch.cat(list(parts))[torch.argsort(row * len(parts) + rank)]


def to_cpu(data: Any) -> Any:
    """Move all tensors and data elements in nested containers to the CPU."""
    return map_leaves(data, lambda leaf: leaf.to("cpu") if isinstance(leaf, Tensor | BaseDataElement) else leaf)
