"""Random combinations of stateful features, interrupted at random, resumed, and compared bit by bit.

A combination is a dictionary of choices, drawn from a seed. It is trained once without interruption, and once
interrupted by stops, kills, signals or errors in the validation, each followed by a resume: with the same config, or
with one of ``CHANGES``. Both runs must have the same samples, learning rates, files and bits, or after a change, the
result documented in docs/resuming.md. A failure is reduced to the smallest combination that fails in the same way.

From a shell, for thousands of seeds (about a third of a second each)::

    python tests/support/combinations.py --seeds 0:3000 [--seconds 600] [--jobs 4] [--out FILE] [--without load_from cut=again]

and for one combination, as the report prints it::

    python tests/support/combinations.py --run '{"average": "ema", "cuts": [["stop", 3, "last"]]}'
    python tests/support/combinations.py --run 1234    # the combination of a seed

The exit status is 1 if anything failed. To add a feature, add a line to ``FEATURES`` and implement it in
:func:`config_of`; to add a change, add an entry to ``CHANGES``.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import torch
from checkpoint_bits import different_bits
from combination_parts import ComboLoader, Cut, CutError, Recorder

from trainwright.engine.checkpoints.files import load_checkpoint_file, read_last_checkpoint
from trainwright.engine.config.config import Config
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner

Combination = dict[str, Any]

FEATURES: dict[str, tuple[Any, ...]] = {
    # the loop
    "loop": ("epoch", "iter"),
    "length": (2, 1, 3, 4),
    "validate": (False, True),
    "val_interval": (1, 2, 3),
    "val_begin": (1, 2),
    "dynamic": (False, True),
    "val_loss": (False, True),
    "halve": (False, True),
    # the data
    "dataset": ("map", "batches", "tensors", "stream", "endless", "loader"),
    "wrapper": (None, "repeat", "concat", "balanced"),
    "sampler": ("DefaultSampler", "InfiniteSampler", "ClassAwareSampler", "RepeatAugSampler", "ComboSampler"),
    "batch_sampler": (None, "AspectRatioBatchSampler", "ComboBatchSampler"),
    "batch_size": (4, 3, 5, 7),
    "drop_last": (False, True),
    "batches_per_epoch": (None, 2),
    "workers": (0, 0, 0, 0, 0, 0, 1, 2),
    "persistent": (False, True),
    "beside": (None, None, "map", "stream"),
    "ends_with": ("longest", "main", "side"),
    "bad": (False, True),
    "nan": (False, True),
    # the model
    "norm": ("running", "batch"),
    "draws": (False, True),
    "hub": (False, True),
    "random_init": (False, True),
    "load_from": (False, True),
    "late": (None, "at_iter", "at_epoch", "when", "scalar"),
    "checkpointing": (False, True),
    "compile": (False, False, False, False, False, False, False, True),
    # the optimizer
    "optimizer": ("SGD", "momentum", "nesterov", "AdamW", "Adam", "RMSprop", "Adagrad", "NAdam", "Adadelta", "ASGD", "Rprop"),
    "two": (False, True),
    "amp": (None, "bfloat16", "float16", "static"),
    "accumulate": (1, 2, 3),
    "accumulation": (None, "epoch", "iter", "scalar"),
    "clip": (None, "norm", "value"),
    "paramwise": (None, "bias", "custom"),
    "scale_lr": (False, True),
    # the schedules
    "schedule": (
        None, "step", "multistep", "constant", "exponential", "cosine", "linear", "poly", "onecycle", "restart",
    ),
    "schedule_by": ("epoch", "iter", "converted"),
    "warmup": (False, True),
    "momentum": (None, "linear", "exponential"),
    "plateau": (False, True, "scalar"),
    # hooks
    "average": (None, "ema", "swa", "annealing"),
    "average_begin": (None, "iter", "epoch"),
    "average_interval": (1, 2),
    "average_buffers": (False, True),
    "early_stop": (None, "patience", "threshold", "scalar"),
    "switch": (None, "dataset", "val_interval", "clip"),
    "nan_guard": (None, "stop", "rollback"),
    "nan_interval": (1, 3, 50),
    "snapshots": (1, 3),
    "user_hook": (False, True),
    "time_limit": (False, True),
    "final_test": (False, True),
    "log_interval": (2, 1, 50),
    # the checkpoints
    "save_by": ("epoch", "iter", None),
    "save_interval": (1, 2, 3, -1),
    "save_last": (True, True, True, False),
    "keep": (-1, 1, 2),
    "save_best": (None, "auto", "score", "both"),
    "async": (False, True),
    "second_saver": (False, True),
    "out_dir": (False, True),
    "published": (False, True),
}  # fmt: skip
"""The choices of each feature, the default first. Repeated ones are drawn more often."""

DEFAULTS: Combination = {
    **{name: options[0] for name, options in FEATURES.items()}, "cuts": [], "change": None
}  # fmt: skip

SAMPLES = 14
_LR = {"Adadelta": 0.5, "Rprop": 0.001, "RMSprop": 0.01, "Adagrad": 0.05, "AdamW": 0.01, "Adam": 0.01, "NAdam": 0.01}


def settle(chosen: Mapping[str, Any]) -> Combination:
    """Return a combination with all keys, in which mutually exclusive choices are resolved."""
    c = {**DEFAULTS, **chosen}
    indexed = c["dataset"] in ("map", "batches", "tensors")
    if c["dataset"] == "endless" and c["loop"] == "epoch":
        c["dataset"] = "stream"
    if not indexed:
        c.update(sampler="DefaultSampler", batch_sampler=None, batches_per_epoch=None)
    if c["dataset"] != "map":
        c.update(wrapper=None, bad=False)
    if c["dataset"] == "loader":
        c.update(workers=0, nan=False)
    if c["dataset"] == "stream":
        c["workers"] = min(c["workers"], 1)  # workers end separately, so the length differs from that of the dataset
    if c["dataset"] == "tensors" or c["batches_per_epoch"]:
        if c["sampler"] == "ClassAwareSampler":
            c["sampler"] = "DefaultSampler"
        if c["batch_sampler"] == "AspectRatioBatchSampler":
            c["batch_sampler"] = None
    if c["wrapper"] is not None and c["batch_sampler"] == "AspectRatioBatchSampler":
        c["batch_sampler"] = None
    if c["loop"] == "epoch" and c["sampler"] == "InfiniteSampler":
        c["sampler"] = "DefaultSampler"
    if c["sampler"] == "InfiniteSampler":
        c["batch_sampler"] = None
    if c["beside"] is not None:
        c.update(halve=False, scale_lr=False, change=None)
        if c["dataset"] == "loader":  # a loader that is passed as an object
            c["dataset"] = "map"
    if c["ends_with"] == "main" and (c["dataset"] == "endless" or c["sampler"] == "InfiniteSampler"):
        c["ends_with"] = "side"
    if c["beside"] is None:
        c["ends_with"] = DEFAULTS["ends_with"]
    if c["batch_sampler"] is not None:
        c["scale_lr"] = False
    if not c["workers"]:
        c["persistent"] = False
    if c["halve"]:
        c.update(two=False, norm="running")
    if c["norm"] == "batch":  # it rejects a batch of one
        c.update(drop_last=True, batch_sampler=None)
    if c["two"]:
        c.update(paramwise=None, compile=False, clip=c["clip"] if c["switch"] != "clip" else None)
        c["switch"] = None if c["switch"] == "clip" else c["switch"]
    if c["compile"]:
        c["checkpointing"] = False
    if c["momentum"] is not None and c["optimizer"] not in ("momentum", "nesterov", "AdamW", "Adam", "NAdam"):
        c["momentum"] = None
    if c["dataset"] == "endless" and c["schedule_by"] == "converted":
        c["schedule_by"] = "iter"
    if c["schedule"] == "onecycle":
        c.update(warmup=False, plateau=False)
    if c["paramwise"] and c["schedule"] == "onecycle":
        c["paramwise"] = None
    if not c["validate"]:
        c.update(save_best=None, val_loss=False, dynamic=False)
        c["plateau"] = c["plateau"] == "scalar" and "scalar"
        c["early_stop"] = "scalar" if c["early_stop"] == "scalar" else None
        c["late"] = "at_iter" if c["late"] == "when" else c["late"]
        c["switch"] = None if c["switch"] == "val_interval" else c["switch"]
    if c["loop"] == "iter":
        c["late"] = "at_iter" if c["late"] == "at_epoch" else c["late"]
        c["average_begin"] = "iter" if c["average_begin"] == "epoch" else c["average_begin"]
        c["accumulation"] = "iter" if c["accumulation"] == "epoch" else c["accumulation"]
    if c["length"] == 1:
        c["average_begin"] = None
    if c["switch"] == "dataset" and c["dataset"] != "map":
        c["switch"] = None
    if c["switch"] == "clip" and not c["clip"]:
        c["clip"] = "norm"
    if c["nan_guard"] is None:
        c["nan"] = False
    if c["nan_guard"] == "rollback" and (c["two"] or c["nan_interval"] > 1):
        c["user_hook"] = False  # it depends on losses, also on those of iterations that are undone
        c.update(
            {name: DEFAULTS[name] for name in ("late", "accumulation", "plateau", "early_stop") if c[name] == "scalar"}
        )
    c["second_saver"] = c["second_saver"] and c["save_by"] is not None
    if c["cuts"] == []:
        c["change"] = None
    return c


def short(c: Mapping[str, Any]) -> Combination:
    """Return the choices of a combination that differ from the default."""
    return {name: value for name, value in settle(c).items() if value != DEFAULTS[name]}


def draw(seed: int) -> Combination:
    """Return the combination of a seed: some have few features, some many."""
    chance = random.Random(seed)
    share = chance.choice((0.1, 0.2, 0.3, 0.4, 0.5))
    c = {name: chance.choice(options) for name, options in FEATURES.items() if chance.random() < share}
    if chance.random() < 0.5:
        c["validate"] = True
    if chance.random() < 0.3:
        c["save_by"] = "iter"
    c["cuts"] = [_draw_cut(chance, c) for _ in range(chance.choice((1, 1, 2, 3)))]
    c["cuts"].sort(key=lambda cut: cut[1])
    if chance.random() < 0.3:
        change = chance.choice(sorted(CHANGES))
        c = settle({**c, **CHANGES[change].needs, "change": change})
        c["cuts"] = [[chance.choice(("stop", "SIGTERM")), c["cuts"][0][1], chance.choice(("last", "first", "epoch"))]]
    return short(c)


def labels(c: Mapping[str, Any]) -> set[str]:
    """Return labels for the report of the choices that differ from the default."""
    names = {f"{name}={value}" for name, value in short(c).items() if name != "cuts"}
    return names | {f"cut={how}, {place}" for how, _, place in c["cuts"]}


def avoid(c: Combination, without: Iterable[str]) -> Combination:
    """Return a combination in which the choices with certain prefixes of :func:`labels` are reset to defaults."""
    starts = tuple(without)
    c = {
        **c,
        "cuts": [
            cut if not f"cut={cut[0]}, {cut[2]}".startswith(starts) else ["stop", cut[1], "last"] for cut in c["cuts"]
        ],
    }
    return short(
        {name: value for name, value in c.items() if name == "cuts" or not f"{name}={value}".startswith(starts)}
    )


def _draw_cut(chance: random.Random, c: Mapping[str, Any]) -> list[Any]:
    how = chance.choice(("stop", "stop", "kill", "kill", "SIGTERM", "SIGINT", "SIGUSR1", "error", "again"))
    places = ["first", "last", "epoch", "val"] if c.get("validate") else ["first", "last", "epoch"]
    place = "val" if how == "error" else chance.choice(places)
    return [how, chance.randint(1, 4 * c.get("length", 2) + 1), place]


# --- from a combination to a run


def config_of(c: Combination) -> dict[str, Any]:
    """Return the config of a combination, as in a config file."""
    by_epoch = c["loop"] == "epoch"
    config: dict[str, Any] = {
        "model": _model(c),
        "train_dataloader": _train_dataloader(c),
        "train_cfg": {
            "by_epoch": by_epoch,
            **({"max_epochs": c["length"]} if by_epoch else {"max_iters": max_iters_of(c)}),
            "val_interval": c["val_interval"],
            "val_begin": c["val_begin"],
            **({"dynamic_intervals": [(2, 3 - min(c["val_interval"], 2))]} if c["dynamic"] else {}),
            **({"halve_batch_on_oom": True} if c["halve"] else {}),
        },
        "optim_wrapper": _optim_wrapper(c),
        "param_scheduler": _schedulers(c) or None,
        "default_hooks": {"logger": {"interval": c["log_interval"]}, "checkpoint": _saver(c)},
        "custom_hooks": _hooks(c),
        "randomness": {"seed": c.get("seed", 7)},
        "log_level": "INFO",
    }
    evaluation = {"dataset": {"type": "ComboPoints", "length": 5}, "batch_size": 2, "collate_fn": "default_collate"}
    metric = {"type": "ComboScore", "names": ["drawn"] if c.get("metric") == "dropped" else ["score", "drawn"]}
    if c["validate"]:
        config.update(val_dataloader=evaluation, val_cfg={"with_loss": c["val_loss"]}, val_evaluator=metric)
    if c["final_test"]:
        config.update(test_dataloader=evaluation, test_cfg={}, test_evaluator=metric)
    if c["scale_lr"]:
        config["auto_scale_lr"] = {"enable": True, "base_batch_size": 8}
    if c["compile"]:
        config["compile"] = {"backend": "eager"}
    if c["checkpointing"]:
        config["activation_checkpointing"] = ["body"]
    return config


def max_iters_of(c: Combination) -> int:
    """Return the number of iterations of an iteration-based loop; approximate for an epoch-based one."""
    return 4 * int(c["length"]) + 1


def _model(c: Combination) -> dict[str, Any]:
    return {
        "type": "ComboNet", "width": c.get("width", 6), "norm": c["norm"], "draws": c["draws"], "hub": c["hub"],
        "late": c["late"] is None, "memory": 2 if c["halve"] else None, "two_losses": c["two"],
        "random_init": c["random_init"],
    }  # fmt: skip


def _train_dataloader(c: Combination) -> dict[str, Any]:
    kind = c["dataset"]
    dataset: dict[str, Any] = {
        "type": {
            "map": "ComboPoints", "batches": "ComboBatches", "tensors": "ComboTensors", "stream": "ComboSizedStream",
            "endless": "ComboStream", "loader": "ComboPoints",
        }[kind],
        "length": c.get("samples", SAMPLES),
        **({"nan": True} if c["nan"] else {}),
        **({"bad": True} if c["bad"] else {}),
    }  # fmt: skip
    wrapped: dict[str | None, dict[str, Any]] = {
        None: dataset,
        "repeat": {"type": "RepeatDataset", "dataset": dataset, "times": 2},
        "concat": {"type": "ConcatDataset", "datasets": [dataset, {"type": "ComboPoints", "length": 7}]},
        "balanced": {"type": "ClassBalancedDataset", "dataset": dataset, "oversample_thr": 0.4},
    }
    loader: dict[str, Any] = {
        "dataset": wrapped[c["wrapper"]],
        "batch_size": c["batch_size"],
        "num_workers": c["workers"],
        "drop_last": c["drop_last"],
        **({} if kind == "batches" else {"collate_fn": "default_collate"}),
        **({"persistent_workers": True} if c["persistent"] else {}),
        **({"prefetch_factor": c["prefetch"]} if c["workers"] and "prefetch" in c else {}),
        **({"skip_bad_samples": 3} if c["bad"] else {}),
        **({"num_batch_per_epoch": c["batches_per_epoch"]} if c["batches_per_epoch"] else {}),
    }
    if kind in ("map", "batches", "tensors"):
        loader["sampler"] = {"type": c["sampler"]}
        if c["batch_sampler"]:
            loader["batch_sampler"] = {"type": c["batch_sampler"]}
    if c["beside"] is None:
        return loader
    type_ = "ComboPoints" if c["beside"] == "map" else "ComboSizedStream"
    side = {"dataset": {"type": type_, "length": 11}, "batch_size": 3, "collate_fn": "default_collate"}
    if c["ends_with"] == "longest" and (c["dataset"] == "endless" or c["sampler"] == "InfiniteSampler"):
        return {"main": loader, "side": side}  # which is refused in a loop by epochs
    return {"main": loader, "side": side, "ends_with": c["ends_with"]}


def _optim_wrapper(c: Combination) -> dict[str, Any]:
    name = c["optimizer"]
    optimizer: dict[str, Any] = {"type": name, "lr": c.get("lr", _LR.get(name, 0.1))}
    if name in ("momentum", "nesterov"):
        optimizer.update(type="SGD", momentum=0.9, nesterov=name == "nesterov")
    wrapper: dict[str, Any] = {"optimizer": optimizer, "accumulative_counts": c["accumulate"]}
    if c["clip"]:
        wrapper["clip_grad"] = {"max_norm": 0.5} if c["clip"] == "norm" else {"type": "value", "clip_value": 0.05}
    if c["amp"] is not None:
        wrapper.update(type="AmpOptimWrapper", dtype="bfloat16" if c["amp"] == "bfloat16" else "float16")
        if c["amp"] != "bfloat16":
            growing = {"init_scale": 2.0**20, "growth_interval": 2, "growth_factor": 4.0}
            wrapper["loss_scale"] = growing if c["amp"] == "float16" else 128.0
    if c["paramwise"]:
        wrapper["paramwise_cfg"] = {
            "bias": {"bias_lr_mult": 2.0},
            "custom": {"custom_keys": {"head": {"lr_mult": 0.5}, "body.0": {"lr_mult": 0.1}}},
        }[c["paramwise"]]
    if c["two"]:
        wrapper["constructor"] = "ComboTwoOptimizers"
    return wrapper


def _schedulers(c: Combination) -> list[dict[str, Any]]:
    by_epoch = c["schedule_by"] == "epoch" or c["schedule_by"] == "converted"
    unit = 1 if by_epoch else 2
    common = {"by_epoch": by_epoch, **({"convert_to_iter_based": True} if c["schedule_by"] == "converted" else {})}
    total = c["length"] if by_epoch else max_iters_of(c)
    kinds: dict[str, dict[str, Any]] = {
        "step": {"type": "StepLR", "step_size": unit, "gamma": 0.5},
        "multistep": {"type": "MultiStepLR", "milestones": [unit, 3 * unit], "gamma": 0.5},
        "constant": {"type": "ConstantLR", "factor": 0.25, "end": 2 * unit},
        "exponential": {"type": "ExponentialLR", "gamma": 0.8},
        "cosine": {"type": "CosineAnnealingLR", "eta_min": 0.001},
        "linear": {"type": "LinearLR", "start_factor": 0.3, "end": 3 * unit},
        "poly": {"type": "PolyLR", "power": 2.0, "eta_min": 0.001},
        "onecycle": {"type": "OneCycleLR", "eta_max": 0.2, "total_steps": total},
        "restart": {"type": "CosineRestartLR", "periods": [unit, unit, 4 * unit], "restart_weights": [1, 0.5, 0.5], "eta_min": 0.001},
    }  # fmt: skip
    schedulers = []
    if c["warmup"]:
        schedulers.append({"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4})
    if c["schedule"]:
        schedulers.append({**kinds[c["schedule"]], **common, **c.get("schedule_settings", {})})
    if c["momentum"] == "linear":
        schedulers.append({"type": "LinearMomentum", "start_factor": 0.5, "by_epoch": False, "end": 6})
    if c["momentum"] == "exponential":
        schedulers.append({"type": "ExponentialMomentum", "gamma": 0.9, "by_epoch": by_epoch})
    if c["plateau"]:
        by_score = {"monitor": "val/score", "rule": "greater"}
        watching = {"monitor": "train/loss", "interval": 2} if c["plateau"] == "scalar" else by_score
        schedulers.append({"type": "ReduceOnPlateauLR", **watching, "factor": 0.5, "patience": 0})
    return schedulers


def _saver(c: Combination) -> dict[str, Any] | None:
    if c["save_by"] is None and not c["save_best"]:
        return None
    best = {None: None, "auto": "auto", "score": "val/score", "both": ["val/score", "val/drawn"]}[c["save_best"]]
    if c.get("metric") == "dropped":
        best = "val/drawn"
    return {
        "interval": -1 if c["save_by"] is None else c["save_interval"],
        "by_epoch": c["save_by"] != "iter",
        "save_last": c["save_last"],
        "max_keep_ckpts": c["keep"],
        "save_best": best,
        "rule": "greater" if best else None,
        "async_save": c["async"],
        **({"published_keys": ["meta", "state_dict"]} if c["published"] else {}),
        **({"out_dir": "OUT_DIR"} if c["out_dir"] else {}),
    }


def _hooks(c: Combination) -> list[dict[str, Any]]:
    hooks: list[dict[str, Any]] = []
    if c["second_saver"]:
        hooks.append(
            {
                "type": "CheckpointHook", "name": "second", "interval": 3, "by_epoch": False, "save_last": False, "max_keep_ckpts": 2,
                "filename_tmpl": "second_{}.pth",
            }
        )  # fmt: skip
    if c["average"]:
        kinds = {
            "ema": {"momentum": 0.2},
            "swa": {"ema_type": "StochasticWeightAverage"},
            "annealing": {"ema_type": "MomentumAnnealingEMA", "momentum": 0.2, "gamma": 5},
        }
        begin = {None: {}, "iter": {"begin_iter": 4}, "epoch": {"begin_epoch": 2}}[c["average_begin"]]
        further = {"interval": c["average_interval"], "update_buffers": c["average_buffers"]}
        hooks.append({"type": "EMAHook", **kinds[c["average"]], **begin, **further})
    if c["early_stop"]:
        limit = {"patience": 2} if c["early_stop"] == "patience" else {"stopping_threshold": 0.05, "patience": 9}
        watching = {"monitor": "val/drawn", "rule": "greater", **limit}
        if c["early_stop"] == "scalar":
            watching = {"monitor": "train/loss", "interval": 3, "window": 4, "patience": 2, "min_delta": 0.1}
        hooks.append({"type": "EarlyStoppingHook", **watching})
    if c["accumulation"]:
        schedule = {0: 1, 1: 3, 3: 2} if c["accumulation"] == "epoch" else {2: 2, 5: 3, 11: 1}
        settings: dict[str, Any] = {"schedule": schedule, "by_epoch": c["accumulation"] == "epoch"}
        if c["accumulation"] == "scalar":
            when = {"monitor": "train/loss", "interval": 2, "plateau": {"patience": 1}}
            settings = {"counts": [2, 3], "when": when}
        hooks.append({"type": "GradientAccumulationScheduleHook", **settings})
    if c["late"]:
        when = {
            "at_iter": {"at_iter": 3},
            "at_epoch": {"at_epoch": 1},
            "when": {"when": {"monitor": "val/score", "above": -9.0}},
            "scalar": {"when": {"monitor": "train/loss", "interval": 3, "window": 2, "below": 99.0}},
        }[c["late"]]
        hooks.append({"type": "SwitchHook", "name": "late", "target": "model.late", "value": True, **when})
    if c.get("switch_in_front"):
        hooks.append({"type": "SwitchHook", "name": "in_front", "target": "model.draws", "value": True, "at_iter": 99})
    if c["switch"]:
        target, value, at = {
            "dataset": ("train_dataloader.dataset.noise", 0.0, {"at_iter": 4}),
            "val_interval": ("train_loop.val_interval", 1, {"at_epoch": 1} if c["loop"] == "epoch" else {"at_iter": 5}),
            "clip": ("optim_wrapper.clip_grad_kwargs", {"max_norm": 0.1} if c["clip"] == "norm" else {"clip_value": 0.01}, {"at_iter": 5}),
        }[c["switch"]]  # fmt: skip
        if c["beside"]:
            target = target.replace("train_dataloader.", "train_dataloader.main.")
        if c["wrapper"] and c["switch"] == "dataset":
            target = target.replace("dataset.", "dataset.datasets.0." if c["wrapper"] == "concat" else "dataset.dataset.")  # fmt: skip
        hooks.append({"type": "SwitchHook", "name": "other", "target": target, "value": value, **at})
    if c["nan_guard"]:
        options = {"snapshot_interval": c["snapshots"], "max_rollbacks": 20} if c["nan_guard"] == "rollback" else {}
        hooks.append({"type": "NanGuardHook", "action": c["nan_guard"], "interval": c["nan_interval"], **options})
    if c["user_hook"]:
        hooks.append({"type": "ComboHook"})
    if c["time_limit"]:
        hooks.append({"type": "TimeLimitHook", "max_time": 3600})
    if c["final_test"]:
        hooks.append({"type": "FinalTestHook"})
    return hooks


def make_runner(c: Combination, work_dir: Path, resume: bool, hooks: list[Any]) -> Runner:
    """Return the runner of a combination."""
    config = config_of(c)
    switches = {name: config.pop(name) for name in ("compile", "activation_checkpointing") if name in config}
    saver = config["default_hooks"]["checkpoint"]
    if saver and saver.get("out_dir"):
        saver["out_dir"] = str(work_dir / "out")
    parts: dict[str, Any] = json.loads(json.dumps(config))
    parts["custom_hooks"] = [*config["custom_hooks"], *hooks]
    if c["dataset"] == "loader":
        loader = config.pop("train_dataloader")
        parts["train_dataloader"] = ComboLoader(loader["batch_size"], loader["drop_last"])
    if c["load_from"]:
        parts["load_from"] = config["load_from"] = str(_other_weights(c, work_dir.parent))
    cfg = Config({**config, **switches, "work_dir": str(work_dir)})
    return Runner(**parts, work_dir=str(work_dir), resume="auto" if resume else False, cfg=cfg, device="cpu")


def _other_weights(c: Combination, folder: Path) -> Path:
    """Return the path of the checkpoint that fine-tuning starts from."""
    file = folder / "other.pth"
    if not file.exists():
        model = MODELS.build({**_model(c), "width": 6})
        weights = {
            name: value + 0.1 if value.is_floating_point() else value for name, value in model.state_dict().items()
        }
        torch.save({"state_dict": weights, "meta": {}}, file)
    return file


# --- running


@dataclass
class Left:
    """The results of a run.

    Args:
        folder: folder of the run, unless specified otherwise.
        outcome: ``done``, ``refused: …``, ``error: …`` or ``hangs``.
        segments: a list per process with a row per iteration.
        stopped: names of the checkpoints written at intermediate stops.
        printed: all log lines of the last process.
    """

    folder: Path
    outcome: str
    segments: list[list[dict[str, Any]]]
    stopped: list[str]
    printed: str

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """The last row of each iteration."""
        return {row["iter"]: row for segment in self.segments for row in segment}


LIMIT = 60
_END = "end.pth"


def train(c: Combination, base: Path, name: str, *, uncut: bool = False, resumed: Combination | None = None) -> Left:
    """Train a combination to its end, with or without interruptions.

    Args:
        c: the combination.
        base: a folder; all runs use the same folder in it, so that their paths do not differ.
        name: final name of that folder.
        uncut: train without interruptions.
        resumed: another combination to use after the first interruption.
    """
    here = base / "run"
    trace = base / f"{name}.trace"
    cuts = [] if uncut else c["cuts"]
    segments: list[list[dict[str, Any]]] = []
    stopped = []
    printed = outcome = ""
    for number, cut in enumerate([*cuts, None]):
        trace.unlink(missing_ok=True)
        present = resumed if resumed is not None and number else c
        hook = None if cut is None else Cut(*cut)
        outcome, printed = _segment(present, here, number > 0, trace, hook)
        segments.append([json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else [])
        stopped += hook.left if hook else []
        if outcome != "cut":
            break
        stopped += _stop_file(here)
    here.rename(base / name)
    return Left(base / name, outcome, segments, stopped, printed)


def _segment(c: Combination, here: Path, resume: bool, trace: Path, cut: Cut | None) -> tuple[str, str]:
    """Train in one process, in this one unless it will be killed; return the outcome and the log."""
    output = io.StringIO()
    if cut is None or cut.how != "kill":
        return _train(c, here, resume, trace, cut, output), output.getvalue()
    note = trace.with_suffix(".outcome")
    note.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            note.write_text(_train(c, here, resume, trace, cut, output))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # its data workers
    if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
        return "cut", ""
    return (note.read_text() if note.exists() else "error: the process died"), ""


def _train(c: Combination, here: Path, resume: bool, trace: Path, cut: Cut | None, output: io.StringIO) -> str:
    recorder = Recorder(trace)
    hooks = [recorder, cut] if cut else [recorder]
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = make_runner(c, here, resume, hooks)
            if resume and c.get("val_first"):
                runner.val()
            runner.train()
            if cut is not None and cut.done and cut.how == "again":
                cut.left = _stop_file(here)
                runner.train()
            elif cut is not None and cut.done:
                return "cut"
            runner.save_checkpoint(here, _END)
            return "done"
    except (KeyboardInterrupt, SystemExit, CutError):
        if cut is None or not cut.done:  # requested by the user
            raise
        return "cut"
    except (ConfigError, CheckpointError) as error:
        kind = "error" if recorder.began else "refused"
        return f"{kind}: {type(error).__name__}: {_one_line(error)}"
    except _TooLongError:
        return "hangs"
    except Exception as error:
        return f"error: {type(error).__name__}: {_one_line(error)}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        logging.shutdown()


class _TooLongError(BaseException):
    pass


def _too_long(number: int, frame: Any) -> None:
    raise _TooLongError


def _one_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r" \(\d+ of iterations .*\)", "", line)[:200]  # the losses read at a stop are not read again


def _stop_file(folder: Path) -> list[str]:
    """Return the name of the checkpoint that a stop has written."""
    try:
        last = read_last_checkpoint(folder)
        if last is not None and "stopped" in load_checkpoint_file(last)["meta"]:
            return [last.name]
    except CheckpointError:
        pass
    return []


# --- comparing

_REGULAR = re.compile(r"(epoch|iter)_\d+\.pth")
_SECOND = re.compile(r"second_\d+\.pth")
_OF_THE_FILES = re.compile(
    r"^trainwright\.hooks\.[^:]*(keep_ckpts|obsolete|last_ckpt|last_at)|^message_hub\.(runtime_info|resumed_keys)\.last_ckpt"
)
_TIMES = re.compile(r"^message_hub\.log_scalars\.test/(data_)?time\.")
_OF_UNDONE = re.compile(r"^rows\.(loss|weights): .*, not nan in|log_scalars\.train/loss\.|^log\.line")
_TRAINING = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
_ROW = ("samples", "lr", "momentum", "loss", "weights")


def differences(c: Combination, cut: Left, whole: Left, parts: str = "all") -> list[str]:
    """Return a line for each difference between an interrupted and an uninterrupted run.

    Args:
        c: the combination.
        cut: the interrupted run.
        whole: the uninterrupted run.
        parts: ``all``; ``training``: inputs and results of training, without files and histories; ``rows``: only the
            inputs and results of each iteration.
    """
    if cut.outcome != whole.outcome:
        return [f"outcome: {cut.outcome}, not {whole.outcome}"]
    different = _different_rows(cut, whole)
    if whole.outcome == "done" and parts != "rows":
        lines = _different_bits(cut, cut.folder / _END, whole.folder / _END)
        if parts == "training":
            lines = [line for line in lines if line.startswith(_TRAINING)]
        different += [f"end.{line}" for line in lines]
        if parts == "all":
            different += _different_files(c, cut, whole) + _different_logs(cut, whole)
    if c["nan_guard"] == "rollback" and c["nan_interval"] > 1:  # a stop may avoid reads that would be undone later
        different = [line for line in different if not _OF_UNDONE.search(line)]
    return different


def _different_bits(cut: Left, file: Path, reference: Path) -> list[str]:
    """Return the differences between two checkpoints, except times and entries that depend on files of stops."""
    momentary = [_TIMES, _OF_THE_FILES] if cut.stopped else [_TIMES]
    return [line for line in different_bits(file, reference) if not any(one.search(line) for one in momentary)]


def _different_rows(cut: Left, whole: Left) -> list[str]:
    expected = whole.rows
    different = []
    for segment in cut.segments:
        for row in segment:
            if row["iter"] not in expected:
                different.append(f"rows.more: iteration {row['iter']}")
            different += [
                f"rows.{name}: {row[name]}, not {expected[row['iter']][name]} in iteration {row['iter']}"
                for name in _ROW
                if row["iter"] in expected and row[name] != expected[row["iter"]][name]
            ]
    missing = sorted(expected.keys() - cut.rows.keys())
    return different + ([f"rows.missing: iterations {missing}"] if missing else [])


def _different_files(c: Combination, cut: Left, whole: Left) -> list[str]:
    found, expected = _files_of(cut.folder), _files_of(whole.folder)
    different = []
    for kind, pattern in (("second", _SECOND), ("regular", _REGULAR)):
        here = {name for name in found if pattern.fullmatch(name)}
        there = {name for name in expected if pattern.fullmatch(name)}
        if kind == "regular":
            there = _with_stops(c, there, cut, expected)
        if here != there:
            different.append(f"files.{kind}: {sorted(here)}, not {sorted(there)}")
    others = [{name for name in files if not name.startswith(("epoch_", "iter_", "second_")) or "-" in name} for files in (found, expected)]  # fmt: skip
    if others[0] != others[1]:
        different.append(f"files.others: {sorted(others[0])}, not {sorted(others[1])}")
    for name in sorted(found.keys() & expected.keys() - set(cut.stopped)):
        lines = _different_bits(cut, found[name], expected[name])
        if name.endswith("-DIGEST.pth"):  # a stop at the end is published, with its epoch counted
            lines = [line for line in lines if not line.startswith(("meta.stopped", "meta.epoch"))]
        different += [f"files.{'best' if name.startswith('best') else 'content'}: {name}: {line}" for line in lines]
    return different


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the checkpoints by name, without the time-dependent digest of published ones."""
    return {
        re.sub(r"-[0-9a-f]{8}\.pth$", "-DIGEST.pth", path.name): path
        for path in folder.rglob("*.pth")
        if path.name != _END
    }


