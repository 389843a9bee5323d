"""What a resumed run does: the same as one that was never cut, and what changed takes effect."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, log_of, make_runner

from trainwright.engine.hook import Hook
from trainwright.engine.runner import Runner


class StopAt(Hook):
    """Asks for an end after so many iterations."""

    def __init__(self, done: int) -> None:
        self.done = done

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.done:
            runner.request_stop("a test")


def seen(runner: Runner) -> list[int]:
    """Returns the samples that a run over 24 points was trained on, in their order."""
    return (torch.cat(runner.model.seen) * 12).round().int().tolist() if runner.model.seen else []


def cut_and_go_on(folder: Path, train_cfg: dict[str, Any], done: int, before: int, after: int, **options: Any) -> Any:
    options = {"dataset": Points(24), "train_cfg": train_cfg, "lr": 1e-3, **options}
    first = make_runner(folder, [StopAt(done)], batch_size=before, **options)
    first.train()
    second = make_runner(folder, batch_size=after, resume=True, **options)
    second.train()
    return first, second


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 6), (3, 4)])
def test_an_epoch_goes_on_with_the_sample_that_is_due_in_batches_of_another_size(
    tmp_path: Path, before: int, after: int
) -> None:
    cut = 24 // before + 4  # in the second epoch, after 4 batches
    first, second = cut_and_go_on(tmp_path, dict(by_epoch=True, max_epochs=2), cut, before, after)
    position = 4 * before
    repeated = position % after
    whole = make_runner(tmp_path / "whole", dataset=Points(24), train_cfg=dict(max_epochs=2), batch_size=after)
    whole.train()
    assert seen(first)[24:] == seen(whole)[24 : 24 + position]
    assert seen(second) == seen(whole)[24 + position - repeated :]
    assert second.iter == second.max_iters == 2 * 24 // after
    assert second.epoch == 2
    assert "the run goes on with the sample that is due" in log_of(second)
    assert (f"{repeated} that were seen come again" in log_of(second)) == bool(repeated)


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
    parts.append(train("cut", 20, 2, resume=True))  # how far the data are ahead of the iterations was saved, too
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
