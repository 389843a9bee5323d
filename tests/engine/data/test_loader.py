import pickle
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Points, Scripted, StopAt, log_of, make_runner, weights_of
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trainwright.datasets import DefaultSampler
from trainwright.engine.data.loader import build_dataloader, iterate, start_at
from trainwright.engine.data.seeded import SeededDataset
from trainwright.engine.errors import ConfigError, TrainingError, UnknownTypeError
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import DATASETS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner


class Noisy(Dataset):
    """A dataset of samples with their index and a random number from each of the three generators."""

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.note = "mine"
        self.broken: int | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        if index == self.broken:
            raise OSError("cannot read")
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(6))


def batches(loader: Any, epoch: int = 0, batch: int = 0) -> list[Any]:
    assert start_at(loader, epoch, batch)
    return list(loader)


def build(**cfg: Any) -> Any:
    return build_dataloader({"dataset": Noisy(), "batch_size": 4, "collate_fn": list, **cfg}, seed=3, training=True)


def test_samples_draw_the_same_numbers_whoever_fetches_them() -> None:
    expected = batches(build())
    assert len(expected) == 5
    random.seed(99)
    torch.manual_seed(99)
    assert batches(build(num_workers=1)) == expected
    assert batches(build(num_workers=2, prefetch_factor=1)) == expected
    assert batches(build(num_workers=2, persistent_workers=True)) == expected


def test_each_epoch_has_its_own_order_and_its_own_numbers() -> None:
    loader = build()
    first, second = batches(loader, 0), batches(loader, 1)
    by_index = [{sample[0]: sample[1:] for batch in run for sample in batch} for run in (first, second)]
    assert [s[0] for b in first for s in b] != [s[0] for b in second for s in b]
    assert all(by_index[0][index] != by_index[1][index] for index in range(20))
    assert batches(loader, 0) == first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 4, 5])
def test_a_loader_starts_in_the_middle_of_an_epoch(workers: int, cut: int) -> None:
    expected = batches(build(), 2)
    assert batches(build(num_workers=workers), 2, cut) == expected[cut:]


def test_persistent_workers_learn_of_a_new_epoch() -> None:
    loader = build(num_workers=1, persistent_workers=True)
    plain = build()
    assert [batches(loader, epoch) for epoch in range(3)] == [batches(plain, epoch) for epoch in range(3)]


@pytest.mark.parametrize("by_batch", [False, True])
def test_each_visit_of_a_sample_has_its_own_numbers(by_batch: bool) -> None:
    sampler = {"sampler": dict(type="RepeatAugSampler", num_repeats=4)}
    if by_batch:
        sampler["batch_sampler"] = dict(type="torch.utils.data.BatchSampler", drop_last=False)
    first, second = batches(build(**sampler)), batches(build(**sampler), epoch=1)
    visits = [sample for batch in first for sample in batch]
    assert [index for index, *_ in visits] == [visits[start][0] for start in range(0, 20, 4) for _ in range(4)]
    assert len({numbers for _, *numbers in map(tuple, visits) for numbers in [tuple(numbers)]}) == 20
    assert not {tuple(s[1:]) for b in first for s in b} & {tuple(s[1:]) for b in second for s in b}
    assert batches(build(num_workers=2, **sampler)) == first
    assert batches(build(**sampler), batch=3) == first[3:]


def test_seed_changes_everything() -> None:
    other = build_dataloader({"dataset": Noisy(), "batch_size": 4, "collate_fn": list}, seed=4, training=True)
    assert batches(other) != batches(build())


def test_samples_keep_their_order_without_shuffling() -> None:
    loader = build(sampler=dict(type="DefaultSampler", shuffle=False))
    assert [sample[0] for batch in batches(loader) for sample in batch] == list(range(20))


def test_an_endless_sampler_starts_anywhere_in_its_stream() -> None:
    def loader() -> Any:
        return build(sampler=dict(type="InfiniteSampler", shuffle=True), batch_size=6)

    def take(start: int, number: int) -> list[Any]:
        one = loader()
        assert start_at(one, 0, start)
        return [items for items, _ in zip(one, range(number))]

    expected = take(0, 12)
    assert take(7, 5) == expected[7:]
    draws = [sample for batch in expected for sample in batch if sample[0] == expected[0][0][0]]
    assert len({sample[1] for sample in draws}) == len(draws) > 2  # each pass is augmented differently


