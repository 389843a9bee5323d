"""Synchronized batch normalization, activation checkpointing, and model wrappers."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from torch import Tensor, nn

from trainwright.engine.distributed import get_rank
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODEL_WRAPPERS, Registry
from trainwright.engine.run.model_surgery import (
    convert_sync_batchnorm,
    is_model_wrapper,
    revert_sync_batchnorm,
    turn_on_activation_checkpointing,
)
from trainwright.engine.strategy.base import with_synced_batchnorm


class Block(nn.Module):
    """A layer that counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.computed = 0

    def forward(self, inputs: Tensor, scale: float = 1.0) -> Tensor:
        self.computed += 1
        return self.drop(self.layer(inputs)) * scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs), scale=2.0)


def test_sync_batchnorm_there_and_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.3), nn.Sequential(nn.BatchNorm1d(4))
    )
    model[2].eval()
    original, names = model[1], list(model.state_dict())

    converted = convert_sync_batchnorm(model)
    assert converted is model
    assert type(model[1]) is type(model[2][0]) is nn.SyncBatchNorm
    assert model[1].weight is original.weight
    assert model[1].running_mean is original.running_mean
    assert (model[1].eps, model[1].momentum) == (1e-3, 0.3)
    assert convert_sync_batchnorm(model)[1] is model[1]

    reverted = revert_sync_batchnorm(model)
    assert model[1].weight is original.weight
    assert list(reverted.state_dict()) == names
    assert model[1].training
    assert not model[2][0].training
    inputs = torch.rand(2, 4, 5, 5)
    assert torch.equal(model[1](inputs), original(inputs))
    assert model[1](torch.rand(3, 4)).shape == (3, 4)
    with pytest.raises(ValueError, match="at least 2 dimensions, not 1"):
        model[1](torch.rand(4))


def test_a_batch_norm_alone() -> None:
    norm = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    sync = convert_sync_batchnorm(norm)
    assert isinstance(sync, nn.SyncBatchNorm)
    assert sync.weight is None
    assert sync.running_mean is None
    with pytest.raises(ConfigError, match="sync_bn: must be 'torch' or 'mmcv', not 'apex'"):
        convert_sync_batchnorm(norm, "apex")


@pytest.mark.parametrize("momentum", [0.3, None])
def test_on_cpus_batches_of_several_processes_are_normalized_as_one(tmp_path: Path, momentum: float | None) -> None:
    torch.manual_seed(0)
    inputs, wanted = torch.randn(5, 4, 3, 2) + 10, torch.rand(5, 4, 3, 2)
    parts = [slice(0, 2), slice(2, 5)]

    def step(norm: nn.Module, own: slice) -> list[Tensor]:
        given = inputs[own].clone().requires_grad_()
        outputs = [norm(given)]
        ((outputs[0] - wanted[own]) ** 2).sum().backward()
        return [
            *outputs,
            given.grad,
            norm.weight.grad,
            norm(given),
            norm.running_mean,
            norm.running_var,
            norm.eval()(given),
        ]

    def in_rank() -> list[Tensor]:
        norm = with_synced_batchnorm(nn.SyncBatchNorm(4, momentum=momentum), None, torch.device("cpu"))
        return [value.detach() for value in step(norm, parts[get_rank()])]

    whole = step(nn.BatchNorm2d(4, momentum=momentum), slice(0, 5))
    ranks = run_group(2, in_rank, tmp_path)
    for rank, part in zip(ranks, parts):
        for index in (0, 1, 3, 6):
            torch.testing.assert_close(rank[index], whole[index][part], rtol=1e-4, atol=1e-5)
        for index in (4, 5):
            torch.testing.assert_close(rank[index], whole[index])
    torch.testing.assert_close(ranks[0][2] + ranks[1][2], whole[2])


def test_checkpointing_changes_no_number() -> None:
    torch.manual_seed(0)
    plain = Net()
    saving = deepcopy(plain)
    turn_on_activation_checkpointing(saving, ["first", "second"])
    inputs = torch.rand(4, 3)
    for model in (plain, saving):
        torch.manual_seed(1)
        model(inputs).sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(one.grad, other.grad)
    assert (plain.first.computed, saving.first.computed, saving.second.computed) == (1, 2, 2)
    assert list(saving.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        saving(inputs)
    assert saving.first.computed == 3


def test_copies_compute_with_their_own_weights() -> None:
    model = Net().eval()
    turn_on_activation_checkpointing(model, "first.layer")
    copy = deepcopy(model)
    nn.init.zeros_(copy.first.layer.weight)
    nn.init.zeros_(copy.first.layer.bias)
    inputs = torch.rand(2, 3)
    assert copy.first(inputs).abs().max() == 0
    assert model.first(inputs).abs().max() > 0


@pytest.mark.parametrize(
    ("name", "hint"),
    [("frist", "did you mean 'first'"), ("", "its children are first, second"), ("zzz", "its children")],
)
def test_unknown_submodules(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"activation_checkpointing: Net has no submodule '{name}'\n    {hint}"):
        turn_on_activation_checkpointing(Net(), [name])


def test_wrappers() -> None:
    wrappers = Registry("wrapper", parent=MODEL_WRAPPERS, scope="test_wrappers")

    @wrappers.register_module()
    class Wrapper(nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

    try:
        assert is_model_wrapper(nn.DataParallel(nn.Linear(1, 1)))
        assert is_model_wrapper(Wrapper(nn.Linear(1, 1)))
        assert not is_model_wrapper(nn.Linear(1, 1))
    finally:
        del MODEL_WRAPPERS.children["test_wrappers"]
