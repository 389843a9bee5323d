"""Resumed runs are identical to uninterrupted ones, and changes to the config take effect."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, StopAt, log_of, make_runner, weights_of
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from trainwright.engine.checking import check
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner


def seen(runner: Runner) -> list[int]:
    """Return the samples that a run over 24 points was trained on, in order."""
    return (torch.cat(runner.model.seen) * 12).round().int().tolist() if runner.model.seen else []


def cut_and_go_on(folder: Path, train_cfg: dict[str, Any], done: int, before: int, after: int, **options: Any) -> Any:
    options = {"dataset": Points(24), "train_cfg": train_cfg, "lr": 1e-3, **options}
    first = make_runner(folder, [StopAt(done)], batch_size=before, **options)
    first.train()
    second = make_runner(folder, batch_size=after, resume=True, **options)
    second.train()
    return first, second


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 6), (3, 4)])
@pytest.mark.long
def test_an_epoch_goes_on_with_the_sample_that_is_due_in_batches_of_another_size(
    tmp_path: Path, before: int, after: int
) -> None:
    cut = 24 // before + 4  # in the second epoch, after 4 batches
    first, second = cut_and_go_on(tmp_path, dict(by_epoch=True, max_epochs=2), cut, before, after)
    position = 4 * before
    whole = make_runner(tmp_path / "whole", dataset=Points(24), train_cfg=dict(max_epochs=2), batch_size=after)
    whole.train()
    assert seen(first)[24:] == seen(whole)[24 : 24 + position]
    assert seen(second) == seen(whole)[24 + position :]  # also if no batch of the other size begins there
    assert second.iter == second.max_iters == 2 * 24 // after
    assert second.epoch == 2
    assert "Training continues with the next unseen sample" in log_of(second)
    assert "repeated" not in log_of(second)


@pytest.mark.parametrize("sampler", ["DefaultSampler", "InfiniteSampler"])
def test_a_loop_by_iterations_goes_on_with_the_sample_that_is_due(tmp_path: Path, sampler: str) -> None:
    def train(folder: str, max_iters: int, batch_size: int, *hooks: Hook, **options: Any) -> Runner:
        runner = make_runner(
            tmp_path / folder, hooks, dataset=Points(24), batch_size=batch_size, lr=1e-3,
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            train_dataloader=dict(sampler=dict(type=sampler, shuffle=True)), **options,
        )  # fmt: skip
        runner.train()
        return runner

    parts = [train("cut", 99, 4, StopAt(8)), train("cut", 99, 2, StopAt(12), resume=True)]
    parts.append(train("cut", 20, 2, resume=True))  # the offset between data and iterations is saved, too
    assert parts[-1].iter == 20
    assert [index for part in parts for index in seen(part)] == seen(train("whole", 14, 4))


def test_an_accumulation_window_in_progress_ends_as_it_began(tmp_path: Path) -> None:
    _, second = cut_and_go_on(
        tmp_path, dict(by_epoch=True, max_epochs=1), 3, 4, 2, optim_wrapper=dict(accumulative_counts=2)
    )
    assert second.iter == second.max_iters == second.optim_wrapper.inner_count == 12


def test_a_longer_dataset_is_trained_on_to_the_end_of_the_last_epoch(tmp_path: Path) -> None:
    make_runner(tmp_path, dataset=Points(8), train_cfg=dict(max_epochs=1), checkpoint=dict(interval=1)).train()
    longer = make_runner(tmp_path, dataset=Points(16), train_cfg=dict(max_epochs=2), resume=True)
    longer.train()
    assert (longer.iter, longer.max_iters, len(longer.model.seen)) == (8, 8, 4)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """An iterable dataset of points in random order, from a small shuffle buffer, split among the workers.

    Args:
        length: how many points.
    """

    def __init__(self, length: int = 26) -> None:
        self.points = Points(length)
        self.done = 0
        self.buffer: list[int] = []

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        shard = range(len(self.points)) if worker is None else range(worker.id, len(self.points), worker.num_workers)
        while self.done < len(shard) or self.buffer:
            while self.done < len(shard) and len(self.buffer) < 4:
                self.buffer.append(shard[self.done])
                self.done += 1
            yield self.points[self.buffer.pop(random.randrange(len(self.buffer)))]
        self.done = 0


class StreamWithState(Stream):
    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "buffer": self.buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.buffer = state["done"], state["buffer"]


class NoLength(StreamWithState):
    __len__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("cut", [1, 3, 7, 8, 11])
@pytest.mark.long
def test_a_stream_with_state_goes_on_where_it_was(tmp_path: Path, workers: int, cut: int, persistent: bool) -> None:
    if persistent and not workers:
        pytest.skip("there are no workers")
    if workers and cut not in (3, 8):
        pytest.skip("workers take time to start")

    def train(folder: str, *hooks: Hook, **options: Any) -> Runner:
        loader = dict(num_workers=workers, persistent_workers=persistent)
        runner = make_runner(
            tmp_path / folder, hooks, dataset=NoLength(), batch_size=4, train_dataloader=loader,
            train_cfg=dict(by_epoch=False, max_iters=18), lr=1e-3, **options,
        )  # fmt: skip
        runner.train()
        return runner

    whole = train("whole")
    parts = [train("cut", StopAt(cut)), train("cut", resume=True)]
    targets = [torch.cat([target for part in parts for target in part.model.seen]), torch.cat(whole.model.seen)]
    assert torch.equal(*targets)
    assert sorted(targets[0][:26].tolist()) == Points(26).targets.tolist()
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(parts[1])[name])


def test_a_stream_with_state_goes_on_in_the_midst_of_an_epoch(tmp_path: Path) -> None:
    options = dict(dataset=StreamWithState(), train_cfg=dict(by_epoch=True, max_epochs=2), lr=1e-3)
    whole = make_runner(tmp_path / "whole", **options)
    whole.train()
    make_runner(tmp_path / "cut", [StopAt(10)], **{**options, "dataset": StreamWithState()}).train()
    rest = make_runner(tmp_path / "cut", resume=True, **{**options, "dataset": StreamWithState()})
    rest.train()
    assert torch.equal(torch.cat(rest.model.seen), torch.cat(whole.model.seen[10:]))
    assert "cannot start" not in log_of(rest)


def test_a_stream_without_state_repeats_the_epoch_with_a_warning(tmp_path: Path) -> None:
    train_cfg = dict(by_epoch=True, max_epochs=2)
    make_runner(tmp_path, [StopAt(10)], dataset=Stream(), train_cfg=train_cfg).train()
    rest = make_runner(tmp_path, dataset=Stream(), train_cfg=train_cfg, resume=True)
    rest.train()
    assert (len(rest.model.seen), rest.iter) == (4, 14)
    assert "it restarts at the first sample" in log_of(rest)


def test_another_number_of_workers_of_a_stream_is_refused(tmp_path: Path) -> None:
    train_cfg = dict(by_epoch=False, max_iters=9)
    make_runner(tmp_path, [StopAt(3)], dataset=NoLength(), train_cfg=train_cfg).train()
    rest = make_runner(
        tmp_path, dataset=NoLength(), train_cfg=train_cfg, train_dataloader=dict(num_workers=2), resume=True
    )
    with pytest.raises(ConfigError, match="(?s)train_dataloader.num_workers: .*set it to 0"):
        rest.train()


def test_a_state_that_no_checkpoint_can_hold_is_refused_with_the_first_batch(tmp_path: Path) -> None:
    class Bad(StreamWithState):
        def state_dict(self) -> dict[str, Any]:
            return {"file": object()}

    runner = make_runner(tmp_path, dataset=Bad(), train_cfg=dict(by_epoch=False, max_iters=9))
    with pytest.raises(ConfigError, match="Bad: .*object"):
        runner.train()


class OwnLoader:
    """A custom data loader with state."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        points = Points(24)
        while self.position < 6:
            self.position += 1
            yield tuple(part[4 * self.position - 4 : 4 * self.position] for part in (points.inputs, points.targets))  # type: ignore[misc]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def test_a_loader_of_ones_own_with_state_resumes_exactly(tmp_path: Path) -> None:
    def train(folder: str, *hooks: Hook, **options: Any) -> Runner:
        runner = Runner(
            model=Line(), work_dir=str(tmp_path / folder), train_dataloader=OwnLoader(), custom_hooks=list(hooks),
            train_cfg=dict(by_epoch=True, max_epochs=2), optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
            **options,
        )  # fmt: skip
        runner.train()
        return runner

    whole = train("whole")
    train("cut", StopAt(8))
    rest = train("cut", resume=True)
    assert torch.equal(torch.cat(rest.model.seen), torch.cat(whole.model.seen[8:]))


