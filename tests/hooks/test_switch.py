"""SwitchHook and PipelineSwitchHook in real runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, Scripted, log_of, make_runner
from torch import Tensor
from torch.utils.data import Dataset

from trainwright.datasets.base import Compose
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.hooks import PipelineSwitchHook, SwitchHook


def add_ten(sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mark a sample by its target."""
    return sample[0], sample[1] + 10


class Piped(Points):
    """Points with a pipeline."""

    def __init__(self) -> None:
        super().__init__(8)
        self.pipeline = Compose([])

    def __getitem__(self, index: int) -> Any:
        return self.pipeline(super().__getitem__(index))


class Around(Dataset[Any]):
    """A wrapper of one or several datasets."""

    def __init__(self, inner: Any) -> None:
        if isinstance(inner, list):
            self.datasets = inner
        else:
            self.dataset = inner

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.datasets[index % 2][index] if hasattr(self, "datasets") else self.dataset[index]


def marked(runner: Any) -> list[bool]:
    """Record whether the samples of each training step were marked."""
    return [bool((targets >= 10).all()) for targets in runner.model.seen]


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_the_pipeline_changes_at_an_epoch(tmp_path: Path, workers: dict[str, Any]) -> None:
    runner = make_runner(tmp_path, [PipelineSwitchHook(1, [add_ten])], dataset=Piped(), train_dataloader=workers)
    runner.train()
    assert marked(runner) == [False, False, True, True, True, True]


@pytest.mark.parametrize("wrap", [Around, lambda dataset: Around([dataset, Piped()])])
def test_the_pipelines_inside_other_datasets_change(tmp_path: Path, wrap: Any) -> None:
    runner = make_runner(tmp_path, [PipelineSwitchHook(2, [add_ten])], dataset=wrap(Piped()))
    runner.train()
    assert marked(runner) == [False] * 4 + [True] * 2


def test_a_dataset_without_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the training dataset has no pipeline"):
        make_runner(tmp_path, [PipelineSwitchHook(0, [add_ten])]).train()


def test_in_a_resumed_run_the_pipeline_is_switched(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": {"interval": 1}, "dataset": Piped()}
    make_runner(tmp_path, [PipelineSwitchHook(1, [add_ten])], train_cfg={"max_epochs": 2}, **options).train()
    options["dataset"] = Piped()
    runner = make_runner(tmp_path, [PipelineSwitchHook(1, [add_ten])], resume=True, **options)
    runner.train()
    assert marked(runner) == [True, True]


def test_the_validation_interval_changes(tmp_path: Path) -> None:
    metric = Scripted(acc=[1] * 6)
    runner = make_runner(
        tmp_path,
        [SwitchHook("train_loop.val_interval", 1, at_epoch=4)],
        metric=metric,
        train_cfg={"max_epochs": 6, "val_interval": 4},
    )
    runner.train()
    assert metric.calls == 3  # after epochs 4, 5 and 6
    assert "Switched train_loop.val_interval to 1." in log_of(runner)


class Seen(Hook):
    """Record an attribute of the model at each step."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.values: list[Any] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.values.append(getattr(runner.model, "temperature", None))


class Warm(Line):
    """A linear model with an attribute to switch."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1
        self.options = {"a": [1, 2]}


def test_any_attribute_changes_at_an_iteration(tmp_path: Path) -> None:
    seen = Seen()
    make_runner(tmp_path, [SwitchHook("model.temperature", 7, at_iter=3), seen], model=Warm()).train()
    assert seen.values == [1, 1, 1, 7, 7, 7]


def test_keys_and_indices(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [SwitchHook("model.options.a.1", 5, at_iter=0)], model=Warm())
    runner.train()
    assert runner.model.options == {"a": [1, 5]}


def test_a_part_is_built_by_its_registry(tmp_path: Path) -> None:
    hook = SwitchHook("model.norm", {"type": "torch.nn.BatchNorm1d", "num_features": 2}, registry="MODELS", at_epoch=2)
    runner = make_runner(tmp_path, [hook])
    runner.train()
    assert isinstance(runner.model.norm, torch.nn.BatchNorm1d)
    assert runner.model.norm.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("when", "values"),
    [
        ({"monitor": "acc", "above": 50}, [1, 1, 1, 1, 7, 7, 7, 7]),
        ({"monitor": "val/loss", "below": 1}, [1, 1, 1, 1, 1, 1, 7, 7]),
        ({"monitor": "val/score", "above": 50}, [1, 1, 1, 1, 7, 7, 7, 7]),
        ({"monitor": "acc", "above": 500}, [1] * 8),
    ],
)
def test_a_result_decides(tmp_path: Path, when: dict[str, Any], values: list[int]) -> None:
    seen = Seen()
    make_runner(
        tmp_path,
        [SwitchHook("model.temperature", 7, when=when), seen],
        model=Warm(),
        train_cfg={"max_epochs": 4},
        metric=Scripted(acc=[50, 60, 40, 40], val__score=[50, 60, 40, 40], loss=[3, 2, 0.5, 2]),
    ).train()
    assert seen.values == values


