"""Estimates compared with real processes: every byte that a rank keeps, sends and receives."""

from pathlib import Path
from typing import Any

import pytest
from estimate_runs import measure_all, shipped, summed
from ranks import run_ranks
from strategy_runs import config

from trainwright.engine import Config
from trainwright.engine.estimate.batch import read_batch
from trainwright.engine.estimate.trace import Trace, trace

KEPT = ("parameters", "buffers", "gradients", "optimizer state", "averaged weights and snapshots")
BEFORE_A_STEP = (
    "parameters",
    "buffers",
    "optimizer state",
    "averaged weights and snapshots",
    "input batch",
    "communication buffers",
)
PLAN = {"blocks.*.fc1": "colwise", "blocks.*.fc2": "rowwise"}
ADAM = {"optim_wrapper": {"optimizer": {"type": "AdamW", "momentum": None, "lr": 0.1}}}
COPIES = {
    "custom_hooks": [
        {"type": "EMAHook"},
        {"type": "NanGuardHook", "action": "rollback", "interval": 2, "snapshot_interval": 2},
    ]
}
CLIP = {"optim_wrapper": {"clip_grad": {"max_norm": 1.0}}}
AMP = {"optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "bfloat16"}}
CASES: dict[str, tuple[int, Any, int, dict[str, Any]]] = {
    "DDP": (2, "DDP", 2, {}),
    "FSDP2, by class": (2, {"type": "FSDP2", "wrap": "Block"}, 2, CLIP),
    "DDP, bucket views": (2, {"type": "DDP", "gradient_as_bucket_view": True}, 2, CLIP),
    "DDP, half precision hook": (2, {"type": "DDP", "comm_hook": "bf16_compress"}, 2, {}),
    "DDP, averages and snapshots": (2, "DDP", 2, COPIES),
    "DDP, AMP": (2, "DDP", 2, AMP),
    "DDP, checkpointed": (2, "DDP", 2, {"activation_checkpointing": ["blocks.0", "blocks.1"]}),
    "FSDP2, by size": (2, {"type": "FSDP2", "min_params": 500}, 2, AMP),
    "FSDP2, meta": (2, {"type": "FSDP2", "wrap": "Block", "meta": True}, 2, {}),
    "FSDP2, averages and snapshots": (2, {"type": "FSDP2", "wrap": "Block"}, 2, COPIES),
    "DDP of 4": (4, "DDP", 4, CLIP),
    "FSDP2 of 4": (4, {"type": "FSDP2", "min_params": 500, "mixed_precision": "bfloat16"}, 4, {}),
    "hybrid": (4, {"type": "FSDP2", "wrap": "Block", "replicate": 2}, 4, COPIES),
    "tensor parallel": (4, {"type": "FSDP2", "tensor_parallel": {"size": 2, "plan": PLAN}}, 2, CLIP),
}


SHIPPED: dict[str, tuple[Any, str]] = {
    "lenet_modern, DDP": ("DDP", "classification/lenet_modern_fashion_mnist"),
    "lenet_modern, FSDP2": ({"type": "FSDP2", "min_params": 500}, "classification/lenet_modern_fashion_mnist"),
    "fcos, DDP": ("DDP", "detection/fcos_mobilenet_v2_shapes"),
    "fcos, FSDP2": (
        {"type": "FSDP2", "wrap": ["network.backbone", "network.head"]},
        "detection/fcos_mobilenet_v2_shapes",
    ),
}


def _config(name: str, folder: Path) -> dict[str, Any]:
    if name in SHIPPED:
        strategy, file = SHIPPED[name]
        return shipped(file, folder / name) | {"strategy": strategy}
    _, strategy, data_size, changes = CASES[name]
    return config(folder / name, strategy, data_size, **changes)


def _compare(tmp_path: Path, world_size: int, names: list[str]) -> list[str]:
    """Return the deviations of the estimates from real runs of the cases."""

    def estimate() -> dict[str, list[Trace]]:
        return {name: _estimates(Config(_config(name, tmp_path / "estimates")), world_size) for name in names}

    measured = measure_all(tmp_path / "real", world_size, {name: _config(name, tmp_path / "real") for name in names})
    estimates = run_ranks(1, estimate, tmp_path / "estimate", timeout=300)[0]  # autograd's threads prevent later forks
    deviations = []
    for name in names:
        for rank, (real, found) in enumerate(zip(measured[name], estimates[name], strict=True)):
            estimated: dict[str, Any] = {kind: found.largest[kind] for kind in KEPT}
            estimated |= {"collectives": summed(found.collectives), "flops": found.flops}
            deviations += [
                f"{name}, rank {rank}: {key}: {value}, really {real[key]}"
                for key, value in estimated.items()
                if value != real[key]
            ]
            assert found.largest["parameters"] > 0 and found.flops > 0
            transient = found.peak - sum(found.largest[kind] for kind in BEFORE_A_STEP)
            if name == "DDP, bucket views":
                transient -= found.largest["gradients"]  # views of the buckets
            scattered = [each.nbytes for each in found.collectives if each.kind == "reduce-scatter"]
            copied = max(scattered, default=0)  # gloo reduces a copy, which other backends do not need
            if not (real["extra"] - copied) * 0.98 <= transient <= real["extra"] * 1.02:
                deviations.append(f"{name}, rank {rank}: {transient} at the peak, really {real['extra']}")
    return deviations


def _estimates(cfg: Config, world_size: int) -> list[Trace]:
    """Return the estimates of all ranks."""
    batch = read_batch(cfg)
    return [trace(cfg, world_size, batch, rank) for rank in range(world_size)]


@pytest.mark.long
def test_estimates_equal_what_two_processes_keep_and_exchange(tmp_path: Path) -> None:
    assert not _compare(tmp_path, 2, ["DDP", "FSDP2, by class"])


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_estimates_equal_real_processes_for_all_strategies(tmp_path: Path, world_size: int) -> None:
    assert not _compare(tmp_path, world_size, [name for name, case in CASES.items() if case[0] == world_size])


@pytest.mark.slow
def test_estimates_equal_real_processes_for_shipped_configs(tmp_path: Path) -> None:
    assert not _compare(tmp_path, 2, list(SHIPPED))
