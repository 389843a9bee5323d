"""Runs that are resumed with another optimizer, schedule or length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, log_of, make_runner, weights_of
from torch import nn

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner

WARMUP = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4}


class Values(Hook):
    """Record learning rates and momenta of each step, and stop after ``stop`` iterations."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: list[tuple[float, ...]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        wrapper = runner.optim_wrapper
        values = [*wrapper.get_lr().values(), *wrapper.get_momentum().values()]
        self.seen.append(tuple(round(value, 6) for group in values for value in group))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.stop:
            runner.request_stop("a test")


def run(folder: Path, stop: int | None = None, hooks: Sequence[Any] = (), **options: Any) -> tuple[Values, Runner]:
    values = Values(stop)
    runner = make_runner(folder, [values, *hooks], checkpoint={"interval": 1}, **options)
    runner.train()
    return values, runner


def optimizer(**settings: Any) -> dict[str, Any]:
    return {"optimizer": settings}


def test_another_optimizer_is_refused_before_the_first_step(tmp_path: Path) -> None:
    run(tmp_path, stop=2)
    values = Values()
    runner = make_runner(tmp_path, [values], optim_wrapper=optimizer(type="AdamW", lr=0.1), resume=True)
    with pytest.raises(CheckpointError, match="SGD, but .* is AdamW: resume with SGD, or start"):
        runner.train()
    assert values.seen == []


def test_a_schedule_that_was_taken_away_leaves_no_trace(tmp_path: Path) -> None:
    momentum = {"type": "LinearMomentum", "start_factor": 0.5, "by_epoch": False, "end": 4}
    run(tmp_path, stop=2, param_scheduler=[WARMUP, momentum])
    values, runner = run(tmp_path, resume=True)
    assert values.seen == [(0.1, 0.9)] * 4
    assert "param_scheduler for momentum: the checkpoint has LinearMomentum, but this run has none" in log_of(runner)
    again, _ = run(tmp_path, resume=True, train_cfg={"by_epoch": True, "max_epochs": 4})
    assert again.seen == [(0.1, 0.9)] * 2


def test_a_schedule_of_another_class_takes_effect(tmp_path: Path) -> None:
    by_iteration = {"by_epoch": False, "end": 6}
    cosine = {"type": "CosineAnnealingLR", **by_iteration}
    run(tmp_path / "changed", stop=3, param_scheduler={"type": "ExponentialLR", "gamma": 0.8, **by_iteration})
    changed, _ = run(tmp_path / "changed", resume=True, param_scheduler=cosine)
    whole, _ = run(tmp_path / "whole", param_scheduler=cosine)
    assert changed.seen == whole.seen[3:]


class Pair(Line):
    """Two lines with separate optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 1)
        nn.init.constant_(self.other.weight, 0.25)
        nn.init.zeros_(self.other.bias)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        losses = {}
        for name, layer in (("one", self.fc), ("two", self.other)):
            losses[f"loss_{name}"] = loss = nn.functional.mse_loss(layer(data[0]).squeeze(1), data[1])
            optim_wrapper[name].update_params(loss)
        return {name: loss.detach() for name, loss in losses.items()}


def run_pair(folder: Path, stop: int | None = None, **options: Any) -> tuple[Values, Runner]:
    model = Pair()
    sgd = torch.optim.SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(model.other.parameters(), lr=0.01)
    wrapper = OptimWrapperDict(one=OptimWrapper(sgd, accumulative_counts=2), two=OptimWrapper(adam))
    values = Values(stop)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader={"dataset": Points(), "batch_size": 4, "collate_fn": "default_collate"},
        train_cfg={"by_epoch": True, "max_epochs": 3},
        optim_wrapper=wrapper,
        custom_hooks=[values],
        randomness={"seed": 0},
        **options,
    )
    runner.train()
    return values, runner


def test_schedules_of_several_optimizers(tmp_path: Path) -> None:
    halved = {"type": "ConstantLR", "factor": 0.5, "by_epoch": False, "end": 50}
    whole, _ = run_pair(tmp_path / "whole")
    run_pair(tmp_path / "removed", 3, param_scheduler=WARMUP)
    removed, _ = run_pair(tmp_path / "removed", resume=True)
    assert removed.seen == whole.seen[3:]
    run_pair(tmp_path / "changed", 3, param_scheduler=WARMUP)
    changed, _ = run_pair(tmp_path / "changed", resume=True, param_scheduler={"one": [WARMUP], "two": [halved]})
    expected, _ = run_pair(tmp_path / "expected", param_scheduler={"one": [WARMUP], "two": [halved]})
    assert changed.seen == expected.seen[3:]


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_scaled_rates_are_scaled_once(tmp_path: Path, stop: int) -> None:
    options: dict[str, Any] = {
        "auto_scale_lr": {"enable": True, "base_batch_size": 2},
        "optim_wrapper": {"paramwise_cfg": {"bias_lr_mult": 2.0}},
        "param_scheduler": WARMUP,
    }
    whole, uncut = run(tmp_path / "whole", **options)
    assert whole.seen[-1] == (0.2, 0.2, 0.4, 0.9, 0.9)
    run(tmp_path / "cut", stop, **options)
    rest, resumed = run(tmp_path / "cut", resume=True, **options)
    assert rest.seen == whole.seen[stop:]
    assert all(torch.equal(value, weights_of(uncut)[name]) for name, value in weights_of(resumed).items())


def test_one_cycle_says_that_it_does_not_scale(tmp_path: Path) -> None:
    scale = {"enable": True, "base_batch_size": 2}
    cycle = {"type": "OneCycleLR", "eta_max": 0.1, "by_epoch": False}
    _, runner = run(tmp_path, auto_scale_lr=scale, param_scheduler=cycle)
    assert "auto_scale_lr has no effect: OneCycle" in log_of(runner)


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_schedule_of_accumulation_resumes_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    def hooks() -> list[Any]:
        return [{"type": "GradientAccumulationScheduleHook", "schedule": {1: 3, 4: 2}, "by_epoch": False}]

    _, uncut = run(tmp_path / "whole", hooks=hooks())
    run(tmp_path / "cut", stop, hooks=hooks())
    _, resumed = run(tmp_path / "cut", hooks=hooks(), resume=True)
    assert all(torch.equal(value, weights_of(uncut)[name]) for name, value in weights_of(resumed).items())


def test_a_longer_run_divides_the_window_in_progress_by_its_new_length(tmp_path: Path) -> None:
    def short_and_long(folder: Path, lengths: Sequence[int], stop: int | None) -> dict[str, torch.Tensor]:
        for index, length in enumerate(lengths):
            _, runner = run(
                folder,
                stop if index == 0 else None,
                train_cfg={"by_epoch": False, "max_iters": length},
                optim_wrapper={"accumulative_counts": 4},
                resume=index > 0,
            )
        return weights_of(runner)

    resumed = short_and_long(tmp_path / "cut", [6, 8], stop=5)
    whole = short_and_long(tmp_path / "whole", [8], stop=None)
    assert all(torch.allclose(value, whole[name]) for name, value in resumed.items())


def test_a_frozen_layer_gets_its_first_gradient_later(tmp_path: Path) -> None:
    class Unfreeze(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            runner.model.fc.bias.requires_grad_(runner.epoch > 0)

    _, runner = run(tmp_path, hooks=[Unfreeze()])
    assert runner.model.fc.bias.item() != 0
