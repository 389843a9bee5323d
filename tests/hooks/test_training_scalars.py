"""Hooks and schedulers that are controlled by scalars of the training: SwitchHook, accumulation, stopping, plateaus."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_bits import different_bits
from ranks import run_group
from tiny_runs import Line, Points, Scripted, StopAt, log_of, make_runner
from torch import Tensor

from trainwright.engine.distributed import get_rank, start_means
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation import training_scalar
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.hooks import EarlyStoppingHook, GradientAccumulationScheduleHook, SwitchHook

NAN = float("nan")


class Told(Line):
    """A model whose logged loss is predefined: one sequence for each rank, with one value for each iteration."""

    def __init__(self, *losses: Sequence[float]) -> None:
        super().__init__()
        self.temperature = 1
        self.losses = losses

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        super().train_step(data, optim_wrapper)
        iteration = MessageHub.get_current_instance().get_info("iter")
        return {"loss": torch.tensor(self.losses[get_rank()][iteration])}


class Seen(Hook):
    """Record the temperature and the number of iterations per update that each step trains with."""

    def __init__(self) -> None:
        self.temperatures: list[int] = []
        self.counts: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.temperatures.append(runner.model.temperature)
        self.counts.append(next(iter(runner.optim_wrapper.optim_wrappers.values())).accumulative_counts)


def run(work_dir: Path, hooks: Sequence[Any], losses: Sequence[float], **options: Any) -> Runner:
    """Train an iteration for each loss, without validation."""
    train_cfg = {"by_epoch": False, "max_iters": len(losses)}
    runner = make_runner(work_dir, hooks, model=Told(losses), train_cfg=train_cfg, **options)
    runner.train()
    return runner


def switched_at(work_dir: Path, losses: Sequence[float], **when: Any) -> int | None:
    """Return the number of iterations before a switch by ``train/loss``; None if there was none."""
    seen = Seen()
    run(work_dir, [SwitchHook("model.temperature", 7, when={"monitor": "train/loss", **when}), seen], losses)
    return seen.temperatures.index(7) if 7 in seen.temperatures else None


@pytest.mark.parametrize(
    ("when", "losses", "expected"),
    [
        ({"interval": 2, "below": 1}, [3, 0, 1.5, 0.4, 9, 9], 4),
        ({"interval": 2, "above": 1}, [0, 0, 0, 1.5, 0, 3, 0], 6),
        ({"interval": 2, "window": 1, "below": 1}, [3, 0, 9, 9], 2),  # the last value is enough
        ({"interval": 1, "window": 3, "below": 1}, [0, 0, 0.5, 9, 9], 3),  # not before the window is full
        ({"interval": 2, "window": 3, "below": 1}, [9, 0, 0, 0, 9, 9], 4),
        ({"interval": 2, "below": 1}, [NAN, 0, 0, 0, 9, 9], 4),
        ({"interval": 1, "plateau": {"patience": 2}}, [5, 4, 4, 3, 3.5, NAN, 1], 6),
        ({"interval": 1, "plateau": {"patience": 2, "min_delta": 0.5}}, [5, 4, 3.6, 3.5, 3.4, 3.3], 4),
        ({"interval": 1, "plateau": {"patience": 2, "rule": "greater"}}, [5, 4, 6, 6, 6, 6], 5),
        ({"below": 1}, [0.0] * 52, 50),
    ],
)
def test_a_condition_on_a_training_scalar(
    tmp_path: Path, when: dict[str, Any], losses: list[float], expected: int
) -> None:
    assert switched_at(tmp_path, losses, **when) == expected


def test_a_plateau_of_a_validation_result(tmp_path: Path) -> None:
    seen = Seen()
    when = {"monitor": "acc", "plateau": {"patience": 2}}
    make_runner(
        tmp_path, [SwitchHook("model.temperature", 7, when=when), seen], model=Told([1.0] * 12),
        train_cfg={"max_epochs": 6}, metric=Scripted(acc=[1, 3, 2, 3, 1, 1]),
    ).train()  # fmt: skip
    assert seen.temperatures == [1] * 8 + [7] * 4


def test_nothing_is_read_between_the_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is waited for, and the other ranks are asked, in every fourth iteration only."""
    reads, asked = [], []
    flush = MessageHub.flush
    monkeypatch.setattr(MessageHub, "flush", lambda hub: (reads.append(hub.get_info("iter")), flush(hub)))
    monkeypatch.setattr(training_scalar, "start_means", lambda parts: (asked.append(1), start_means(parts))[1])
    when = {"monitor": "train/loss", "interval": 4, "below": -1}
    hooks = [SwitchHook("model.temperature", 7, when=when), EarlyStoppingHook("train/loss", interval=4, patience=9)]
    runner = make_runner(tmp_path, hooks, model=Told([1.0] * 10), train_cfg={"by_epoch": False, "max_iters": 10})
    runner.train()
    assert set(reads) == {0, 3, 7, 9}  # at 0 by RuntimeInfoHook, at 9 for the log line
    assert len(asked) == 4


