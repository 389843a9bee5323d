"""Data of real runs on several ranks: validation of few samples, unequal loaders, streams, another number of ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import ParallelLine, Points, log_of, make_runner
from torch.utils.data import DistributedSampler, IterableDataset

from trainwright.engine.distributed import all_gather_object, get_rank, get_world_size
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.metric import BaseMetric, BatchMetric
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner


class Trained(Hook):
    """Keeps the samples of each training iteration, as the numbers of the points."""

    def __init__(self) -> None:
        self.samples: list[list[int]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.samples.append([round(float(x) * SIZE) for x in data_batch[0][:, 0]])


SIZE = 16


class Stream(IterableDataset[Any]):
    """The points of this rank, each after a number of draws from its own state."""

    sharded = True

    def __init__(self) -> None:
        self.done = 0

    def __len__(self) -> int:
        return SIZE // get_world_size()

    def __iter__(self) -> Iterator[Any]:
        points = Points(SIZE)
        own = range(get_rank(), SIZE, get_world_size())
        while self.done < len(own):
            self.done += 1
            yield points[own[self.done - 1]]
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done + 100 * get_rank()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"] - 100 * get_rank()


class Count(BaseMetric):
    default_prefix = "count"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, int]:
        return {"n": len(results)}


class Rows(BatchMetric):
    default_prefix = "rows"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append((torch.as_tensor(data_samples),))

    def compute_metrics(self, results: Any) -> dict[str, int]:
        return {"n": len(results[0])}


def evaluate(folder: Path, size: int, **loader: Any) -> tuple[dict[str, Any], str]:
    runner = Runner(
        ParallelLine(), str(folder), val_cfg=loader.pop("val_cfg", {}), val_evaluator=[Count(), Rows()],
        val_dataloader=dict(dataset=Points(size), batch_size=2, collate_fn="default_collate", **loader),
    )  # fmt: skip
    return runner.val(), log_of(runner) if get_rank() == 0 else ""


def test_validation_does_not_repeat_samples(tmp_path: Path) -> None:
    """Not even if there are fewer samples than ranks."""

    def in_rank() -> Any:
        few = [evaluate(tmp_path, size) for size in (1, 3, 13)]
        padded = evaluate(tmp_path, 13, sampler=dict(type="DefaultSampler", shuffle=False, round_up=True))
        return few, padded

    ranks = run_group(4, in_rank, tmp_path)
    few, padded = ranks[0]
    assert [metrics for metrics, _ in few] == [{"count/n": size, "rows/n": size} for size in (1, 3, 13)]
    assert not any("has no results" in log for _, log in few)
    assert padded[0] == few[2][0]
    assert all([metrics for metrics, _ in others] == [metrics for metrics, _ in few] for others, _ in ranks)


class WithLoss(ParallelLine):
    def val_step(self, data: Any, with_loss: bool = False) -> Any:
        predictions = list(self(data[0]))
        return (predictions, self(*data, mode="loss")) if with_loss else predictions


def test_a_loss_over_padded_samples_is_warned_of(tmp_path: Path) -> None:
    def in_rank() -> str:
        runner = Runner(
            WithLoss(), str(tmp_path / "run"), val_cfg=dict(with_loss=True), val_evaluator=Count(),
            val_dataloader=dict(
                dataset=Points(5), collate_fn="default_collate", batch_size=2,
                sampler=dict(type=DistributedSampler, shuffle=False),
            ),
        )  # fmt: skip
        runner.val()
        return log_of(runner) if get_rank() == 0 else ""

    assert "val_cfg.with_loss: the losses count 1 samples twice" in run_group(2, in_rank, tmp_path)[0]


def test_ranks_with_different_numbers_of_batches_are_refused(tmp_path: Path) -> None:
    def in_rank() -> str:
        sampler = dict(type="DefaultSampler", round_up=False)
        runner = make_runner(
            tmp_path, model=ParallelLine(), dataset=Points(9), batch_size=4, train_dataloader=dict(sampler=sampler)
        )
        with pytest.raises(ConfigError) as caught:
            runner.train()
        return str(caught.value)

    for text in run_group(2, in_rank, tmp_path):
        assert "different numbers of batches per epoch: rank 0 has 2, rank 1 has 1" in text and "round_up=True" in text


def test_every_rank_of_a_sharded_stream_continues_where_it_was(tmp_path: Path) -> None:
    def in_rank() -> Any:
        options = dict(dataset=Stream(), batch_size=2, checkpoint=dict(by_epoch=False, interval=3, save_last=False))
        whole, rest = Trained(), Trained()
        make_runner(tmp_path / "run", [whole], model=ParallelLine(), **options).train()
        options["dataset"] = Stream()
        path = str(tmp_path / "run" / "iter_3.pth")
        make_runner(tmp_path / "resumed", [rest], model=ParallelLine(), resume=path, **options).train()
        return whole.samples, rest.samples

    for rank, (whole, rest) in enumerate(run_group(2, in_rank, tmp_path)):
        assert whole == [[rank + start, rank + start + 2] for start in (0, 4, 8, 12)] * 3
        assert rest == whole[3:]


def test_a_different_seed_per_rank_does_not_reach_the_sampler(tmp_path: Path) -> None:
    def in_rank() -> list[int]:
        trained = Trained()
        runner = make_runner(
            tmp_path, [trained], model=ParallelLine(), dataset=Points(SIZE), train_cfg=dict(max_epochs=1)
        )
        runner.set_randomness(seed=3, diff_rank_seed=True)
        runner.train()
        return [index for samples in all_gather_object(trained.samples) for batch in samples for index in batch]

    assert sorted(run_group(2, in_rank, tmp_path)[0]) == list(range(SIZE))


def test_another_number_of_ranks_is_reported(tmp_path: Path) -> None:
    def options(trained: Trained, **more: Any) -> dict[str, Any]:
        checkpoint = dict(by_epoch=False, interval=3, save_last=False)
        return dict(
            hooks=[trained], model=ParallelLine(), dataset=Points(SIZE), batch_size=2, checkpoint=checkpoint, **more
        )

    one = Trained()
    make_runner(tmp_path / "run", **options(one)).train()

    def in_rank() -> Any:
        trained = Trained()
        runner = make_runner(tmp_path / "three", **options(trained, resume=str(tmp_path / "run" / "iter_3.pth")))
        runner.train()
        assert runner.iter == runner.max_iters == 9
        return trained.samples, log_of(runner) if get_rank() == 0 else ""

    ranks = run_group(3, in_rank, tmp_path)
    rest = [index for samples, _ in ranks for batch in samples[:2] for index in batch]  # the 10 other samples, and 2
    assert {index for batch in one.samples[:3] for index in batch} | set(rest) == set(range(SIZE)) and len(rest) == 12
    log = ranks[0][1]
    assert "iterations per epoch: 8 → 3, processes: 1 → 3" in log
    assert (
        "An update takes 6 samples (before: 2). The learning rate and max_epochs=3 remain as configured; no acc" in log
    )
