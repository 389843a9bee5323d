"""Real runs that take milliseconds, for the tests of hooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from report_runs import SEGMENTED, run_test
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.engine.distributed import get_rank
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.hooks import NanGuardHook, TimeLimitHook
from trainwright.models.base import BaseModel


class StopAt(Hook):
    """Request a stop after a number of iterations of the whole run."""

    def __init__(self, done: int) -> None:
        self.done = done

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.done:
            runner.request_stop("a test")


class Points(Dataset[tuple[Tensor, Tensor]]):
    """``length`` points on a line: inputs ``(i, 1)`` scaled to [0, 1], targets twice the first.

    Args:
        length: number of points.
        bad: indices of points whose input is NaN.
    """

    def __init__(self, length: int = 8, bad: Sequence[int] = ()) -> None:
        self.inputs = torch.stack([torch.arange(length) / length, torch.ones(length)], dim=1)
        self.inputs[list(bad)] = torch.nan
        self.targets = 2 * torch.arange(length) / length

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


class Line(nn.Module):
    """A linear model with ``train_step`` that records its inputs and the weights used for predictions."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(2) if batch_norm else nn.Identity()
        nn.init.constant_(self.fc.weight, 0.5)
        nn.init.zeros_(self.fc.bias)
        self.seen: list[Tensor] = []
        self.predicted_with: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.fc(self.norm(inputs))
        return output.squeeze(1)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        inputs, targets = data
        self.seen.append(targets)
        loss = nn.functional.mse_loss(self(inputs), targets)
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}

    def val_step(self, data: Any) -> list[dict[str, Tensor]]:
        self.predicted_with.append(self.fc.weight.detach().clone())
        return [{"pred": value} for value in self(data[0])]

    test_step = val_step


class Scripted(BaseMetric):
    """A metric with predefined results, one for each evaluation.

    Args:
        **scores: the values of each name.
    """

    def __init__(self, **scores: Sequence[float]) -> None:
        super().__init__(prefix="val")
        self.prefix = None
        self.scores = scores
        self.calls = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(0 for _ in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        self.calls += 1
        return {name.replace("__", "/"): values[self.calls - 1] for name, values in self.scores.items()}


def make_runner(
    work_dir: Path,
    hooks: Sequence[Any] = (),
    *,
    checkpoint: Any = None,
    metric: BaseMetric | None = None,
    train_cfg: dict[str, Any] | None = None,
    dataset: Any = None,
    batch_size: int = 4,
    lr: float = 0.1,
    momentum: float = 0.9,
    optim_wrapper: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    train_dataloader: dict[str, Any] | None = None,
    **options: Any,
) -> Runner:
    """Return a runner over :class:`Points` with the given hooks, which validates if there is a metric.

    Args:
        work_dir: folder of the run.
        hooks: custom hooks.
        checkpoint: options of ``CheckpointHook``; None saves nothing.
        metric: evaluated after each epoch.
        train_cfg: three epochs by default.
        dataset: the training data; eight points by default, two batches.
        batch_size: batch size of the training data.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        optim_wrapper: further options of the optimizer wrapper.
        model: a :class:`Line` by default.
        train_dataloader: further options of the data loader.
        **options: further arguments of the runner.
    """
    loader = {"batch_size": batch_size, "collate_fn": {"type": "default_collate"}}
    if metric is not None:
        options.update(val_dataloader={"dataset": Points(4), **loader}, val_cfg={}, val_evaluator=metric)
    return Runner(
        model=model or Line(),
        work_dir=str(work_dir),
        train_dataloader={"dataset": Points() if dataset is None else dataset, **loader, **(train_dataloader or {})},
        train_cfg=train_cfg or {"by_epoch": True, "max_epochs": 3},
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": lr, "momentum": momentum},
            **(optim_wrapper or {}),
        },
        default_hooks={"checkpoint": checkpoint and {"type": "CheckpointHook", **checkpoint}},
        custom_hooks=list(hooks),
        randomness={"seed": 0},
        **options,
    )


def log_of(runner: Runner) -> str:
    """Return the log of a run."""
    return (Path(runner.log_dir) / f"{runner.timestamp}.log").read_text()


def files_in(work_dir: Path, pattern: str = "*.pth") -> list[str]:
    """Return the sorted names of the files in a folder."""
    return sorted(path.name for path in work_dir.glob(pattern))


def weights_of(runner: Runner) -> dict[str, Tensor]:
    """Return a copy of the model's weights."""
    return {name: value.detach().clone() for name, value in runner.model.state_dict().items()}


class ParallelLine(BaseModel):
    """A linear model after batch normalization, for runs in several processes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        output = self.fc(self.norm(inputs)).squeeze(1)
        return {"loss": nn.functional.mse_loss(output, data_samples)} if mode == "loss" else output


def runs_in_several_processes(folder: str) -> dict[str, Any]:
    """Train several times in one of several processes, and return the result of each run by name."""
    results: dict[str, Any] = {}
    for name, hooks in (("apart", []), ("synced", [{"type": "SyncBuffersHook"}])):
        runner = make_runner(Path(folder, name), hooks, model=ParallelLine(), batch_size=2)
        runner.train()
        results[name] = {key: value.clone() for key, value in runner.model.module.named_buffers()}

    guard = NanGuardHook(action="rollback", interval=1)
    runner = make_runner(
        Path(folder, "rollback"),
        [guard],
        model=ParallelLine(),
        dataset=Points(8, bad=[4]),
        batch_size=2,
        train_cfg={"max_epochs": 1},
        train_dataloader={"sampler": {"type": "DefaultSampler", "shuffle": False}},
    )
    runner.train()
    results["rollback"] = {"times": guard.rollbacks, "weight": runner.model.module.fc.weight.detach().clone()}

    limit = 1e-9 if get_rank() == 0 else 1e9
    runner = make_runner(Path(folder, "limit"), [TimeLimitHook(limit)], model=ParallelLine(), batch_size=2)
    runner.train()
    results["limit"] = runner.iter

    metric = Scripted(acc=[1, 3, 2])
    options = {"interval": 1, "max_keep_ckpts": 1, "save_best": "acc"}
    make_runner(Path(folder, "saved"), model=ParallelLine(), checkpoint=options, metric=metric).train()
    results["report"] = run_test(str(Path(folder, "together")), **SEGMENTED)
    return results
