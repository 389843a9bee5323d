"""Numbers in attributes of modules are part of checkpoints."""

from pathlib import Path
from typing import Any

import torch
from tiny_runs import Line, ParallelLine, StopAt, make_runner, weights_of
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.run.module_values import ModuleValues


class Scale(nn.Module):
    """A module that counts its calls, and scales by what the last call has chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scales: tuple[float, float] | None = None
        self.recent: list[float] = []

    def forward(self, values: Tensor) -> Tensor:
        scale = 1 + 0.1 * self.calls + (self.scales or (0.0, 0.0))[1] + sum(self.recent)
        self.calls += 1
        self.scales = (0.0, float(torch.rand(())))
        self.recent = [*self.recent[-2:], 0.1 * self.calls]
        return values * scale


def scaled() -> Line:
    model = Line()
    model.norm = Scale()
    return model


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / "whole", model=scaled(), lr=1e-3)
    whole.train()
    make_runner(tmp_path / "cut", [StopAt(3)], model=scaled(), lr=1e-3).train()
    resumed = make_runner(tmp_path / "cut", model=scaled(), lr=1e-3, resume=True)
    resumed.train()
    assert resumed.model.norm.calls == whole.model.norm.calls == 6
    assert all(torch.equal(*pair) for pair in zip(weights_of(whole).values(), weights_of(resumed).values()))


def test_checkpoints_of_an_ordinary_model_contain_none(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, model=ParallelLine(), checkpoint=dict(interval=1))
    runner.train()
    assert runner.model._is_init
    assert "modules" not in load_checkpoint_file(tmp_path / "epoch_3.pth")["trainwright"]


class Masked(nn.Module):
    """A module that computes a mask for the size of its input."""

    def __init__(self, register: bool = False) -> None:
        super().__init__()
        self.size: int | None = None
        self.register = register

    def forward(self, values: Tensor) -> Tensor:
        if self.size != len(values):
            self.size = len(values)
            mask = torch.ones(self.size)
            self.register_buffer("mask", mask, persistent=False) if self.register else setattr(self, "mask", mask)
        return values * self.mask


def test_numbers_that_describe_an_object_are_not_restored() -> None:
    for register in (False, True):
        model = nn.Sequential(Masked(register), nn.Dropout())
        values = ModuleValues(model)
        values.start()
        assert values.state_dict() is None
        model(torch.ones(3))
        assert values.state_dict() is None
        model[1].p = 0.1
        assert values.state_dict() == {"1": {"p": 0.1}}
    fresh = nn.Sequential(Masked(), nn.Dropout())
    ModuleValues(fresh).load_state_dict({"1": {"p": 0.1}, "gone": {"x": 1}})
    assert fresh[1].p == 0.1 and fresh[0].size is None


def test_a_cache_in_a_dictionary_or_list_of_objects() -> None:
    model: Any = nn.Identity()
    model.cache, model.parts = {}, []
    values = ModuleValues(model)
    values.start()
    model.count = 1
    assert values.state_dict() == {"": {"count": 1}}
    model.cache[3] = torch.ones(3)
    assert values.state_dict() is None
    model.cache.clear()
    model.parts.append(torch.ones(1))
    assert values.state_dict() is None


def test_a_new_flag_is_not_restored() -> None:
    model: Any = nn.Identity()
    model.frozen = False
    values = ModuleValues(model)
    values.start()
    model.hooks_installed = True
    assert values.state_dict() is None
    model.frozen, model.count = True, 1
    assert values.state_dict() == {"": {"frozen": True, "count": 1}}
