"""Every feature under every strategy gives the weights of one process with the same global batch."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from strategy_runs import (
    KeepMetrics,
    Net,
    Samples,
    Scores,
    SequenceNet,
    Shifted,
    TwoOptimizers,
    TwoParts,
    config,
    difference,
    last_checkpoint,
    train_all,
)
from torch import Tensor

from trainwright.engine.run.runner import Runner
from trainwright.hooks.tta import build_runner_with_tta

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


def test_a_selection_of_features(tmp_path: Path) -> None:
    """Test combinations that cover most of the code, for every run of the tests."""
    cases = {
        "accumulation, clip, EMA": {
            **optimizer(ADAM, accumulative_counts=5, clip_grad={"max_norm": 0.1}),
            "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}, {"type": KeepMetrics}],
            **VALIDATION,
        },
        "NaN guard, init_cfg": {**FEATURES["SGD, NaN guard"][0], "default_hooks": {"checkpoint": {"async_save": True}}},
    }
    assert not train_all(tmp_path / "one", "auto", 1, 1, cases)
    for layout, name in zip(("FSDP2 2", "TP 2"), cases):
        assert not train_all(tmp_path / layout, *LAYOUTS[layout], {name: cases[name]})
        expected, found = last_checkpoint(tmp_path / "one" / name), last_checkpoint(tmp_path / layout / name)
        assert difference(expected, found) < 1e-6
        assert numbers(found) == pytest.approx(numbers(expected), abs=1e-5)
        assert all(type(value) is torch.Tensor for value in found["state_dict"].values())


WHOLE = {
    **optimizer(ADAM, accumulative_counts=5, clip_grad={"max_norm": 1.0}),
    "custom_hooks": [
        {"type": "EMAHook", "momentum": 0.1},
        {"type": "NanGuardHook", "action": "rollback", "interval": 3, "snapshot_interval": 3},
    ],
}
SAVED_WITHIN_WINDOW = {
    **WHOLE,
    "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 7, "by_epoch": False, "save_last": False}},
}


def resume_all(folder: Path, layout: tuple[Any, int, int], sources: dict[str, Path], expected: Path) -> list[str]:
    """Resume a copy of the run in each source, and return those that end with other weights."""
    for name, source in sources.items():
        shutil.copytree(source, folder / name)
    errors = train_all(folder, *layout, {name: {**WHOLE, "resume": True} for name in sources})
    for name in sources:
        if name not in errors:
            names = ["state_dict", "ema_state_dict"]
            largest = difference(last_checkpoint(expected), last_checkpoint(folder / name), names)
            print(f"{name:16} -> {folder.name:16} {largest:.1e}")
            if largest > 1e-6:
                errors[name] = f"{largest:.1e}"
    return [f"{name} -> {folder.name}: {error}" for name, error in errors.items()]


def test_a_run_is_resumed_within_an_accumulation_window_under_another_strategy(tmp_path: Path) -> None:
    assert not train_all(tmp_path / "whole", "auto", 1, 1, {"": WHOLE})
    assert not train_all(tmp_path / "saved", *LAYOUTS["FSDP2 2"], {"": SAVED_WITHIN_WINDOW})
    assert len(last_checkpoint(tmp_path / "saved")["optimizer"]["accumulation"]["grads"]) == 18
    assert not resume_all(tmp_path / "resumed", LAYOUTS["TP 2"], {"run": tmp_path / "saved"}, tmp_path / "whole")


@pytest.mark.slow
def test_runs_are_resumed_under_every_other_strategy(tmp_path: Path) -> None:
    layouts = {"one process": ("auto", 1, 1), **LAYOUTS}
    assert not train_all(tmp_path / "whole", *layouts["one process"], {"": WHOLE})
    for name, layout in layouts.items():
        assert not train_all(tmp_path / "saved" / name, *layout, {"": SAVED_WITHIN_WINDOW})
    sources = {name: tmp_path / "saved" / name for name in layouts}
    wrong = [resume_all(tmp_path / name, layout, sources, tmp_path / "whole") for name, layout in layouts.items()]
    assert not any(wrong), "\n".join(line for lines in wrong for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"meta": True}, {"cpu_offload": True}, {"reshard_after_forward": False}])
def test_missing_weights_of_a_checkpoint_are_initialized(options: dict[str, Any], tmp_path: Path) -> None:
    assert not train_all(tmp_path, "auto", 1, 1, {"source": {}})
    checkpoint = last_checkpoint(tmp_path / "source")
    weights = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("head.")}
    torch.save({"state_dict": weights}, tmp_path / "without_head.pth")
    init_cfg = {"type": "Xavier", "layer": ["Linear", "Conv1d"]}
    cases = {
        "all": {"load_from": str(tmp_path / "source" / "epoch_1.pth")},
        "without head": {"load_from": str(tmp_path / "without_head.pth")},
        "head by init_cfg": {
            "load_from": str(tmp_path / "without_head.pth"), "model": {"type": Net, "init_cfg": init_cfg},
            **optimizer({"type": "SGD", "lr": 0.01}),
        },
    }  # fmt: skip
    assert not train_all(tmp_path / "one", "auto", 1, 1, cases)
    for strategy in (SHARDED, TENSOR):
        folder = tmp_path / ("tensor" if strategy is TENSOR else "sharded")
        assert not train_all(folder, {**strategy, **options}, 2, 1 if strategy is TENSOR else 2, cases)
        for name in cases:
            assert difference(last_checkpoint(tmp_path / "one" / name), last_checkpoint(folder / name)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features(layout: str, one: Path, tmp_path: Path) -> None:
    errors = train_all(tmp_path, *LAYOUTS[layout], {name: changes for name, (changes, _) in FEATURES.items()})
    wrong = []
    for name, (_, tolerance) in FEATURES.items():
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


def test_processes_with_fewer_batches_take_part_in_those_of_others(tmp_path: Path) -> None:
    """Evaluate three samples on two processes, of which the second has one batch fewer, and then a single one."""

    def validate(launcher: str) -> list[dict[str, Any]]:
        results = []
        for number in (3, 1):
            loader = {**VALIDATION["val_dataloader"], "dataset": Samples(number), "batch_size": 1}
            loader["sampler"] = {"type": "DefaultSampler", "shuffle": False, "round_up": False}
            cfg = config(tmp_path, SHARDED, **{**VALIDATION, "val_dataloader": loader})
            results.append(Runner.from_cfg({**cfg, "launcher": launcher}).val())
        return results

    expected = validate("none")
    assert [metrics["scores/number"] for metrics in expected] == [3, 1]
    for found in run_ranks(2, lambda: validate("pytorch"), tmp_path / "ranks"):
        assert found == [pytest.approx(metrics, abs=1e-5) for metrics in expected]


SEQUENCE_PLAN = {
    "stem": {"style": "rowwise", "input": "replicate", "output": 1},
    "*norm": "sequence",
    "blocks.*.fc1": {"style": "colwise", "input": 1},
    "blocks.*.fc2": {"style": "rowwise", "output": 1},
    "head": {"style": "colwise", "input": 1, "output": "replicate"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "data_size", "replicate"), [(2, 1, 1), (4, 2, 1), (8, 4, 2)])
def test_activations_are_split_along_the_sequence(
    tmp_path: Path, world_size: int, data_size: int, replicate: int
) -> None:
    cases = {"run": {"model": {"type": SequenceNet}, **optimizer(ADAM, clip_grad={"max_norm": 0.1})}}
    strategy = {**SHARDED, "replicate": replicate, "tensor_parallel": {"size": 2, "plan": SEQUENCE_PLAN}}
    assert not train_all(tmp_path / "one", "auto", 1, 1, cases)
    assert not train_all(tmp_path / "many", strategy, world_size, data_size, cases)
    one, many = last_checkpoint(tmp_path / "one" / "run"), last_checkpoint(tmp_path / "many" / "run")
    assert difference(one, many) < 1e-6


def two_views(samples: list[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
    """Return a batch of two views of each sample."""
    inputs, labels = (torch.stack(column) for column in zip(*samples))
    return [[inputs, inputs + 1], [labels, labels]]


def test_predictions_of_views_are_merged_in_all_processes(tmp_path: Path) -> None:
    changes = {
        "test_dataloader": {"dataset": {"type": Samples, "length": 8}, "batch_size": 2, "collate_fn": two_views},
        "test_cfg": {}, "test_evaluator": {"type": Scores}, "tta_model": {"type": Shifted}, "tta_pipeline": [],
    }  # fmt: skip

    def test(launcher: str) -> dict[str, Any]:
        return build_runner_with_tta({**config(tmp_path, SHARDED, **changes), "launcher": launcher}).test()

    expected = test("none")
    for found in run_ranks(2, lambda: test("pytorch"), tmp_path / "ranks"):
        assert found == pytest.approx(expected, abs=1e-5)
