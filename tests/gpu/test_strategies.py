"""Sharded training on a device, in a group of one process."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_runs import config, difference, last_checkpoint
from torch import distributed

from trainwright.engine.run.runner import Runner
from trainwright.engine.strategy import shards

pytestmark = pytest.mark.gpu
BLOCKS = {"type": "FSDP2", "wrap": "Block"}
PLAN = {"blocks.*.fc1": "colwise", "blocks.*.fc2": "rowwise"}
ADAM = {"optimizer": {"type": "AdamW", "lr": 1e-3}, "clip_grad": {"max_norm": 0.1}, "accumulative_counts": 5}
HOOKS = [
    {"type": "EMAHook", "momentum": 0.1},
    {"type": "NanGuardHook", "action": "rollback", "interval": 3, "snapshot_interval": 3},
]


@pytest.fixture
def process_group(device: torch.device, tmp_path: Path) -> Iterator[None]:
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{_backend_of(device)}"
    distributed.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def _backend_of(device: torch.device) -> str:
    return str(distributed.get_default_backend_for_device(device))


def run(folder: Path, device: torch.device, strategy: Any, **changes: Any) -> Runner:
    runner = Runner.from_cfg({**config(folder, strategy, **changes), "device": str(device)})
    runner.train()
    return runner


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-5),
        ({"meta": True}, 1e-5),
        ({"cpu_offload": True}, 1e-5),
        ({"cpu_offload": True, "meta": True}, 1e-5),
        ({"mixed_precision": "bfloat16"}, 2e-2),
        ({"tensor_parallel": {"size": 1, "plan": PLAN}}, 1e-5),
    ],
)
def test_sharded_training_equals_that_of_one_process(
    options: dict[str, Any], tolerance: float, device: torch.device, tmp_path: Path
) -> None:
    changes = {"optim_wrapper": ADAM, "custom_hooks": HOOKS}
    run(tmp_path / "one", device, "Single", **changes)
    runner = run(tmp_path / "sharded", device, {**BLOCKS, **options}, **changes)
    stored = torch.device("cpu") if options.get("cpu_offload") else device
    assert all(shards.is_sharded(param) and param.device.type == stored.type for param in runner.model.parameters())
    one, sharded = last_checkpoint(tmp_path / "one"), last_checkpoint(tmp_path / "sharded")
    assert difference(one, sharded, ["state_dict", "ema_state_dict"]) < tolerance
    assert all(value.is_cpu for value in sharded["state_dict"].values())

    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    (tmp_path / "resumed" / "epoch_2.pth").unlink()
    resumed = run(tmp_path / "resumed", device, {**BLOCKS, **options}, **changes, resume=True)
    assert resumed.start.resumes
    assert difference(one, last_checkpoint(tmp_path / "resumed")) < tolerance


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("options", [{}, {"cpu_offload": True}])
def test_a_loss_scaler_skips_overflowed_steps(options: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    wrapper = {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": {"init_scale": 2.0**26}}
    results = []
    for name, strategy in (("one", "Single"), ("sharded", {**BLOCKS, **options})):
        runner = run(tmp_path / name, device, strategy, optim_wrapper=wrapper)
        results.append((last_checkpoint(tmp_path / name), runner.optim_wrapper.loss_scaler.get_scale()))
    assert results[0][1] == results[1][1] < 2.0**26
    assert difference(results[0][0], results[1][0]) < 5e-3