def _with_stops(c: Combination, names: set[str], cut: Left, expected: Mapping[str, Path]) -> set[str]:
    """Return the expected regular files; those of stops count as regular and are rotated."""
    saver = _saver(c)
    stops = {name for name in cut.stopped if name not in names}
    if saver is None or saver["max_keep_ckpts"] < 1:
        return names | stops
    at = {name: load_checkpoint_file(expected[name])["meta"]["iter"] for name in names}
    at.update({name: _iteration_of(name, cut) for name in stops})
    return set(sorted(at, key=lambda name: (at[name], name not in stops))[-saver["max_keep_ckpts"] :])


def _iteration_of(name: str, run: Left) -> float:
    number = int(name.split("_")[1].removesuffix(".pth"))
    if name.startswith("iter"):
        return number
    return max((row["iter"] for row in run.rows.values() if row["epoch"] == number - 1), default=0)


def _different_logs(cut: Left, whole: Left) -> list[str]:
    found, expected = _logged(cut.folder), _logged(whole.folder)
    return [f"log.line: {found.get(key)}, not {line}" for key, line in expected.items() if found.get(key) != line]


def _logged(folder: Path) -> dict[Any, dict[str, Any]]:
    """Return the log lines after each iteration, without times."""
    lines = {}
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        for text in file.read_text().splitlines():
            line = {key: value for key, value in json.loads(text).items() if key not in ("time", "data_time", "memory")}
            lines[line.get("step"), "lr" in line] = line
    return lines


