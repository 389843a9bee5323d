"""DeviceMonitorHook in a real run."""

import mmap
from pathlib import Path

import pytest
import torch
from tiny_runs import make_runner

from trainwright.engine.errors import ConfigError
from trainwright.hooks import DeviceMonitorHook
from trainwright.hooks.device_monitor import memory_use


def test_memory_goes_to_the_hub_at_each_interval(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [DeviceMonitorHook(interval=2)])
    runner.train()
    history = runner.message_hub.get_scalar("train/memory_cpu")
    assert len(history) == 3
    assert history.current() == pytest.approx(memory_use(torch.device("cpu"))["cpu"] / 2**20, rel=0.1)
    assert "train/memory_allocated" not in runner.message_hub.log_scalars


def test_new_memory_shows() -> None:
    before = memory_use(torch.device("cpu"))["cpu"]
    # Not a tensor: the allocator may place one in memory that an earlier test has left resident.
    with mmap.mmap(-1, 64 * 2**20) as memory:
        memory.write(bytes(len(memory)))
        assert memory_use(torch.device("cpu"))["cpu"] - before > 32 * 2**20


def test_the_interval_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        DeviceMonitorHook(interval=0)
