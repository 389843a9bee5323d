"""EMAHook in real runs, against the average written out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Scripted, log_of, make_runner, weights_of

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.hooks import EMAHook


class Recorder(Hook):
    """Record the weights after each training step."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.weights.append(runner.model.fc.weight.detach().clone())


def averaged(weights: list[torch.Tensor], momentum: float) -> torch.Tensor:
    """Return the moving average of weights, starting with the first ones."""
    average = weights[0].clone()
    for new in weights[1:]:
        average.lerp_(new, momentum)
    return average


def test_validates_with_the_average_and_continues_with_the_trained_weights(tmp_path: Path) -> None:
    recorder = Recorder()
    runner = make_runner(tmp_path / "a", [recorder, EMAHook(momentum=0.1)], metric=Scripted(acc=[0, 0, 0]))
    runner.train()
    for epoch, used in enumerate(runner.model.predicted_with, 1):
        torch.testing.assert_close(used, averaged(recorder.weights[: 2 * epoch], 0.1), rtol=0, atol=0)
    plain = make_runner(tmp_path / "b")
    plain.train()
    torch.testing.assert_close(weights_of(runner), weights_of(plain), rtol=0, atol=0)


def test_begin_iter_averages_from_then_on(tmp_path: Path) -> None:
    recorder = Recorder()
    hook = EMAHook(momentum=0.1, begin_iter=4)
    runner = make_runner(tmp_path, [recorder, hook], metric=Scripted(acc=[0, 0, 0]))
    runner.train()
    assert int(hook.ema_model.steps) == 3
    torch.testing.assert_close(runner.model.predicted_with[0], recorder.weights[1], rtol=0, atol=0)
    torch.testing.assert_close(runner.model.predicted_with[-1], averaged(recorder.weights[3:], 0.1), rtol=0, atol=0)


def test_begin_epoch_averages_from_then_on(tmp_path: Path) -> None:
    hook = EMAHook(begin_epoch=3)
    make_runner(tmp_path, [hook]).train()
    assert int(hook.ema_model.steps) == 2


def test_the_file_contains_the_average_and_the_trained_weights(tmp_path: Path) -> None:
    recorder = Recorder()
    make_runner(tmp_path, [recorder, EMAHook(momentum=0.1)], checkpoint={"interval": 1}).train()
    checkpoint = torch.load(tmp_path / "epoch_3.pth", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["fc.weight"], averaged(recorder.weights, 0.1), rtol=0, atol=0)
    torch.testing.assert_close(checkpoint["ema_state_dict"]["module.fc.weight"], recorder.weights[-1], rtol=0, atol=0)
    assert checkpoint["ema_state_dict"]["steps"] == 6


def test_before_it_begins_the_file_has_the_weights_twice(tmp_path: Path) -> None:
    recorder = Recorder()
    make_runner(
        tmp_path,
        [recorder, EMAHook(begin_epoch=2)],
        checkpoint={"interval": 1},
        train_cfg={"max_epochs": 2},
    ).train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["fc.weight"], recorder.weights[1], rtol=0, atol=0)
    torch.testing.assert_close(checkpoint["ema_state_dict"]["module.fc.weight"], recorder.weights[1], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"update_buffers": True}, {"begin_iter": 5}])
def test_a_resume_is_exact(tmp_path: Path, options: dict) -> None:
    def run(work_dir: Path, **more: Any) -> tuple[Any, EMAHook]:
        hook = EMAHook(momentum=0.1, **options)
        runner = make_runner(
            work_dir,
            [hook],
            checkpoint={"interval": 1, "save_best": "acc"},
            model=Line(batch_norm=True),
            metric=Scripted(acc=[1, 2, 3, 4]),
            train_cfg={"max_epochs": 4},
            **more,
        )
        runner.train()
        return runner, hook

    unbroken, unbroken_hook = run(tmp_path / "a")
    resumed, resumed_hook = run(tmp_path / "b", resume=str(tmp_path / "a" / "epoch_2.pth"))
    torch.testing.assert_close(weights_of(resumed), weights_of(unbroken), rtol=0, atol=0)
    torch.testing.assert_close(
        dict(resumed_hook.ema_model.state_dict()), dict(unbroken_hook.ema_model.state_dict()), rtol=0, atol=0
    )


def test_the_best_checkpoint_has_the_average_that_was_validated(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [EMAHook(momentum=0.1)],
        checkpoint={"save_last": False, "save_best": "acc"},
        metric=Scripted(acc=[1, 3, 2]),
    )
    runner.train()
    checkpoint = torch.load(tmp_path / "best_acc_epoch_2.pth", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["fc.weight"], runner.model.predicted_with[1], rtol=0, atol=0)


class StopInValidation(Hook):
    """Stop the run in the middle of a validation, as a signal does."""

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        runner.state.request_stop("signal SIGTERM", signal=15)


def test_a_run_stopped_in_a_validation_saves_the_same_file(tmp_path: Path) -> None:
    recorder = Recorder()
    runner = make_runner(
        tmp_path, [recorder, EMAHook(momentum=0.1), StopInValidation()], metric=Scripted(acc=[1, 2, 3])
    )
    with pytest.raises(SystemExit):
        runner.train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["fc.weight"], averaged(recorder.weights, 0.1), rtol=0, atol=0)
    torch.testing.assert_close(checkpoint["ema_state_dict"]["module.fc.weight"], recorder.weights[-1], rtol=0, atol=0)
    torch.testing.assert_close(runner.model.fc.weight.detach(), recorder.weights[-1], rtol=0, atol=0)