def test_a_resumed_run_has_the_switch_applied(tmp_path: Path) -> None:
    hook = {
        "type": "SwitchHook",
        "target": "model.temperature",
        "value": 7,
        "when": {"monitor": "acc", "above": 50},
    }
    options: dict[str, Any] = {"checkpoint": {"interval": 1, "save_best": "acc"}}
    make_runner(
        tmp_path, [hook], model=Warm(), metric=Scripted(acc=[60]), train_cfg={"max_epochs": 1}, **options
    ).train()
    seen = Seen()
    make_runner(
        tmp_path,
        [hook, seen],
        model=Warm(),
        metric=Scripted(acc=[10]),
        train_cfg={"max_epochs": 2},
        resume=True,
        **options,
    ).train()
    assert seen.values == [7, 7]


def test_a_mistyped_target_is_found_before_the_first_step(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [SwitchHook("model.temprature", 7, at_epoch=2)], model=Warm())
    with pytest.raises(ConfigError, match=r"runner.model has no 'temprature'\n.*did you mean 'temperature'\?"):
        runner.train()
    assert runner.iter == 0


def test_a_mistyped_monitor_is_explained(tmp_path: Path) -> None:
    hook = SwitchHook("model.temperature", 7, when={"monitor": "ac", "above": 1})
    with pytest.raises(ConfigError, match=r"did you mean 'acc'\?"):
        make_runner(tmp_path, [hook], model=Warm(), metric=Scripted(acc=[1])).train()


def test_a_switch_past_the_end_of_training_is_logged(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [SwitchHook("model.temperature", 7, at_epoch=3)], model=Warm())
    runner.train()
    assert "model.temperature will never be switched: 3 is past the end of training (3)" in log_of(runner)


@pytest.mark.parametrize(
    "options",
    [{}, {"at_epoch": 1, "at_iter": 1}, {"when": {"monitor": "acc"}}, {"at_epoch": 1, "registry": "MODEL"}],
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SwitchHook("model.temperature", 7, **options)


def test_unneeded_hook_points_are_not_triggered() -> None:
    assert "before_train_iter" not in SwitchHook("a", 1, at_epoch=1).get_triggered_stages()
    assert "before_train_epoch" not in SwitchHook("a", 1, at_iter=1).get_triggered_stages()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_switch_in_the_middle_of_an_epoch_reaches_the_workers(tmp_path: Path, by_epoch: bool, workers: int) -> None:
    dataset = Points(24)
    switch = SwitchHook("train_dataloader.dataset.targets", torch.zeros(24), at_iter=2)
    train_cfg = {"by_epoch": True, "max_epochs": 1} if by_epoch else {"by_epoch": False, "max_iters": 6}
    runner = make_runner(
        tmp_path, [switch], dataset=dataset, train_cfg=train_cfg, train_dataloader={"num_workers": workers}
    )
    runner.train()
    assert [bool(targets.any()) for targets in runner.model.seen] == [True, True, True, False, False, False]
    assert len(runner.model.seen) == 6
