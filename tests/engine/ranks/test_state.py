"""The state of each rank in checkpoints: resumed to the bits on the same number of processes, averaged on another."""

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import ParallelLine, Points, Scripted, log_of, make_runner
from torch import Tensor

from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.distributed import continue_alone, get_rank
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.run.runner import Runner

ACCUMULATION = dict(
    optim_wrapper=dict(accumulative_counts=3), batch_size=2, dataset=Points(16),
    checkpoint=dict(by_epoch=False, interval=5, save_last=False),
)  # fmt: skip


class Noisy(ParallelLine):
    """A model that draws from ``random`` in training, always with the same initial weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return super().forward(inputs + random.gauss(0, 0.1) * (mode == "loss"), data_samples, mode)


def state_of(runner: Runner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def make_two(runner: Runner) -> Runner:
    """Train the parts of the model with an optimizer each; one has a longer window than the other."""
    model = unwrap(runner.model)
    runner.optim_wrapper = OptimWrapperDict(
        norm=OptimWrapper(torch.optim.SGD(model.norm.parameters(), 0.1), accumulative_counts=4),
        fc=OptimWrapper(torch.optim.SGD(model.fc.parameters(), 0.1), accumulative_counts=3),
    )
    return runner


class Two(Noisy):
    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        losses = self(*data, mode="loss")
        for wrapper in optim_wrapper.values():
            loss = self(*data, mode="loss")["loss"]
            others = [p for other in optim_wrapper.values() if other is not wrapper for p in other._params()]
            before = [None if p.grad is None else p.grad.clone() for p in others]
            wrapper.update_params(loss)
            for p, grad in zip(others, before):
                p.grad = grad
        return losses


def test_every_rank_continues_to_the_bits(tmp_path: Path) -> None:
    def in_rank() -> Any:
        ended = make_runner(tmp_path / "whole", model=Noisy(), **ACCUMULATION)
        ended.train()
        path = str(tmp_path / "whole" / "iter_5.pth")
        resumed = make_runner(tmp_path / "resumed", model=Noisy(), resume=path, **ACCUMULATION)
        resumed.train()
        return state_of(ended), state_of(resumed)

    ranks = run_group(2, in_rank, tmp_path)
    for ended, resumed in ranks:
        assert all(torch.equal(ended[name], resumed[name]) for name in ended)
    assert not torch.equal(ranks[0][0]["module.norm.running_mean"], ranks[1][0]["module.norm.running_mean"])
    saved = load_checkpoint_file(tmp_path / "whole" / "iter_5.pth")["trainwright"]["ranks"]
    assert saved["world_size"] == 2 and set(saved["states"][0]) == {"buffers"}


def test_every_rank_rolls_back_to_its_own_snapshot_after_resuming(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "dataset": Points(16, bad=[13]), "batch_size": 2, "checkpoint": {"interval": 3, "by_epoch": False},
        "train_dataloader": {"sampler": {"type": "DefaultSampler", "shuffle": False}}, "train_cfg": {"max_epochs": 1},
        "hooks": [{"type": "NanGuardHook", "action": "rollback", "interval": 1, "snapshot_interval": 2}],
    }  # fmt: skip

    def in_rank() -> Any:
        ended = make_runner(tmp_path / "whole", model=Noisy(), **options)
        ended.train()
        path = str(tmp_path / "whole" / "iter_3.pth")
        resumed = make_runner(tmp_path / "resumed", model=Noisy(), resume=path, **options)
        resumed.train()
        return state_of(ended), state_of(resumed), "ROLLED BACK to the state after 2" in log_of(resumed)

    first, second = run_group(2, in_rank, tmp_path)
    for ended, resumed, _ in (first, second):
        assert all(torch.equal(ended[name], resumed[name]) for name in ended)
    assert not torch.equal(first[0]["module.norm.running_mean"], second[0]["module.norm.running_mean"])
    assert first[2]


def test_a_validation_that_is_repeated_on_resuming_does_not_change_the_averaged_weights(tmp_path: Path) -> None:
    """Each rank has its own averaged statistics; SyncBuffersHook must not average these."""
    options: dict[str, Any] = {
        "hooks": [{"type": "EMAHook", "momentum": 0.1, "update_buffers": True}, {"type": "SyncBuffersHook"}],
        "dataset": Points(16), "batch_size": 2, "checkpoint": {},
    }  # fmt: skip

    def in_rank() -> Any:
        metric = Scripted(acc=[0] * 6)
        make_runner(tmp_path / "whole", model=Noisy(), metric=metric, **options).train()
        one_epoch = {"train_cfg": {"max_epochs": 1}}  # without its validation
        make_runner(tmp_path / "stopped", model=Noisy(), **one_epoch, **options).train()
        make_runner(tmp_path / "stopped", model=Noisy(), metric=metric, resume=True, **options).train()
        return [load_checkpoint_file(tmp_path / name / "epoch_3.pth") for name in ("whole", "stopped")]

    for ended, resumed in run_group(2, in_rank, tmp_path):
        for key in ("state_dict", "ema_state_dict"):
            assert all(torch.equal(value, resumed[key][name]) for name, value in ended[key].items())


class Kept(Hook):
    """Keeps the gradients and buffers with which the training begins, and those after five iterations."""

    def before_train(self, runner: Runner) -> None:
        self.begin = self.copied(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 4:
            self.saved = self.copied(runner)

    def copied(self, runner: Runner) -> Any:
        model = unwrap(runner.model)
        grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return grads, [b.clone() for b in model.buffers()]


def test_every_optimizer_of_several_continues_with_the_gradients_of_its_rank(tmp_path: Path) -> None:
    def in_rank() -> Any:
        kept = []
        for resume in (False, str(tmp_path / "run" / "iter_5.pth")):
            kept.append(Kept())
            options = dict(ACCUMULATION, optim_wrapper=None, resume=resume)
            runner = make_runner(tmp_path / "run", kept[-1:], model=Two(), **options)
            make_two(runner).train()
        return kept[0].saved, kept[1].begin

    ranks = run_group(2, in_rank, tmp_path)
    for (saved, _), (resumed, _) in ranks:
        assert all(torch.equal(before, after) for before, after in zip(saved, resumed)) and len(saved) == 4
    assert not torch.equal(ranks[0][0][0][0], ranks[1][0][0][0])


def test_another_number_of_ranks_continues_with_the_means(tmp_path: Path) -> None:
    def in_rank() -> Any:
        keep = Kept()
        make_runner(tmp_path / "run", [keep], model=Noisy(), **ACCUMULATION).train()
        return keep.saved

    ranks = run_group(2, in_rank, tmp_path)
    keep = Kept()
    path = str(tmp_path / "run" / "iter_5.pth")
    runner = make_runner(tmp_path / "resumed", [keep], model=Noisy(), resume=path, **ACCUMULATION)
    runner.train()
    for kind in (0, 1):
        for mean, first, second in zip(keep.begin[kind], ranks[0][kind], ranks[1][kind]):
            assert torch.allclose(mean.float(), (first + second) / 2, atol=1e-7)
    assert not torch.allclose(ranks[0][0][0], ranks[1][0][0], atol=1e-4)
    assert "The checkpoint is from 2 processes, and this run has 1." in log_of(runner)
    assert "means over the saved ranks of the buffers that differ between ranks and the gradients" in log_of(runner)


def test_a_survivor_saves_alone(tmp_path: Path) -> None:
    """The other rank makes no call, and a run that resumes from the checkpoint logs what it lacks."""

    class Survivor(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 3 and get_rank() == 1:
                self.mean = unwrap(runner.model).norm.running_mean.clone()
                continue_alone(as_main=True)
                runner.checkpoint_writer.write([tmp_path / "run" / "iter_4.pth"])
            if runner.iter == 3:
                raise SystemExit

    def in_rank() -> Any:
        survivor = Survivor()
        runner = make_runner(tmp_path / "run", [survivor], model=Noisy(), **ACCUMULATION)
        with contextlib.suppress(SystemExit):
            runner.train()
        return getattr(survivor, "mean", None)

    mean = run_group(2, in_rank, tmp_path)[1]
    saved = load_checkpoint_file(tmp_path / "run" / "iter_4.pth")
    assert saved["meta"]["alone"] == {"rank": 1, "world_size": 2}
    assert torch.equal(saved["state_dict"]["norm.running_mean"], mean)

    def resume() -> Any:
        runner = make_runner(tmp_path / "run", model=Noisy(), resume=True, **ACCUMULATION)
        runner.train()
        return log_of(runner) if get_rank() == 0 else None

    text = run_group(2, resume, tmp_path)[0]
    assert "Rank 1 of 2 saved this checkpoint alone" in text
    for lacking in ("random and numpy.random streams", "batch-norm statistics", "gradients of the accumulation window"):
        assert lacking in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_every_rank_learns_that_a_checkpoint_was_not_written(tmp_path: Path) -> None:
    """Otherwise the ranks would disagree about the next one."""

    def in_rank() -> Any:
        runner = make_runner(tmp_path / "run", model=ParallelLine(), batch_size=2)
        runner.train()
        errors: list[Any] = []
        for background in (False, True):
            target = Path("/dev/full/none.pth")
            runner.checkpoint_writer.write([target], newest=False, background=background, done=errors.append)
            runner.checkpoint_writer.wait()
        return [isinstance(error, OSError) for error in errors], runner.checkpoint_writer.is_saved

    assert run_group(2, in_rank, tmp_path) == [([True, True], False)] * 2
