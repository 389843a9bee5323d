"""Classification metrics, compared with hand-computed numbers and examples from MMPretrain's documentation."""

import builtins
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.evaluation.metrics import DumpResults, TorchMetric
from trainwright.engine.fileio import load
from trainwright.engine.registry import METRICS
from trainwright.engine.structures.sample import DataSample
from trainwright.models.classification.metrics import Accuracy, ConfusionMatrix, SingleLabelMetric

# The true class has rank 1 for the first two samples, then 2, 3, and last.
SCORES = torch.tensor(
    [
        [0.6, 0.2, 0.1, 0.1],
        [0.1, 0.8, 0.06, 0.04],
        [0.5, 0.2, 0.25, 0.05],
        [0.4, 0.3, 0.1, 0.2],
        [0.1, 0.2, 0.3, 0.4],
    ]
)
TARGETS = torch.tensor([0, 1, 2, 3, 0])
LABELS = {"gt_label": torch.tensor([0, 2, 1, 3]), "pred_label": torch.tensor([0, 1, 1, 3])}


def evaluate(metric: Any, batched: bool = True, size: int | None = None, **columns: Tensor) -> dict[str, Any]:
    """Evaluate in two batches."""
    evaluator = Evaluator(metric)
    length = len(columns["gt_label"])
    for rows in (slice(0, 2), slice(2, None)):
        batch = DataSample(**{name: column[rows] for name, column in columns.items()})
        evaluator.process(batch if batched else batch.unbatch())
    return evaluator.evaluate(length if size is None else size)


@pytest.mark.parametrize("batched", [True, False])
def test_accuracy_counts_the_best_k(batched: bool):
    result = evaluate(Accuracy(topk=(1, 2, 3, 4)), batched, gt_label=TARGETS, pred_score=SCORES)
    assert result == {
        "accuracy/top1": 40.0,
        "accuracy/top2": 60.0,
        "accuracy/top3": 80.0,
        "accuracy/top4": 100.0,
    }


def test_accuracy_with_thresholds():
    metric = Accuracy(topk=(1, 3), thrs=(None, 0.2, 0.7))
    assert evaluate(metric, gt_label=TARGETS, pred_score=SCORES) == {
        "accuracy/top1_no-thr": 40.0,
        "accuracy/top1_thr-0.20": 40.0,
        "accuracy/top1_thr-0.70": 20.0,
        "accuracy/top3_no-thr": 80.0,
        "accuracy/top3_thr-0.20": 60.0,
        "accuracy/top3_thr-0.70": 20.0,
    }
    assert evaluate(Accuracy(thrs=0.7), gt_label=TARGETS, pred_score=SCORES) == {"accuracy/top1": 20.0}


@pytest.mark.parametrize("batched", [True, False])
def test_accuracy_from_labels(batched: bool):
    assert evaluate(Accuracy(prefix="mine"), batched, **LABELS) == {"mine/top1": 75.0}


def test_accuracy_names_what_is_missing():
    with pytest.raises(ValueError, match="top-5"):
        evaluate(Accuracy(topk=5), gt_label=TARGETS, pred_score=SCORES)
    with pytest.raises(ValueError, match="pred_score"):
        evaluate(Accuracy(topk=(1, 2)), **LABELS)
    with pytest.raises(ValueError, match="neither 'pred_score' nor 'pred_label'"):
        evaluate(Accuracy(), gt_label=TARGETS)
    with pytest.raises(ValueError, match="no 'gt_label'"):
        Evaluator(Accuracy()).process([{"pred_label": torch.tensor(1)}])
    with pytest.raises(ValueError, match="one gt_label"):
        evaluate(Accuracy(), gt_label=SCORES, pred_score=SCORES)
    with pytest.raises(ValueError, match="Accuracy has processed no samples"):
        Evaluator(Accuracy()).evaluate(0)


