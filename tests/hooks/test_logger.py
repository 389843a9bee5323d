"""LoggerHook: interval, content and destination of log lines, and no synchronization between lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, Scripted, log_of, make_runner
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.engine.errors import ConfigError
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.run.hook import Hook
from trainwright.hooks.logger import LoggerHook


def messages(runner: Any, containing: str = "") -> list[str]:
    lines = [line.split(" - INFO - ")[-1] for line in log_of(runner).splitlines() if " - INFO - " in line]
    return [line for line in lines if containing in line]


def positions(runner: Any, mode: str = "train") -> list[str]:
    return [re.findall(r"\([a-z]+\) *(\[.*?\])  ", line)[0] for line in messages(runner, f"({mode})")]


def make(tmp_path: Path, length: int = 28, logger: dict[str, Any] | None = None, **options: Any) -> Any:
    """Return a run of two epochs of ``length / 4`` batches."""
    options.setdefault("train_cfg", {"max_epochs": 2})
    runner = make_runner(tmp_path, dataset=Points(length), **options)
    hook = next(hook for hook in runner.hooks if isinstance(hook, LoggerHook))
    hook.__init__(**(logger or {}))  # type: ignore[misc]
    return runner


@pytest.mark.parametrize(
    ("length", "logger", "expected"),
    [
        (28, {"interval": 3}, ["[1][3/7]", "[1][6/7]", "[2][3/7]", "[2][6/7]"]),
        (
            28,
            {"interval": 3, "ignore_last": False},
            [f"[{epoch}][{done}/7]" for epoch in (1, 2) for done in (3, 6, 7)],
        ),
        (28, {"interval": 7}, ["[1][7/7]", "[2][7/7]"]),
        (28, {"interval": 10}, ["[1][7/7]", "[2][7/7]"]),  # no full interval: the last iteration is logged
    ],
)
def test_when_lines_are_logged(tmp_path: Path, length: int, logger: dict[str, Any], expected: list[str]) -> None:
    runner = make(tmp_path, length, logger)
    runner.train()
    assert positions(runner) == expected


def test_a_loop_by_iterations(tmp_path: Path) -> None:
    runner = make(
        tmp_path, 8, {"interval": 3, "ignore_last": False}, train_cfg={"by_epoch": False, "max_iters": 8},
        log_processor={"by_epoch": False},
    )  # fmt: skip
    runner.train()
    assert positions(runner) == ["[3/8]", "[6/8]", "[8/8]"]
    assert len(messages(runner, "Exp name")) == 1


def test_name_of_the_experiment(tmp_path: Path) -> None:
    runner = make(tmp_path, 28, {"interval_exp_name": 5}, experiment_name="mine")
    runner.train()
    assert messages(runner, "Exp name") == [f"Exp name: mine_{runner.timestamp}"] * 4  # 5, end, 10, end


def test_line_and_files(tmp_path: Path) -> None:
    runner = make(tmp_path, 8, metric=Scripted(acc=[0.25, 0.5]), log_processor={"window_size": 1})
    runner.train()
    number = r"\d+\.\d{4}"
    times = rf"eta: 0:00:00  time: {number}  data_time: {number}"
    train = rf"Epoch\(train\) \[1\]\[2/2\]  lr: 1.0000e-01  {times}  loss: {number}"
    (first, _) = messages(runner, "Epoch(train)")
    assert re.fullmatch(train, first)
    assert re.fullmatch(
        rf"Epoch\(val\) \[1\]\[1/1\]    acc: 0.2500  data_time: {number}  time: {number}",
        messages(runner, "Epoch(val)")[0],
    )

    folder = Path(runner.log_dir, "vis_data")
    lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    assert [set(line) for line in lines[:2]] == [
        {"lr", "data_time", "loss", "time", "epoch", "iter", "step"},
        {"acc", "data_time", "time", "step"},
    ]
    assert [(line["step"], line.get("epoch"), line.get("iter")) for line in lines] == [
        (2, 1, 2), (1, None, None), (4, 2, 4), (2, None, None),
    ]  # fmt: skip
    assert lines[0]["loss"] == runner.message_hub.get_scalar("train/loss").data[0][1]
    assert (folder / f"{runner.timestamp}.json").read_text() == (folder / "scalars.json").read_text()


def test_validations_by_iteration(tmp_path: Path) -> None:
    runner = make(tmp_path, 8, {"log_metric_by_epoch": False}, metric=Scripted(acc=[0.25, 0.5]))
    runner.train()
    lines = [json.loads(line) for line in Path(runner.log_dir, "vis_data", "scalars.json").read_text().splitlines()]
    assert [line["step"] for line in lines if "acc" in line] == [2, 4]


def test_results_of_a_test(tmp_path: Path) -> None:
    loader = {"dataset": Points(12), "batch_size": 2, "collate_fn": {"type": "default_collate"}}
    metric = Scripted(acc=[0.5], matrix=[torch.eye(2)])
    runner = make(tmp_path, 8, {"interval": 4}, test_dataloader=loader, test_cfg={}, test_evaluator=metric)
    runner.test()
    assert positions(runner, "test")[0] == "[4/6]"
    result = json.loads(Path(runner.log_dir, f"{runner.timestamp}.json").read_text())
    assert list(result) == ["acc", "matrix", "data_time", "time"]
    assert result["acc"] == 0.5 and result["matrix"] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("keep_local", [True, False])
def test_logs_are_copied(tmp_path: Path, keep_local: bool) -> None:
    runner = make(tmp_path / "work", 8, {"out_dir": tmp_path / "out", "keep_local": keep_local})
    runner.train()
    log_file = Path(f"{runner.timestamp}.log")
    copied = tmp_path / "out" / "work"
    assert "Epoch(train) [2][2/2]" in (copied / log_file).read_text()
    assert (copied / "vis_data" / "scalars.json").exists()
    assert Path(runner.log_dir, "vis_data", "scalars.json").exists() == keep_local


def test_moved_logs_of_several_runs_are_one(tmp_path: Path) -> None:
    options = {"out_dir": tmp_path / "out", "keep_local": False}
    loader = {"dataset": Points(4), "batch_size": 4, "collate_fn": {"type": "default_collate"}}
    test = {"test_dataloader": loader, "test_cfg": {}, "test_evaluator": Scripted(acc=[1, 2])}
    runner = make(tmp_path / "work", 8, options, **test)
    runner.train()
    moved = tmp_path / "out" / "work"
    log, scalars = moved / f"{runner.timestamp}.log", moved / "vis_data" / "scalars.json"
    trained, numbers = log.read_text(), scalars.read_text()
    runner.test()
    runner.test()
    assert log.read_text().startswith(trained)
    assert log.read_text().count("Epoch(test)") == 2
    assert scalars.read_text().startswith(numbers)
    assert json.loads((moved / f"{runner.timestamp}.json").read_text())["acc"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval: must be a positive integer, not 0"),
        ({"interval": 2.5}, "not 2.5"),
        ({"interval_exp_name": -1}, "interval_exp_name"),
        ({"keep_local": False}, "set out_dir"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoggerHook(**options)


class CountTransfers(TorchDispatchMode):
    """Count the operations that would wait for a device: reading a value, copying."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.reads += name in ("_local_scalar_dense", "_to_copy", "equal", "nonzero")
        return func(*args, **(kwargs or {}))


