"""GradientAccumulationScheduleHook in real runs, by the iterations after which the weights change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_runner

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook


class Updates(Hook):
    """Record the iterations, counted from 1, after which the weights have changed."""

    def __init__(self) -> None:
        self.iterations: list[int] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.before = runner.model.fc.weight.detach().clone()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not torch.equal(self.before, runner.model.fc.weight):
            self.iterations.append(runner.iter + 1)


def updates_of(work_dir: Path, schedule: dict, by_epoch: bool = True, **options: Any) -> list[int]:
    updates = Updates()
    hook = {"type": "GradientAccumulationScheduleHook", "schedule": schedule, "by_epoch": by_epoch}
    make_runner(work_dir, [updates, hook], **options).train()
    return updates.iterations


def test_by_epoch(tmp_path: Path) -> None:
    assert updates_of(tmp_path, {0: 1, 2: 2}, train_cfg={"max_epochs": 4}) == [1, 2, 3, 4, 6, 8]


def test_by_iteration(tmp_path: Path) -> None:
    assert updates_of(tmp_path, {1: 2, 5: 1}, by_epoch=False, train_cfg={"max_epochs": 4}) == [
        1,
        3,
        5,
        6,
        7,
        8,
    ]


def test_a_window_in_progress_is_finished(tmp_path: Path) -> None:
    # The window of three that starts at iteration 4 extends into the third epoch, which starts at iteration 5.
    assert updates_of(tmp_path, {0: 3, 2: 1}, train_cfg={"max_epochs": 4}) == [3, 6, 7, 8]


def test_keys_may_be_strings_as_in_json(tmp_path: Path) -> None:
    assert updates_of(tmp_path, {"0": 2}, train_cfg={"max_epochs": 2}) == [2, 4]


def test_a_resume_is_exact(tmp_path: Path) -> None:
    hook = {"type": "GradientAccumulationScheduleHook", "schedule": {0: 1, 1: 3}}
    unbroken = make_runner(tmp_path / "a", [hook], train_cfg={"max_epochs": 4})
    unbroken.train()
    make_runner(tmp_path / "b", [hook], checkpoint={"interval": 1}, train_cfg={"max_epochs": 2}).train()
    resumed = make_runner(tmp_path / "b", [hook], train_cfg={"max_epochs": 4}, resume=True)
    resumed.train()
    assert resumed.optim_wrapper.accumulative_counts == 3
    assert unbroken.iter == resumed.iter == 8


@pytest.mark.parametrize("schedule", [{}, {-1: 2}, {0: 0}])
def test_impossible_schedules_are_refused(tmp_path: Path, schedule: dict) -> None:
    with pytest.raises(ConfigError, match="GradientAccumulationScheduleHook.schedule"):
        make_runner(tmp_path, [{"type": "GradientAccumulationScheduleHook", "schedule": schedule}])