def test_the_dataset_of_the_loader_can_be_read_and_changed() -> None:
    loader = build()
    assert loader.dataset.note == "mine"
    loader.dataset.note = "changed"
    assert loader.dataset._inner.note == "changed"
    with pytest.raises(AttributeError, match="Noisy has no attribute 'nota' to set: did you mean 'note'"):
        loader.dataset.nota = "lost"
    loader.sampler.shuffle = False
    assert [sample[0] for batch in batches(loader) for sample in batch] == list(range(20))
    assert len(pickle.loads(pickle.dumps(loader.dataset))) == 20


def test_dataset_and_sampler_of_the_loader_are_instances_of_their_classes() -> None:
    for loader in (build(num_batch_per_epoch=2), pickle.loads(pickle.dumps(build(num_batch_per_epoch=2)))):
        assert isinstance(loader.dataset, Noisy) and not isinstance(loader.dataset, Stream)
        assert isinstance(loader.sampler, DefaultSampler) and type(loader.dataset) is SeededDataset
        assert batches(loader) == batches(build(num_batch_per_epoch=2))
    assert isinstance(build(dataset=Stream()).dataset, Stream)


def test_samples_of_the_dataset_are_counted_from_the_end_too() -> None:
    dataset = build().dataset
    assert dataset[-1][0] == dataset[len(dataset) - 1][0] and dataset[-len(dataset)][0] == dataset[0][0]


def test_the_default_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = float(torch.rand(()))
    torch.manual_seed(5)
    loader = build(num_workers=1)
    next(iter(loader))
    assert float(torch.rand(())) == expected


def test_a_sample_that_fails_is_named() -> None:
    loader = build(dataset=Noisy(3), sampler=dict(type="DefaultSampler", shuffle=False))
    loader.dataset.broken = 2
    with pytest.raises(OSError, match="cannot read") as caught:
        list(loader)
    assert caught.value.__notes__ == ["while loading sample 2 of Noisy"]


def test_a_sample_that_fails_in_a_worker_is_named() -> None:
    loader = build(dataset=Noisy(3), sampler=dict(type="DefaultSampler", shuffle=False), num_workers=1)
    loader.dataset.broken = 2
    with pytest.raises(OSError, match="while loading sample 2 of Noisy"):
        list(loader)


@pytest.mark.long
def test_num_batch_per_epoch_keeps_the_first_samples() -> None:
    loader = build(num_batch_per_epoch=2)
    assert len(loader) == 2
    assert sorted(sample[0] for batch in batches(loader) for sample in batch) == list(range(8))


def test_batch_samplers_start_anywhere_too() -> None:
    cfg = dict(batch_sampler=dict(type="torch.utils.data.BatchSampler", drop_last=True), batch_size=6)
    expected = batches(build(**cfg), 1)
    assert [len(batch) for batch in expected] == [6, 6, 6]
    assert batches(build(**cfg), 1, 2) == expected[2:]


def test_an_iterable_dataset_decides_its_order() -> None:
    assert list(build_dataloader({"dataset": Stream(), "batch_size": 3}, seed=0)) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ConfigError, match="(?s)IterableDataset.*sampler"):
        build_dataloader({"dataset": Stream(), "sampler": dict(type="DefaultSampler")}, seed=0)


def test_a_loader_of_the_user_is_taken_as_it_is() -> None:
    mine = DataLoader(Noisy(), batch_size=2)
    assert build_dataloader(mine, seed=0) is mine
    assert start_at(mine, 3, 0)
    assert not start_at(mine, 3, 1)


OWN_LOADERS: dict[str, Any] = {
    "tensors": dict(dataset=TensorDataset(torch.rand(10, 3), torch.arange(10)), shuffle=True),
    "a view": dict(dataset=TensorDataset(torch.rand(3, 10).T), shuffle=True),
    "samples": dict(dataset=TensorDataset(torch.rand(10, 3)), batch_size=None),
    "another collate": dict(dataset=TensorDataset(torch.rand(10, 3)), collate_fn=lambda batch: batch[0][0]),
    "random samples": dict(dataset=Noisy(10), shuffle=True),
    "drop_last": dict(dataset=Noisy(10), drop_last=True),
    "a stream": dict(dataset=Stream()),
    "workers": dict(dataset=Noisy(10), num_workers=1),
}


