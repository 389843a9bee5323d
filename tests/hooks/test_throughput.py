"""ThroughputHook in real runs, with a clock controlled by the test."""

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Points, make_runner

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.hooks import ThroughputHook


class Clock(Hook):
    """A clock that advances by half a second per training iteration and by an hour per validation."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.now += 0.5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("trainwright.hooks.throughput.time", clock)
    return clock


def test_samples_and_batches_per_second(tmp_path: Path, clock: Clock) -> None:
    hook = ThroughputHook(window=2, flops_per_sample=100, peak_flops=8000)
    runner = make_runner(tmp_path, [clock, hook], dataset=Points(20), train_cfg={"max_epochs": 1})
    runner.train()
    hub = runner.message_hub
    assert hub.get_scalar("train/throughput").data[0].tolist() == [8.0, 8.0, 8.0]  # two full windows and a shorter one
    assert hub.get_scalar("train/batches_per_second").data[0].tolist() == [2.0, 2.0, 2.0]
    assert hub.get_scalar("train/mfu").data[0].tolist() == [0.1, 0.1, 0.1]


def test_an_epoch_shorter_than_the_window_is_measured_as_a_whole(tmp_path: Path, clock: Clock) -> None:
    runner = make_runner(tmp_path, [clock, ThroughputHook()], train_cfg={"max_epochs": 3})
    runner.train()
    assert runner.message_hub.get_scalar("train/throughput").data[0].tolist() == [8.0, 8.0, 8.0]
    assert "train/mfu" not in runner.message_hub.log_scalars


@pytest.mark.parametrize("options", [{"window": 0}, {"peak_flops": 1e12}, {"flops_per_sample": 1e9}])
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        ThroughputHook(**options)