def test_each_plateau_raises_the_accumulation(tmp_path: Path) -> None:
    seen = Seen()
    when = {"monitor": "train/loss", "interval": 1, "plateau": {"patience": 2}}
    hook = GradientAccumulationScheduleHook(when=when, counts=[2, 3])
    runner = run(tmp_path, [hook, seen], [5, 5, 5, 5, 5, 4, 4, 4, 4, 4])
    assert seen.counts == [1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert "Gradient accumulation: 3 iterations per update from now on (train/loss)" in log_of(runner)


def test_a_result_raises_the_accumulation(tmp_path: Path) -> None:
    seen = Seen()
    hook = GradientAccumulationScheduleHook(when={"monitor": "acc", "above": 2}, counts=4)
    make_runner(
        tmp_path, [hook, seen], model=Told([1.0] * 8), train_cfg={"max_epochs": 4}, metric=Scripted(acc=[1, 3, 1, 1])
    ).train()
    assert seen.counts == [1] * 4 + [4] * 4


@pytest.mark.parametrize(
    ("options", "losses", "stopped", "reason"),
    [
        ({"patience": 2}, [5, 5, 4, 4, 4, 4, 4, 5, 1, 1], 8, r"train/loss did not improve in the last 2 readings \(best: 4"),
        ({"stopping_threshold": 1}, [5, 5, 1, 0.5, 9, 9], 4, "train/loss is 0.7500, less than the threshold 1"),
        ({"window": 1}, [5, 5, 1, NAN, 9, 9], 4, "train/loss is nan"),
        ({"patience": 2, "min_delta": 1}, [5, 5, 4.5, 4.5, 4, 4, 1, 1], 6, "last 2 readings"),
    ],
)  # fmt: skip
def test_a_run_without_validation_stops_early(
    tmp_path: Path, options: dict[str, Any], losses: list[float], stopped: int, reason: str
) -> None:
    def train() -> Runner:
        hook = EarlyStoppingHook("train/loss", interval=2, **options)
        return run(tmp_path, [hook], losses, checkpoint={"interval": 1, "by_epoch": False}, resume=True)

    runner = train()
    assert runner.iter == stopped
    assert re.search(reason, log_of(runner))
    again = train()  # it stays stopped
    assert again.iter == stopped
    assert "already stopped early" in log_of(again)


def test_a_run_stops_within_an_epoch_and_both_kinds_of_monitors_count(tmp_path: Path) -> None:
    hook = EarlyStoppingHook(["train/loss", "acc"], patience=2, interval=1)
    runner = make_runner(
        tmp_path, [hook], model=Told([3, 1, 2, 2, 0, 1, 1, 1]), train_cfg={"max_epochs": 4},
        metric=Scripted(acc=[3, 3, 3, 3]), checkpoint={"interval": 1},
    )  # fmt: skip
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 7)
    assert (tmp_path / "last_checkpoint").read_text() == "iter_7.pth"


