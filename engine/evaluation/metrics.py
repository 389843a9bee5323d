"""Metrics for any task: saving predictions, and torchmetrics."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainwright.engine.distributed import get_world_size
from trainwright.engine.errors import MissingExtraError
from trainwright.engine.evaluation.metric import BaseMetric, BatchMetric, column_of, to_cpu
from trainwright.engine.evaluation.samples import check_number
from trainwright.engine.fileio import dump
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS


@METRICS.register_module()
class DumpResults(BaseMetric):
    """A metric that saves annotations and predictions of all samples to a pickle file, for offline evaluation.

    The file contains a list of dictionaries. Read it with ``trainwright.engine.fileio.load`` and pass the list to
    ``Evaluator.offline_evaluate``.

    Args:
        out_file_path: path of the file, ending in ``.pkl`` or ``.pickle``. Its folder is created.
        collect_device: as for :class:`BaseMetric`.
        collect_dir: as for :class:`BaseMetric`.

    Raises:
        ValueError: the file has another ending.
    """

    default_prefix = "dump"
    writes_files = True

    def __init__(self, out_file_path: str, collect_device: str = "cpu", collect_dir: str | Path | None = None) -> None:
        super().__init__(collect_device, collect_dir=collect_dir)
        if not out_file_path.endswith((".pkl", ".pickle")):
            raise ValueError(f"out_file_path must end in .pkl or .pickle: {out_file_path}")
        self.out_file_path = out_file_path

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Check the number of samples, and keep them on the CPU."""
        check_number(data_samples, data_batch, data_samples)
        self.results.extend(to_cpu(data_samples))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Write the file, and return no results."""
        dump(results, self.out_file_path)
        print_log(f"Saved {len(results)} predictions to {self.out_file_path}", logger="current")
        return {}


@METRICS.register_module()
class TorchMetric(BatchMetric):
    """A wrapper for any metric of torchmetrics, with results such as ``torchmetrics/F1Score``.

    In one process, it is updated batch by batch. In distributed runs, predictions and targets are gathered first, so
    that samples added by the sampler do not count.

    Example:
        ``dict(type="TorchMetric", metric=dict(type="torchmetrics.F1Score", task="multiclass", num_classes=10))``

    Args:
        metric: a ``torchmetrics.Metric``, or its config.
        prediction: field of the sample for the first argument.
        target: field of the sample for the second argument.
        name: name of the result; the class name if None. Unused for metrics that return a dictionary.
        collect_device: as for :class:`BaseMetric`.
        prefix: as for :class:`BaseMetric`.

    Raises:
        MissingExtraError: torchmetrics is not installed.
    """

    default_prefix = "torchmetrics"

    def __init__(
        self,
        metric: Any,
        prediction: str = "pred_score",
        target: str = "gt_label",
        name: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        if find_spec("torchmetrics") is None:
            raise MissingExtraError("torchmetrics", "torchmetrics", "the metric TorchMetric")
        if name is None:
            type_ = metric.get("type") if isinstance(metric, Mapping) else type(metric)
            name = type_.rpartition(".")[2] if isinstance(type_, str) else getattr(type_, "__name__", str(type_))
        self.name = name
        self.metric = METRICS.build(metric)
        self.prediction = prediction
        self.target = target
        self._updated = False
        for module in self.metric.modules():
            module.distributed_available_fn = _never  # rank 0 computes the results from gathered items

    @property
    def higher_is_better(self) -> bool | Mapping[str, bool] | None:  # type: ignore[override]  # read only
        """The attribute of the torchmetrics metric, or of each one in a collection."""
        if isinstance(self.metric, nn.ModuleDict):  # a MetricCollection
            declared = {name: getattr(metric, "higher_is_better", None) for name, metric in self.metric.items()}
            return {name: bool(better) for name, better in declared.items() if better is not None}
        return getattr(self.metric, "higher_is_better", None)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Update the metric, or keep its inputs in distributed runs."""
        columns = []
        for field in (self.prediction, self.target):
            column = column_of(data_samples, field)
            if column is None:
                raise ValueError(
                    f"the samples have no {field!r}: set the names of the fields by `prediction` and `target`"
                )
            columns.append(column)
        if get_world_size() > 1:
            self.results.append(tuple(columns))
        else:
            self._update(columns)

    def evaluate(self, size: int) -> dict[str, Any]:
        if get_world_size() > 1:
            return super().evaluate(size)
        if not self._updated:
            self._warn("has processed no samples")
        metrics = self.with_prefix(self._values())
        self.reset()
        return metrics

    def compute_metrics(self, results: list[Tensor]) -> dict[str, Any]:
        self._update(results)
        return self._values()

    def reset(self) -> None:
        super().reset()
        self.metric.reset()
        self._updated = False

    def _update(self, columns: Sequence[Tensor]) -> None:
        prediction, target = columns
        if not self._updated:
            self.metric.to(prediction.device)
            self._updated = True
        self.metric.update(prediction, target.to(prediction.device))

    def _values(self) -> dict[str, Any]:
        computed = self.metric.compute()
        values = computed if isinstance(computed, Mapping) else {self.name: computed}
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}


def _never() -> bool:
    return False
