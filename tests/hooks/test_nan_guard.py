"""NanGuardHook in real runs whose data has NaNs in it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, files_in, log_of, make_runner, weights_of

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.hook import Hook
from trainwright.hooks import EMAHook, NanGuardHook

IN_ORDER = {"sampler": {"type": "DefaultSampler", "shuffle": False}}


def test_stops_and_names_the_iteration_and_the_samples(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [NanGuardHook(interval=3)],
        dataset=Points(8, bad=[5]),
        batch_size=2,
        train_dataloader=IN_ORDER,
    )
    with pytest.raises(TrainingError) as caught:
        runner.train()
    assert str(caught.value).startswith(
        "The loss of iteration 3 is nan (1 of iterations 1 to 3 are not finite).\nIts batch had the samples [4, 5]."
    )
    assert runner.iter == 2


class KnowsItsFiles(Points):
    """Points that pretend to come from image files."""

    def get_data_info(self, index: int) -> dict[str, str]:
        return {"img_path": f"images/{index}.png"}


def test_names_the_files_where_the_dataset_knows_them(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [NanGuardHook(interval=1)],
        dataset=KnowsItsFiles(4, bad=[1]),
        batch_size=2,
        train_dataloader=IN_ORDER,
    )
    with pytest.raises(TrainingError, match=r"Their files: images/0.png, images/1.png\."):
        runner.train()


def test_names_the_samples_in_a_loop_by_iterations_too(tmp_path: Path) -> None:
    class TurnsBad(Points):
        """Sample 3 is spoilt the second time it is fetched."""

        fetched = 0

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            self.fetched += index == 3
            if self.fetched == 2:
                self.inputs[3] = torch.nan
            return super().__getitem__(index)

    runner = make_runner(
        tmp_path,
        [NanGuardHook(interval=1)],
        dataset=TurnsBad(4),
        batch_size=2,
        train_dataloader=IN_ORDER,
        train_cfg={"by_epoch": False, "max_iters": 8},
    )
    with pytest.raises(TrainingError, match=r"loss of iteration 4 is nan .*\nIts batch had the samples \[2, 3\]"):
        runner.train()


def test_no_checkpoint_ever_has_a_nan(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [NanGuardHook(interval=100)],
        checkpoint={"interval": 1, "by_epoch": False},
        dataset=Points(8, bad=[5]),
        batch_size=2,
        train_dataloader=IN_ORDER,
        train_cfg={"by_epoch": False, "max_iters": 8},
    )
    with pytest.raises(TrainingError, match="iteration 3"):
        runner.train()
    assert files_in(tmp_path) == ["iter_1.pth", "iter_2.pth"]


class SpoilsWeights(Hook):
    """Makes a weight NaN after an iteration whose loss was fine, as an overflow in an update does."""

    priority = "HIGHEST"

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == self.iteration:
            runner.model.fc.weight.data[0, 0] = torch.nan


def test_weights_are_looked_at_before_a_checkpoint(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [SpoilsWeights(1), NanGuardHook()],
        checkpoint={"interval": 1},
        train_cfg={"max_epochs": 1},
    )
    with pytest.raises(TrainingError, match="The weights after iteration 2 are not finite, though its loss was"):
        runner.train()
    assert files_in(tmp_path) == []


def test_a_checkpoint_that_comes_unannounced_is_refused(tmp_path: Path) -> None:
    class StopsAtOnce(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            runner.request_stop("test")

    runner = make_runner(tmp_path, [SpoilsWeights(0), StopsAtOnce(), NanGuardHook()])
    with pytest.raises(TrainingError, match="this checkpoint is not written; the previous one stays"):
        runner.train()
    assert files_in(tmp_path) == []


def test_rolls_back_and_goes_on_with_the_next_batches(tmp_path: Path) -> None:
    guard = NanGuardHook(action="rollback", interval=2, snapshot_interval=2)
    ema = EMAHook(momentum=0.1)
    runner = make_runner(
        tmp_path,
        [ema, guard],
        dataset=Points(8, bad=[5]),
        batch_size=2,
        train_dataloader=IN_ORDER,
        train_cfg={"max_epochs": 1},
    )
    runner.train()
    # Iterations 3 and 4 are undone: what is left are the two first ones.
    expected_ema = EMAHook(momentum=0.1)
    expected = make_runner(
        tmp_path / "expected",
        [expected_ema],
        dataset=Points(4),
        batch_size=2,
        train_dataloader=IN_ORDER,
        train_cfg={"max_epochs": 1},
    )
    expected.model.load_state_dict(Line().state_dict())
    expected_inputs = Points(8)
    expected_dataset = expected.train_dataloader.dataset
    expected_dataset.inputs, expected_dataset.targets = (
        expected_inputs.inputs[:4],
        expected_inputs.targets[:4],
    )
    expected.train()
    torch.testing.assert_close(weights_of(runner), weights_of(expected), rtol=0, atol=0)
    torch.testing.assert_close(
        dict(ema.ema_model.state_dict()), dict(expected_ema.ema_model.state_dict()), rtol=0, atol=0
    )
    momenta, expected_momenta = (
        [state["momentum_buffer"] for state in one.optim_wrapper.optimizer.state.values()] for one in (runner, expected)
    )
    torch.testing.assert_close(momenta, expected_momenta, rtol=0, atol=0)
    assert guard.rollbacks == 1
    assert runner.iter == 4
    assert "ROLLED BACK to the state after 2 iterations (1 of at most 3)" in log_of(runner)


def test_the_schedule_goes_on_through_a_rollback(tmp_path: Path) -> None:
    def rates(work_dir: Path, bad: list[int]) -> list[float]:
        runner = make_runner(
            work_dir,
            [NanGuardHook(action="rollback", interval=1, snapshot_interval=1)],
            dataset=Points(8, bad=bad),
            batch_size=2,
            train_dataloader=IN_ORDER,
            train_cfg={"max_epochs": 1},
            param_scheduler={"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False},
        )
        runner.train()
        return runner.optim_wrapper.get_lr()["lr"]

    assert rates(tmp_path / "a", bad=[5]) == rates(tmp_path / "b", bad=[]) == [0.1 * 0.5**3]


def test_rollbacks_are_bounded_also_over_a_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "checkpoint": {"interval": 1},
        "dataset": Points(8, bad=[5]),
        "batch_size": 2,
        "train_dataloader": IN_ORDER,
    }
    guard = {"type": "NanGuardHook", "action": "rollback", "interval": 1, "max_rollbacks": 1}
    make_runner(tmp_path, [guard], train_cfg={"max_epochs": 1}, **options).train()
    with pytest.raises(TrainingError, match="rolled back 1 times already"):
        make_runner(tmp_path, [guard], train_cfg={"max_epochs": 2}, resume=True, **options).train()


def test_a_healthy_run_is_not_touched(tmp_path: Path) -> None:
    guarded = make_runner(tmp_path / "a", [NanGuardHook(action="rollback", interval=2, snapshot_interval=2)])
    guarded.train()
    plain = make_runner(tmp_path / "b")
    plain.train()
    torch.testing.assert_close(weights_of(guarded), weights_of(plain), rtol=0, atol=0)


def test_another_name_of_the_loss_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_step returned no 'los'\n.*did you mean 'loss'\?"):
        make_runner(tmp_path, [NanGuardHook(monitor="los")]).train()


@pytest.mark.parametrize("options", [{"action": "ignore"}, {"interval": 0}, {"snapshot_interval": 0}])
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        NanGuardHook(**options)