class PerIteration(Hook):
    """Record, as the last hook, the number of reads so far and whether values are pending, in each iteration."""

    priority = "LOWEST"

    def __init__(self, counter: CountTransfers) -> None:
        self.counter = counter
        self.seen: list[tuple[int, bool]] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.seen.append((self.counter.reads, runner.message_hub.has_pending))
        self.counter.reads = 0


def test_no_synchronization_between_log_lines(tmp_path: Path) -> None:
    counter = CountTransfers()
    hook = PerIteration(counter)
    runner = make(tmp_path, 40, {"interval": 5}, train_cfg={"max_epochs": 1}, hooks=[hook])
    with counter:
        runner.train()
    assert len(hook.seen) == 10
    assert [pending for _, pending in hook.seen] == [True, True, True, True, False] * 2
    assert [reads for reads, _ in hook.seen[1:]] == [0] * 9


def test_two_runs_do_not_mix(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one", 8), make(tmp_path / "two", 8)
    hubs: list[MessageHub] = []

    class Inside(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            hubs.append(MessageHub.get_current_instance())

    one.register_hook(Inside())
    two.register_hook(Inside())
    one.train()
    two.train()
    assert hubs == [one.message_hub] * 4 + [two.message_hub] * 4
    assert one.message_hub.get_scalar("train/loss").total_length == 4
    assert str(tmp_path / "two") not in log_of(one)


def test_losses_are_kept_without_their_graph(tmp_path: Path) -> None:
    waiting: list[Tensor] = []

    class Peek(Hook):
        priority = "VERY_HIGH"

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            waiting.extend(runner.message_hub.series("train/loss").pending)

    make(tmp_path, 8, hooks=[Peek()]).train()
    assert waiting and not any(value.requires_grad for value in waiting)