def test_loading_weights_without_resuming_starts_a_new_average(tmp_path: Path) -> None:
    make_runner(tmp_path / "a", [EMAHook(momentum=0.1)], checkpoint={"interval": 1}).train()
    file = tmp_path / "a" / "epoch_3.pth"
    hook = EMAHook(momentum=0.1)
    runner = make_runner(tmp_path / "b", [hook], load_from=str(file), metric=Scripted(acc=[1]))
    runner.val()
    deployed = torch.load(file, weights_only=True)["state_dict"]["fc.weight"]
    torch.testing.assert_close(runner.model.predicted_with[0], deployed, rtol=0, atol=0)


def test_resuming_a_run_without_an_average_is_logged(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 1}, train_cfg={"max_epochs": 1}).train()
    hook = EMAHook()
    runner = make_runner(tmp_path, [hook], train_cfg={"max_epochs": 2}, resume=True)
    runner.train()
    assert "The checkpoint has no ema_state_dict" in log_of(runner)
    assert int(hook.ema_model.steps) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin_iter": 1, "begin_epoch": 1}, "begin_iter and begin_epoch"),
        ({"begin_iter": -1}, "must not be negative"),
        ({"begin_epoch": -1}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EMAHook(**options)


class OwnAverage(EMAHook):
    """A user-defined average."""


@pytest.mark.parametrize(
    "second", [EMAHook(), OwnAverage(), {"type": "EMAHook", "ema_type": "StochasticWeightAverage"}]
)
def test_two_averages_are_refused(tmp_path: Path, second: Any) -> None:
    message = r"custom_hooks.1: (EMAHook|OwnAverage) cannot be combined with EMAHook: only one hook per run averages the weights"
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, [EMAHook(), second])


def test_an_average_that_now_begins_later_is_dropped(tmp_path: Path) -> None:
    make_runner(tmp_path, [EMAHook(momentum=0.1)], checkpoint={"interval": 1}, train_cfg={"max_epochs": 1}).train()
    recorder, hook = Recorder(), EMAHook(momentum=0.1, begin_epoch=3)
    metric = Scripted(acc=[1, 2, 3])
    runner = make_runner(tmp_path, [recorder, hook], metric=metric, resume=True)
    runner.train()
    assert "Discarded the average from the checkpoint: with begin_epoch=3" in log_of(runner)
    torch.testing.assert_close(runner.model.predicted_with[1], recorder.weights[1], rtol=0, atol=0)
    torch.testing.assert_close(runner.model.predicted_with[2], averaged(recorder.weights[2:], 0.1), rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes", [{"ema_type": "StochasticWeightAverage"}, {"update_buffers": True}, {"interval": 2}]
)
def test_another_kind_of_average_continues_from_the_old_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    def make(epochs: int, **options: Any) -> tuple[Any, EMAHook]:
        hook = EMAHook(**options)
        cfg = {"max_epochs": epochs}
        model = Line(batch_norm=True)
        return make_runner(tmp_path, [hook], checkpoint={"interval": 1}, train_cfg=cfg, model=model, resume=True), hook

    make(1)[0].train()
    runner, hook = make(2, **changes)
    runner.train()
    assert int(hook.ema_model.steps) == 4
    assert "only partially resumed" not in log_of(runner)


def test_a_beginning_beyond_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"past the end of training \(3\)"):
        make_runner(tmp_path, [EMAHook(begin_epoch=4)]).train()


class FromMMEngine(EMAHook):
    """A subclass that does the swapping itself, with the methods of MMEngine's hook, as mmpretrain's does."""

    @property
    def _ema_params(self) -> Any:
        return iter(super()._ema_params)

    def before_val_epoch(self, runner: Any) -> None:
        self._swap_ema_parameters()

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self._swap_ema_parameters()

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        self.resumed = runner._resume
        assert [p.shape for p in self._ema_params] == [p.shape for p in self._src_params] != []

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self._swap_ema_state_dict(checkpoint)
        self.ema_model.load_state_dict(checkpoint["ema_state_dict"], strict=True)


def test_a_subclass_from_mmengine_validates_saves_and_resumes_alike(tmp_path: Path) -> None:
    ours = make_runner(tmp_path / "a", [EMAHook(momentum=0.1)], metric=Scripted(acc=[0, 0, 0]))
    ours.train()
    hook = FromMMEngine(momentum=0.1)
    theirs = make_runner(tmp_path / "b", [hook], metric=Scripted(acc=[0, 0, 0]), checkpoint={"interval": 1})
    theirs.train()
    assert not hook.resumed
    torch.testing.assert_close(theirs.model.predicted_with, ours.model.predicted_with, rtol=0, atol=0)
    hook = FromMMEngine(momentum=0.1)
    resumed = make_runner(tmp_path / "b", [hook], resume=str(tmp_path / "b/epoch_2.pth"), metric=Scripted(acc=[0, 0]))
    resumed.train()
    assert hook.resumed
    torch.testing.assert_close(weights_of(resumed), weights_of(theirs), rtol=0, atol=0)
    torch.testing.assert_close(resumed.model.predicted_with[-1], ours.model.predicted_with[-1], rtol=0, atol=0)
