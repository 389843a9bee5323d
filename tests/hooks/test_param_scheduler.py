"""ParamSchedulerHook in real runs."""

from pathlib import Path
from typing import Any

from tiny_runs import Scripted, make_runner

from trainwright.engine.run.hook import Hook


class Rates(Hook):
    """Record the learning rate of each training step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])


def rates_of(work_dir: Path, scheduler: Any, **options: Any) -> list[float]:
    hook = Rates()
    make_runner(work_dir, [hook], lr=1.0, param_scheduler=scheduler, **options).train()
    return hook.rates


def test_by_epoch(tmp_path: Path) -> None:
    assert rates_of(tmp_path, {"type": "ExponentialLR", "gamma": 0.5}) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_by_iteration(tmp_path: Path) -> None:
    scheduler = {"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False}
    assert rates_of(tmp_path, scheduler) == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_several_chained(tmp_path: Path) -> None:
    schedulers = [
        {"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False, "end": 2},
        {"type": "ExponentialLR", "gamma": 0.1, "by_epoch": True},
    ]
    rates = rates_of(tmp_path, schedulers, train_cfg={"max_epochs": 2})
    assert rates[:2] == [1, 0.5]
    assert rates[2:] == [0.05, 0.05]


def test_on_a_plateau_the_validation_decides(tmp_path: Path) -> None:
    scheduler = {"type": "ReduceOnPlateauLR", "monitor": "loss", "factor": 0.5, "patience": 0}
    rates = rates_of(tmp_path, scheduler, metric=Scripted(loss=[1, 1, 1]))
    assert rates == [1, 1, 1, 1, 0.5, 0.5]


def test_no_scheduler_is_fine(tmp_path: Path) -> None:
    assert rates_of(tmp_path, None, train_cfg={"max_epochs": 1}) == [1, 1]
