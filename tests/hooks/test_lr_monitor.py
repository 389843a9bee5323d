"""LearningRateMonitorHook in real runs, with values read back from the backend's file."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import make_runner

from trainwright.engine.errors import ConfigError
from trainwright.hooks import LearningRateMonitorHook


def scalars_of(runner: Any) -> list[dict[str, Any]]:
    lines = (Path(runner.log_dir) / "vis_data" / "scalars.json").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if any(key.startswith("lr/") for key in entry)]


def test_each_group_is_recorded(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [LearningRateMonitorHook(interval=3)],
        lr=0.2,
        optim_wrapper={"paramwise_cfg": {"custom_keys": {"bias": {"lr_mult": 2.0}}}},
        param_scheduler={"type": "ExponentialLR", "gamma": 0.5},
    )
    runner.train()
    assert scalars_of(runner) == [
        {"lr/0": 0.1, "lr/1": 0.2, "momentum/0": 0.9, "momentum/1": 0.9, "step": 3},
        {"lr/0": 0.05, "lr/1": 0.1, "momentum/0": 0.9, "momentum/1": 0.9, "step": 6},
    ]


def test_without_momentum(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [LearningRateMonitorHook(interval=6, with_momentum=False)], lr=0.2)
    runner.train()
    assert scalars_of(runner) == [{"lr/0": 0.2, "step": 6}]


def test_the_interval_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        LearningRateMonitorHook(interval=0)
