"""Forms of predictions for a batch, and errors for unsupported ones."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.evaluation.metrics import DumpResults
from trainwright.engine.evaluation.samples import samples_of
from trainwright.engine.fileio import load
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.classification.metrics import Accuracy
from trainwright.models.tta import BaseTTAModel

Output = namedtuple("Output", ["gt_label", "pred_label"])  # as returned by some libraries


def plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_mapping_is_split_into_its_samples() -> None:
    batch = {
        "score": torch.tensor([[1, 2], [3, 4]]),
        "array": np.array([5, 6]),
        "names": ["a", "b"],
        "nested": {"label": torch.tensor([7, 8]), "pair": ([9], [10])},
        "temperature": torch.tensor(0.5),
        "model": "net",
        "loss": None,
    }
    shared = {"temperature": 0.5, "model": "net", "loss": None}
    assert plain(samples_of(batch)) == [
        {"score": [1, 2], "array": 5, "names": "a", "nested": {"label": 7, "pair": [9]}, **shared},
        {"score": [3, 4], "array": 6, "names": "b", "nested": {"label": 8, "pair": [10]}, **shared},
    ]


def test_other_forms_of_predictions() -> None:
    assert plain(samples_of(Output(torch.tensor([1, 2]), [3, 4]))) == [
        {"gt_label": 1, "pred_label": 3}, {"gt_label": 2, "pred_label": 4},
    ]  # fmt: skip
    assert plain(samples_of(torch.tensor([[1, 2], [3, 4]]))) == [[1, 2], [3, 4]]
    assert [sample.pred_label.item() for sample in samples_of(DataSample(pred_label=torch.tensor([3, 4])))] == [3, 4]
    assert samples_of({"a": 1} for _ in range(2)) == [{"a": 1}, {"a": 1}]
    assert samples_of([]) == []


@pytest.mark.parametrize(
    ("predictions", "error", "message"),
    [
        ({"a": torch.ones(3), "b": torch.ones(2)}, ValueError, "a has 3, b has 2"),
        ({"a": {"b": torch.ones(3)}, "c": [1]}, ValueError, r"a\.b has 3, c has 1"),
        ({"a": InstanceData(boxes=torch.ones(3, 4))}, TypeError, "a as InstanceData, which cannot be split"),
        ({"loss": torch.tensor(1.0), "name": "x"}, TypeError, "without one value per sample"),
        ({}, TypeError, "without one value per sample"),
        (InstanceData(boxes=torch.ones(3, 4)), TypeError, "InstanceData for a whole batch"),
        (torch.tensor(1.0), TypeError, "one number for a whole batch"),
        ("cat", TypeError, "str for a whole batch"),
        (None, TypeError, "NoneType for a whole batch"),
    ],
)
def test_predictions_that_cannot_be_split_are_refused(predictions: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Evaluator(Accuracy()).process(predictions)
    assert "one dictionary of tensors with samples along dim 0" in str(caught.value)


@pytest.mark.parametrize(
    "batch",
    [
        {"inputs": torch.ones(4, 3), "data_samples": [1, 2, 3, 4]},
        (torch.ones(4, 3), torch.ones(4)),
        {"inputs": {"tokens": torch.ones(4, 7)}},
        {"inputs": [torch.ones(3, 5, 5)] * 4, "data_samples": [DataSample()] * 4},
        [{"image": torch.ones(3, 5, 5)}] * 4,
        DataSample(gt_label=torch.ones(4)),
    ],
)
def test_the_number_of_predictions_is_checked(batch: Any) -> None:
    label = {"pred_label": torch.ones(1), "gt_label": torch.ones(1)}
    for right in ([label] * 4, {"pred_label": torch.ones(4)}, torch.ones(4)):
        assert len(samples_of(right, batch)) == 4
    for wrong in ([label] * 2, {"pred_label": torch.ones(2)}, torch.ones(2)):
        with pytest.raises(ValueError, match=r"there are 2 predictions for a batch of .*4"):
            samples_of(wrong, batch)


def test_views_of_test_time_augmentation_are_not_samples() -> None:
    views = {"inputs": [[torch.ones(2)] * 4, [torch.ones(2)] * 4], "data_samples": [torch.ones(4), torch.ones(4)]}
    assert len(samples_of([{}] * 4, views)) == 4


def test_metrics_of_both_kinds_accept_a_dictionary(tmp_path: Path) -> None:
    """Five batches of eight samples are forty predictions."""
    evaluator = Evaluator([Accuracy(), DumpResults(str(tmp_path / "a.pkl"))])
    for start in range(0, 40, 8):
        labels = torch.arange(start, start + 8)
        evaluator.process({"gt_label": labels, "pred_label": labels * (labels < 10)}, {"inputs": labels})
    assert evaluator.evaluate(40) == {"accuracy/top1": 25.0}
    assert [sample["gt_label"].item() for sample in load(tmp_path / "a.pkl")] == list(range(40))


def test_a_dictionary_of_lists_is_a_batch_for_accuracy_too() -> None:
    evaluator = Evaluator(Accuracy())
    evaluator.process({"gt_label": [0, 1], "pred_score": [torch.tensor([0.9, 0.1]), torch.tensor([0.8, 0.2])]})
    evaluator.process(Output(torch.tensor([0, 1]), torch.tensor([0, 1])))
    assert evaluator.evaluate(4) == {"accuracy/top1": 75.0}


def test_dumped_predictions_may_be_one_dictionary() -> None:
    dumped = {"gt_label": torch.tensor([0, 1, 2]), "pred_label": torch.tensor([0, 1, 0])}
    assert round(Evaluator(Accuracy()).offline_evaluate(dumped)["accuracy/top1"]) == 67


def test_a_tuple_of_tensors_is_described_with_the_metric_that_rejects_it(tmp_path: Path) -> None:
    predictions, batch = (torch.ones(8, 3), torch.ones(8)), (torch.ones(8, 2), torch.ones(8))
    with pytest.raises(TypeError, match=r"not a list of 2 \(Tensor \(8, 3\), Tensor \(8,\)\)") as caught:
        Evaluator(Accuracy()).process(predictions, batch)
    assert "in the metric Accuracy" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="there are 2 predictions for a batch of 8 samples"):
        Evaluator(DumpResults(str(tmp_path / "a.pkl"))).process(predictions, batch)


def test_a_metric_written_for_mmengine_still_unpacks_a_tuple() -> None:
    class Share(Accuracy):
        accepts_batches = False

        def process(self, data_batch: Any, data_samples: Any) -> None:
            score, label = data_samples
            self.results.append((score.argmax(1).eq(label)[:, None],))

    evaluator = Evaluator(Share())
    evaluator.process((torch.eye(4), torch.tensor([0, 1, 2, 0])), (torch.ones(4, 2), torch.ones(4)))
    assert evaluator.evaluate(4) == {"accuracy/top1": 75.0}


class Doubles(nn.Module):
    """A model that predicts a dictionary of tensors."""

    def test_step(self, data: Any) -> dict[str, Tensor]:
        return {"value": 2 * torch.stack([torch.as_tensor(item) for item in data["inputs"]])}


def test_test_time_augmentation_and_inferencers_accept_a_dictionary() -> None:
    class Mean(BaseTTAModel):
        def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
            return [{"value": sum(view["value"].item() for view in views) / len(views)} for views in data_samples_list]

    views = {"inputs": [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]}
    assert Mean(Doubles()).test_step(views) == [{"value": 4.0}, {"value": 6.0}, {"value": 8.0}]
    inferencer = Inferencer.__new__(Inferencer)
    inferencer.model = Doubles()
    assert plain(inferencer.forward({"inputs": [1.0, 2.0]})) == [{"value": 2.0}, {"value": 4.0}]
    inferencer.model.test_step = lambda data: (torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="there are 2 predictions for a batch of 4 samples"):
        inferencer.forward({"inputs": torch.ones(4)})