# --- changes on resume


@dataclass
class Change:
    """A change of the config on resume, and its expected effect.

    Args:
        to: returns the changed combination.
        oracle: returns the errors of the result.
        needs: condition that a combination must meet.
    """

    to: Callable[[Combination], Combination]
    oracle: "Callable[[Combination, Combination, Left, Path], list[str]]"
    needs: Combination = field(default_factory=dict)


def _same(parts: str, *words: str) -> Any:
    """Return an oracle: these parts are unaffected, and the log contains certain words."""

    def oracle(c: Combination, changed: Combination, cut: Left, base: Path) -> list[str]:
        whole = train(c, base, "whole", uncut=True)
        found = [] if parts == "nothing" else differences(c, cut, whole, parts)
        missing = [word for word in words if word not in cut.printed]
        return found + ([f"log: nothing about {', '.join(missing)}"] if missing and cut.segments[-1] else [])

    return oracle


def _as_from_the_start(parts: str, rates: bool = False, may_refuse: bool = False) -> Any:
    """Check that the result is the same as if the change had been there from the start.

    This applies to all parts if the change has no effect before the resume, otherwise only to learning rates.
    """

    def oracle(c: Combination, changed: Combination, cut: Left, base: Path) -> list[str]:
        if may_refuse and cut.outcome.startswith("refused"):
            return []
        before, whole = train(c, base, "before", uncut=True), train(changed, base, "whole", uncut=True)
        resumed_at = len(before.rows) if not cut.segments[-1] else cut.segments[-1][0]["iter"] - 1
        then, now = before.rows, whole.rows
        if all(then.get(step) == now.get(step) for step in range(1, resumed_at + 1)):
            return differences(changed, cut, whole, parts)
        if cut.outcome != whole.outcome:
            return [f"outcome: {cut.outcome}, not {whole.outcome}"]
        return [
            f"rows.{name}: {row[name]}, not {now[row['iter']][name]} in iteration {row['iter']}"
            for row in cut.segments[-1]
            for name in (("lr", "momentum") if rates else ())
            if row["iter"] in now and row[name] != now[row["iter"]][name]
        ]

    return oracle


