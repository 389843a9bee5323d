"""IterTimerHook with a clock controlled by the test."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import make_runner

from trainwright.engine.records.message_hub import MessageHub
from trainwright.hooks import iter_timer
from trainwright.hooks.iter_timer import IterTimerHook


class Clock:
    """A clock that only advances in :meth:`wait`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(iter_timer, "perf_counter", clock)
    return clock


@pytest.fixture
def run() -> Any:
    return SimpleNamespace(
        message_hub=MessageHub("test"),
        iter=0,
        max_iters=10,
        val_dataloader=range(4),
        test_dataloader=range(2),
    )


def train(hook: IterTimerHook, run: Any, clock: Clock, data: float, step: float) -> None:
    clock.wait(data)
    hook.before_train_iter(run, run.iter)
    clock.wait(step)
    hook.after_train_iter(run, run.iter)
    run.iter += 1


def history(run: Any, key: str) -> list[float]:
    values: list[float] = run.message_hub.get_scalar(key).data[0].tolist()
    return values


def test_training(clock: Clock, run: Any) -> None:
    hook = IterTimerHook()
    hook.before_train(run)
    hook.before_train_epoch(run)
    train(hook, run, clock, 5.0, 20.0)
    assert run.message_hub.get_info("eta") == 25.0 * 9  # no better estimate yet
    train(hook, run, clock, 0.5, 0.5)
    assert run.message_hub.get_info("eta") == 1.0 * 8  # the slow first iteration no longer counts
    train(hook, run, clock, 0.25, 1.75)
    assert run.message_hub.get_info("eta") == 1.5 * 7
    assert history(run, "train/data_time") == [5.0, 0.5, 0.25]
    assert history(run, "train/time") == [25.0, 1.0, 2.0]


def test_training_that_continues(clock: Clock, run: Any) -> None:
    hook = IterTimerHook()
    run.iter = 6
    hook.before_train(run)
    hook.before_train_epoch(run)
    for _ in range(3):
        train(hook, run, clock, 0.0, 1.0)
    assert run.message_hub.get_info("eta") == 1.0


def test_a_validation_does_not_count(clock: Clock, run: Any) -> None:
    hook = IterTimerHook()
    hook.before_train(run)
    hook.before_train_epoch(run)
    train(hook, run, clock, 0.0, 1.0)
    hook.before_val_epoch(run)
    for index in range(2):
        clock.wait(1.0)
        hook.before_val_iter(run, index)
        clock.wait(2.0)
        hook.after_val_iter(run, index)
    assert run.message_hub.get_info("eta") == 3.0 * 2
    clock.wait(50.0)
    hook.after_val_epoch(run)
    train(hook, run, clock, 0.0, 1.0)
    assert history(run, "val/time") == [3.0, 3.0] and history(run, "val/data_time") == [1.0, 1.0]
    assert history(run, "train/data_time") == [0.0, 0.0]
    assert run.message_hub.get_info("eta") == 8.0


def test_in_a_real_run(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    runner.train()
    data_times, times = (runner.message_hub.get_scalar(f"train/{key}").data[0] for key in ("data_time", "time"))
    assert len(times) == 6 and (data_times > 0).all() and (data_times < times).all()
    assert runner.message_hub.get_info("eta") == 0.0


def test_a_subclass_from_mmengine_that_overrides_after_iter(
    clock: Clock, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iter_timer, "time", lambda: clock.now + 1000)

    class Timer(IterTimerHook):
        def _after_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
        ) -> None:
            now = clock.now + 1000
            runner.message_hub.update_scalar(f"{mode}/time", now - self.t)
            self.t = now
            if mode == "train":
                self.time_sec_tot += runner.message_hub.get_scalar("train/time").current()
                mean = self.time_sec_tot / (runner.iter - self.start_iter + 1)
                runner.message_hub.update_info("eta", mean * (runner.max_iters - runner.iter - 1))

    hook = Timer()
    run.iter = 4
    hook.before_train(run)
    hook.before_train_epoch(run)
    train(hook, run, clock, 1.0, 2.0)
    train(hook, run, clock, 2.0, 3.0)
    assert history(run, "train/time") == [3.0, 5.0] and history(run, "train/data_time") == [1.0, 2.0]
    assert run.message_hub.get_info("eta") == 4.0 * 4
    hook.before_val_epoch(run)
    clock.wait(1.0)
    hook.after_val_iter(run, 0)
    assert history(run, "val/time") == [1.0]