@pytest.mark.parametrize("options", OWN_LOADERS.values(), ids=OWN_LOADERS)
def test_iterating_at_less_cost_changes_no_bits(options: dict[str, Any]) -> None:
    drawn = []
    for iterator in (iter, iterate):
        torch.manual_seed(2)
        random.seed(2)
        np.random.seed(2)
        loader = DataLoader(**{"batch_size": 4, **options})
        drawn.append([*iterator(loader), *iterator(loader), torch.rand(3)])
    torch.testing.assert_close(*drawn, rtol=0, atol=0, check_stride=True)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="train_dataloader: a dataloader needs a dataset"):
        build_dataloader({"batch_size": 2}, seed=0, path="train_dataloader")
    with pytest.raises(ConfigError, match="(?s)persistent_workers: there are no workers.*set num_workers"):
        build(persistent_workers=True)
    with pytest.raises(UnknownTypeError, match=r"dataloader\.collate_fn\.type: 'psuedo_collate' is not registered"):
        build(collate_fn=dict(type="psuedo_collate"))


def test_collate_functions_take_arguments() -> None:
    loader = build(collate_fn=dict(type=collect, suffix="!"), sampler=dict(type="DefaultSampler", shuffle=False))
    assert next(iter(loader)) == "0123!"
    assert next(iter(build(collate_fn="default_collate")))[0].shape == (4,)


def collect(samples: list[Any], suffix: str) -> str:
    return "".join(str(sample[0]) for sample in samples) + suffix


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_tensor_dataset_is_fetched_by_whole_batches_and_gives_the_same(num_workers: int) -> None:
    dataset = TensorDataset(torch.rand(10, 3), torch.arange(10), torch.rand(10))

    class Plain(Dataset):
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    options = dict(collate_fn=dict(type="default_collate"), num_workers=num_workers)
    whole, single = build(dataset=dataset, **options), build(dataset=Plain(), **options)
    assert whole.dataset.tensors is dataset.tensors
    for ours, theirs in zip(batches(whole), batches(single), strict=True):
        assert type(ours) is type(theirs) is list
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


def test_a_stream_cannot_skip_bad_samples() -> None:
    with pytest.raises(ConfigError, match="skip_bad_samples: an IterableDataset"):
        build(dataset=Stream(), skip_bad_samples=2)


class Bad(Points):
    """Points with some that cannot be read, for use in dataset wrappers.

    Args:
        bad: their indices.
        length: how many points.
    """

    metainfo: Mapping[str, Any] = {}

    def __init__(self, bad: Sequence[int], length: int = 10) -> None:
        super().__init__(length)
        self.unreadable = bad

    def full_init(self) -> None:
        """Do nothing: there are no annotations to read."""

    def get_cat_ids(self, index: int) -> list[int]:
        return [int(index < 2)]

    def __getitem__(self, index: int) -> Any:
        if index in self.unreadable:
            raise ValueError("unreadable")
        return super().__getitem__(index)


def skip(folder: Path, dataset: Any, limit: int, *hooks: Hook, **options: Any) -> Runner:
    runner = make_runner(
        folder, hooks, dataset=dataset, batch_size=2, train_cfg=dict(max_epochs=1), lr=0.01,
        train_dataloader=dict(
            skip_bad_samples=limit, sampler=dict(type="DefaultSampler", shuffle=False), **options.pop("loader", {})
        ), **options,
    )  # fmt: skip
    runner.train()
    return runner


def wrapped() -> list[tuple[Any, int]]:
    """Return wrappers of a dataset with the bad sample 1, and the number of that sample."""
    one, two = Bad([]), Bad([1])
    repeated = dict(type="RepeatDataset", dataset=two, times=3)
    return [
        (DATASETS.build(repeated), 1),
        (DATASETS.build(dict(type="RepeatDataset", dataset=repeated, times=2)), 1),
        (DATASETS.build(dict(type="ClassBalancedDataset", dataset=two, oversample_thr=1.0)), 1),
        (DATASETS.build(dict(type="ConcatDataset", datasets=[one, repeated, two])), 11),
        (torch.utils.data.ConcatDataset([two, two]), 1),
        (torch.utils.data.Subset(two, [5, 1, 1, 3]), 1),
    ]


