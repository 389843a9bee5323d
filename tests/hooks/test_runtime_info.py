"""RuntimeInfoHook in real runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Scripted, make_runner

from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.run.hook import Hook
from trainwright.hooks.runtime_info import RuntimeInfoHook


class Recorder(Hook):
    """Record runtime info at several hook points."""

    priority = "NORMAL"

    def __init__(self) -> None:
        self.loop_stages: list[Any] = []
        self.iterations: list[int] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.loop_stages.append(runner.message_hub.get_info("loop_stage"))
        self.iterations.append(runner.message_hub.get_info("iter"))

    def before_val_epoch(self, runner: Any) -> None:
        self.loop_stages.append(runner.message_hub.get_info("loop_stage"))

    def before_test_epoch(self, runner: Any) -> None:
        self.loop_stages.append(runner.message_hub.get_info("loop_stage"))


def test_training(tmp_path: Path) -> None:
    recorder = Recorder()
    runner = make_runner(tmp_path, [recorder], metric=Scripted(acc=[0.25, 0.5, 0.75]), lr=0.05)
    runner.train()
    hub = runner.message_hub
    assert recorder.loop_stages == ["train", "train", "val"] * 3
    assert recorder.iterations == [0, 1, 2, 3, 4, 5]
    assert hub.get_scalar("train/lr").data[0].tolist() == [0.05] * 6
    assert hub.get_scalar("train/loss").total_length == 6
    assert hub.get_scalar("val/acc").data[0].tolist() == [0.25, 0.5, 0.75]
    infos = {key: hub.get_info(key) for key in ("seed", "epoch", "iter", "max_epochs", "max_iters", "loop_stage")}
    assert infos == {"seed": 0, "epoch": 2, "iter": 5, "max_epochs": 3, "max_iters": 6, "loop_stage": None}
    assert hub.get_info("experiment_name") == runner.experiment_name
    assert isinstance(hub.get_info("cfg"), str)
    assert hub.get_info("trainwright_version") not in (None, "not installed")


def test_only_testing(tmp_path: Path) -> None:
    recorder = Recorder()
    loader = {"dataset": [(torch.zeros(2), torch.zeros(()))], "collate_fn": {"type": "default_collate"}}
    matrix = np.eye(2)
    runner = make_runner(
        tmp_path,
        [recorder],
        test_dataloader=loader,
        test_cfg={},
        test_evaluator=Scripted(acc=[0.5], matrix=[matrix]),
    )
    runner.test()
    assert recorder.loop_stages == ["test"]
    assert runner.message_hub.get_scalar("test/acc").current() == 0.5
    assert runner.message_hub.get_info("test/matrix") is matrix
    assert runner.message_hub.get_info("loop_stage") is None


def test_meta_of_the_dataset(tmp_path: Path) -> None:
    class WithMeta(list[Any]):
        metainfo = {"classes": ["a"]}  # noqa: RUF012  # like other datasets

    dataset = WithMeta([(torch.zeros(2), torch.zeros(()))])
    runner = make_runner(tmp_path, dataset=dataset)
    runner.train()
    assert runner.message_hub.get_info("dataset_meta") == {"classes": ["a"]}
    assert runner.message_hub.get_info("dataset_meta") is not WithMeta.metainfo


def test_a_rate_that_is_a_tensor_is_kept_as_it_was() -> None:
    rate = torch.tensor(1.0)
    hub = MessageHub("test")
    optim_wrapper = SimpleNamespace(get_lr=lambda: {"lr": [rate]})
    run: Any = SimpleNamespace(message_hub=hub, iter=0, optim_wrapper=optim_wrapper)
    hook = RuntimeInfoHook()
    for _ in range(3):
        hook.before_train_iter(run, 0)
        rate.mul_(0.5)
    assert hub.get_scalar("train/lr").data[0].tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("value", [torch.zeros(2), [1.0], "text", None])
def test_results_that_are_not_scalars_are_runtime_info(tmp_path: Path, value: Any) -> None:
    runner = make_runner(tmp_path, metric=Scripted(odd=[value, value, value], acc=[1, 2, 3]))
    runner.train()
    assert runner.message_hub.get_info("val/odd") is value
    assert "val/odd" not in runner.message_hub.log_scalars