class OneByName:
    """As mmagic's constructor where the config has a generator only."""

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Any = None) -> None:
        pass

    def __call__(self, model: Line) -> OptimWrapperDict:
        return OptimWrapperDict(generator=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))


def test_a_single_optimizer_with_a_name_is_resumed(tmp_path: Path) -> None:
    class NamedLine(Line):
        def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
            return super().train_step(data, optim_wrapper["generator"])

    def train(folder: str, *hooks: Hook, **options: Any) -> Runner:
        wrapper = {"constructor": OneByName}
        runner = make_runner(tmp_path / folder, hooks, model=NamedLine(), optim_wrapper=wrapper, **options)
        runner.train()
        return runner

    whole = train("whole")
    train("cut", StopAt(3))
    rest = train("cut", resume=True)
    assert torch.equal(rest.model.fc.weight, whole.model.fc.weight)


# --------------------------------------------------------------------------------------------- names of stateful hooks


class Counter(Hook):
    """Count iterations, and record the initial count."""

    def __init__(self, step: int = 1) -> None:
        self.step, self.count, self.loaded = step, 0, -1

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.count += self.step

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = self.loaded = state["count"]


def counters(runner: Runner) -> dict[str, int]:
    return {hook.name: hook.loaded for hook in runner.hooks if isinstance(hook, Counter)}


