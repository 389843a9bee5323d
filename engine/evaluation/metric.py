"""The base of all metrics."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainwright.engine.distributed import (
    broadcast_object_list,
    collect_results,
    gather_object,
    get_world_size,
    is_main_process,
)
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.records.logger import print_log
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.trees import map_leaves


class BaseMetric(ABC):
    """Gathers what it needs of each batch, and computes results from all of it in the end.

    A subclass implements :meth:`process`, which appends one item for each sample to ``self.results``, and
    :meth:`compute_metrics`. In several processes the results of all samples come together in the order of the
    dataset, without those that the sampler added to even out the processes.

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
        prefix: goes before the names of the results, as in ``prefix/name``; :attr:`default_prefix` if None.
        collect_dir: folder that all processes share, for results too large to be sent.

    Raises:
        ValueError: ``collect_device`` is neither of the two, or ``collect_dir`` is given for ``"gpu"``.
    """

    default_prefix: str | None = None
    accepts_batches: ClassVar[bool] = False
    """Whether :meth:`process` also takes a batched sample, as one dictionary."""
    higher_is_better: bool | Mapping[str, bool] | None = None
    """Whether greater results are better: one answer for all, or by the name of the result without prefix.

    None leaves it to the words in their names, such as ``acc`` or ``error``. ``save_best`` and early stopping ask.
    """

    def __init__(
        self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | Path | None = None
    ) -> None:
        if collect_device not in ("cpu", "gpu"):
            raise ValueError(f"collect_device is 'cpu' or 'gpu', not {collect_device!r}")
        if collect_dir is not None and collect_device != "cpu":
            raise ValueError("collect_dir is for collect_device='cpu' only")
        self.collect_device = collect_device
        self.collect_dir = collect_dir
        self.prefix = prefix or self.default_prefix
        self.results: list[Any] = []
        self._dataset_meta: dict[str, Any] | None = None
        if self.prefix is None:
            self._warn("has no prefix: the names of its results may clash with those of others")

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the dataset, such as its classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Take the predictions of one batch, and appends to ``self.results`` what they tell.

        Args:
            data_batch: the batch as the loader yields it.
            data_samples: a dictionary for each sample, with annotations and predictions. With
                :attr:`accepts_batches`, also one dictionary whose values have a leading batch dimension.
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Return the results by name, computed at rank 0 from what :meth:`process` gathered everywhere."""

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the results of the whole dataset, the same in all processes, and starts anew.

        Args:
            size: how many samples count in several processes; see
                :func:`~trainwright.engine.distributed.collect_results`.

        Returns:
            The results by ``prefix/name``.
        """
        if not self.results:
            self._warn("has no results: its process() appended nothing to self.results")
        collected = self.collect(size)
        metrics: list[dict[str, Any]] = [{}]
        if is_main_process():
            assert collected is not None
            metrics = [self.with_prefix(self.compute_metrics(collected))]
        broadcast_object_list(metrics)
        self.reset()
        return metrics[0]

    def collect(self, size: int) -> list[Any] | None:
        """Return, at rank 0, the results of all samples in the order of the dataset, on the CPU."""
        collected = collect_results(to_cpu(self.results), size, self.collect_device, self.collect_dir)
        return collected if is_main_process() else None

    def with_prefix(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return results by ``prefix/name``."""
        return {f"{self.prefix}/{name}": value for name, value in metrics.items()} if self.prefix else metrics

    def reset(self) -> None:
        """Clear what was gathered."""
        self.results.clear()

    def _warn(self, problem: str) -> None:
        print_log(f"the metric {type(self).__name__} {problem}", logger="current", level=logging.WARNING)


class BatchMetric(BaseMetric):
    """Base of metrics that work on whole batches and wait for the device only in the end.

    :meth:`process` appends a tuple of tensors for each batch, each with the samples along its first
    dimension; the tensors may stay on the device. :meth:`compute_metrics` gets these columns, each one tensor
    on the CPU with a row for every sample of the dataset.

    Args:
        collect_device: as for :class:`BaseMetric`.
        prefix: as for :class:`BaseMetric`.
    """

    accepts_batches = True

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)

    def collect(self, size: int) -> list[Tensor] | None:
        """Return, at rank 0, each column with the rows of all samples in the order of the dataset.

        Raises:
            ValueError: there are no samples at all.
        """
        parts = gather_object([torch.cat(column).cpu() for column in zip(*self.results)])
        if parts is None:
            return None
        filled = [part for part in parts if part]
        if not filled:
            raise ValueError(f"{type(self).__name__} has seen no samples: the data loader gave no batches")
        return [_interleave(rows)[: size if get_world_size() > 1 else None] for rows in zip(*filled)]


def column_of(data_samples: Any, name: str) -> Tensor | None:
    """Return one field of a batch as a tensor, or None without it.

    Args:
        data_samples: one dictionary of batched tensors, or a list with a dictionary for each sample.
        name: the field.

    Returns:
        Shape (N, ...); (N,) for a field of one number a sample.

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
                f"one dictionary or data sample for each sample is needed, not {describe(data_samples)}: predict must "
                "return a list of these, or one dictionary of tensors that have the samples along dim 0"
            )
        if not data_samples or data_samples[0].get(name) is None:
            return None
        values = [torch.as_tensor(sample[name]) for sample in data_samples]
    if all(value.numel() == 1 for value in values):
        return torch.cat([value.reshape(1) for value in values])
    return torch.stack(values)


def get_metric_value(indicator: str, metrics: dict[str, Any]) -> Any:
    """Return one result by its full name (``COCO/AP``), or by its last part (``AP``) where that is unique.

    Raises:
        ValueError: no result has this name, or several have.
    """
    if indicator in metrics:
        return metrics[indicator]
    matches = [] if "/" in indicator else [name for name in metrics if name.rpartition("/")[2] == indicator]
    if len(matches) > 1:
        raise ValueError(f"{indicator!r} names several results, give one in full: {', '.join(matches)}")
    if not matches:
        raise ValueError(f"no result {indicator!r} among {', '.join(metrics) or 'none at all'}")
    return metrics[matches[0]]


def _interleave(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows 0 of all parts, then the rows 1, …, as samplers deal them out."""
    if len(parts) == 1:
        return parts[0]
    lengths = [len(part) for part in parts]
    row = torch.cat([torch.arange(length) for length in lengths])
    rank = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(lengths))
    return torch.cat(list(parts))[torch.argsort(row * len(parts) + rank)]


def to_cpu(data: Any) -> Any:
    """Return nested containers with every tensor and data element in them on the CPU."""
    return map_leaves(data, lambda leaf: leaf.to("cpu") if isinstance(leaf, Tensor | BaseDataElement) else leaf)