def test_a_metric_is_reset_after_an_evaluation():
    evaluator = Evaluator([{"type": "Accuracy"}])
    evaluator.process(DataSample(gt_label=TARGETS, pred_score=SCORES))
    assert evaluator.evaluate(5) == {"accuracy/top1": 40.0}
    evaluator.process(DataSample(gt_label=TARGETS[:2], pred_score=SCORES[:2]))
    assert evaluator.evaluate(2) == {"accuracy/top1": 100.0}
    evaluator.process(DataSample(gt_label=TARGETS, pred_score=SCORES))
    evaluator.reset()
    evaluator.process(DataSample(gt_label=TARGETS[4:], pred_score=SCORES[4:]))
    assert evaluator.evaluate(1) == {"accuracy/top1": 0.0}


class NoSync(torch.Tensor):
    """Raise an error for all operations that would synchronize with the device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in (
            "item",
            "tolist",
            "cpu",
            "__bool__",
            "__float__",
            "__int__",
            "numpy",
            "nonzero",
        ), name
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("metric", [Accuracy(topk=(1, 2), thrs=(None, 0.5)), SingleLabelMetric(), ConfusionMatrix()])
def test_a_batch_is_processed_without_waiting_for_the_device(metric: Any):
    batch = DataSample(gt_label=TARGETS.as_subclass(NoSync), pred_score=SCORES.as_subclass(NoSync))
    Evaluator(metric).process(batch)
    assert len(metric.results) == 1


@pytest.mark.parametrize("batched", [True, False])
def test_precision_recall_f1(batched: bool):
    metric = SingleLabelMetric(items=("precision", "recall", "f1-score", "support"), num_classes=4)
    result = evaluate(metric, batched, **LABELS)
    assert result == {
        "single-label/precision": 62.5,
        "single-label/recall": 75.0,
        "single-label/f1-score": pytest.approx(200 / 3),
        "single-label/support": 4,
    }


def test_precision_and_recall_of_each_class_and_of_all_together():
    items = ("precision", "recall", "f1-score", "support")
    assert evaluate(SingleLabelMetric(items=items, average=None, num_classes=4), **LABELS) == {
        "single-label/precision_classwise": [100.0, 50.0, 0.0, 100.0],
        "single-label/recall_classwise": [100.0, 100.0, 0.0, 100.0],
        "single-label/f1-score_classwise": [100.0, pytest.approx(200 / 3), 0.0, 100.0],
        "single-label/support_classwise": [1, 1, 1, 1],
    }
    assert evaluate(SingleLabelMetric(items=items, average="micro", num_classes=4), **LABELS) == {
        "single-label/precision_micro": 75.0,
        "single-label/recall_micro": 75.0,
        "single-label/f1-score_micro": 75.0,
        "single-label/support_micro": 4,
    }


def test_precision_with_a_threshold():
    # Above 0.45: samples 0 and 1 (correct) and 2 (class 2 predicted as 0).
    metric = SingleLabelMetric(thrs=(None, 0.45), average=None)
    result = evaluate(metric, gt_label=TARGETS, pred_score=SCORES)
    assert result["single-label/precision_no-thr_classwise"] == [pytest.approx(100 / 3), 100.0, 0.0, 0.0]
    assert result["single-label/precision_thr-0.45_classwise"] == [50.0, 100.0, 0.0, 0.0]
    assert result["single-label/recall_thr-0.45_classwise"] == [50.0, 100.0, 0.0, 0.0]


def test_single_label_metric_names_mistakes():
    with pytest.raises(ValueError, match="did you mean 'recall'"):
        SingleLabelMetric(items=("recal",))
    with pytest.raises(ValueError, match="average"):
        SingleLabelMetric(average="weighted")
    with pytest.raises(ValueError, match="num_classes"):
        evaluate(SingleLabelMetric(), **LABELS)
    with pytest.raises(ValueError, match="the label 3"):
        evaluate(SingleLabelMetric(num_classes=2), **LABELS)
    with pytest.raises(ValueError, match="pred_score"):
        evaluate(SingleLabelMetric(thrs=0.5, num_classes=4), **LABELS)


def test_the_dataset_tells_the_number_of_classes():
    evaluator = Evaluator(SingleLabelMetric(items=("recall",), average=None))
    evaluator.dataset_meta = {"classes": ("a", "b", "c", "d")}
    evaluator.process(DataSample(**LABELS))
    assert evaluator.evaluate(4) == {"single-label/recall_classwise": [100.0, 100.0, 0.0, 100.0]}


def test_the_confusion_matrix_has_true_classes_in_rows(tmp_path: Path):
    expected = [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    file = tmp_path / "new" / "matrix.png"
    result = evaluate(ConfusionMatrix(out_file=file), gt_label=TARGETS, pred_score=SCORES)
    assert result == {"confusion_matrix/result": expected}
    with Image.open(file) as picture:
        assert picture.mode == "RGB" and len(picture.getcolors(10000)) > 3
    assert evaluate(ConfusionMatrix(num_classes=4), **LABELS)["confusion_matrix/result"] == [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1],
    ]  # fmt: skip


def test_the_drawn_matrix_is_dark_where_the_share_is_large(tmp_path: Path):
    file = tmp_path / "matrix.png"
    ConfusionMatrix.plot([[9, 1], [0, 10]], file, classes=("cat", "dog"))
    with Image.open(file) as picture:
        colors = {color for _, color in picture.getcolors(100_000)}
    assert {(15, 72, 150), (29, 83, 156), (191, 207, 229)} < colors  # shares of 1, 0.9 and 0.1


def test_results_are_dumped_and_evaluated_offline(tmp_path: Path):
    file = tmp_path / "new" / "results.pkl"
    assert evaluate(DumpResults(str(file)), gt_label=TARGETS, pred_score=SCORES) == {}
    loaded = load(file)
    assert len(loaded) == 5 and loaded[2]["gt_label"] == 2
    assert torch.equal(loaded[2]["pred_score"], SCORES[2])
    assert Evaluator(Accuracy(topk=(1, 2))).offline_evaluate(loaded, chunk_size=2) == {
        "accuracy/top1": 40.0,
        "accuracy/top2": 60.0,
    }
    with pytest.raises(ValueError, match=r"\.pkl"):
        DumpResults("results.json")


def test_a_torchmetrics_metric():
    pytest.importorskip("torchmetrics")
    metric = {"type": "torchmetrics.Accuracy", "task": "multiclass", "num_classes": 4, "average": "micro"}
    config = {"type": "TorchMetric", "metric": metric}
    for batched in (True, False):
        result = evaluate(METRICS.build(config), batched, gt_label=TARGETS, pred_score=SCORES)
        assert result == {"torchmetrics/Accuracy": pytest.approx(0.4)}
    labels = METRICS.build(dict(config, prediction="pred_label", name="acc", prefix="mine"))
    for _ in range(2):
        assert evaluate(labels, **LABELS) == {"mine/acc": 0.75}
    with pytest.raises(ValueError, match="no 'pred_score'"):
        evaluate(METRICS.build(config), **LABELS)


def test_a_collection_of_torchmetrics_names_its_results():
    torchmetrics = pytest.importorskip("torchmetrics")
    collection = torchmetrics.MetricCollection(
        {
            "recall": torchmetrics.Recall(task="multiclass", num_classes=4, average="none"),
            "top2": torchmetrics.Accuracy(task="multiclass", num_classes=4, average="micro", top_k=2),
        },
        compute_groups=False,
    )
    result = evaluate(TorchMetric(collection), gt_label=TARGETS, pred_score=SCORES)
    assert result == {
        "torchmetrics/recall": [0.5, 1.0, 0.0, 0.0],
        "torchmetrics/top2": pytest.approx(0.6),
    }


def test_torchmetrics_missing_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "trainwright.engine.evaluation.metrics.find_spec",
        lambda name: None if name == "torchmetrics" else importlib.util.find_spec(name),
    )
    with pytest.raises(MissingExtraError, match=r"trainwright\[torchmetrics\]"):
        TorchMetric({"type": "torchmetrics.F1Score"})
    assert issubclass(MissingExtraError, builtins.ImportError)