def test_hooks_get_their_own_state_in_whatever_order_they_come(tmp_path: Path) -> None:
    one, two = dict(type=Counter, step=1, name="one"), dict(type=Counter, step=10, name="two")
    make_runner(tmp_path, [one, two], checkpoint=dict(interval=1)).train()
    runner = make_runner(tmp_path, [dict(type=Counter), two, one], train_cfg=dict(max_epochs=4), resume=True)
    runner.train()
    assert counters(runner) == {"Counter": -1, "two": 60, "one": 6}
    assert "the checkpoint has no state for Counter" in log_of(runner)
    assert "parts that this run does not have: CheckpointHook" in log_of(runner)


def test_two_hooks_with_state_and_one_name_are_refused(tmp_path: Path) -> None:
    hooks = [dict(type=Counter), dict(type=Counter, step=2)]
    with pytest.raises(
        ConfigError, match=r"custom_hooks.1: a second hook named 'Counter' \(the first is custom_hooks.0\)"
    ):
        make_runner(tmp_path, hooks)
    mistakes = check(Config(dict(model=dict(type=Line), custom_hooks=hooks)))
    assert [mistake.path for mistake in mistakes] == ["custom_hooks.1"]
    assert "name='...'" in mistakes[0].hint
    named = [hooks[0], {**hooks[1], "name": "other"}]
    assert check(Config(dict(model=dict(type=Line), custom_hooks=named))) == []
    runner = make_runner(tmp_path, [dict(type=StopAt, done=1), dict(type=StopAt, done=2)])  # these have no state
    with pytest.raises(ConfigError, match="a second hook named 'Counter'"):
        [runner.register_hook(Counter()) for _ in range(2)]


