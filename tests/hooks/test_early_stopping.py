"""When EarlyStoppingHook ends real runs."""

from pathlib import Path

import pytest
from tiny_runs import Scripted, log_of, make_runner

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.run.runner import Runner
from trainwright.hooks import EarlyStoppingHook


def epochs_trained(work_dir: Path, hook: EarlyStoppingHook, **scores: list[float]) -> int:
    runner = make_runner(work_dir, [hook], metric=Scripted(**scores), train_cfg={"max_epochs": 6})
    runner.train()
    return runner.epoch


def test_stops_after_patience_validations_without_improvement(tmp_path: Path) -> None:
    assert epochs_trained(tmp_path, EarlyStoppingHook("acc", patience=2), acc=[1, 3, 2, 2.5, 9, 9]) == 4


def test_small_improvements_count_by_default(tmp_path: Path) -> None:
    scores = [0.5, 0.501, 0.502, 0.503, 0.504, 0.505]
    assert epochs_trained(tmp_path / "a", EarlyStoppingHook("acc", patience=1), acc=scores) == 6
    assert epochs_trained(tmp_path / "b", EarlyStoppingHook("acc", patience=1, min_delta=0.1), acc=scores) == 2


def test_a_plateau_is_no_improvement(tmp_path: Path) -> None:
    assert epochs_trained(tmp_path, EarlyStoppingHook("loss", patience=3), loss=[1.0] * 6) == 4


def test_improvements_begin_the_count_anew(tmp_path: Path) -> None:
    assert epochs_trained(tmp_path, EarlyStoppingHook("loss", patience=2), loss=[5, 6, 4, 5, 3, 4]) == 6


def test_stops_at_the_threshold(tmp_path: Path) -> None:
    hook = EarlyStoppingHook("acc", stopping_threshold=90)
    assert epochs_trained(tmp_path, hook, acc=[10, 90, 91, 95, 96, 97]) == 3


def test_stops_when_a_score_is_not_finite(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [EarlyStoppingHook("loss")], metric=Scripted(loss=[2, float("nan"), 1]))
    runner.train()
    assert runner.epoch == 2
    assert "loss is nan, which is not finite (its best was 2.0000)" in log_of(runner)


def test_of_several_metrics_all_must_have_stopped_improving(tmp_path: Path) -> None:
    hook = EarlyStoppingHook(["acc", "loss"], patience=2)
    assert epochs_trained(tmp_path, hook, acc=[2, 1, 1, 1, 1, 1], loss=[5, 4, 3, 4, 4, 4]) == 5


def test_or_any_of_them(tmp_path: Path) -> None:
    hook = EarlyStoppingHook(["acc", "loss"], patience=2, stop_when="any")
    assert epochs_trained(tmp_path, hook, acc=[2, 1, 1, 1, 1, 1], loss=[5, 4, 3, 4, 4, 4]) == 3


def test_the_log_says_why_and_a_checkpoint_is_written(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [EarlyStoppingHook("acc", patience=1)], metric=Scripted(acc=[2, 1, 3]))
    runner.train()
    assert "acc did not improve in the last 1 validations (best: 2.0000)" in log_of(runner)
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth"


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    make_runner(
        tmp_path,
        [EarlyStoppingHook("acc", patience=3)],
        checkpoint={"interval": 1},
        metric=Scripted(acc=[5, 4]),
        train_cfg={"max_epochs": 2},
    ).train()
    runner = make_runner(
        tmp_path,
        [EarlyStoppingHook("acc", patience=3)],
        checkpoint={"interval": 1},
        metric=Scripted(acc=[4, 4, 4, 4]),
        train_cfg={"max_epochs": 6},
        resume=True,
    )
    runner.train()
    assert runner.epoch == 4  # epochs 2, 3 and 4 did not improve on epoch 1


