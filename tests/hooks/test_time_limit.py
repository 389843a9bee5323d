"""TimeLimitHook in real runs, with a clock controlled by the test."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, Scripted, files_in, log_of, make_runner, weights_of

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.hooks import EarlyStoppingHook, TimeLimitHook


class Clock(Hook):
    """A clock that advances by a second per training iteration."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.now += 1


def test_stops_in_time_with_a_checkpoint_to_resume_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("trainwright.hooks.time_limit.time", clock)
    runner = make_runner(tmp_path / "a", [clock, TimeLimitHook("00:00:03")])
    runner.train()
    assert runner.iter == 3  # in the middle of the second epoch
    assert "the time limit of 0:00:03 is reached" in log_of(runner)
    assert "with --resume" in log_of(runner)
    assert (tmp_path / "a" / "last_checkpoint").read_text() == "iter_3.pth"

    resumed = make_runner(tmp_path / "a", [clock, TimeLimitHook("00:00:03")], resume=True)
    resumed.train()
    assert resumed.iter == 6  # three more seconds
    unbroken = make_runner(tmp_path / "b")
    unbroken.train()
    torch.testing.assert_close(weights_of(resumed), weights_of(unbroken), rtol=0, atol=0)


class FilesAtTest(Hook):
    """Record the existing checkpoints when a test starts."""

    def __init__(self) -> None:
        self.files: list[list[str]] = []

    def before_test(self, runner: Any) -> None:
        self.files.append(files_in(Path(runner.work_dir)))


def with_test(work_dir: Path, hooks: list[Any], **options: Any) -> Any:
    """Return a run with a final test."""
    loader = {"dataset": Points(4), "batch_size": 4, "collate_fn": {"type": "default_collate"}}
    test = {"test_dataloader": loader, "test_cfg": {}, "test_evaluator": Scripted(acc=[1])}
    return make_runner(work_dir, [*hooks, {"type": "FinalTestHook"}], **test, **options)


def test_the_final_test_is_run_by_the_resumed_run_not_at_the_time_limit(tmp_path: Path) -> None:
    spy = FilesAtTest()
    with_test(tmp_path, [TimeLimitHook(1e-9), spy]).train()
    assert spy.files == []
    assert files_in(tmp_path) == ["iter_1.pth"]
    with_test(tmp_path, [spy], resume=True).train()
    assert spy.files == [["iter_1.pth"]]


@pytest.mark.parametrize("saver", [None, {"interval": 5, "save_last": False}])
def test_the_final_test_follows_an_early_stop_when_its_checkpoint_is_safe(tmp_path: Path, saver: Any) -> None:
    spy = FilesAtTest()
    early = EarlyStoppingHook("acc", patience=1)
    with_test(tmp_path, [early, spy], checkpoint=saver, metric=Scripted(acc=[2, 1])).train()
    assert spy.files == [["epoch_2.pth"]]


def test_without_test_data_there_is_no_final_test(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [{"type": "FinalTestHook"}])
    runner.train()
    assert runner.iter == runner.max_iters
    assert "no test at the end" in Path(runner.logger.log_file).read_text()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("03:00:00", 10800),
        ("00:01:30", 90),
        ("100:00:00", 360000),
        ("1-12:00:00", 129600),
        (90, 90),
        (1.5, 1.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_formats_of_the_limit(written: Any, seconds: float) -> None:
    assert TimeLimitHook(written).max_seconds == seconds


@pytest.mark.parametrize("written", ["3h", "00:00:00", "1:2:3", 0, -5])
def test_invalid_limits_are_refused(written: Any) -> None:
    with pytest.raises(ConfigError, match="TimeLimitHook.max_time"):
        TimeLimitHook(written)
