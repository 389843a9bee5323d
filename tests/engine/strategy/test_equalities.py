"""Every feature under every strategy gives the weights of one process with the same global batch."""

from pathlib import Path
from typing import Any

import pytest
from strategy_runs import (
    KeepMetrics,
    Net,
    Samples,
    Scores,
    TwoOptimizers,
    TwoParts,
    difference,
    last_checkpoint,
    train_all,
)

PLAN = {"blocks.*.fc1": "colwise", "blocks.*.fc2": "rowwise"}
SHARDED = {"type": "FSDP2", "wrap": "Block"}
TENSOR = {**SHARDED, "tensor_parallel": {"size": 2, "plan": PLAN}}
LAYOUTS: dict[str, tuple[Any, int, int]] = {
    "DDP 2": ("DDP", 2, 2),
    "DDP 4": ("DDP", 4, 4),
    "FSDP2 2": (SHARDED, 2, 2),
    "FSDP2 4": (SHARDED, 4, 4),
    "hybrid 2x2": ({**SHARDED, "replicate": 2}, 4, 4),
    "TP 2": (TENSOR, 2, 1),
    "TP 2 x FSDP2 2": (TENSOR, 4, 2),
}
"""Strategy, number of processes and of data ranks, by name."""


def optimizer(cfg: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"optim_wrapper": {"optimizer": cfg, **changes}}


SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
ADAM = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1}
VALIDATION = {
    "val_dataloader": {"dataset": Samples(16), "batch_size": 2, "collate_fn": {"type": "default_collate"}},
    "val_cfg": {},
    "val_evaluator": {"type": Scores},
}
FEATURES: dict[str, tuple[dict[str, Any], float]] = {
    "SGD": (optimizer(SGD), 1e-6),
    "AdamW": (optimizer(ADAM), 1e-6),
    "SGD, accumulation": (optimizer(SGD, accumulative_counts=5), 1e-6),
    "AdamW, accumulation": (optimizer(ADAM, accumulative_counts=5), 1e-6),
    "SGD, clip norm": (optimizer(SGD, clip_grad={"max_norm": 0.1}), 1e-6),
    "AdamW, clip norm": (optimizer(ADAM, clip_grad={"max_norm": 0.1}), 1e-6),
    "SGD, clip value": (optimizer(SGD, clip_grad={"type": "value", "clip_value": 0.01}), 1e-6),
    "SGD, bfloat16": (optimizer(SGD, type="AmpOptimWrapper", dtype="bfloat16"), 2e-2),
    "SGD, float16 with scaler": (
        {
            "model": {"type": Net, "bad_at": 5},
            **optimizer(SGD, type="AmpOptimWrapper", dtype="float16", loss_scale={"init_scale": 1024.0}),
        },
        5e-3,
    ),
    "SGD, float16 with scaler, clip norm": (
        optimizer(SGD, type="AmpOptimWrapper", dtype="float16", loss_scale=256.0, clip_grad={"max_norm": 0.1}),
        5e-3,
    ),
    "AdamW, paramwise": (
        optimizer(ADAM, paramwise_cfg={"norm_decay_mult": 0.0, "custom_keys": {"head": {"lr_mult": 5.0}}}),
        1e-6,
    ),
    "SGD, EMA": ({"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}], **VALIDATION}, 1e-6),
    "SGD, SWA": ({"custom_hooks": [{"type": "EMAHook", "ema_type": "StochasticWeightAverage"}]}, 1e-6),
    "SGD, frozen": ({"model": {"type": Net, "freeze": True}}, 1e-6),
    "SGD, activation checkpointing": ({"activation_checkpointing": ["blocks.0", "blocks.1"]}, 1e-6),
    "SGD, compile": ({"compile": {"backend": "eager"}}, 1e-6),
    "SGD, NaN guard": (
        {
            "model": {"type": Net, "bad_at": 5},
            "custom_hooks": [{"type": "NanGuardHook", "action": "rollback", "interval": 3, "snapshot_interval": 3}],
        },
        1e-6,
    ),
    "SGD, validation": ({"custom_hooks": [{"type": KeepMetrics}], **VALIDATION}, 1e-6),
    "two optimizers": (
        {"model": {"type": TwoParts}, "optim_wrapper": {"optimizer": None, "constructor": TwoOptimizers}},
        1e-6,
    ),
    "init_cfg": (
        {
            "model": {"type": Net, "init_cfg": {"type": "Xavier", "layer": ["Linear", "Conv1d"]}},
            **optimizer({"type": "SGD", "lr": 0.01}),
        },
        1e-6,
    ),
}
"""Changes of the config, and the largest difference of a weight, by name. Low precision rounds partial sums."""


def numbers(checkpoint: dict[str, Any]) -> list[float]:
    hooks = checkpoint["trainwright"]["hooks"]
    return [value for metrics in hooks.get("KeepMetrics", {"seen": []})["seen"] for value in metrics.values()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs of all features in one process."""
    folder = tmp_path_factory.mktemp("one")
    assert not train_all(folder, "auto", 1, 1, {name: changes for name, (changes, _) in FEATURES.items()})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features(layout: str, one: Path, tmp_path: Path) -> None:
    features = dict(FEATURES)
    if layout.startswith("DDP"):
        del features["two optimizers"]  # DDP's wrapper has a train_step of its own, for one optimizer
    errors = train_all(tmp_path, *LAYOUTS[layout], {name: changes for name, (changes, _) in features.items()})
    wrong = []
    for name, (_, tolerance) in features.items():
        if name in errors:
            wrong.append(f"{name}:\n{errors[name]}")
            continue
        expected, found = last_checkpoint(one / name), last_checkpoint(tmp_path / name)
        names = [key for key in ("state_dict", "ema_state_dict") if key in expected]
        largest = difference(expected, found, names)
        print(f"{layout:16} {name:32} {largest:.1e}")
        if largest > tolerance or numbers(found) != pytest.approx(numbers(expected), abs=1e-5):
            wrong.append(f"{name}: {largest:.1e}, {numbers(found)}, {numbers(expected)}")
    assert not wrong, "\n".join(wrong)