@pytest.mark.parametrize("case", range(6))
def test_a_bad_sample_counts_once_however_often_it_is_repeated(tmp_path: Path, case: int) -> None:
    dataset, number = wrapped()[case]
    limit = 2 if case == 3 else 1  # the sample is in two datasets
    runner = skip(tmp_path, dataset, limit)
    assert runner.message_hub.get_info("skipped_samples") == ([11, 41] if case == 3 else [number])
    assert "Skipped sample 1 of Bad: ValueError: unreadable" in log_of(runner)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.long
def test_the_limit_of_bad_samples_is_that_of_the_whole_run(tmp_path: Path, workers: int) -> None:
    loader = dict(num_workers=workers)
    whole = skip(tmp_path / "whole", Bad([1, 8]), 2, loader=loader)
    skip(tmp_path / "cut", Bad([1, 8]), 2, StopAt(2), loader=loader)
    rest = skip(tmp_path / "cut", Bad([1, 8]), 2, loader=loader, resume=True)
    assert rest.message_hub.get_info("skipped_samples") == [1, 8]
    assert all(torch.equal(value, weights_of(rest)[name]) for name, value in weights_of(whole).items())
    skip(tmp_path / "limit", Bad([1, 8]), 1, StopAt(2), loader=loader)
    for _ in range(2):  # the checkpoint contains the skipped samples, too
        with pytest.raises(TrainingError, match=r"(?s)skip_bad_samples=1 samples.*sample 1,.*sample 8 of Bad"):
            skip(tmp_path / "limit", Bad([1, 8]), 1, loader=loader, resume=True)
    skip(tmp_path / "limit", Bad([1]), 1, loader=loader, resume=True)  # after the file was fixed


def test_reports_of_bad_samples_come_with_their_batch(tmp_path: Path) -> None:
    runner = skip(tmp_path, Bad([1, 8]), 2, StopAt(2), loader=dict(num_workers=1))
    assert runner.message_hub.get_info("skipped_samples") == [1]


def test_samples_without_batches_are_skipped_too(tmp_path: Path) -> None:
    loader = dict(batch_size=None, collate_fn=lambda sample: [part[None] for part in sample])
    assert skip(tmp_path, Bad([1, 9]), 2, loader=loader).message_hub.get_info("skipped_samples") == [1, 9]


def test_a_dataset_of_bad_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="more than skip_bad_samples=99"):
        skip(tmp_path, Bad(range(10)), 99)


def test_bad_samples_of_the_validation_have_a_name_of_their_own(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path, metric=Scripted(acc=[1, 1, 1]), dataset=Bad([2]), train_dataloader=dict(skip_bad_samples=1)
    )
    runner._val_dataloader |= dict(dataset=Bad([3], 4), skip_bad_samples=1)
    runner.train()
    assert runner.message_hub.get_info("skipped_samples") == [2]
    assert runner.message_hub.get_info("skipped_samples_val") == [3]


def test_a_stream_has_no_first_samples() -> None:
    with pytest.raises(ConfigError, match="num_batch_per_epoch: an IterableDataset"):
        build_dataloader(dict(dataset=Stream(), num_batch_per_epoch=2), seed=0)


def test_disable_subprocess_warning_gives_a_warning(tmp_path: Path) -> None:
    logger = MMLogger("loader", log_file=tmp_path / "a.log")
    with MMLogger.set_current(logger):
        for value in (True, False):
            build_dataloader(
                dict(dataset=list(range(4)), batch_size=2, disable_subprocess_warning=value), seed=0, path="d"
            )
    assert (tmp_path / "a.log").read_text().count("d.disable_subprocess_warning has no effect") == 1


class Pairs:
    """A custom batch sampler over indices in order."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        self.length = len(sampler) // 2

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return ([2 * place, 2 * place + 1] for place in range(self.length))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["batch sampler", "no batches"])
def test_a_loader_starts_in_the_middle_with_workers_too(workers: int, kind: str) -> None:
    more = dict(batch_sampler=dict(type=Pairs)) if kind == "batch sampler" else dict(batch_size=None)
    loader = build_dataloader(
        dict(
            dataset=list(range(8)), num_workers=workers, sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate") if kind == "batch sampler" else lambda sample: sample, **more,
        ), seed=0,
    )  # fmt: skip
    start_at(loader, 0, 2)
    assert list(loader) == ([[4, 5], [6, 7]] if kind == "batch sampler" else [2, 3, 4, 5, 6, 7])
