"""Checkpoints for MMEngine. The real MMEngine 0.10.7 resumed bit by bit from files of this structure."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, StopAt, make_runner, weights_of
from torch import Tensor

from trainwright.engine import ConfigError, OptimWrapper, OptimWrapperDict, load_checkpoint_file
from trainwright.engine.checkpoints.mmengine_format import as_mmengine, as_ours
from trainwright.hooks import CheckpointHook

MMENGINES = Path(__file__).parents[2] / "data" / "mmengine_epoch_1.pth"
# Of fc.weight, fc.bias, norm.weight, norm.bias: the learning rates differ, so that merged groups have another order.
PARAMWISE = {"custom_keys": {"weight": {"lr_mult": 2.0}}}
CYCLE = {"type": "OneCycleLR", "eta_max": 0.5, "total_steps": 6, "by_epoch": False, "div_factor": 5.0}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def run(work_dir: Path, *hooks: Any, optim_wrapper: Any = None, mmengine_format: bool = True, **options: Any) -> Any:
    checkpoint = {"interval": 1, "mmengine_format": mmengine_format}
    settings = {"paramwise_cfg": PARAMWISE, "accumulative_counts": 4}
    runner = make_runner(
        work_dir, hooks, model=Line(batch_norm=True), checkpoint=checkpoint, optim_wrapper=optim_wrapper or settings,
        param_scheduler=CYCLE, **options,
    )  # fmt: skip
    runner.train()
    return runner


def test_the_file_has_the_structure_of_mmengines(tmp_path: Path) -> None:
    run(tmp_path, {"type": "EMAHook"})
    ours, theirs = torch.load(tmp_path / "epoch_2.pth", weights_only=True), load_checkpoint_file(MMENGINES)
    assert theirs.keys() <= ours.keys() <= theirs.keys() | {"trainwright"}
    assert theirs["meta"].keys() <= ours["meta"].keys() and ours["meta"]["mmengine_version"] == "0.10.7"
    assert "config" not in ours["meta"]  # MMEngine would parse it as text
    hub = ours["message_hub"]
    assert hub.keys() == theirs["message_hub"].keys() and hub["log_scalars"] == {}
    assert hub["resumed_keys"].keys() == hub["runtime_info"].keys()
    optimizer = ours["optimizer"]
    assert [group["params"] for group in optimizer["param_groups"]] == [[0], [1], [2], [3]]
    assert list(optimizer["state"]) == [0, 1, 2, 3]
    assert [state["momentum_buffer"].shape for state in optimizer["state"].values()] == [(1, 2), (1,), (2,), (2,)]
    bounds = {"initial_lr": 0.1, "max_lr": 0.5, "min_lr": pytest.approx(1e-5)}
    for group in [*optimizer["param_groups"], optimizer["base_param_settings"]]:
        assert theirs["optimizer"]["param_groups"][0].keys() <= group.keys()
        assert group.items() >= bounds.items()
    assert "fc.weight" in ours["state_dict"] and "module.fc.weight" in ours["ema_state_dict"]


def test_settings_stay_with_their_parameters(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path, model=Line(batch_norm=True), checkpoint={"interval": 1, "mmengine_format": True},
        optim_wrapper={"paramwise_cfg": PARAMWISE},
    )  # fmt: skip
    runner.train()
    optimizer = load_checkpoint_file(tmp_path / "epoch_3.pth")["optimizer"]
    assert [group["lr"] for group in optimizer["param_groups"]] == [0.2, 0.1, 0.2, 0.1]
    own = runner.optim_wrapper.optimizer.state
    for state, param in zip(optimizer["state"].values(), runner.model.parameters()):
        assert torch.equal(state["momentum_buffer"], own[param]["momentum_buffer"])


def test_equal_settings_of_all_parameters_are_one_group_for_each(tmp_path: Path) -> None:
    runner = run(tmp_path, optim_wrapper={"paramwise_cfg": {"custom_keys": {"none": {"lr_mult": 2.0}}}})
    assert len(runner.optim_wrapper.optimizer.param_groups) == 1
    optimizer = load_checkpoint_file(tmp_path / "epoch_3.pth")["optimizer"]
    assert len(optimizer["param_groups"]) == 4
    assert optimizer["base_param_settings"]["params"].shape == (1,)


def test_without_paramwise_cfg_the_groups_stay(tmp_path: Path) -> None:
    run(tmp_path, optim_wrapper={"accumulative_counts": 1})
    optimizer = load_checkpoint_file(tmp_path / "epoch_3.pth")["optimizer"]
    assert [group["params"] for group in optimizer["param_groups"]] == [[0, 1, 2, 3]]
    assert "base_param_settings" not in optimizer


def test_resuming_is_exact_also_within_an_accumulation_window(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", mmengine_format=False)
    run(tmp_path / "resumed", StopAt(3))
    stored = torch.load(tmp_path / "resumed" / "iter_3.pth", weights_only=True)
    assert stored["optimizer"]["accumulation"]["grads"]
    resumed = run(tmp_path / "resumed", resume=True)
    assert same(weights_of(resumed), weights_of(whole))
    losses, expected = (runner.message_hub.get_scalar("train/loss").data[0] for runner in (resumed, whole))
    assert len(losses) == 6 and losses.tolist() == expected.tolist()


def test_the_original_is_restored(tmp_path: Path) -> None:
    run(tmp_path, {"type": "EMAHook"}, StopAt(3), mmengine_format=False)
    original = load_checkpoint_file(tmp_path / "iter_3.pth")
    untouched = copy.deepcopy(original)
    converted = as_mmengine(original)
    assert same(original, untouched)
    assert not same(converted, original)
    assert same(as_ours(converted), original)
    assert as_ours(original) is original
    for left_out in ("optimizer", "param_schedulers", "message_hub"):
        partial = {key: value for key, value in original.items() if key != left_out}
        assert same(as_ours(as_mmengine(partial)), partial)


def test_several_optimizers(tmp_path: Path) -> None:
    model = Line(batch_norm=True)
    parts = {
        name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1))
        for name, part in (("fc", model.fc), ("norm", model.norm))
    }
    state = OptimWrapperDict(**parts).state_dict()
    for part in state.values():
        part["param_order"] = [1, 0]
    checkpoint = {"meta": {}, "state_dict": {}, "optimizer": state, "trainwright": {"format": 1}}
    checkpoint["param_schedulers"] = {
        "fc": [{"settings": {"eta_max": 1.0, "div_factor": 2.0, "final_div_factor": 4.0}}]
    }
    converted = as_mmengine(checkpoint)["optimizer"]
    assert [[group.get("max_lr") for group in converted[name]["param_groups"]] for name in parts] == [
        [1.0] * 2,
        [None] * 2,
    ]
    assert same(as_ours(as_mmengine(checkpoint)), checkpoint)


def test_sharded_checkpoints_have_no_such_form() -> None:
    with pytest.raises(ConfigError, match=r"mmengine_format: MMEngine cannot read sharded checkpoints"):
        CheckpointHook(mmengine_format=True, sharded=True)
