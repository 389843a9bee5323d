"""Which scores are better, by the name of the metric."""

import math

import pytest

from trainwright.engine.errors import ConfigError
from trainwright.hooks.monitoring import Monitor, make_monitors, score_of


@pytest.mark.parametrize(
    ("metric", "rule"),
    [
        ("acc", "greater"),
        ("accuracy/top1", "greater"),
        ("coco/bbox_mAP_50", "greater"),
        ("mIoU", "greater"),
        ("loss", "less"),
        ("val_loss", "less"),
        ("loss_acc", "greater"),  # as MMEngine: `acc` goes before `loss`
        ("Precision", "greater"),
    ],
)
def test_the_rule_follows_from_the_name(metric: str, rule: str) -> None:
    assert make_monitors([metric], owner="test") == [Monitor(metric, rule)]


def test_a_whole_name_goes_before_a_part() -> None:
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
