"""NanGuardHook in real runs with NaNs in the data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, Scripted, StopAt, files_in, log_of, make_runner, weights_of

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, NanGuardHook

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
        "The loss of iteration 3 is nan (1 of iterations 1 to 3 are not finite).\nSamples in its batch: [4, 5]."
    )
    assert runner.iter == 2


class KnowsItsFiles(Points):
    """Points with paths of image files."""

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
    with pytest.raises(TrainingError, match=r"images/0.png, images/1.png"):
        runner.train()


def test_names_the_samples_in_a_loop_by_iterations_too(tmp_path: Path) -> None:
    class TurnsBad(Points):
        """A dataset whose sample 3 is NaN the second time it is fetched."""

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
    with pytest.raises(TrainingError, match=r"loss of iteration 4 is nan .*\n.*: \[2, 3\]"):
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
    """Set a weight to NaN after an iteration with a finite loss, as if an update had overflowed."""

    priority = "HIGHEST"

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == self.iteration:
            runner.model.fc.weight.data[0, 0] = torch.nan


def test_weights_are_checked_before_a_checkpoint(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        [SpoilsWeights(1), NanGuardHook()],
        checkpoint={"interval": 1},
        train_cfg={"max_epochs": 1},
    )
    with pytest.raises(TrainingError, match="The weights after iteration 2 are not finite"):
        runner.train()
    assert files_in(tmp_path) == []


def test_a_stop_does_not_save_nan_weights(tmp_path: Path) -> None:
    class StopsAtOnce(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            runner.request_stop("test")

    runner = make_runner(tmp_path, [SpoilsWeights(0), StopsAtOnce(), NanGuardHook()])
    with pytest.raises(TrainingError, match="The weights after iteration 1 are not finite"):
        runner.train()
    assert files_in(tmp_path) == []


def test_rolls_back_and_continues_with_the_next_batches(tmp_path: Path) -> None:
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
    # Iterations 3 and 4 are undone; the first two remain.
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


def test_a_rollback_does_not_affect_the_schedule(tmp_path: Path) -> None:
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


def test_the_maximum_number_of_rollbacks_includes_those_before_a_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "checkpoint": {"interval": 1},
        "dataset": Points(8, bad=[5]),
        "batch_size": 2,
        "train_dataloader": IN_ORDER,
    }
    guard = {"type": "NanGuardHook", "action": "rollback", "interval": 1, "max_rollbacks": 1}
    make_runner(tmp_path, [guard], train_cfg={"max_epochs": 1}, **options).train()
    with pytest.raises(TrainingError, match=r"maximum number of rollbacks \(1\)"):
        make_runner(tmp_path, [guard], train_cfg={"max_epochs": 2}, resume=True, **options).train()


class TwoLines(Line):
    """Two linear models, each with its own optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.other = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.other.weight, 0.5)
        torch.nn.init.zeros_(self.other.bias)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        self.seen.append(data[1])
        loss = torch.nn.functional.mse_loss(self.other(self(data[0])[:, None]).squeeze(1), data[1])
        for name in ("fc", "other"):
            optim_wrapper[name].zero_grad()
        optim_wrapper["fc"].backward(loss)
        for name in ("fc", "other"):
            optim_wrapper[name].step()
        return {"loss": loss.detach()}


def two_optimizers(model: TwoLines) -> OptimWrapperDict:
    return OptimWrapperDict(
        fc=OptimWrapper(torch.optim.SGD(model.fc.parameters(), lr=0.1, momentum=0.9)),
        other=OptimWrapper(torch.optim.AdamW(model.other.parameters(), lr=0.1)),
    )


def without_text(state: Any) -> Any:
    """Remove names, which ``torch.testing.assert_close`` does not accept."""
    if isinstance(state, dict):
        return {key: without_text(value) for key, value in state.items() if not isinstance(value, str)}
    return [without_text(value) for value in state if not isinstance(value, str)] if isinstance(state, list) else state


