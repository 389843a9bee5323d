"""Counters and validation of the training loops, and resuming interrupted ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, Scripted, StopAt, files_in, log_of, make_runner, weights_of
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from trainwright.engine.checking import check
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.engine.run.train_loops import EpochBasedTrainLoop, IterBasedTrainLoop

SAVE = {"interval": 1, "by_epoch": False}


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """An iterable dataset of points in order, with another first point in each pass, split among the workers.

    Args:
        length: how many points.
    """

    def __init__(self, length: int = 10) -> None:
        self.points = Points(length)
        self.done = self.passes = 0
        self.scale = 1.0

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        shard = list(range(len(self)) if worker is None else range(worker.id, len(self), worker.num_workers))
        while self.done < len(shard):
            self.done += 1
            inputs, target = self.points[shard[(self.done + self.passes) % len(shard)]]
            yield inputs * self.scale, target
        self.done = 0
        self.passes += 1

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "passes": self.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.passes = state["done"], state["passes"]


def assert_same(first: Runner, second: Runner) -> None:
    assert (first.epoch, first.iter) == (second.epoch, second.iter)
    for name, value in weights_of(first).items():
        assert torch.equal(value, weights_of(second)[name])
    for a, b in zip(first.optim_wrapper.param_groups, second.optim_wrapper.param_groups):
        assert a["lr"] == b["lr"]


def seen(*runs: Runner) -> list[float]:
    return [value for run in runs for batch in run.model.seen for value in batch.tolist()]


def one_sample(sample: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [part[None] for part in sample]


@pytest.mark.parametrize(
    "loader",
    [{}, {"drop_last": True}, {"batch_size": None, "collate_fn": one_sample}],
    ids=["", "drop_last", "no batches"],
)
@pytest.mark.parametrize("cut", ["epoch_1.pth", "epoch_2.pth", *range(1, 10)])
@pytest.mark.parametrize("length", [8, 10])
def test_a_stream_resumed_at_an_end_begins_the_next_epoch(
    tmp_path: Path, cut: int | str, loader: dict[str, Any], length: int
) -> None:
    options: dict[str, Any] = dict(checkpoint={"interval": 1}, train_dataloader=loader, lr=0.01)
    whole = make_runner(tmp_path / "whole", dataset=Stream(length), **options)
    whole.train()
    if isinstance(cut, int):
        make_runner(tmp_path / "cut", [StopAt(cut)], dataset=Stream(length), **options).train()
    resume = True if isinstance(cut, int) else str(tmp_path / "whole" / cut)
    rest = make_runner(tmp_path / "cut", dataset=Stream(length), resume=resume, **options)
    rest.train()
    assert rest.epoch == 3
    assert_same(whole, rest)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.long
def test_with_workers_too(tmp_path: Path, workers: int, persistent: bool, by_epoch: bool) -> None:
    """Two workers produce four batches from ten samples, but the length of the loader is three."""

    def train(folder: str, *hooks: Hook, **options: Any) -> Runner:
        runner = make_runner(
            tmp_path / folder, hooks, dataset=Stream(), lr=0.01, checkpoint=SAVE,
            train_dataloader=dict(num_workers=workers, persistent_workers=persistent),
            train_cfg=dict(max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=9), **options,
        )  # fmt: skip
        runner.train()
        return runner

    whole = train("whole")
    length = 2 + workers if by_epoch else 3
    for cut in (length, length + 1):
        stopped = train(f"stopped {cut}", StopAt(cut))
        rest = train(f"stopped {cut}", resume=True)
        assert_same(whole, rest)
        assert seen(stopped, rest) == seen(whole)
        rest = train(f"rest {cut}", resume=str(tmp_path / "whole" / f"iter_{cut}.pth"))
        assert_same(whole, rest)


class OwnLoader:
    """A custom data loader of three batches, which at the end of a pass stays there or moves on to the next one."""

    def __init__(self, turns: bool) -> None:
        self.position = 0
        self.turns = turns

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        points = Points(12)
        while self.position < 3:
            part = slice(4 * self.position, 4 * self.position + 4)
            self.position += 1
            yield points.inputs[part], points.targets[part]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position % 3 if self.turns else self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train_on(loader: Any, folder: Path, *hooks: Hook, **options: Any) -> Runner:
    options = {"train_cfg": dict(by_epoch=True, max_epochs=3), **options}
    runner = Runner(
        model=Line(), work_dir=str(folder), train_dataloader=loader, custom_hooks=list(hooks),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)), randomness=dict(seed=0), **options,
    )  # fmt: skip
    runner.train()
    return runner


@pytest.mark.parametrize("turns", [False, True])
def test_a_loader_of_ones_own_is_resumed_at_an_end(tmp_path: Path, turns: bool) -> None:
    whole = train_on(OwnLoader(turns), tmp_path / "whole")
    for number in (1, 2):
        file = str(tmp_path / "whole" / f"epoch_{number}.pth")
        rest = train_on(OwnLoader(turns), tmp_path / "rest", resume=file)
        assert seen(rest) == seen(whole)[12 * number :]
        assert_same(whole, rest)


@pytest.mark.parametrize("cut", [2, 3])
def test_a_loader_without_state_never_trains_more_than_max_iters(tmp_path: Path, cut: int) -> None:
    def loader() -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*vars(Points(12)).values()), batch_size=4)

    saving = dict(default_hooks=dict(checkpoint=dict(interval=1, by_epoch=False)))
    whole = train_on(loader(), tmp_path, **saving)
    rest = train_on(loader(), tmp_path / "rest", resume=str(tmp_path / f"iter_{cut}.pth"))
    assert (rest.epoch, rest.iter, len(rest.model.seen)) == (3, 9, 9 - cut)
    assert ("cannot start in the middle" in log_of(rest)) == (cut != 3)
    if cut == 3:
        assert_same(whole, rest)


def test_training_continues_in_the_same_process_with_the_batch_that_is_due(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / "whole", dataset=Stream(), lr=0.01)
    whole.train()
    runner = make_runner(tmp_path / "cut", [StopAt(5)], dataset=Stream(), lr=0.01)
    runner.train()
    runner.state.stop_reason = None
    runner.train()
    assert_same(whole, runner)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_switch_of_the_dataset_does_not_restart_a_stream(tmp_path: Path, by_epoch: bool, workers: int) -> None:
    switch = dict(type="SwitchHook", target="train_dataloader.dataset.scale", value=0.0, at_iter=1)
    runner = make_runner(
        tmp_path, [switch], dataset=Stream(12), train_dataloader=dict(num_workers=workers),
        train_cfg=dict(max_epochs=1) if by_epoch else dict(by_epoch=False, max_iters=3), batch_size=4,
    )  # fmt: skip
    batches = []
    runner.register_hook(Recorder(batches))
    runner.train()
    assert sorted(seen(runner)) == Points(12).targets.tolist()
    # The batch of the iteration before which the hook switches was already fetched.
    assert [bool(inputs.any()) for inputs in batches] == [True, True, False]


class Recorder(Hook):
    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append(data_batch[0])


@pytest.mark.parametrize(
    "scheduler",
    [
        dict(type="ExponentialLR", gamma=0.5, end=100),
        dict(type="ReduceOnPlateauLR", monitor="acc", rule="greater", patience=0, factor=0.5),
    ],
)
def test_a_stop_ends_no_epoch_of_a_loop_by_iterations(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    def train(folder: str, *hooks: Hook, **options: Any) -> Runner:
        runner = make_runner(
            tmp_path / folder, hooks, metric=Scripted(acc=[3, 2, 1, 0]), param_scheduler=[scheduler],
            train_cfg=dict(by_epoch=False, max_iters=8, val_interval=2), checkpoint=SAVE | {"interval": 100}, **options,
        )  # fmt: skip
        runner.train()
        return runner

    whole = train("whole")
    for cut in (3, 5, 6, 8):
        first = train(f"cut {cut}", StopAt(cut))
        calls = first.val_loop.evaluator.metrics[0].calls
        assert calls == (cut - 1) // 2  # a due validation is left to the resumed run
        assert first.epoch == 0
        scores = dict(acc=[3, 2, 1, 0][calls:])
        rest = make_runner(
            tmp_path / f"cut {cut}", metric=Scripted(**scores), param_scheduler=[scheduler], checkpoint=SAVE,
            train_cfg=dict(by_epoch=False, max_iters=8, val_interval=2), resume=True,
        )  # fmt: skip
        rest.train()
        assert_same(whole, rest)
        assert rest.message_hub.get_scalar("val/acc").data[0].tolist() == [3, 2, 1, 0]
        assert rest.param_schedulers[0].state_dict() == whole.param_schedulers[0].state_dict()
    assert files_in(tmp_path / "whole") == ["iter_8.pth"]


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_stop_request_comes_before_a_due_validation(tmp_path: Path, by_epoch: bool) -> None:
    cfg = dict(max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=4, val_interval=2)
    first = make_runner(tmp_path, [StopAt(2)], metric=Scripted(acc=[1, 2]), train_cfg=cfg)
    first.train()
    assert "val/acc" not in first.message_hub.log_scalars
    rest = make_runner(tmp_path, metric=Scripted(acc=[1, 2]), train_cfg=cfg, resume=True)
    rest.train()
    assert rest.message_hub.get_scalar("val/acc").data[0].tolist() == [1, 2]


def by_hand(base: type) -> type:
    """Return a custom loop, as written for MMEngine."""

    class ByEpochs(EpochBasedTrainLoop):
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

    class ByIterations(IterBasedTrainLoop):
        def run_iter(self, data_batch: Any) -> None:
            self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
            outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
            self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
            self._iter += 1

    return ByEpochs if base is EpochBasedTrainLoop else ByIterations


@pytest.mark.parametrize("saver", [{"interval": 1}, {"interval": 1, "by_epoch": False}])
@pytest.mark.parametrize("loop", [EpochBasedTrainLoop, IterBasedTrainLoop])
def test_a_loop_written_for_mmengine_counts_as_ours(tmp_path: Path, loop: type, saver: dict[str, Any]) -> None:
    ends = dict(max_epochs=3) if loop is EpochBasedTrainLoop else dict(max_iters=6)
    runs = {}
    for name, type_ in (("ours", loop), ("theirs", by_hand(loop))):
        runs[name] = make_runner(tmp_path / name, train_cfg=dict(type=type_, **ends), checkpoint=saver)
        runs[name].train()
    assert files_in(tmp_path / "theirs") == files_in(tmp_path / "ours")
    assert_same(*runs.values())
    for name in files_in(tmp_path / "ours"):
        counters = [
            torch.load(tmp_path / folder / name, weights_only=True)["trainwright"]["counters"] for folder in runs
        ]
        assert counters[0] == counters[1]
    again = make_runner(tmp_path / "theirs", train_cfg=dict(type=by_hand(loop), **ends), checkpoint=saver, resume=True)
    again.train()
    assert not again.model.seen


def test_the_only_epoch_of_a_loop_by_iterations_is_the_first(tmp_path: Path) -> None:
    """A loop with the attribute names of MMEngine."""
    make_runner(tmp_path, train_cfg=dict(by_epoch=False, max_iters=4), checkpoint=dict(interval=1)).train()
    assert files_in(tmp_path) == ["epoch_1.pth"]
    assert torch.load(tmp_path / "epoch_1.pth", weights_only=True)["meta"]["epoch"] == 1


def test_max_iters_is_raised_after_the_end(tmp_path: Path) -> None:
    for saver in ({"interval": 1}, {"interval": 4, "by_epoch": False}):
        folder = tmp_path / str(saver["interval"])
        options: dict[str, Any] = dict(checkpoint=saver, lr=0.01)
        make_runner(folder, train_cfg=dict(by_epoch=False, max_iters=4), **options).train()
        again = make_runner(folder, train_cfg=dict(by_epoch=False, max_iters=4), resume=True, **options)
        again.train()
        assert (again.epoch, again.iter, again.model.seen) == (1, 4, [])
        longer = make_runner(folder, train_cfg=dict(by_epoch=False, max_iters=7), resume=True, **options)
        longer.train()
        whole = make_runner(folder / "whole", train_cfg=dict(by_epoch=False, max_iters=7), **options)
        whole.train()
        assert_same(longer, whole)


def test_a_shorter_dataset_is_trained_on_up_to_max_iters(tmp_path: Path) -> None:
    saver = dict(interval=3, by_epoch=False)
    make_runner(tmp_path, [StopAt(5)], dataset=Points(24), train_cfg=dict(max_epochs=2), checkpoint=saver).train()
    rest = make_runner(tmp_path, dataset=Points(12), train_cfg=dict(max_epochs=2), checkpoint=saver, resume=True)
    rest.train()
    assert (rest.epoch, rest.iter, rest.max_iters) == (2, 6, 6)
    assert len(rest.model.seen) == 3  # the first epoch was over
    assert "iterations per epoch: 6 → 3" in log_of(rest)
    assert "Epoch 0, iteration 5 is now epoch 0, iteration 3." in log_of(rest)
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_6.pth")


@pytest.mark.parametrize("cut", [3, 4, 6, 9])
@pytest.mark.parametrize("back", [False, True])
def test_the_kind_of_loop_changes_and_the_data_continue(tmp_path: Path, cut: int, back: bool) -> None:
    cfgs = [dict(by_epoch=False, max_iters=12), dict(by_epoch=True, max_epochs=3)]
    before, after = cfgs[::-1] if back else cfgs
    options: dict[str, Any] = dict(dataset=Points(16), lr=0.01)
    whole = make_runner(tmp_path / "whole", train_cfg=after, **options)
    whole.train()
    first = make_runner(tmp_path / "cut", [StopAt(cut)], train_cfg=before, **options)
    first.train()
    rest = make_runner(tmp_path / "cut", train_cfg=after, resume=True, **options)
    rest.train()
    assert seen(first, rest) == seen(whole)
    assert_same(rest, whole)
    assert f"epoch-based training: {back} → {not back}" in log_of(rest)


def test_the_kind_of_loop_and_the_batch_size_change(tmp_path: Path) -> None:
    make_runner(tmp_path, [StopAt(6)], dataset=Points(16), train_cfg=dict(by_epoch=False, max_iters=12)).train()
    rest = make_runner(tmp_path, dataset=Points(16), batch_size=2, train_cfg=dict(max_epochs=2), resume=True)
    rest.train()
    assert (rest.epoch, rest.iter, len(rest.model.seen)) == (2, 16, 4)
    assert "Epoch 0, iteration 6 is now epoch 1, iteration 12" in log_of(rest)


def test_a_switch_of_the_validation_interval_holds(tmp_path: Path) -> None:
    def validated(folder: str, cuts: tuple[int, ...]) -> list[int]:
        epochs: list[int] = []

        class Note(Hook):
            def after_val(self, runner: Runner) -> None:
                epochs.append(runner.epoch)

        for cut in (*cuts, None):
            hooks = [
                dict(type="SwitchHook", target="train_loop.val_interval", value=3, at_epoch=3),
                Note(),
                *([StopAt(2 * cut)] if cut else []),
            ]
            make_runner(
                tmp_path / folder, hooks, metric=Scripted(acc=[1] * 9), resume=cut != (*cuts, None)[0],
                train_cfg=dict(max_epochs=9, val_interval=4, dynamic_intervals=[(2, 1), (7, 2)]),
            ).train()  # fmt: skip
        return epochs

    assert validated("whole", ()) == [2, 3, 6, 9]
    assert validated("cut", (3, 5, 8)) == [2, 3, 6, 9]


class IterLoop(IterBasedTrainLoop):
    """A custom loop."""


LOOPS.register_module(name="LoopsTestIterLoop", module=IterLoop)


@pytest.mark.parametrize("cfg", [dict(type=IterLoop), dict(type="LoopsTestIterLoop", by_epoch=False)])
def test_a_loop_derived_from_one_by_iterations_is_logged_as_such(tmp_path: Path, cfg: dict[str, Any]) -> None:
    runner = make_runner(tmp_path, train_cfg=dict(max_iters=10, **cfg))
    runner.train()
    assert runner.iter == 10
    assert "Iter(train) [10/10]" in log_of(runner)


@pytest.mark.parametrize(("type_", "by_epoch"), [("LoopsTestIterLoop", True), ("EpochBasedTrainLoop", False)])
def test_a_kind_that_is_not_that_of_the_loop_is_refused(tmp_path: Path, type_: str, by_epoch: bool) -> None:
    message = f"train_cfg.by_epoch: {by_epoch} contradicts the type"
    train_cfg = dict(type=type_, by_epoch=by_epoch)
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, train_cfg=train_cfg)
    assert any(message in str(error) for error in check(dict(train_cfg=train_cfg)))


def test_what_has_no_end_is_no_epoch(tmp_path: Path) -> None:
    endless = dict(sampler=dict(type="InfiniteSampler"))
    with pytest.raises(ConfigError, match="train_dataloader.sampler: .*endless"):
        make_runner(tmp_path, train_dataloader=endless).train()
    runner = make_runner(tmp_path, metric=Scripted(acc=[1]), train_cfg=dict(by_epoch=False, max_iters=2))
    runner._val_dataloader |= endless
    with pytest.raises(ConfigError, match="val_dataloader.sampler: .*endless"):
        runner.train()
