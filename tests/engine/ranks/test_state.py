"""The state of each rank in checkpoints: resumed to the bits on the same number of processes, averaged on another."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_groups import values_of_ranks
from tiny_runs import ParallelLine, Points, StopAt, log_of, make_runner
from torch import Tensor

from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.distributed import continue_alone, get_rank
from trainwright.engine.optim.wrapper import OptimWrapper, OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.run.runner import Runner

ACCUMULATION = dict(optim_wrapper=dict(accumulative_counts=3), batch_size=2, dataset=Points(16))


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
        make_runner(tmp_path / "cut", [StopAt(5)], model=Noisy(), **ACCUMULATION).train()
        resumed = make_runner(tmp_path / "cut", model=Noisy(), resume=True, **ACCUMULATION)
        resumed.train()
        return state_of(ended), state_of(resumed)

    ranks = values_of_ranks(in_rank, tmp_path, 2)
    for ended, resumed in ranks:
        assert all(torch.equal(ended[name], resumed[name]) for name in ended)
    assert not torch.equal(ranks[0][0]["module.norm.running_mean"], ranks[1][0]["module.norm.running_mean"])
    saved = load_checkpoint_file(tmp_path / "cut" / "iter_5.pth")["trainwright"]["ranks"]
    assert saved["world_size"] == 2 and set(saved["states"][0]) == {"buffers"}


class Kept(Hook):
    """Keeps the gradients and buffers with which the training begins and ends."""

    def before_train(self, runner: Runner) -> None:
        self.begin = self.copied(runner)

    def after_train(self, runner: Runner) -> None:
        self.end = self.copied(runner)

    def copied(self, runner: Runner) -> Any:
        model = unwrap(runner.model)
        grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return grads, [b.clone() for b in model.buffers()]


def test_every_optimizer_of_several_continues_with_the_gradients_of_its_rank(tmp_path: Path) -> None:
    def in_rank() -> Any:
        kept = []
        for hooks in ([StopAt(7), Kept()], [StopAt(9), Kept()]):
            options = dict(ACCUMULATION, optim_wrapper=None, resume=bool(kept))
            runner = make_runner(tmp_path / "run", hooks, model=Two(), **options)
            runner.model.train_step = unwrap(runner.model).train_step
            make_two(runner).train()
            kept.append(hooks[1])
        return kept[0].end, kept[1].begin

    ranks = values_of_ranks(in_rank, tmp_path, 2)
    for (cut, _), (resumed, _) in ranks:
        assert all(torch.equal(before, after) for before, after in zip(cut, resumed)) and len(cut) == 4
    assert not torch.equal(ranks[0][0][0][0], ranks[1][0][0][0])


def test_another_number_of_ranks_continues_with_the_means(tmp_path: Path) -> None:
    def in_rank() -> Any:
        keep = Kept()
        make_runner(tmp_path / "run", [StopAt(5), keep], model=Noisy(), **ACCUMULATION).train()
        return keep.end

    ranks = values_of_ranks(in_rank, tmp_path, 2)
    keep = Kept()
    runner = make_runner(tmp_path / "run", [keep], model=Noisy(), resume=True, **ACCUMULATION)
    runner.train()
    for kind in (0, 1):
        for mean, first, second in zip(keep.begin[kind], ranks[0][kind], ranks[1][kind]):
            assert torch.allclose(mean.float(), (first + second) / 2, atol=1e-7)
    assert not torch.allclose(ranks[0][0][0], ranks[1][0][0], atol=1e-4)
    assert "The checkpoint is from 2 processes, and this run has 1." in log_of(runner)
    assert "means over the saved ranks of the buffers that differ between ranks and the gradients" in log_of(runner)


def test_a_survivor_saves_alone(tmp_path: Path) -> None:
    """The other rank makes no call, and a run that resumes from the checkpoint logs what it lacks."""

    def in_rank() -> Any:
        runner = make_runner(tmp_path / "run", [StopAt(4)], model=Noisy(), checkpoint=dict(interval=-1), **ACCUMULATION)
        runner.train()
        if get_rank() == 1:
            continue_alone(as_main=True)
            runner.checkpoint_writer.write([tmp_path / "run" / "iter_4.pth"])
        return state_of(runner)

    ranks = values_of_ranks(in_rank, tmp_path, 2)
    saved = load_checkpoint_file(tmp_path / "run" / "iter_4.pth")
    assert saved["meta"]["alone"] == {"rank": 1, "world_size": 2}
    assert torch.equal(saved["state_dict"]["norm.running_mean"], ranks[1]["module.norm.running_mean"])

    def resume() -> Any:
        runner = make_runner(tmp_path / "run", model=Noisy(), resume=True, **ACCUMULATION)
        runner.train()
        return log_of(runner) if get_rank() == 0 else None

    text = values_of_ranks(resume, tmp_path, 2)[0]
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

    assert values_of_ranks(in_rank, tmp_path, 2) == [([True, True], False)] * 2
