"""The evaluator, which runs several metrics on the same predictions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.evaluation.samples import check_number, describe, is_batch, samples_of, size_of_batch
from trainwright.engine.registry import EVALUATOR, FUNCTIONS, METRICS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample


@EVALUATOR.register_module()
class Evaluator:
    """An evaluator that runs metrics on the predictions for a dataset.

    Args:
        metrics: one metric or several, or their configs.
    """

    def __init__(self, metrics: Mapping[str, Any] | BaseMetric | Sequence[Mapping[str, Any] | BaseMetric]) -> None:
        several = metrics if isinstance(metrics, Sequence) else [metrics]
        self.metrics: list[BaseMetric] = [METRICS.build(metric) for metric in several]
        self._dataset_meta: dict[str, Any] | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Metadata of the dataset, such as its classes. Setting it sets it for every metric."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta

    def check_dataset_meta(self) -> None:
        """Check that every metric agrees with :attr:`dataset_meta`; see :meth:`BaseMetric.check_dataset_meta`."""
        for metric in self.metrics:
            check = getattr(metric, "check_dataset_meta", None)  # MMEngine's metrics have none
            if check is not None:
                check()

    def process(self, data_samples: Any, data_batch: Any = None) -> None:
        """Pass the predictions of one batch to every metric.

        Args:
            data_samples: predictions of the model: a list with one data element or dictionary per sample, one
                batched :class:`~trainwright.engine.DataSample`, or a dictionary of tensors with samples along
                dim 0; see :func:`~trainwright.engine.evaluation.samples.samples_of`.
            data_batch: the batch from the data loader.

        Raises:
            TypeError: the predictions cannot be split into samples.
            ValueError: the number of predictions is not the number of samples in the batch.
        """
        batch: Any = None
        if isinstance(data_samples, DataSample):
            batch = data_samples.to_dict()
        elif is_batch(data_samples):
            batch = dict(data_samples) if isinstance(data_samples, Mapping) else data_samples._asdict()
            check_number(range(size_of_batch(batch)), data_batch, batch)
        samples: list[Any] | None = None
        for metric in self.metrics:
            given: Any = batch if metric.accepts_batches else None
            if given is None:
                if samples is None:
                    samples = [
                        sample.to_dict() if isinstance(sample, BaseDataElement) else sample
                        for sample in samples_of(data_samples, data_batch)
                    ]
                given = samples
            try:
                metric.process(data_batch, given)
            except Exception as error:
                error.add_note(f"in the metric {type(metric).__name__}; the model predicted {describe(data_samples)}")
                raise

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the results of all metrics by ``prefix/name``, and reset them.

        Args:
            size: number of samples in distributed runs; see :func:`~trainwright.engine.distributed.collect_results`.

        Raises:
            ValueError: two metrics have a result of the same name.
        """
        results: dict[str, Any] = {}
        source: dict[str, BaseMetric] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in source:
                    first, second = type(source[name]).__name__, type(metric).__name__
                    raise ValueError(
                        f"the metrics {first} and {second} both have a result {name!r}: set a prefix for one of them"
                    )
                source[name] = metric
                results[name] = value
        return results

    def reset(self) -> None:
        """Reset every metric."""
        for metric in self.metrics:
            metric.reset()

    def offline_evaluate(
        self, data_samples: Iterable[Any], data: Iterable[Any] | None = None, chunk_size: int = 1
    ) -> dict[str, Any]:
        """Evaluate saved predictions, for instance from ``DumpResults``.

        Args:
            data_samples: predictions with annotations, one per sample or all in one dictionary.
            data: data of each sample as from the data loader, if a metric requires it.
            chunk_size: number of samples per batch.

        Raises:
            ValueError: ``data_samples`` and ``data`` differ in length.
        """
        if isinstance(data_samples, Mapping | DataSample | Tensor):
            data_samples = samples_of(data_samples)
        samples = iter(data_samples)
        batches = None if data is None else iter(data)
        collate: Any = FUNCTIONS.get("pseudo_collate")
        size = 0
        while chunk := list(islice(samples, chunk_size)):
            size += len(chunk)
            self.process(chunk, None if batches is None else collate(_take(batches, len(chunk))))
        if batches is not None and next(batches, None) is not None:
            raise ValueError(f"there are more data samples than the {size} predictions")
        return self.evaluate(size)


class NamedEvaluators:
    """The evaluators of several datasets, of which one is in use.

    Args:
        evaluators: the evaluators by the names of the datasets.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator]) -> None:
        self.evaluators = dict(evaluators)
        self.current = next(iter(self.evaluators))

    @property
    def metrics(self) -> list[BaseMetric]:
        """The metrics of all evaluators."""
        return [metric for evaluator in self.evaluators.values() for metric in evaluator.metrics]

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Metadata of the current dataset."""
        return self.evaluators[self.current].dataset_meta

    def process(self, data_samples: Any, data_batch: Any = None) -> None:
        """Pass the predictions of one batch of the current dataset to its metrics; see :meth:`Evaluator.process`."""
        self.evaluators[self.current].process(data_samples, data_batch)

    def reset(self) -> None:
        """Reset every metric."""
        for evaluator in self.evaluators.values():
            evaluator.reset()


def is_built(evaluator: Any) -> bool:
    """Return whether an evaluator, or one of several metrics, is an object rather than a config."""
    if isinstance(evaluator, Mapping):
        metrics = evaluator.get("metrics", ())
        return is_built(metrics) if metrics else False
    return any(map(is_built, evaluator)) if isinstance(evaluator, list | tuple) else True


def _take(items: Iterator[Any], number: int) -> list[Any]:
    taken = list(islice(items, number))
    if len(taken) < number:
        raise ValueError("there are more predictions than data samples")
    return taken
