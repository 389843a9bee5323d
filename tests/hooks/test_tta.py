"""Test-time augmentation in a real test run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points
from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.registry import DATASETS, METRICS, MODELS
from trainwright.engine.run.runner import Runner
from trainwright.hooks import build_runner_with_tta
from trainwright.models import BaseTTAModel


@MODELS.register_module(name="TTATestLine")
class TTALine(Line):
    """A registered model."""


@MODELS.register_module(name="TTATestMean")
class MeanOfTwoViews(nn.Module):
    """Average the predictions for the points and their mirror images."""

    def __init__(self, module: nn.Module, shift: float) -> None:
        super().__init__()
        self.module = module
        self.shift = shift

    def test_step(self, data: Any) -> list[dict[str, torch.Tensor]]:
        inputs, targets = data
        views = [self.module.test_step((view, targets)) for view in (inputs, inputs + self.shift)]
        return [{"pred": (first["pred"] + second["pred"]) / 2} for first, second in zip(*views)]


@DATASETS.register_module(name="TTATestPoints")
class TTAPoints(Points):
    """Points that store their pipeline."""

    def __init__(self, pipeline: list[Any]) -> None:
        super().__init__(2)
        self.pipeline = pipeline


@DATASETS.register_module(name="TTATestRepeat")
class TTARepeat(TTAPoints):
    """A wrapper of a dataset."""

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.dataset = DATASETS.build(dataset)
        super().__init__(self.dataset.pipeline)


@METRICS.register_module(name="TTATestSum")
class SumOfPredictions(BaseMetric):
    """Sum the predictions."""

    default_prefix = "sum"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(sample["pred"].item() for sample in data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"pred": sum(results)}


def config(work_dir: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"type": "TTATestLine"},
        "work_dir": str(work_dir),
        "test_dataloader": {
            "dataset": {"type": "TTATestRepeat", "dataset": {"type": "TTATestPoints", "pipeline": ["plain"]}},
            "batch_size": 2,
            "collate_fn": {"type": "default_collate"},
        },
        "test_cfg": {},
        "test_evaluator": {"type": "TTATestSum"},
        "tta_model": {"type": "TTATestMean", "shift": 2.0},
        "tta_pipeline": ["views"],
        **changes,
    }


def test_the_views_are_merged_and_the_model_is_unwrapped(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    runner = build_runner_with_tta(cfg)
    model = runner.model
    # With weights of 0.5, the predictions for (0, 1) and (0.5, 1) are 0.5 and 0.75; shifting the points by 2 adds 2.
    assert runner.test() == {"sum/pred": 1.25 + 2.0}
    assert runner.model is model
    assert runner.test_dataloader.dataset.pipeline == ["views"]
    assert cfg["test_dataloader"]["dataset"]["dataset"]["pipeline"] == ["plain"]


@MODELS.register_module(name="TTATestMerged")
class Merged(BaseTTAModel):
    """Take the first view."""

    def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
        return [views[0] for views in data_samples_list]


def test_a_model_that_merges_views_loads_the_checkpoint_of_the_model_inside(tmp_path: Path) -> None:
    cfg = config(tmp_path / "train")
    trained = Runner.from_cfg(cfg)
    nn.init.constant_(trained.model.fc.weight, 3.0)
    trained.save_checkpoint(tmp_path, "line.pth")
    cfg = config(tmp_path / "test", model=dict(type="TTATestMerged", module=cfg["model"]))
    runner = Runner.from_cfg({**cfg, "load_from": str(tmp_path / "line.pth")})
    runner.load_or_resume()
    assert runner.model.module.fc.weight.tolist() == [[3, 3]]


def test_a_test_that_fails_leaves_the_model_unwrapped(tmp_path: Path) -> None:
    runner = build_runner_with_tta(config(tmp_path))
    model = runner.model
    model.test_step = None
    with pytest.raises(TypeError):
        runner.test()
    assert runner.model is model


@pytest.mark.parametrize("key", ["tta_model", "tta_pipeline", "test_dataloader"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: .*test-time augmentation"):
        build_runner_with_tta(config(tmp_path, **{key: None}))