def _refused(*words: str) -> Any:
    """Return an oracle: the resume is rejected before the first step, with these words in the reason."""

    def oracle(c: Combination, changed: Combination, cut: Left, base: Path) -> list[str]:
        if cut.outcome.startswith("refused") and all(word in cut.outcome for word in words):
            return []
        return [f"outcome: {cut.outcome}, not refused with {', '.join(words) or 'a reason'}"]

    return oracle


def _each_sample_once(c: Combination, changed: Combination, cut: Left, base: Path) -> list[str]:
    """Check another batch size: an epoch has each sample once, except the number of repeated ones in the log."""
    if cut.outcome != "done":
        return [f"outcome: {cut.outcome}, not done"]
    repeats = re.search(r"(\d+) samples are repeated", cut.printed)
    again = int(repeats[1]) if repeats else 0
    wrong = []
    for epoch in range(c["length"]):
        seen = Counter(index for segment in cut.segments for row in segment if row["epoch"] == epoch for index in row["samples"])  # fmt: skip
        missing = sorted(set(range(SAMPLES)) - seen.keys())
        repeated = seen.total() - len(seen)
        begun_before = any(row["epoch"] == epoch for row in cut.segments[0])
        if missing or repeated > (again if begun_before else 0):
            wrong.append(f"rows.samples: epoch {epoch} lacks {missing}, and {repeated} come again, announced {again}")
    return wrong


