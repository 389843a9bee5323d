"""Means of buffers over ranks: what is validated is what is saved, and training is not disturbed."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import ParallelLine, Points, make_runner
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.distributed import get_rank
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.ranks.buffers import averaged_buffers, float_buffers, mean_over_ranks
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner


class Buffers(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("same", torch.tensor([0.1, torch.inf, 1e-30]))
        self.register_buffer("short", torch.tensor([0.1 + rank], dtype=torch.float16))
        self.register_buffer("own", torch.tensor([[1.0 + rank, 0.3]]))
        self.register_buffer("whole", torch.tensor(rank))
        self.register_buffer("unsaved", torch.tensor(float(rank)), persistent=False)


def test_the_mean_of_equal_values_has_their_bits_and_an_error_restores_the_buffers(tmp_path: Path) -> None:
    def in_rank() -> Any:
        module = Buffers(get_rank())
        means = mean_over_ranks(float_buffers(module))
        with contextlib.suppress(RuntimeError), averaged_buffers(module):
            inside = [buffer.clone() for buffer in module.buffers()]
            raise RuntimeError
        return means, inside, list(module.buffers())

    for rank, (means, inside, after) in enumerate(run_group(3, in_rank, tmp_path)):
        assert set(means) == {"short", "own"}
        assert torch.equal(means["own"], torch.tensor([[2.0, 0.3]]))
        assert torch.equal(means["short"], torch.tensor([1.1], dtype=torch.float16))
        assert torch.equal(inside[0], Buffers(0).same) and torch.equal(inside[2], means["own"])
        assert inside[3:] == [rank, rank]
        for buffer, own in zip(after, Buffers(rank).buffers()):
            assert torch.equal(buffer, own)


def test_one_process_has_nothing_to_average() -> None:
    assert mean_over_ranks(float_buffers(Buffers(0))) == {}


class Mean(BaseMetric):
    """The mean of the predictions, which depends on every bit of the statistics."""

    default_prefix = "mean"
    higher_is_better = True

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(float(value) for value in data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"prediction": sum(results) / len(results), "number": len(results)}


class Line(ParallelLine):
    """A model whose predictions are those of its batch norm in evaluation mode."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        output = super().forward(inputs, data_samples, mode)
        return output if mode == "loss" else list(output)


class Metrics(Hook):
    """Keeps the metrics of the last validation, and the model's statistics during and after it."""

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.during = runner.model.state_dict()["module.norm.running_mean"].clone()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        self.metrics = metrics

    def after_val(self, runner: Runner) -> None:
        self.after = runner.model.state_dict()["module.norm.running_mean"].clone()


AVERAGES = {
    "none": [],
    "copied buffers": [dict(type="EMAHook", momentum=0.3)],
    "averaged buffers": [dict(type="EMAHook", momentum=0.3, update_buffers=True)],
}


def test_the_validated_statistics_are_the_saved_ones(tmp_path: Path) -> None:
    """The metrics of a run on two processes equal those of one process that tests its checkpoint."""

    def in_rank() -> Any:
        seen = {}
        for name, hooks in AVERAGES.items():
            keeper = Metrics()
            runner = make_runner(
                tmp_path / name,
                [*hooks, keeper],
                model=Line(),
                metric=Mean(),
                batch_size=2,
                checkpoint=dict(interval=3),
            )
            runner.train()
            seen[name] = keeper.metrics, keeper.during, keeper.after
        return seen

    first, second = run_group(2, in_rank, tmp_path)
    for name in AVERAGES:
        metrics, during, after = first[name]
        assert metrics == second[name][0] and metrics["mean/number"] == 4
        assert torch.equal(during, second[name][1])
        assert not torch.allclose(after, second[name][2], atol=1e-3)  # training continues with its own
        path = tmp_path / name / "epoch_3.pth"
        runner = Runner(
            Line(), str(tmp_path / "test"), load_from=str(path), test_cfg={}, test_evaluator=Mean(),
            test_dataloader=dict(dataset=Points(4), batch_size=2, collate_fn="default_collate"),
        )  # fmt: skip
        tested = runner.test()
        assert tested["mean/prediction"] == pytest.approx(metrics["mean/prediction"], rel=1e-6)
        saved = load_checkpoint_file(path)
        assert torch.equal(saved["state_dict"]["norm.running_mean"], during)
        own = saved["trainwright"]["ranks"]["states"][1]["buffers"]
        trained = "ema_state_dict" if name == "averaged buffers" else "state_dict"
        prefix = "module." if trained == "ema_state_dict" else ""
        assert torch.equal(own[trained][f"{prefix}norm.running_mean"], second[name][2])