def test_a_hook_may_have_an_argument_called_name(tmp_path: Path) -> None:
    class Named(Counter):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.argument = name

    runner = make_runner(tmp_path, [dict(type=Named, name="x")])
    assert next(hook for hook in runner.hooks if isinstance(hook, Named)).argument == "x"


# ------------------------------------------------------------------------------------------------- continued training


@pytest.mark.parametrize("train_cfg", [dict(by_epoch=True, max_epochs=3), dict(by_epoch=False, max_iters=12)])
@pytest.mark.parametrize("cut", [3, 4])
def test_a_training_that_was_stopped_continues_when_it_is_called_again(
    tmp_path: Path, train_cfg: dict[str, Any], cut: int
) -> None:
    def options() -> dict[str, Any]:
        return dict(
            model=DrawingLine(), dataset=StreamWithState(14), train_cfg=train_cfg, lr=1e-3,
            optim_wrapper=dict(accumulative_counts=3), checkpoint=dict(interval=1),
        )  # fmt: skip

    whole = make_runner(tmp_path / "whole", [dict(type="EMAHook", momentum=0.1)], **options())
    whole.train()
    runner = make_runner(tmp_path / "again", [dict(type="EMAHook", momentum=0.1), StopAt(cut)], **options())
    runner.train()
    assert runner.iter == cut
    runner.train()
    assert runner.iter == whole.iter == 12
    torch.testing.assert_close(weights_of(runner), weights_of(whole), rtol=0, atol=0)
    assert seen(runner) == seen(whole)
    runner.train()
    assert runner.iter == 12 and "nothing left to do" in log_of(runner)


class DrawingLine(Line):
    """A linear model whose step draws from all generators."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (1 + random.random() / 10 + float(torch.rand(())) / 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_notebook_continues_after_an_interrupt(tmp_path: Path, number: int) -> None:
    from tiny_runs import Scripted

    class Interrupt(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 2:
                os.kill(os.getpid(), number)

    runner = make_runner(tmp_path, [Interrupt()], metric=Scripted(acc=[1, 2, 3, 4]))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        runner.train()
    assert runner.iter == 3
    assert runner.val() == {"acc": 2}
    runner.train()
    assert runner.iter == 6


# --------------------------------------------------------------------------------------------- several runs in one process


def test_a_run_inside_a_hook_of_another_changes_nothing_of_that(tmp_path: Path) -> None:
    class Nested(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            make_runner(tmp_path / f"inner{runner.iter}", model=dict(type=DrawingLine)).train()

    outer = make_runner(tmp_path / "outer", [Nested()], model=DrawingLine())
    outer.train()
    alone = make_runner(tmp_path / "alone", model=DrawingLine())
    alone.train()
    torch.testing.assert_close(weights_of(outer), weights_of(alone), rtol=0, atol=0)


def test_determinism_ends_with_the_run_that_wants_it(tmp_path: Path) -> None:
    during: list[bool] = []

    class Look(Hook):
        def before_train(self, runner: Runner) -> None:
            during.append(torch.are_deterministic_algorithms_enabled())

    for deterministic in (True, False):
        options = dict(deterministic=deterministic, seed=0)
        runner = make_runner(tmp_path / str(deterministic), [Look()])
        runner.set_randomness(**options)
        runner.train()
    assert during == [True, False]


def test_runs_in_two_threads_at_once_are_warned_of(tmp_path: Path) -> None:
    logs: list[str] = []

    class Thread(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            def train() -> None:
                inner = make_runner(tmp_path / f"thread{runner.epoch}")
                inner.train()
                logs.append(log_of(inner))

            thread = threading.Thread(target=train)
            thread.start()
            thread.join()

    make_runner(tmp_path / "main", [Thread()]).train()
    assert len(logs) == 3 and all("share the random generators" in log for log in logs)
