"""Training loops as users of MMEngine write them: derived from ``BaseLoop``, or from ours with a ``run`` of their own."""

from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import Line, ParallelLine, Points, Scripted, StopAt, files_in, log_of, make_runner, weights_of
from torch import nn

from trainwright.engine import BaseLoop, Hook, HookPointError, IterBasedTrainLoop, Runner, ValLoop, get_rank
from trainwright.engine.evaluation.monitor import metrics_of
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.custom_loops import InfiniteDataloaderIterator, calc_dynamic_intervals


@LOOPS.register_module()
class PlainEpochLoop(BaseLoop):
    """Counts in attributes of its own, and looks at ``stop_training`` between epochs only."""

    def __init__(
        self, runner: Runner, dataloader: Any, max_epochs: int, val_begin: int = 1, val_interval: int = 1
    ) -> None:
        super().__init__(runner, dataloader)
        self._max_epochs = max_epochs
        self._max_iters = max_epochs * len(self.dataloader)
        self._epoch = 0
        self._iter = 0
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False

    @property
    def max_epochs(self) -> int:
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        return self._max_iters

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        return self._iter

    def run(self) -> nn.Module:
        runner = self.runner
        runner.call_hook("before_train")
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            due = self._epoch == self._max_epochs or self._epoch % self.val_interval == 0
            if runner.val_loop is not None and self._epoch >= self.val_begin and due:
                runner.val_loop.run()
        runner.call_hook("after_train")
        return runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


class Steps:
    """The body that the two iteration-based loops share."""

    def run(self: Any) -> nn.Module:
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        for _ in range(self._iter):  # the data that has been trained on
            next(self.dataloader_iterator)
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if runner.val_loop is not None and self._iter >= self.val_begin and due:
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model


@LOOPS.register_module()
class PlainIterLoop(Steps, BaseLoop):
    """An iteration-based loop with an iterator and a table of validation intervals of its own."""

    def __init__(
        self, runner: Runner, dataloader: Any, max_iters: int, val_begin: int = 1, val_interval: int = 1000,
        dynamic_intervals: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(runner, dataloader)
        self._max_iters, self._max_epochs = max_iters, 1
        self._epoch, self._iter = 0, 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.dataloader_iterator = InfiniteDataloaderIterator(self.dataloader)
        self.milestones, self.intervals = calc_dynamic_intervals(val_interval, dynamic_intervals)

    max_epochs = property(lambda self: self._max_epochs)
    max_iters = property(lambda self: self._max_iters)

    def run_iter(self, data_batch: Any) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _decide_current_val_interval(self) -> None:
        self.val_interval = self.intervals[bisect_right(self.milestones, self._iter + 1) - 1]


@LOOPS.register_module()
class StepLoop(Steps, IterBasedTrainLoop):
    """Only ``run`` is its own."""


EPOCHS = dict(type="PlainEpochLoop", max_epochs=4, val_interval=2)
INTERVALS = dict(max_iters=16, val_interval=4, dynamic_intervals=[(9, 2)])
LOOPS_OF_USERS = {
    "epochs": EPOCHS,
    "iterations": dict(type="PlainIterLoop", **INTERVALS),
    "only run": dict(type="StepLoop", **INTERVALS),
}


class Noisy(Line):
    """A model whose training draws random numbers."""

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        inputs, targets = data
        return super().train_step((nn.functional.dropout(inputs), targets), optim_wrapper)


def run(folder: Path, loop: str, hooks: Any = (), **options: Any) -> tuple[Runner, Scripted]:
    metric = Scripted(acc=[1, 2, 3, 4, 5, 6, 7, 8])
    by_epoch = loop == "epochs"
    runner = make_runner(
        folder, hooks, model=Noisy(), metric=metric, batch_size=2, train_cfg=LOOPS_OF_USERS[loop], momentum=0.9,
        checkpoint=dict(by_epoch=by_epoch, interval=1 if by_epoch else 4),
        param_scheduler=dict(type="StepLR", step_size=5, by_epoch=False), **options,
    )  # fmt: skip
    runner.train()
    return runner, metric


@pytest.mark.parametrize("loop", LOOPS_OF_USERS)
def test_a_loop_from_mmengine_trains_validates_and_saves(tmp_path: Path, loop: str) -> None:
    runner, metric = run(tmp_path, loop)
    by_epoch = loop == "epochs"
    assert (runner.iter, runner.epoch) == (16, 4 if by_epoch else 0)
    assert metric.calls == (2 if by_epoch else 6)  # at 4, 8, 10, 12, 14, 16
    names = [f"epoch_{n}.pth" for n in (1, 2, 3, 4)] if by_epoch else [f"iter_{n}.pth" for n in (12, 16, 4, 8)]
    assert files_in(tmp_path) == names
    assert ("Epoch(train)" if by_epoch else "Iter(train)") in log_of(runner)
    assert len(runner.model.seen) == 16


@pytest.mark.parametrize("loop", LOOPS_OF_USERS)
@pytest.mark.parametrize("stop_at", [8, 11])
def test_a_stopped_run_is_saved_and_resumed_to_the_same_bits(tmp_path: Path, loop: str, stop_at: int) -> None:
    whole, _ = run(tmp_path / "whole", loop)
    first, _ = run(tmp_path / "parts", loop, [StopAt(stop_at)])
    assert first.iter == stop_at and f"Stopped after iteration {stop_at}" in log_of(first)
    second, _ = run(tmp_path / "parts", loop, resume=True)
    assert (second.iter, second.epoch) == (whole.iter, whole.epoch)
    assert [batch.tolist() for batch in first.model.seen + second.model.seen] == [b.tolist() for b in whole.model.seen]
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(second).items())
    assert second.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


