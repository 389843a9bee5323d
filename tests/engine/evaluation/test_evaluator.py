"""The evaluator and the base class of metrics."""

import logging
from typing import Any

import pytest
import torch

from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.evaluation.metric import BaseMetric, get_metric_value
from trainwright.engine.registry import EVALUATOR
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample


class Labels(BaseMetric):
    """A metric that returns the true labels in order, and records the batches."""

    default_prefix = "labels"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches: list[Any] = []

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.batches.append(data_batch)
        self.results.extend(int(sample["gt_label"]) for sample in data_samples)

    def compute_metrics(self, results: list[int]) -> dict[str, Any]:
        return {"all": results}


def test_every_form_of_predictions_is_accepted():
    evaluator = Evaluator(Labels())
    evaluator.process([BaseDataElement(gt_label=0), {"gt_label": 1}], {"inputs": 1})
    evaluator.process((DataSample(gt_label=torch.tensor([2])),))
    evaluator.process(data_samples=DataSample(gt_label=torch.tensor([3, 4])), data_batch=None)
    assert evaluator.evaluate(4) == {"labels/all": [0, 1, 2, 3, 4]}  # not truncated in one process
    assert evaluator.metrics[0].batches == [{"inputs": 1}, None, None]


def test_batched_and_plain_metrics_work_together():
    evaluator = Evaluator([Labels(), {"type": "Accuracy"}])
    evaluator.process(DataSample(gt_label=torch.tensor([3, 4]), pred_label=torch.tensor([3, 3])))
    assert evaluator.evaluate(2) == {"labels/all": [3, 4], "accuracy/top1": 50.0}


def test_dataset_meta_is_passed_to_every_metric():
    evaluator = EVALUATOR.build({"type": "Evaluator", "metrics": [Labels(), Labels(prefix="b")]})
    assert evaluator.dataset_meta is None
    evaluator.dataset_meta = {"classes": ("a",)}
    assert [metric.dataset_meta for metric in evaluator.metrics] == [{"classes": ("a",)}] * 2


def test_two_results_of_one_name_are_an_error_that_names_both_metrics():
    class Others(Labels):
        pass

    with pytest.raises(ValueError, match="Labels and Others both have a result 'labels/all'"):
        Evaluator([Labels(), Others()]).evaluate(0)


def test_warnings_and_wrong_arguments(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    logged: list[str] = []
    monkeypatch.setattr(
        "trainwright.engine.evaluation.metric.print_log", lambda msg, logger, level: logged.append((msg, level))
    )

    class Nameless(Labels):
        default_prefix = None

    metric = Nameless()
    assert metric.evaluate(0) == {"all": []}
    assert [level for _, level in logged] == [logging.WARNING] * 2
    assert "Nameless has no prefix" in logged[0][0] and "Nameless has no results" in logged[1][0]
    with pytest.raises(ValueError, match="collect_device"):
        Labels(collect_device="disk")
    with pytest.raises(ValueError, match="collect_dir"):
        Labels(collect_device="gpu", collect_dir="somewhere")


def test_offline_evaluation_with_data():
    evaluator = Evaluator(Labels())
    samples = [{"gt_label": label} for label in range(3)]
    data = [{"inputs": label, "pair": (label, -label)} for label in range(3)]
    assert evaluator.offline_evaluate(samples, data, chunk_size=2) == {"labels/all": [0, 1, 2]}
    assert evaluator.metrics[0].batches == [
        {"inputs": [0, 1], "pair": [[0, 1], [0, -1]]},
        {"inputs": [2], "pair": [[2], [-2]]},
    ]
    with pytest.raises(ValueError, match="more predictions than data"):
        Evaluator(Labels()).offline_evaluate(samples, data[:2])
    with pytest.raises(ValueError, match="more data samples than the 2 predictions"):
        Evaluator(Labels()).offline_evaluate(samples[:2], data)


def test_a_result_is_found_by_its_last_part():
    metrics = {"a/top1": 1.0, "a/top5": 2.0, "b/top1": 3.0}
    assert get_metric_value("a/top1", metrics) == 1.0 and get_metric_value("top5", metrics) == 2.0
    with pytest.raises(ValueError, match="several results"):
        get_metric_value("top1", metrics)
    for missing in ("top2", "c/top1"):
        with pytest.raises(ValueError, match="no result"):
            get_metric_value(missing, metrics)


def test_results_move_to_the_cpu_and_keep_their_structure():
    class Keeps(Labels):
        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results.append({"a": [torch.ones(1)], "b": (DataSample(gt_label=torch.ones(1)), "text")})

    evaluator = Evaluator(Keeps())
    evaluator.process([{}])
    (result,) = evaluator.evaluate(1)["labels/all"]
    assert isinstance(result["a"], list) and isinstance(result["b"], tuple) and result["b"][1] == "text"
