"""Evaluation in two processes has the same results as in one."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_workers import evaluate_cases, evaluated_samples, run_processes

pytestmark = pytest.mark.long

METRICS: list[dict[str, Any]] = [
    {"type": "Accuracy", "topk": (1, 2, 3)},
    {"type": "Accuracy", "prefix": "gpu", "collect_device": "gpu"},
    {"type": "SingleLabelMetric", "average": None},
    {"type": "ConfusionMatrix"},
]
if importlib.util.find_spec("torchmetrics") is not None:
    accuracy = {"type": "torchmetrics.Accuracy", "task": "multiclass", "num_classes": 4, "average": "micro"}
    METRICS.append({"type": "TorchMetric", "metric": accuracy})


def test_samples_added_by_the_sampler_do_not_count():
    """Five samples on two ranks: the sampler repeats the first one, which is correct."""
    scores = torch.eye(4)[torch.tensor([0, 1, 0, 0, 3])] + torch.linspace(0, 0.3, 20).view(5, 4)
    columns = {"gt_label": torch.tensor([0, 1, 2, 3, 0]), "pred_score": scores}
    cases = [(METRICS, columns, True), (METRICS, columns, False)]
    alone = evaluate_cases(cases)
    assert alone[0] == alone[1]
    assert alone[0]["accuracy/top1"] == alone[0]["gpu/top1"] == 40.0
    assert alone[0]["confusion_matrix/result"] == [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert run_processes(evaluate_cases, cases) == [alone, alone]


def test_only_padding_is_left_out(tmp_path: Path) -> None:
    """All samples of samplers, batch samplers and iterable datasets count, also if they are more than the dataset."""
    alone = evaluated_samples(str(tmp_path))
    own = alone.pop("own loader")
    assert len(own) == 14
    five = [0, 1, 2, 3, 4]
    assert alone == {
        "padded": five,
        "not padded": five,
        "last left out": [0, 1, 2, 3],
        "first batches": [0, 1, 2, 3],
        "repeated": five * 3,
        "batch sampler": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
        "stream": five,
    }
    together, other = run_processes(evaluated_samples, str(tmp_path))
    assert together == other
    assert len(together.pop("own loader")) == 28  # each process draws for itself
    assert together.pop("PyTorch's padding") == five
    assert together.pop("batch sampler") == [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    assert together.pop("last left out") == [0, 1, 2, 3]
    assert together.pop("first batches") == five  # two batches of two for each process
    assert together == {name: alone[name] for name in together}