def rollback_state_of(runner: Any) -> dict[str, Any]:
    """Return all state that a rollback changes."""
    averages = [hook.ema_model.state_dict() for hook in runner.hooks if isinstance(hook, EMAHook)]
    return {
        "weights": weights_of(runner),
        "averages": [dict(state) for state in averages],
        "optimizer": without_text(runner.optim_wrapper.state_dict()),
        "rollbacks": [hook.rollbacks for hook in runner.hooks if isinstance(hook, NanGuardHook)],
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guard": {"interval": 1, "snapshot_interval": 1}},
        {"guard": {"interval": 3, "snapshot_interval": 3}},  # the NaN is only found at the next check
        {"guard": {"interval": 50}},  # found at the end
        {"hooks": [{"type": "EMAHook", "momentum": 0.1}]},
        {"optim_wrapper": {"accumulative_counts": 3}},
        {"optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": 512.0}},
        {"optimizers": True, "param_scheduler": None},
        {"train_cfg": {"by_epoch": False, "max_iters": 10}},
        {"checkpoint": {"interval": 2, "by_epoch": False, "async_save": True}, "guard": {"interval": 3}},
    ],
    ids=str,
)
def test_a_rollback_is_exact_when_the_run_is_interrupted(tmp_path: Path, options: dict[str, Any]) -> None:
    """The loss of iteration 7 is NaN; the run is stopped before the snapshot, at it, at the NaN and after it."""

    def run(name: str, stops: list[int | None]) -> dict[str, Any]:
        for number, stop in enumerate(stops):
            guard = {"interval": 1, "snapshot_interval": 4, **options.get("guard", {})}
            hooks = [{"type": "NanGuardHook", "action": "rollback", **guard}, *options.get("hooks", [])]
            more = {key: options[key] for key in ("optim_wrapper",) if key in options}
            if options.get("optimizers"):
                more["model"] = TwoLines()
            runner = make_runner(
                tmp_path / name,
                [*hooks, *([StopAt(stop)] if stop else [])],
                checkpoint=options.get("checkpoint", {"interval": 1}),
                dataset=Points(20, bad=[13]),
                batch_size=2,
                train_dataloader=IN_ORDER,
                train_cfg=options.get("train_cfg", {"max_epochs": 1}),
                param_scheduler=options.get(
                    "param_scheduler", {"type": "ExponentialLR", "gamma": 0.9, "by_epoch": False}
                ),
                resume=number > 0,
                **more,
            )
            if options.get("optimizers"):
                runner._optim_wrapper = two_optimizers(runner.model)
            runner.train()
        return rollback_state_of(runner)

    expected = run("whole", [None])
    assert expected["rollbacks"] == [1]
    for stops in ([3, 4, 7, 8, None], [6, 7, None], [7, None], [9, None]):
        torch.testing.assert_close(run(str(stops), stops), expected, rtol=0, atol=0)


def test_a_rollback_is_exact_when_the_run_is_trained_further_by_the_same_runner(tmp_path: Path) -> None:
    def train(stop: int | None) -> dict[str, torch.Tensor]:
        guard = NanGuardHook(action="rollback", interval=1, snapshot_interval=4)
        runner = make_runner(
            tmp_path / str(stop), [guard, *([StopAt(stop)] if stop else [])], dataset=Points(20, bad=[13]), batch_size=2,
            train_dataloader=IN_ORDER, train_cfg={"max_epochs": 1},
        )  # fmt: skip
        runner.train()
        if stop:
            runner.state.stop_reason = None
            runner.train()
        return weights_of(runner)

    torch.testing.assert_close(train(6), train(None), rtol=0, atol=0)


def test_a_snapshot_of_other_averages_is_not_loaded(tmp_path: Path) -> None:
    guard = {"type": "NanGuardHook", "action": "rollback", "interval": 1}
    options: dict[str, Any] = {"dataset": Points(20, bad=[13]), "batch_size": 2, "train_dataloader": IN_ORDER}
    make_runner(tmp_path, [guard, StopAt(3)], train_cfg={"max_epochs": 1}, **options).train()
    runner = make_runner(tmp_path, [guard, EMAHook()], train_cfg={"max_epochs": 1}, resume=True, **options)
    runner.train()
    assert "The snapshot of NanGuardHook in the checkpoint does not match" in log_of(runner)
    assert "ROLLED BACK to the state after 3 iterations" in log_of(runner)


