"""Whether higher is better: by a rule, the metric itself, or the words in its name."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Scripted, files_in, log_of, make_runner
from torch import nn

from trainwright.engine.checking import check
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.metrics import TorchMetric
from trainwright.engine.evaluation.monitor import Monitor, make_monitors, score_of
from trainwright.engine.registry import METRICS
from trainwright.hooks import EarlyStoppingHook


@pytest.mark.parametrize(
    ("metric", "rule"),
    [
        ("acc", "greater"),
        ("accuracy/top1", "greater"),
        ("accuracy/top-5_thr-0.50", "greater"),
        ("coco/bbox_mAP_50", "greater"),
        ("mIoU", "greater"),
        ("MaskIoU", "greater"),
        ("seg/IoU.car", "greater"),
        ("AR@100", "greater"),
        ("rocAUC", "greater"),
        ("F1", "greater"),
        ("R2", "greater"),
        ("Top1Acc", "greater"),
        ("Precision", "greater"),
        ("loss", "less"),
        ("val_loss", "less"),
        ("valLoss", "less"),
        ("loss_acc", "less"),
        ("loss_heatmap", "less"),
        ("val/MAPE", "less"),
        ("topology_error", "less"),
        ("mean_absolute_error", "less"),
        ("test.WER", "less"),
        ("FID", "less"),
    ],
)
def test_the_rule_follows_from_the_words_in_the_name(metric: str, rule: str) -> None:
    assert make_monitors([metric], owner="test") == [Monitor(metric, rule)]


@pytest.mark.parametrize("metric", ["score", "heatmap", "stop", "capture", "landscape", "f", "r", "IS", "val/custom"])
def test_parts_of_words_are_ignored(metric: str) -> None:
    with pytest.raises(ConfigError, match=r"test.rule: cannot infer the rule for key"):
        make_monitors([metric], owner="test")


class Declaring(Scripted):
    """A metric with ``higher_is_better``."""

    def __init__(self, better: Any, prefix: str | None = None, **scores: Any) -> None:
        super().__init__(**scores)
        self.prefix = prefix
        self.higher_is_better = better


def test_the_metric_takes_precedence_over_its_name_and_a_rule_over_both() -> None:
    def rule_of(name: str, *metrics: Any, **options: Any) -> str:
        return make_monitors([name], owner="test", evaluated_by=metrics, **options)[0].rule

    assert rule_of("a/gain", Declaring(True, "a")) == "greater"
    assert rule_of("a/acc", Declaring(False, "a")) == "less"
    assert rule_of("a/acc", Declaring(False, "a"), rule="greater") == "greater"
    assert rule_of("a/acc", Declaring(False, "a"), greater_keys=["acc"]) == "greater"
    assert rule_of("a/error", Declaring(False, "b")) == "less"
    assert rule_of("a/acc", Declaring(False, "b")) == "greater"
    assert rule_of("a/x", Declaring({"x": False, "y": True}, "a")) == "less"
    assert rule_of("a/y", Declaring({"x": False, "y": True}, "a")) == "greater"
    assert rule_of("a/acc", Declaring({"x": False}, "a")) == "greater"
    assert rule_of("gain", Declaring(None), Declaring(True)) == "greater"
    assert rule_of("loss", Declaring(True)) == rule_of("loss_bbox", Declaring(True)) == "less"  # losses of the loop
    assert rule_of("gain", object(), Declaring(True)) == "greater"  # a metric without the attribute


def test_builtin_metrics_declare_it() -> None:
    silent = {"ConfusionMatrix", "DumpResults", "TorchMetric"}
    METRICS.load_all()
    for name, cls in METRICS.module_dict.items():
        if cls.__module__.startswith("trainwright.") and name not in silent:
            better = cls.higher_is_better
            assert better is True or (isinstance(better, Mapping) and set(better.values()) == {True, False}), name


def test_torchmetrics_declares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class External(nn.Module):
        def __init__(self, better: bool | None) -> None:
            super().__init__()
            self.higher_is_better = better

    monkeypatch.setattr("trainwright.engine.evaluation.metrics.find_spec", lambda name: name)
    assert TorchMetric(External(False)).higher_is_better is False
    several = nn.ModuleDict({"error": External(False), "gain": External(True), "other": External(None)})
    assert TorchMetric(several).higher_is_better == {"error": False, "gain": True}


def test_save_best_keeps_the_least_error(tmp_path: Path) -> None:
    """MAPE contains `map`, and topology_error contains `top`."""
    for name in ("MAPE", "topology_error", "loss_heatmap"):
        folder = tmp_path / name
        make_runner(
            folder, checkpoint={"save_best": name, "save_last": False}, metric=Scripted(**{name: [3, 1, 2]})
        ).train()
        assert files_in(folder) == [f"best_{name}_epoch_2.pth"]


def test_hooks_use_the_declaration_of_the_metric(tmp_path: Path) -> None:
    metric = Declaring(False, gain=[3, 1, 2])
    runner = make_runner(
        tmp_path,
        [EarlyStoppingHook("gain", patience=1)],
        checkpoint={"save_best": "auto", "save_last": False},
        metric=metric,
    )
    runner.train()
    assert runner.epoch == 3
    assert "best_gain_epoch_2.pth" in files_in(tmp_path)


@pytest.mark.parametrize("hook", ["checkpoint", "early"])
def test_an_unknown_direction_is_found_before_the_first_step(tmp_path: Path, hook: str) -> None:
    runner = make_runner(
        tmp_path,
        [EarlyStoppingHook("gain")] if hook == "early" else [],
        checkpoint={"save_best": "gain"} if hook == "checkpoint" else None,
        metric=Scripted(gain=[1, 2, 3]),
    )
    with pytest.raises(ConfigError, match="cannot infer the rule for key 'gain'"):
        runner.train()
    assert not runner.model.seen


def test_an_unknown_direction_of_auto_loses_no_training(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, checkpoint={"save_best": "auto"}, metric=Scripted(gain=[1, 2, 3]))
    with pytest.raises(ConfigError, match="cannot infer the rule for key 'gain'"):
        runner.train()
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_1.pth"


def test_a_plateau_that_looks_the_other_way_is_warned_of(tmp_path: Path) -> None:
    scheduler = {"type": "ReduceOnPlateauLR", "monitor": "acc", "patience": 1}
    runner = make_runner(tmp_path / "a", metric=Scripted(acc=[1, 2, 3]), param_scheduler=scheduler)
    runner.train()
    assert "treats less scores of 'acc' as better" in log_of(runner)
    right = make_runner(
        tmp_path / "b", metric=Scripted(acc=[1, 2, 3]), param_scheduler={**scheduler, "rule": "greater"}
    )
    right.train()
    assert "for better" not in log_of(right)


@pytest.mark.parametrize(
    ("hook", "evaluator", "found"),
    [
        ({"save_best": "gain"}, {"type": "Accuracy"}, True),
        ({"save_best": ["accuracy/top1", "gain"]}, [{"type": "Accuracy"}], True),
        ({"save_best": "auto"}, {"type": "Accuracy"}, False),
        ({"save_best": "gain", "rule": "less"}, {"type": "Accuracy"}, False),
        ({"save_best": "gain", "less_keys": ["gain"]}, {"type": "Accuracy"}, False),
        ({"save_best": "mine/gain"}, {"metrics": [{"type": "Accuracy", "prefix": "mine"}]}, False),
        ({"save_best": "torchmetrics/Gain"}, {"type": "TorchMetric", "metric": {"type": "torch.nn.Identity"}}, False),
        ({"save_best": "gain"}, Declaring(True), False),
    ],
)
def test_check_finds_it(hook: dict[str, Any], evaluator: Any, found: bool) -> None:
    cfg = {
        "model": {"type": "torch.nn.Identity"},
        "val_dataloader": {"dataset": {"type": "torch.utils.data.TensorDataset"}},
        "val_cfg": {},
        "val_evaluator": evaluator,
        "default_hooks": {"checkpoint": hook},
    }
    errors = [error for error in check(cfg) if "cannot infer" in str(error)]
    assert [error.path for error in errors] == ["default_hooks.checkpoint.rule"] * found
    if found:
        cfg["custom_hooks"] = [{"type": "EarlyStoppingHook", "monitor": "gain"}]
        assert [error.path for error in check(cfg) if "cannot infer" in str(error)][-1] == "custom_hooks.0.rule"


def test_a_full_name_takes_precedence_over_a_part() -> None:
    assert make_monitors(["accloss"], None, ["acc"], ["accloss"], owner="test")[0].rule == "less"


def test_one_rule_serves_all() -> None:
    assert [monitor.rule for monitor in make_monitors(["a", "b"], "less", owner="test")] == ["less", "less"]


def test_a_rule_for_each_and_none_to_infer() -> None:
    monitors = make_monitors(["acc", "fid"], [None, "less"], owner="test")
    assert [monitor.rule for monitor in monitors] == ["greater", "less"]


def test_better_means_by_more_than_min_delta() -> None:
    greater, less = Monitor("acc", "greater"), Monitor("loss", "less")
    assert greater.is_better(2, 1) and not greater.is_better(1, 1)
    assert less.is_better(1, 2) and not less.is_better(1, 1)
    assert not greater.is_better(1.5, 1, min_delta=0.5) and greater.is_better(1.6, 1, min_delta=0.5)
    assert not greater.is_better(math.nan, -math.inf) and not less.is_better(math.nan, math.inf)
    assert greater.is_better(-1e30, greater.worst) and less.is_better(1e30, less.worst)


def test_a_missing_metric_is_explained() -> None:
    assert score_of({"acc": 3, "none": None}, "acc", owner="Hook") == 3.0
    assert score_of({"acc": 3, "none": None}, "none", owner="Hook") is None
    with pytest.raises(
        ConfigError, match=r"Hook: the results have no 'ac'\n.*did you mean 'acc'\?\n.*available: acc, none"
    ):
        score_of({"acc": 3, "none": None}, "ac", owner="Hook")
