"""ModelSummaryHook logs a table."""

from pathlib import Path

import pytest
from tiny_runs import log_of, make_runner
from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.hooks import ModelSummaryHook
from trainwright.hooks.model_summary import summarize


def test_the_table_is_in_the_log(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [ModelSummaryHook()], train_cfg={"max_epochs": 1})
    runner.train()
    assert (
        "Model summary:\n"
        "module   type      parameters  trainable  size\n"
        "(model)  Line               3          3  12 B\n"
        "  fc     Linear             3          3  12 B\n"
        "  norm   Identity           0          0   0 B\n"
    ) in log_of(runner)


def test_depth_chooses_how_much_is_shown() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(1000, 1000), nn.ReLU()), nn.BatchNorm1d(4))
    model[0][0].bias.requires_grad_(False)
    assert summarize(model, depth=0).splitlines()[1:] == ["(model)  Sequential   1,001,008  1,000,008  3.8 MiB"]
    assert len(summarize(model, depth=1).splitlines()) == 4
    assert len(summarize(model, depth=-1).splitlines()) == 6


def test_shared_weights_count_once_in_the_total() -> None:
    shared = nn.Linear(3, 3, bias=False)
    lines = summarize(nn.Sequential(shared, nn.Sequential(shared))).splitlines()
    assert lines[1].split()[:3] == ["(model)", "Sequential", "9"]


def test_the_depth_is_validated() -> None:
    with pytest.raises(ConfigError, match="at least -1"):
        ModelSummaryHook(depth=-2)