def _ends_where_it_should(c: Combination, changed: Combination, cut: Left, base: Path) -> list[str]:
    """Check that the run ends at the same iteration as with the change from the start, or is rejected."""
    if cut.outcome.startswith("refused"):
        return []
    whole = train(changed, base, "whole", uncut=True)
    if cut.outcome != whole.outcome:
        return [f"outcome: {cut.outcome}, not {whole.outcome}"]
    last, end = (max((row["iter"] for row in rows), default=0) for rows in (cut.segments[-1], whole.rows.values()))
    steps = len(cut.segments[-1])
    wrong = (last != end and last > 0) or steps > end
    return [f"rows.end: {steps} steps, the last of them {last}, not {end}"] if wrong else []


_PLAIN: Combination = {
    "dataset": "map", "sampler": "DefaultSampler", "batch_sampler": None, "wrapper": None, "bad": False, "drop_last": False,
    "batches_per_epoch": None, "early_stop": None, "nan_guard": None, "loop": "epoch", "scale_lr": False, "norm": "running",
}  # fmt: skip
_WITH_AVERAGE: Combination = {"average": "ema", "published": False}

CHANGES: dict[str, Change] = {
    "nothing": Change(lambda c: c, _same("all")),
    "workers": Change(lambda c: {**c, "workers": 1 - min(c["workers"], 1), "persistent": False}, _same("all"), {"dataset": "map"}),
    "prefetch": Change(lambda c: {**c, "prefetch": 4}, _same("all"), {"workers": 1}),
    "log_interval": Change(lambda c: {**c, "log_interval": 3}, _same("training")),
    "keep": Change(lambda c: {**c, "keep": 3}, _same("training")),
    "save_interval": Change(lambda c: {**c, "save_interval": 1}, _same("training"), {"save_interval": 2, "nan_guard": None}),
    "async": Change(lambda c: {**c, "async": not c["async"]}, _same("all")),
    "seed": Change(lambda c: {**c, "seed": 8}, _same("all")),
    "lr": Change(lambda c: {**c, "lr": 0.02}, _same("training", "lr"), {"schedule": None, "warmup": False, "plateau": False, "scale_lr": False}),
    "hook_added": Change(lambda c: {**c, "time_limit": True}, _same("all"), {"time_limit": False}),
    "hook_removed": Change(lambda c: {**c, "time_limit": False}, _same("all"), {"time_limit": True}),
    "saver_added": Change(lambda c: {**c, "second_saver": True}, _same("training", "second"), {"second_saver": False, "save_by": "iter", "nan_guard": None}),
    "saver_removed": Change(lambda c: {**c, "second_saver": False}, _same("training", "second"), {"second_saver": True, "save_by": "iter", "nan_guard": None}),
    "stop_added": Change(lambda c: {**c, "early_stop": "patience"}, _same("nothing", "EarlyStoppingHook"), {"early_stop": None, "validate": True}),
    "stop_removed": Change(lambda c: {**c, "early_stop": None}, _same("nothing", "EarlyStoppingHook"), {"early_stop": "patience", "validate": True}),
    "state_removed": Change(lambda c: {**c, "user_hook": False}, _same("nothing", "ComboHook"), {"user_hook": True}),
    "longer": Change(lambda c: {**c, "length": c["length"] + 1}, _as_from_the_start("training", rates=True), {"plateau": False, "early_stop": None, "nan_guard": None, "accumulate": 1, "accumulation": None}),
    "schedule": Change(
        lambda c: {**c, "schedule_settings": {"gamma": 0.7}}, _as_from_the_start("training", rates=True),
        {"schedule": "exponential", "plateau": False, "early_stop": None, "nan_guard": None, "schedule_by": "iter"},
    ),
    "other_schedule": Change(
        lambda c: {**c, "schedule": "cosine"}, _as_from_the_start("training", rates=True),
        {"schedule": "exponential", "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "schedule_removed": Change(
        lambda c: {**c, "schedule": None}, _as_from_the_start("training", rates=True),
        {"schedule": "step", "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "onecycle_removed": Change(
        lambda c: {**c, "schedule": "step"}, _as_from_the_start("training", rates=True),
        {"schedule": "onecycle", "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "schedule_added": Change(
        lambda c: {**c, "schedule": "linear"}, _as_from_the_start("training", rates=True),
        {"schedule": None, "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "warmup_removed": Change(
        lambda c: {**c, "warmup": False}, _as_from_the_start("training", rates=True),
        {"warmup": True, "plateau": False, "early_stop": None, "nan_guard": None, "schedule": "poly"},
    ),
    "momentum_removed": Change(
        lambda c: {**c, "momentum": None}, _as_from_the_start("training", rates=True),
        {"momentum": "linear", "optimizer": "momentum", "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "schedule_unit": Change(
        lambda c: {**c, "schedule_by": "iter"}, _as_from_the_start("training", rates=True),
        {"schedule": "cosine", "schedule_by": "epoch", "plateau": False, "early_stop": None, "nan_guard": None},
    ),
    "batch_size": Change(lambda c: {**c, "batch_size": 5}, _each_sample_once, {**_PLAIN, "batch_size": 4}),
    "smaller_batch": Change(lambda c: {**c, "batch_size": 3}, _each_sample_once, {**_PLAIN, "batch_size": 7}),
    "average_removed": Change(lambda c: {**c, "average": None}, _as_from_the_start("rows", may_refuse=True), _WITH_AVERAGE),
    "average_added": Change(lambda c: {**c, "average": "ema"}, _as_from_the_start("rows"), {"average": None, "average_begin": None}),
    "average_changed": Change(lambda c: {**c, "average": "swa"}, _as_from_the_start("rows", may_refuse=True), _WITH_AVERAGE),
    "metric_dropped": Change(
        lambda c: {**c, "metric": "dropped"}, _same("rows"),
        {"validate": True, "save_best": "both", "plateau": False, "early_stop": None, "late": None, "nan_guard": None},
    ),
    "val_first": Change(lambda c: {**c, "val_first": True}, _same("training"), {"validate": True}),
    "validation_added": Change(lambda c: {**c, "validate": True}, _same("rows"), {"validate": False}),
    "optimizer": Change(lambda c: {**c, "optimizer": "AdamW"}, _refused("optimizer"), {"optimizer": "momentum", "nan_guard": None}),
    "optimizer_alike": Change(lambda c: {**c, "optimizer": "Adam"}, _refused("optimizer"), {"optimizer": "AdamW", "nan_guard": None}),
    "two": Change(lambda c: {**c, "two": True}, _refused(), {"two": False, "halve": False, "compile": False, "paramwise": None, "nan_guard": None}),
    "model": Change(lambda c: {**c, "width": 7}, _refused(), {"nan_guard": None}),
    "stream_workers": Change(lambda c: {**c, "workers": 1}, _refused("num_workers"), {"dataset": "stream", "workers": 0, "nan_guard": None}),
    "shorter": Change(lambda c: {**c, "length": 1}, _ends_where_it_should, {"length": 2, "early_stop": None}),
    "compile": Change(lambda c: {**c, "compile": True}, _same("all"), {"compile": False, "two": False, "checkpointing": False}),
    "average_momentum": Change(lambda c: {**c, "average_interval": 3}, _same("rows"), {**_WITH_AVERAGE, "plateau": False, "early_stop": None, "late": None, "save_best": None}),
    "guard_added": Change(lambda c: {**c, "nan_guard": "rollback"}, _same("training"), {"nan_guard": None}),
    "guard_removed": Change(lambda c: {**c, "nan_guard": None}, _same("training", "NanGuardHook"), {"nan_guard": "stop", "nan": False}),
    "out_dir": Change(lambda c: {**c, "out_dir": not c["out_dir"]}, _same("training")),
    "save_by": Change(lambda c: {**c, "save_by": "iter"}, _same("training"), {"save_by": "epoch", "nan_guard": None}),
    "val_interval": Change(lambda c: {**c, "val_interval": 3}, _same("rows"), {"validate": True, "val_interval": 1, "plateau": False, "early_stop": None, "late": None, "switch": None, "nan_guard": None}),
    "best_added": Change(lambda c: {**c, "save_best": "both"}, _same("training"), {"validate": True, "save_best": None, "nan_guard": None}),
    "amp": Change(lambda c: {**c, "amp": "bfloat16"}, _ends_where_it_should, {"amp": None, "early_stop": None, "nan_guard": None}),
    "no_amp": Change(lambda c: {**c, "amp": None}, _ends_where_it_should, {"amp": "float16", "early_stop": None, "nan_guard": None}),
    "accumulate": Change(lambda c: {**c, "accumulate": 3}, _ends_where_it_should, {"accumulate": 2, "early_stop": None, "nan_guard": None}),
    "paramwise": Change(lambda c: {**c, "paramwise": "custom"}, _ends_where_it_should, {"paramwise": None, "two": False, "early_stop": None, "nan_guard": None}),
    "no_paramwise": Change(lambda c: {**c, "paramwise": None}, _ends_where_it_should, {"paramwise": "bias", "two": False, "early_stop": None, "nan_guard": None}),
    "one": Change(lambda c: {**c, "two": False}, _refused(), {"two": True, "halve": False, "compile": False, "paramwise": None, "nan_guard": None}),
    "plateau_added": Change(lambda c: {**c, "plateau": True}, _ends_where_it_should, {"validate": True, "plateau": False, "early_stop": None, "nan_guard": None}),
    "plateau_removed": Change(lambda c: {**c, "plateau": False}, _ends_where_it_should, {"validate": True, "plateau": True, "early_stop": None, "nan_guard": None}),
    "sampler": Change(lambda c: {**c, "sampler": "ClassAwareSampler"}, _ends_where_it_should, _PLAIN),
    "batch_sampler": Change(lambda c: {**c, "batch_sampler": "ComboBatchSampler"}, _ends_where_it_should, _PLAIN),
    "drop_last": Change(lambda c: {**c, "drop_last": True}, _ends_where_it_should, _PLAIN),
    "wrapper": Change(lambda c: {**c, "wrapper": "repeat"}, _ends_where_it_should, _PLAIN),
    "no_wrapper": Change(lambda c: {**c, "wrapper": None}, _ends_where_it_should, {**_PLAIN, "wrapper": "repeat"}),
    "to_stream": Change(lambda c: {**c, "dataset": "stream"}, _ends_where_it_should, _PLAIN),
    "from_stream": Change(lambda c: {**c, "dataset": "map"}, _ends_where_it_should, {**_PLAIN, "dataset": "stream"}),
    "to_loader": Change(lambda c: {**c, "dataset": "loader"}, _ends_where_it_should, _PLAIN),
    "stream_batch": Change(lambda c: {**c, "batch_size": 5}, _each_sample_once, {**_PLAIN, "dataset": "stream", "batch_size": 4}),
    "epochs_batch": Change(lambda c: {**c, "batch_size": 5}, _ends_where_it_should, {**_PLAIN, "loop": "iter", "batch_size": 4}),
    "switch_added": Change(lambda c: {**c, "switch": "clip"}, _ends_where_it_should, {"switch": None, "early_stop": None, "nan_guard": None, "two": False, "clip": "norm"}),
    "switch_removed": Change(lambda c: {**c, "switch": None}, _ends_where_it_should, {"switch": "clip", "early_stop": None, "nan_guard": None, "two": False, "clip": "norm"}),
    "hook_in_front": Change(
        lambda c: {**c, "switch_in_front": True}, _same("rows"),
        {"draws": False, "late": None, "switch": "clip", "two": False, "clip": "norm"},
    ),
    "fewer_samples": Change(lambda c: {**c, "samples": 8}, _ends_where_it_should, {**_PLAIN, "accumulation": None}),
    "more_samples": Change(lambda c: {**c, "samples": 18}, _ends_where_it_should, {**_PLAIN, "accumulation": None}),
    "to_epochs": Change(lambda c: {**c, "loop": "epoch"}, _ends_where_it_should, {**_PLAIN, "loop": "iter"}),
    "to_iterations": Change(lambda c: {**c, "loop": "iter"}, _ends_where_it_should, {**_PLAIN, "loop": "epoch"}),
}  # fmt: skip
"""Changes on resume by name. The oracles check the statements in docs/resuming.md."""


# --- checking, and finding the smallest


@dataclass
class Verdict:
    """The result of checking a combination.

    Args:
        kind: ``same``, ``refused``, or the kind of the first difference.
        lines: all differences, or the reason.
    """

    kind: str
    lines: list[str]

    @property
    def failed(self) -> bool:
        return self.kind not in ("same", "refused")


def check(chosen: Mapping[str, Any]) -> Verdict:
    """Train a combination with and without its interruptions, and compare.

    Args:
        chosen: choices of the combination; the others are defaults.
    """
    c = settle(chosen)
    folder = tempfile.mkdtemp(prefix="combination_")
    base = Path(folder)
    try:
        change = CHANGES.get(c["change"])
        if change is not None:
            c = settle({**c, **change.needs})
            changed = settle(change.to(c))
            cut = train(c, base, "cut", resumed=changed)
            if len(cut.segments) > 1 or not cut.outcome.startswith("refused"):
                lines = [] if len(cut.segments) == 1 else change.oracle(c, changed, cut, base)
                return _verdict(lines)
            return Verdict("refused", [cut.outcome])
        whole = train(c, base, "whole", uncut=True)
        if whole.outcome.startswith("refused"):
            return Verdict("refused", [whole.outcome])
        if whole.outcome == "hangs" or (whole.outcome.startswith("error") and not c["nan_guard"]):
            return Verdict(f"uncut {whole.outcome}", [whole.outcome])
        return _verdict(differences(c, train(c, base, "cut"), whole))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verdict(lines: list[str]) -> Verdict:
    if not lines:
        return Verdict("same", [])
    kind = lines[0].partition(":")[0]
    if kind == "outcome":
        kind = lines[0].partition(", not")[0][:90]
    elif kind.startswith("end."):
        kind = ".".join(kind.split(".")[:2])
    return Verdict(kind, lines)


def smallest(chosen: Mapping[str, Any], kind: str) -> Combination:
    """Return the smallest combination with the same failure, by resetting one choice after the other."""
    least = short(chosen)
    for _ in range(3):
        before = json.dumps(least)
        for smaller in _smaller(least):
            candidate = short({**least, **smaller})
            if candidate != least and check(candidate).kind == kind:
                least.clear()
                least.update(candidate)
        if json.dumps(least) == before:
            break
    return least


def _smaller(c: Combination) -> Iterator[Combination]:
    """Yield changes that make a combination smaller, even if it has since been reduced."""
    for number in reversed(range(len(c["cuts"]))):
        if len(c["cuts"]) > 1 and number < len(c["cuts"]):
            yield {"cuts": [c["cuts"][number]]}
        if len(c["cuts"]) > 1 and number < len(c["cuts"]):
            yield {"cuts": c["cuts"][:number] + c["cuts"][number + 1 :]}
    names = [name for name in FEATURES if name in c]
    size = len(names)
    while size > 1:
        size = -(-size // 2)
        for start in range(0, len(names), size):
            yield {name: DEFAULTS[name] for name in names[start : start + size]}
    if c.get("change") is None:
        for how, place in (("stop", "last"), ("stop", None), (None, "last")):
            yield {"cuts": [[how or cut[0], cut[1], place or cut[2]] for cut in c["cuts"]]}
    if len(c["cuts"]) == 1:
        for at in range(1, c["cuts"][0][1]):
            how, present, place = c["cuts"][0]
            if at < present:
                yield {"cuts": [[how, at, place]]}


# --- the report


@dataclass
class Report:
    """Statistics over many combinations.

    Args:
        runs: number of combinations by kind of verdict.
        features: number of passed and failed combinations by choice and by kind of interruption.
        refusals: the reasons.
        failures: seeds and differences by the smallest form of each failure.
    """

    runs: Counter[str] = field(default_factory=Counter)
    features: dict[str, list[int]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[list[int], list[str]]] = field(default_factory=dict)

    def add(self, seed: int, c: Combination, verdict: Verdict, least: Combination | None) -> None:
        """Count the verdict about the combination of a seed."""
        self.runs["failed" if verdict.failed else verdict.kind] += 1
        for name in labels(c):
            self.features.setdefault(name, [0, 0, 0])[2 if verdict.failed else int(verdict.kind == "refused")] += 1
        if verdict.kind == "refused":
            self.refusals[verdict.lines[0]] += 1
        if least is not None:
            self.failures.setdefault(json.dumps(least), ([], verdict.lines[:4]))[0].append(seed)

    def text(self) -> str:
        """Return the report as readable tables."""
        lines = [f"{sum(self.runs.values())} combinations: {dict(self.runs)}", "", f"{'choice':40} held refused failed"]
        lines += [f"{name:40} {row[0]:4} {row[1]:7} {row[2]:6}" for name, row in sorted(self.features.items())]
        lines += ["", "refused:", *(f"  {number:4} {reason}" for reason, number in self.refusals.most_common())]
        groups = sorted(self.failures.items(), key=lambda item: -len(item[1][0]))
        lines += ["", f"smallest failures, of {len(groups)} forms:"]
        for form, (seeds, found) in groups:
            lines += [
                f"  --run '{form}'",
                f"      seeds {', '.join(map(str, seeds))}",
                *(f"      {line}" for line in found),
            ]
        return "\n".join(lines)


def examine(c: Combination, known: Iterable[Combination] = ()) -> tuple[Verdict, Combination | None]:
    """Check a combination, and find the smallest one that fails in the same way.

    Args:
        c: the combination.
        known: smallest failing combinations. If this one contains one of them and passes without it, that is its cause.
    """
    verdict = check(c)
    if not verdict.failed:
        return verdict, None
    for least in known:
        if labels(least) <= labels(c) and not check(avoid(c, [min(labels(least), key=_cuts_last)])).failed:
            return verdict, least
    least = smallest(c, verdict.kind)
    return Verdict(verdict.kind, check(least).lines), least


def _cuts_last(label: str) -> tuple[bool, str]:
    return label.startswith("cut="), label


def survey(seeds: range, seconds: float = float("inf"), jobs: int = 1, without: Sequence[str] = ()) -> Report:
    """Check the combinations of many seeds, until the time is up."""
    report = Report()
    known: list[Combination] = []
    end = time.monotonic() + seconds

    def note(seed: int, verdict: Verdict, least: Combination | None) -> None:
        report.add(seed, avoid(draw(seed), without), verdict, least)
        if least is not None and least not in known:
            known.append(least)
            print(f"seed {seed}: {verdict.kind}: --run '{json.dumps(least)}'", flush=True)
        if (done := sum(report.runs.values())) % 50 == 0:
            print(f"{done} of {len(seeds)}: {dict(report.runs)}", flush=True)

    if jobs == 1:
        for seed in seeds:
            if time.monotonic() > end:
                break
            note(seed, *examine(avoid(draw(seed), without), known))
    else:
        # Not multiprocessing.Pool, whose processes may not have data workers.
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin_process) as pool:
            for done in as_completed([pool.submit(_examine_seed, without, seed) for seed in seeds]):
                note(*done.result())
                if time.monotonic() > end:
                    pool.shutdown(cancel_futures=True)
                    break
    return report


def _examine_seed(without: Sequence[str], seed: int) -> tuple[int, Verdict, Combination | None]:
    return seed, *examine(avoid(draw(seed), without))


def _begin_process() -> None:
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # for data workers: a spawned process would spawn them


def _examine_alone(seed: int) -> tuple[int, Verdict, Combination | None]:
    return examine(seed, [])


def main() -> int:
    """Check seeds, or one combination."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default="0:100", help="first:last+1")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more after this time")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--without", nargs="*", default=[], help="choices to leave out: late=when cut=again")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--run", help="one combination as JSON, or a seed")
    parser.add_argument("--shrink", action="store_true", help="with --run: find the smallest that fails so")
    arguments = parser.parse_args()
    _begin_process()
    if arguments.run is not None:
        chosen = json.loads(arguments.run)
        chosen = draw(chosen) if isinstance(chosen, int) else chosen
        verdict = check(chosen)
        print(json.dumps(short(chosen)), verdict.kind, *verdict.lines, sep="\n")
        if verdict.failed and arguments.shrink:
            print("smallest:", json.dumps(smallest(chosen, verdict.kind)))
        return int(verdict.failed)
    first, _, end = arguments.seeds.partition(":")
    report = survey(range(int(first), int(end)), arguments.seconds, arguments.jobs, arguments.without)
    print(report.text())
    if arguments.out:
        arguments.out.write_text(report.text())
    return int(report.runs["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
