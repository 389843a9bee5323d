"""Log lines, compared with those of MMEngine 0.10.7 for the same histories."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainwright.engine.errors import ConfigError
from trainwright.engine.records.log_processor import LogProcessor
from trainwright.engine.records.message_hub import MessageHub


class Endless:
    """A loader without length."""


def a_run(
    max_epochs: int = 3,
    max_iters: int = 12,
    epoch: int = 1,
    iteration: int = 6,
    loader: Any = range(4),
    trains: bool = True,
) -> Any:
    """Return a run with histories of 25 training steps, 4 validation and 4 test batches."""
    hub = MessageHub("test")
    for i in range(25):
        hub.update_scalar("train/base_lr", 0.1)
        hub.update_scalar("train/lr", 0.1 / (i + 1))
        hub.update_scalar("train/data_time", 0.01 * i)
        hub.update_scalar("train/grad_norm", torch.tensor(0.5 * i))
        hub.update_scalar("train/loss", torch.tensor(3.0 - 0.1 * i))
        hub.update_scalar("train/loss_cls", 2.5 * i, count=2)
        hub.update_scalar("train/acc", torch.tensor(float(i)))
        hub.update_scalar("train/num", i)
        hub.update_scalar("train/time", 0.02 * i)
    for mode in ("val", "test"):
        for i in range(4):
            hub.update_scalar(f"{mode}/data_time", 0.001 * i)
            hub.update_scalar(f"{mode}/time", 0.003 * i)
        hub.update_scalar(f"{mode}/acc/top1", 91.234567)
        hub.update_info(f"{mode}/confusion", torch.arange(4).reshape(2, 2))
    hub.update_info("eta", 3725.7)
    return SimpleNamespace(
        message_hub=hub,
        _loops={"train": object()} if trains else {},
        train_dataloader=loader,
        val_dataloader=range(2),
        test_dataloader=range(10),
        max_epochs=max_epochs,
        max_iters=max_iters,
        epoch=epoch,
        iter=iteration,
        device=torch.device("cpu"),
    )


TRAIN = (
    "base_lr: 1.0000e-01 lr: 4.0000e-03  eta: 1:02:05  time: 0.3900  data_time: 0.1950  "
    "grad_norm: 9.7500  loss: 1.0500  loss_cls: 24.3750  acc: 24.0000  num: 24"
)
EVAL = "  eta: 1:02:05  time: 0.0045  data_time: 0.0015  "
CONFUSION = "confusion: \ntensor([[0, 1],\n        [2, 3]])\n"


def test_lines_by_epoch() -> None:
    log, run = LogProcessor(), a_run()
    assert log.get_log_after_iter(run, 2, "train")[1] == f"Epoch(train) [2][3/4]  {TRAIN}"
    assert log.get_log_after_iter(run, 1, "val")[1] == f"Epoch(val) [1][2/2]  {EVAL}"
    assert log.get_log_after_iter(run, 3, "test")[1] == f"Epoch(test) [ 4/10]  {EVAL}"
    times = "data_time: 0.0025  time: 0.0075"  # mean of the two batches; MMEngine includes one from the previous epoch
    results = f"acc/top1: 91.2346  {CONFUSION}  {times}"
    assert log.get_log_after_epoch(run, 2, "val")[1] == f"Epoch(val) [1][2/2]    {results}"
    assert log.get_log_after_epoch(run, 10, "test")[1].startswith("Epoch(test) [10/10]    acc/top1: 91.2346  ")


def test_numbers_are_aligned() -> None:
    run = a_run(max_epochs=100, max_iters=1000, loader=range(100), iteration=24)
    assert LogProcessor().get_log_after_iter(run, 2, "train")[1] == f"Epoch(train)   [2][  3/100]  {TRAIN}"
    assert LogProcessor().get_log_after_iter(run, 1, "val")[1] == f"Epoch(val)   [1][2/2]  {EVAL}"
    by_iteration = LogProcessor(by_epoch=False).get_log_after_iter(run, 24, "train")[1]
    assert by_iteration == f"Iter(train) [  25/1000]  {TRAIN}"


def test_lines_by_iteration() -> None:
    log, run = LogProcessor(by_epoch=False), a_run()
    assert log.get_log_after_iter(run, 2, "train")[1] == f"Iter(train) [ 7/12]  {TRAIN}"
    assert log.get_log_after_iter(run, 1, "val")[1] == f"Iter(val) [2/2]  {EVAL}"
    assert log.get_log_after_iter(run, 3, "test")[1] == f"Iter(test) [ 4/10]  {EVAL}"
    assert log.get_log_after_epoch(run, 2, "val")[1].startswith("Iter(val) [2/2]    acc/top1: 91.2346  ")


def test_values_for_the_backends() -> None:
    log, run = LogProcessor(), a_run()
    tag, _ = log.get_log_after_iter(run, 2, "train")
    assert tag == pytest.approx(
        {
            "base_lr": 0.1, "lr": 0.004, "data_time": 0.195, "grad_norm": 9.75, "loss": 1.05, "loss_cls": 24.375,
            "acc": 24.0, "num": 24, "time": 0.39, "epoch": 2, "iter": 7,
        }
    )  # fmt: skip
    tag, _ = log.get_log_after_epoch(run, 2, "val")
    assert list(tag) == ["acc/top1", "data_time", "time"]
    tag, _ = log.get_log_after_epoch(run, 2, "val", with_non_scalar=True)
    assert list(tag) == ["acc/top1", "confusion", "data_time", "time"]
    assert LogProcessor(by_epoch=False).get_log_after_iter(run, 2, "train")[0].get("epoch") is None


def test_hierarchy() -> None:
    log, run = LogProcessor(log_with_hierarchy=True), a_run()
    tag, line = log.get_log_after_iter(run, 2, "train")
    assert line == f"Epoch(train) [2][3/4]  {TRAIN}"
    assert tag["train/loss"] == pytest.approx(1.05)
    assert {key for key in tag if not key.startswith("train/")} == {"epoch", "iter"}
    tag, line = log.get_log_after_epoch(run, 2, "val")
    assert list(tag) == ["val/acc/top1", "val/data_time", "val/time"]
    assert "    val/acc/top1: 91.2346  val/confusion: " in line


def test_digits_and_window() -> None:
    line = LogProcessor(num_digits=2, window_size=3).get_log_after_iter(a_run(), 2, "train")[1]
    assert "lr: 4.00e-03  eta: 1:02:05  time: 0.46  data_time: 0.23  grad_norm: 11.50  loss: 0.70" in line


def test_a_subclass_may_count_the_batches_of_several_loaders() -> None:
    class OfSeveral(LogProcessor):
        def _get_dataloader_size(self, runner: Any, mode: str) -> int:
            return 10 * len(self._get_cur_loop(runner, mode).dataloader)

    run = a_run()
    run.val_loop = SimpleNamespace(dataloader=range(3))
    assert "Epoch(val) [1][ 2/30]  " in OfSeveral().get_log_after_iter(run, 1, "val")[1]


def test_mean_pattern() -> None:
    line = LogProcessor(mean_pattern="acc").get_log_after_iter(a_run(), 2, "train")[1]
    assert "loss: 0.6000" in line and "acc: 19.5000" in line


def test_custom_values() -> None:
    custom = [
        {"data_src": "loss", "method_name": "mean", "window_size": "global", "log_name": "loss_all"},
        {"data_src": "loss", "method_name": "max", "window_size": 5},
        {"data_src": "acc", "method_name": "min", "window_size": "epoch"},
        {"data_src": "absent", "method_name": "current"},
    ]
    log = LogProcessor(custom_cfg=custom)
    tag, line = log.get_log_after_iter(a_run(), 2, "train")
    assert line.endswith("loss: 1.0000  loss_cls: 24.3750  acc: 22.0000  num: 24  loss_all: 1.8000")
    assert tag["loss_all"] == pytest.approx(1.8) and "absent" not in tag


def test_an_epoch_longer_than_a_history_is_averaged_completely() -> None:
    custom = [{"data_src": "loss", "method_name": "max", "window_size": "epoch"}]
    log, run = LogProcessor(custom_cfg=custom), a_run(loader=range(12_000))
    log.get_log_after_iter(run, 0, "train")
    run.message_hub.update_scalar("train/loss", 99.0)
    for _ in range(11_000):
        run.message_hub.update_scalar("train/loss", 1.0)
    tag, _ = log.get_log_after_iter(run, 11_001, "train")
    assert tag["loss"] == 99.0


def test_without_timer_and_learning_rate() -> None:
    run = a_run()
    run.message_hub.pop_info("eta")
    line = LogProcessor().get_log_after_iter(run, 2, "train")[1]
    assert "eta" not in line and "  data_time: 0.1950  grad_norm: 9.7500  " in line and line.endswith("time: 0.3900")


def test_only_evaluating() -> None:
    run = a_run(trains=False, epoch=0, iteration=0)
    tag, line = LogProcessor().get_log_after_iter(run, 1, "val")
    assert line == f"Epoch(val) [0][2/2]  {EVAL}"
    assert tag["iter"] == 0 and tag["epoch"] == 0


def test_endless_data() -> None:
    run = a_run(loader=Endless())
    assert LogProcessor(by_epoch=False).get_log_after_iter(run, 6, "train")[1].startswith("Iter(train) [ 7/12]  ")
    assert LogProcessor().get_log_after_iter(run, 6, "train")[1].startswith("Epoch(train) [2][7]  ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device() -> None:
    run = a_run()
    run.device = torch.device("cuda")
    _ = torch.zeros(2**20, device="cuda")
    tag, line = LogProcessor().get_log_after_iter(run, 2, "train")
    assert f"data_time: 0.1950  memory: {tag['memory']}  grad_norm" in line
    assert tag["memory"] >= 4


def test_only_evaluations_have_results() -> None:
    with pytest.raises(ValueError, match="'train'"):
        LogProcessor().get_log_after_epoch(a_run(), 2, "train")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"data_src": "loss"}], "'method_name' is missing"),
        ([{"method_name": "mean"}], "'data_src' is missing"),
        ([{"data_src": "loss", "method_name": "maen"}], "did you mean 'mean'"),
        ([{"data_src": "loss", "method_name": "mean", "window_size": "epochs"}], r"window_size.*'epochs'"),
        ([{"data_src": "loss", "method_name": "mean", "window_size": 0}], r"window_size: 0"),
        ([{"data_src": "loss", "method_name": "current", "window_size": 3}], r"custom_cfg\.0: .*'current'"),
        ([{"data_src": "loss", "method_name": "mean"}] * 2, r"custom_cfg\.1: .*'loss'"),
    ],
)
def test_mistakes_are_reported_on_creation(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogProcessor(custom_cfg=entries)


def test_no_epochs_by_iteration() -> None:
    entry = {"data_src": "loss", "method_name": "mean", "window_size": "epoch"}
    with pytest.raises(ConfigError, match="'global'"):
        LogProcessor(by_epoch=False, custom_cfg=[entry])