def test_the_learning_rate_falls_at_plateaus_of_the_training(tmp_path: Path) -> None:
    scheduler = {"type": "ReduceOnPlateauLR", "monitor": "train/loss", "interval": 2, "patience": 1, "threshold": 0.0}
    rates: list[float] = []

    class Rates(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            rates.append(round(runner.optim_wrapper.get_lr()["lr"][0], 6))

    run(tmp_path, [Rates()], [5, 5, 4, 4, 4, 4, 4, 4, 3, 3], param_scheduler=scheduler)
    assert rates == [0.1] * 8 + [0.01] * 2


def all_at_once() -> tuple[list[Any], dict[str, Any]]:
    """Return hooks that all read scalars of the training, and a scheduler."""
    reading = {"monitor": "train/loss", "interval": 3, "plateau": {"patience": 1, "min_delta": 0.01}}
    hooks = [
        {"type": "SwitchHook", "target": "model.temperature", "value": 7, "when": reading, "priority": "LOWEST"},
        {"type": "GradientAccumulationScheduleHook", "counts": [2, 3], "when": {**reading, "interval": 4, "window": 6}},
        {"type": "EarlyStoppingHook", "monitor": "train/loss", "interval": 4, "patience": 4, "min_delta": 0.05},
    ]
    scheduler = {"type": "ReduceOnPlateauLR", "monitor": "train/loss", "interval": 3, "patience": 0, "threshold": 0.1}
    return hooks, scheduler


def train_all_at_once(work_dir: Path, *, stop: int = 0, resume: bool = False) -> Runner:
    hooks, scheduler = all_at_once()
    runner = make_runner(
        work_dir, [*hooks, *([StopAt(stop)] if stop else [])], model=Told([2, 1.5, 1, 1.2, 1, 0.8, 0.9, 1, 1, 0.7] * 3),
        train_cfg={"max_epochs": 6}, dataset=Points(20), param_scheduler=scheduler, resume=resume,
        checkpoint={"interval": 3, "by_epoch": False, "save_last": True}, momentum=0.5,
    )  # fmt: skip
    runner.train()
    return runner


def test_decisions_are_the_same_after_a_cut(tmp_path: Path) -> None:
    whole = train_all_at_once(tmp_path / "whole")
    log = log_of(whole)
    assert whole.iter == 24, "stopped early, in an epoch"
    assert all(text in log for text in ("Switched model.temperature", "accumulation: 3 iterations", "4 readings"))
    for stop in (2, 3, 4, 8, 11, 12):  # within windows, and where scalars are read and checkpoints are written
        train_all_at_once(tmp_path / str(stop), stop=stop)
        train_all_at_once(tmp_path / str(stop), resume=True)
        for file in ("iter_15.pth", "iter_24.pth"):
            assert not different_bits(tmp_path / "whole" / file, tmp_path / str(stop) / file), (stop, file)


def test_ranks_with_different_losses_decide_alike(tmp_path: Path) -> None:
    """On its own, the first rank would switch at once and stop, and the second one never."""

    def train() -> list[Any]:
        when = {"monitor": "train/loss", "interval": 2, "below": 1}
        seen = Seen()
        hooks = [
            SwitchHook("model.temperature", 7, when=when),
            EarlyStoppingHook("train/loss", interval=2, patience=3),
            GradientAccumulationScheduleHook(when={**when, "below": 1.2}, counts=2),
            seen,
        ]
        model = Told([0, 0, 0, 0, 0.9, 0.9, 0.8, 0.8, *[1] * 6], [5, 5, 4, 4, 1.3, 1.3, 1.1, 1.1, *[1] * 6])
        runner = make_runner(
            tmp_path / "run", hooks, model=model, train_cfg={"by_epoch": False, "max_iters": 40}, batch_size=2
        )
        runner.train()
        return [seen.temperatures, seen.counts, runner.iter]

    one, other = run_group(2, train, tmp_path)
    assert one == other == [[1] * 8 + [7] * 6, [1] * 6 + [2] * 8, 14]


def test_a_missing_scalar_is_reported_after_the_first_step_and_an_error_at_the_first_reading(tmp_path: Path) -> None:
    hook = SwitchHook("model.temperature", 7, when={"monitor": "train/los", "interval": 3, "below": 1})
    runner = make_runner(tmp_path, [hook], model=Told([1.0] * 6))
    with pytest.raises(ConfigError, match=r"no scalar 'train/los' of the training\n.*did you mean 'train/loss'"):
        runner.train()
    assert runner.iter == 2
    assert re.search(r"no scalar 'train/los' of the training yet, .* after 3 iterations: did you mean", log_of(runner))


@pytest.mark.parametrize("workers", [0, 2])
def test_data_workers_see_a_switch_by_a_scalar_from_the_next_batch_on(tmp_path: Path, workers: int) -> None:
    when = {"monitor": "train/loss", "interval": 3, "below": 1}
    switch = SwitchHook("train_dataloader.dataset.targets", torch.zeros(24), when=when)
    runner = make_runner(
        tmp_path, [switch], model=Told([0.0] * 6), dataset=Points(24), train_cfg={"max_epochs": 1},
        train_dataloader={"num_workers": workers},
    )  # fmt: skip
    runner.train()
    assert [bool(targets.any()) for targets in runner.model.seen] == [True, True, True, False, False, False]


def test_monitors_without_validation_are_reported(tmp_path: Path) -> None:
    hooks = [EarlyStoppingHook("acc"), SwitchHook("model.temperature", 7, when={"monitor": "loss", "below": 1})]
    runner = run(tmp_path, hooks, [1.0], param_scheduler={"type": "ReduceOnPlateauLR"})
    for owner in ("EarlyStoppingHook monitors acc", "SwitchHook monitors loss", "ReduceOnPlateauLR monitors loss"):
        assert f"{owner}, but there is no validation" in log_of(runner)


@pytest.mark.parametrize(
    ("hook", "options"),
    [
        (GradientAccumulationScheduleHook, {}),
        (GradientAccumulationScheduleHook, {"when": {"monitor": "train/loss", "below": 1}}),
        (GradientAccumulationScheduleHook, {"when": {"monitor": "train/loss", "below": 1}, "counts": [2, 0]}),
        (GradientAccumulationScheduleHook, {"schedule": {0: 1}, "counts": 2}),
        (EarlyStoppingHook, {"monitor": "acc", "interval": 5}),
        (EarlyStoppingHook, {"monitor": "train/loss", "window": 0}),
    ],
)
def test_impossible_settings_are_refused(hook: type[Hook], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        hook(**options)