def resumed(work_dir: Path, hooks: list[EarlyStoppingHook], **scores: list[float]) -> Runner:
    """Returns a resumed run after its end."""
    metric = Scripted(**scores)
    runner = make_runner(
        work_dir, hooks, checkpoint={"interval": 1}, metric=metric, train_cfg={"max_epochs": 6}, resume=True
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"patience": 2}, [3, 2, 1]),
        ({"stopping_threshold": 90}, [1, 2, 91]),
        ({"stopping_threshold": 90, "min_delta": 50}, [60, 80, 91]),
        ({}, [1, 2, float("nan")]),
    ],
)
def test_a_stopped_run_that_is_resumed_stays_stopped(tmp_path: Path, options: dict, scores: list[float]) -> None:
    first = resumed(tmp_path, [EarlyStoppingHook("acc", **options)], acc=scores)
    assert first.epoch == 3
    file = (tmp_path / "epoch_3.pth").read_bytes()
    for _ in range(2):
        runner = resumed(tmp_path, [EarlyStoppingHook("acc", **options)], acc=[])
        assert runner.iter == 6
        assert "stopped early at iteration 6: nothing left to do" in log_of(runner)
        assert (tmp_path / "epoch_3.pth").read_bytes() == file


def test_a_stopped_run_trains_further_if_its_settings_allow_it(tmp_path: Path) -> None:
    resumed(tmp_path, [EarlyStoppingHook("acc", patience=2)], acc=[3, 2, 1])
    assert resumed(tmp_path, [EarlyStoppingHook("acc", patience=3)], acc=[1]).epoch == 4
    assert resumed(tmp_path, [], acc=[1, 1]).epoch == 6


def test_by_iterations_a_stopped_run_stays_stopped_too(tmp_path: Path) -> None:
    for scores in ([2, 1], []):
        hook = EarlyStoppingHook("acc", patience=1)
        train_cfg = {"by_epoch": False, "max_iters": 9, "val_interval": 2}
        runner = make_runner(tmp_path, [hook], metric=Scripted(acc=scores), train_cfg=train_cfg, resume=True)
        runner.train()
        assert runner.iter == 4


def test_another_rule_watches_from_scratch(tmp_path: Path) -> None:
    resumed(tmp_path, [EarlyStoppingHook("acc", patience=2, rule="less")], acc=[1, 2, 3])
    hook = EarlyStoppingHook("acc", patience=2)
    assert resumed(tmp_path, [hook], acc=[3, 4, 3]).epoch == 6
    assert hook.best_scores == {"acc": 4}


def test_metrics_may_come_and_go_on_a_resume(tmp_path: Path) -> None:
    resumed(tmp_path, [EarlyStoppingHook(["acc", "loss"], patience=2)], acc=[3, 2, 1], loss=[1, 2, 3])
    hook = EarlyStoppingHook(["acc", "mIoU"], patience=2)
    assert resumed(tmp_path, [hook], acc=[1, 1, 1], mIoU=[2, 1, 0]).epoch == 6
    assert hook.best_scores == {"acc": 3, "mIoU": 2}


def test_a_missing_metric_is_an_error_only_if_strict(tmp_path: Path) -> None:
    runner = make_runner(tmp_path / "a", [EarlyStoppingHook("acc")], metric=Scripted(accuracy=[1, 2, 3]))
    runner.train()
    assert runner.epoch == 3
    assert "EarlyStoppingHook watches 'acc', which the results do not have" in log_of(runner)
    runner = make_runner(tmp_path / "b", [EarlyStoppingHook("acc", strict=True)], metric=Scripted(accuracy=[1]))
    with pytest.raises(TrainingError, match="available: accuracy"):
        runner.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "acc", "rule": "bigger"}, "rule: .*'bigger'"),
        ({"monitor": "acc", "stop_when": "some"}, "is 'all' or 'any'"),
        ({"monitor": "acc", "patience": 0}, "at least 1"),
        ({"monitor": "acc", "min_delta": -1}, "must not be negative"),
        ({"monitor": ["acc", "loss"], "stopping_threshold": [1, 2, 3]}, "3 thresholds for 2 metrics"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EarlyStoppingHook(**options)
