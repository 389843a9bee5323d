"""Log lines of training on several ranks: the means over them, and lines that are averaged together."""

import json
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from ranks import Ranks, run_group
from tiny_runs import Points, log_of, make_runner
from torch import Tensor, nn

from trainwright.engine.distributed import get_rank, init_dist
from trainwright.engine.ranks import consensus
from trainwright.engine.records.log_processor import LogProcessor
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.hooks.logger import LoggerHook
from trainwright.models import BaseModel

LAST = 24


class Losses(BaseModel):
    """A model whose losses are rank, iteration and names of our choice.

    Args:
        kind: ``same`` losses on both ranks, ``other`` names on each, or ``many`` losses.
        fails_at: 0-based iteration that raises an error on rank 1.
        first: 0-based iteration at which the training starts.
        seconds: duration of an iteration.
    """

    def __init__(self, kind: str = "same", fails_at: int = -1, seconds: float = 0.0, first: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.kind, self.fails_at, self.seconds, self.calls = kind, fails_at, seconds, first - 1

    def forward(self, inputs: Tensor, targets: Tensor, mode: str = "tensor") -> Any:
        self.calls += 1
        time.sleep(self.seconds)
        if self.calls == self.fails_at and get_rank() == 1:
            raise ValueError("of rank 1")
        loss = self.weight.sum() * (10 * get_rank() + self.calls)
        extra = {"other": [f"loss_{get_rank()}"], "many": [f"loss_{number}" for number in range(40)]}
        return {"loss_main": loss, **{name: loss.detach() for name in extra.get(self.kind, [])}}


class Stepwise(Hook):
    """Notes after each iteration how many lines are in the log."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.counts: list[int] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.counts.append(len(lines_of(runner)))


class Loud(LogProcessor):
    """A processor of a user."""

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, line + " !"


def lines_of(runner: Runner) -> list[str]:
    return [line for line in log_of(runner).splitlines() if "(train)" in line] if get_rank() == 0 else []


def train(
    name: str, processor: type[LogProcessor] = LogProcessor, interval: int = 6, window_size: int = 1, end: int = LAST,
    resume: bool = False, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    keep = Stepwise()
    runner = make_runner(
        Path(name, str(get_rank())), [keep], model=Losses(**options), dataset=Points(LAST * 2), batch_size=1, lr=0.0,
        train_cfg={"by_epoch": False, "max_iters": end}, launcher="pytorch", log_processor={"type": processor,
        "by_epoch": False, "window_size": window_size}, resume=resume, checkpoint={"by_epoch": False, "interval": 12},
        visualizer={"vis_backends": [{"type": "LocalVisBackend"}]},
    )  # fmt: skip
    next(hook for hook in runner.hooks if isinstance(hook, LoggerHook)).interval = interval
    runner.train()
    backend = Path(runner.log_dir, "vis_data", "scalars.json")
    shown = [json.loads(line) for line in backend.read_text().splitlines()] if backend.exists() else []
    return {"lines": lines_of(runner), "counts": keep.counts, "shown": shown}


def several_runs() -> dict[str, Any]:
    with patch.multiple(consensus, _MIN_SECONDS=100.0, _MAX_ITERATIONS=10):
        together = train("same")
        steps = {interval: train(f"every_{interval}", interval=interval)["shown"] for interval in (1, 2, 5)}
    return {
        "steps": steps,
        "same": together,
        "other": train("other", kind="other"),
        "many": train("many", kind="many"),
        "whole": train("whole", interval=1, window_size=5),
        "halves": train("halves", interval=1, window_size=5, end=12)
        and train("halves", interval=1, window_size=5, resume=True, first=12),
        "slow": train("slow", seconds=0.11),
        "loud": train("loud", Loud),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    first, _ = run_group(2, several_runs, tmp_path_factory.mktemp("runs"))
    return dict(first)


def numbers(run: dict[str, Any], name: str = "loss_main") -> list[float]:
    return [float(match) for line in run["lines"] for match in re.findall(rf"\b{name}: ([\d.]+)", line)]


MEANS = [10.0, 16.0, 22.0, 28.0]
"""Of 0-based iterations 5, 11, 17 and 23, on which rank 1 has 10 more than rank 0."""


def test_losses_are_means_also_of_names_that_differ(runs: dict[str, Any]) -> None:
    assert numbers(runs["same"]) == MEANS
    assert [scalars["loss_main"] for scalars in runs["same"]["shown"]] == MEANS
    assert [scalars["step"] for scalars in runs["same"]["shown"]] == [6, 12, 18, 24]
    assert numbers(runs["other"]) == MEANS
    assert numbers(runs["other"], "loss_0") == [5.0, 11.0, 17.0, 23.0]  # only rank 0 has it
    assert numbers(runs["many"], "loss_39") == MEANS


def test_lines_of_short_iterations_are_written_together(runs: dict[str, Any]) -> None:
    counts = runs["same"]["counts"]
    assert counts == [0] * 16 + [2] * 8  # nine iterations after the first line, the means of both are exchanged
    assert len(runs["same"]["lines"]) == 4
    assert runs["slow"]["counts"][5::6] == [1, 2, 3, 4]


def test_no_line_is_lost_if_it_is_due_while_others_are_averaged(runs: dict[str, Any]) -> None:
    for interval, shown in runs["steps"].items():
        due = range(interval, LAST + 1, interval)
        assert [(scalars["step"], scalars["loss_main"]) for scalars in shown] == [(step, step + 4.0) for step in due]


def test_means_over_a_window_go_on_where_a_resumed_run_left_off(runs: dict[str, Any]) -> None:
    whole, resumed = (
        {shown["step"]: shown["loss_main"] for shown in runs[name]["shown"]} for name in ("whole", "halves")
    )
    assert whole[13] == 15.0  # of iterations 8 to 12, on which rank 1 has 10 more than rank 0
    assert [resumed[step] for step in range(13, LAST + 1)] == [whole[step] for step in range(13, LAST + 1)]


def test_a_processor_with_its_own_lines_is_used(runs: dict[str, Any]) -> None:
    assert all(line.endswith(" !") for line in runs["loud"]["lines"])
    assert numbers(runs["loud"]) == MEANS and runs["loud"]["counts"][5::6] == [1, 2, 3, 4]


def test_the_lines_before_a_failure_are_written(tmp_path: Path) -> None:
    def fail() -> None:
        init_dist("pytorch", "gloo", timeout=60)
        with patch.multiple(consensus, _MIN_SECONDS=100.0, _MAX_ITERATIONS=10):
            train("failed", fails_at=20)

    ranks = Ranks(2, fail, tmp_path)
    assert [process.wait() for process in ranks.processes] == [1, 1]
    log = next(tmp_path.glob("failed/0/*/*.log")).read_text()
    shown = re.findall(r"\(train\) \[ *(\d+)/24\].* loss_main: ([\d.]+)", log)
    assert shown == [("6", "10.0000"), ("12", "16.0000"), ("18", "17.0000")]
    assert re.search(r"WARNING.*of this rank, not means.*\n.*\[18/24\]", log)