@pytest.mark.long
def test_all_ranks_leave_a_loop_at_the_same_iteration(tmp_path: Path) -> None:
    class Request(StopAt):
        def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
            if get_rank() == 1:
                super().after_train_iter(*args, **kwargs)

    def in_rank() -> list[int]:
        iterations = []
        for hooks in ([Request(5)], []):
            cfg = dict(type="PlainEpochLoop", max_epochs=50)
            runner = make_runner(tmp_path, hooks, model=ParallelLine(), batch_size=2, train_cfg=cfg, resume="auto")
            runner.train()
            iterations.append(runner.iter)
        return iterations

    first, second = run_group(2, in_rank, tmp_path)
    assert first == second and 5 <= first[0] <= 40 and first[1] == 100


def test_a_loop_that_stops_by_itself(tmp_path: Path) -> None:
    class Enough(StopAt):
        def after_train_epoch(self, runner: Runner) -> None:
            runner.train_loop.stop_training = runner.epoch == 1

    runner, _ = run(tmp_path, "epochs", [Enough(-1)])
    assert runner.epoch == 2


def test_an_evaluation_loop_of_its_own_gets_the_loader_of_an_evaluation(tmp_path: Path) -> None:
    @LOOPS.register_module(force=True)
    class Count(BaseLoop):
        def __init__(self, runner: Runner, dataloader: Any, evaluator: Any) -> None:
            super().__init__(runner, dataloader)
            self.evaluator = runner.build_evaluator(evaluator)

        def run(self) -> dict[str, Any]:
            return {"first": next(batch[1].tolist() for batch in self.dataloader)}

    runner = make_runner(tmp_path, metric=Scripted(acc=[1]))
    runner._val_cfg = dict(type="Count")
    assert runner.val()["first"] == [0.0, 0.5, 1.0, 1.5], "shuffled"
    assert runner.val_evaluator is runner.val_loop.evaluator


def test_a_loop_with_hook_points_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hook, "stages", Hook.stages)
    with pytest.raises(HookPointError, match=r"Hook.register_points\('before_second_iter'\)"):
        type("Early", (Hook,), {"before_second_iter": lambda self, runner: None})
    Hook.register_points("before_second_iter", "second")
    for name in ("every_n_epochs", "a b"):
        with pytest.raises(ValueError, match="cannot be a hook point"):
            Hook.register_points(name)

    class Counts(Hook):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def before_second_iter(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
            self.seen.append(batch_idx)

        def second(self, runner: Runner) -> None:
            self.seen.append("end")

    @LOOPS.register_module(force=True)
    class TwoSets(ValLoop):
        def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, dataloader2: Any) -> None:
            super().__init__(runner, dataloader, evaluator)
            self.dataloader2 = runner.build_dataloader(dataloader2)

        def run(self) -> dict[str, Any]:
            metrics = super().run()
            for idx, data_batch in enumerate(self.dataloader2):
                self.runner.call_hook("before_second_iter", batch_idx=idx, data_batch=data_batch)
            self.runner.call_hook("second")
            return metrics

    hook = Counts()
    runner = make_runner(tmp_path, [hook], metric=Scripted(acc=[1]), train_cfg=dict(max_epochs=1))
    runner._val_cfg = dict(type="TwoSets", dataloader2=dict(dataset=Points(), batch_size=3))
    runner.train()
    assert hook.seen == [0, 1, 2, "end"]
    with pytest.raises(ValueError, match="unknown hook point 'third'.*Hook.register_points"):
        runner.call_hook("third")


def test_the_unit_of_a_loop_is_that_of_its_arguments() -> None:
    assert PlainEpochLoop.by_epoch and not PlainIterLoop.by_epoch and not StepLoop.by_epoch

    class Both(PlainEpochLoop):
        def __init__(self, max_iters: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert Both.by_epoch


def test_an_error_in_a_loop_without_the_base_constructor_is_not_hidden(tmp_path: Path) -> None:
    class Own(ValLoop):
        def __init__(self, runner: Runner, dataloader: Any, evaluator: Any) -> None:
            self._runner = runner

        def run(self) -> dict[str, Any]:
            raise ZeroDivisionError("in the loop")

    runner = make_runner(tmp_path, [], metric=Scripted(acc=[1]), train_cfg=dict(max_epochs=1))
    runner._val_cfg = dict(type=Own)
    assert metrics_of(runner) == []
    with pytest.raises(ZeroDivisionError, match="in the loop"):
        runner.val()


def test_a_hook_replaces_the_data(tmp_path: Path) -> None:
    """As mmagic's ``PGGANFetchDataHook`` does when the images grow."""

    class Grow(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter == 1:
                loader = runner.build_dataloader(dict(dataset=Points(6), batch_size=3, collate_fn="default_collate"))
                runner.train_loop.dataloader = loader
                runner.train_loop.dataloader_iterator = InfiniteDataloaderIterator(loader)

    runner = make_runner(tmp_path, [Grow()], train_cfg=dict(by_epoch=False, max_iters=5))
    runner.train()
    assert [len(batch) for batch in runner.model.seen] == [4, 4, 3, 3, 3]
    assert "a resumed run begins it again" in log_of(runner)