def test_with_action_stop_the_file_has_no_snapshot(tmp_path: Path) -> None:
    make_runner(tmp_path, [NanGuardHook()], checkpoint={"interval": 1}, train_cfg={"max_epochs": 1}).train()
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["trainwright"]["hooks"]["NanGuardHook"]
    assert "snapshot" not in state


NAN_BEFORE_CHECK: dict[str, Any] = {
    "dataset": Points(8, bad=[3]), "batch_size": 2, "train_dataloader": IN_ORDER,
    "train_cfg": {"by_epoch": False, "max_iters": 4, "val_interval": 2},
}  # fmt: skip


class Finite(Scripted):
    """Count the finite predictions."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(float(torch.isfinite(sample["pred"])) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        return {"acc": sum(results) / len(results)}


def test_remaining_losses_are_checked_before_a_validation(tmp_path: Path) -> None:
    guard = NanGuardHook(action="rollback", interval=50)
    early = EarlyStoppingHook("acc", patience=5)
    saver = {"save_best": "acc", "by_epoch": False}
    runner = make_runner(tmp_path, [guard, early], metric=Finite(), checkpoint=saver, **NAN_BEFORE_CHECK)
    runner.train()
    assert runner.iter == 4
    assert guard.rollbacks == 1
    assert early.best_scores == {"acc": 1.0}


class SavesByItself(Hook):
    """A user-defined hook that saves checkpoints."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 1:
            runner.save_checkpoint(runner.work_dir, "mine_{}.pth", by_epoch=False)


class FailingData(Points):
    """A dataset whose fifth sample cannot be read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == 4:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("saver", [StopAt(2), SavesByItself(), "an error"], ids=["stop", "hook", "error"])
def test_remaining_losses_are_checked_before_any_checkpoint(tmp_path: Path, saver: Any) -> None:
    guard = NanGuardHook(action="rollback", interval=50)
    failing = saver == "an error"
    options = NAN_BEFORE_CHECK | ({"dataset": FailingData(8, bad=[3])} if failing else {})
    runner = make_runner(tmp_path, [guard, *([] if failing else [saver])], **options)
    if failing:
        with pytest.raises(OSError, match="the disk is gone"):
            runner.train()
    else:
        runner.train()
    (file,) = tmp_path.glob("*_2.pth")
    assert guard.rollbacks == 1
    assert torch.load(file, weights_only=True)["state_dict"]["fc.weight"].tolist() == [[0.5, 0.5]]


def test_validation_alone_is_not_guarded(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [NanGuardHook()], metric=Scripted(acc=[1]))
    runner.model.fc.weight.data.fill_(torch.nan)
    assert runner.val() == {"acc": 1}


def test_losses_are_also_checked_before_a_subclass_of_checkpoint_hook_saves(tmp_path: Path) -> None:
    class OwnSaver(CheckpointHook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 1:
                self._save_regular(runner)

    guard = NanGuardHook(action="rollback", interval=50)
    make_runner(tmp_path, [guard, OwnSaver(by_epoch=False, save_last=False)], **NAN_BEFORE_CHECK).train()
    assert torch.isfinite(torch.load(tmp_path / "iter_2.pth", weights_only=True)["state_dict"]["fc.weight"]).all()


def test_a_rollback_does_not_warn_about_optimizer_settings(tmp_path: Path) -> None:
    guard = NanGuardHook(action="rollback", interval=1, snapshot_interval=1)
    runner = make_runner(
        tmp_path,
        [guard],
        param_scheduler={"type": "ConstantLR", "factor": 0.5, "end": 2, "by_epoch": False},
        **NAN_BEFORE_CHECK,
    )
    runner.train()
    assert "from the checkpoint overrides" not in log_of(runner)


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
