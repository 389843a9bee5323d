"""The functions for scripts, with the names and arguments of MMEngine's."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Line, make_runner
from torch import nn

from trainwright.engine import (
    CheckpointError,
    find_latest_checkpoint,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    set_random_seed,
    weights_to_cpu,
)
from trainwright.engine.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module(force=True)
class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_weights_of_a_run_are_loaded(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, checkpoint={})
    runner.train()
    newest = find_latest_checkpoint(tmp_path)
    assert newest == str(tmp_path / "epoch_3.pth") and find_latest_checkpoint(tmp_path / "none") is None
    model = Wrapped(Line())
    checkpoint = load_checkpoint(model, newest, map_location=None, strict=True)
    assert torch.equal(model.module.fc.weight, runner.model.fc.weight) and checkpoint["meta"]["epoch"] == 3
    assert list(get_state_dict(model)) == list(get_state_dict(model.module)) == ["fc.weight", "fc.bias"]
    assert get_state_dict(model.module, {}, "net.", keep_vars=True)["net.fc.weight"] is model.module.fc.weight


def test_weights_are_saved_and_names_revised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = Line(), Line()
    nn.init.normal_(source.fc.weight)
    weights = weights_to_cpu(source.state_dict())
    assert weights._metadata == source.state_dict()._metadata  # type: ignore[attr-defined]
    weights = {f"backbone.{name}": value for name, value in weights.items()} | {"head.weight": torch.zeros(1)}
    save_checkpoint({"state_dict": weights}, tmp_path / "new/weights.pth")
    with pytest.raises(CheckpointError, match="none of the weights match"):
        load_checkpoint(target, tmp_path / "new/weights.pth")
    load_checkpoint(target, tmp_path / "new/weights.pth", revise_keys=[(r"^backbone\.", "")])
    assert torch.equal(source.fc.weight, target.fc.weight)
    assert "in the file but not in the model" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="head"):
        load_state_dict(target, {**source.state_dict(), "head": torch.zeros(1)}, strict=True)


def test_all_generators_are_seeded() -> None:
    def draw() -> list[Any]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        assert set_random_seed(5, deterministic=True) == 5
        first = draw()
        assert torch.are_deterministic_algorithms_enabled()
        assert set_random_seed(5, diff_rank_seed=True) == 5 and draw() == first
        assert set_random_seed() != set_random_seed() and draw() != first
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
