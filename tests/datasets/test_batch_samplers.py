"""Batches by class: episodes, and P classes with K samples each."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import Line, StopAt, make_runner
from torch import Tensor
from torch.utils.data import Dataset

from trainwright.datasets import DefaultSampler, EpisodeBatchSampler, PKBatchSampler
from trainwright.engine import ConfigError, Hook, Runner, build_dataloader, check
from trainwright.engine.data.loader import start_at

SIZES = (5, 9, 4, 7, 6)
LABELS = [label for label, size in enumerate(SIZES) for _ in range(size)]


class Labeled(Dataset[tuple[Tensor, Tensor]]):
    """Points with labels, and noise that tells whether the random stream of a sample is exact."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([index / len(LABELS), 1.0]), torch.tensor(index + torch.rand(()).item())

    def get_cat_ids(self, index: int) -> list[int]:
        return [LABELS[index]]


EPISODES: dict[str, Any] = dict(type="EpisodeBatchSampler", num_ways=3, num_shots=1, num_queries=2, num_episodes=8)


@pytest.mark.parametrize(
    ("sampler", "classes", "samples", "length"),
    [
        (EPISODES, 3, 3, 8),
        (dict(type="PKBatchSampler", num_classes=2, num_samples=3), 2, 3, 5),
        (dict(type="PKBatchSampler", num_classes=2, num_samples=6, num_batches=4), 2, 6, 4),
    ],
)
def test_each_batch_has_its_classes_one_after_the_other(
    sampler: dict[str, Any], classes: int, samples: int, length: int
) -> None:
    loader = build_dataloader(dict(dataset=Labeled(), batch_sampler=sampler, collate_fn="default_collate"), seed=3)
    batches = [labels.long().tolist() for _, labels in loader]
    assert len(loader) == len(batches) == length
    for batch in batches:
        of_class = [LABELS[index] for index in batch]
        assert [of_class[start] for start in range(0, len(batch), samples)] == list(dict.fromkeys(of_class))
        assert Counter(of_class) == dict.fromkeys(of_class, samples) and len(set(of_class)) == classes
        if samples <= min(SIZES):
            assert len(set(batch)) == len(batch), "no sample is repeated"
    assert len({tuple(batch) for batch in batches}) == length
    assert start_at(loader, 0, 2)
    assert [labels.long().tolist() for _, labels in loader] == batches[2:]
    start_at(loader, 1, 0)
    assert [labels.long().tolist() for _, labels in loader] != batches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_ways=6), "needs 6 classes, but Labeled has 5"),
        (dict(num_queries=4), "needs 5 samples of each class, but class 2 has 4"),
        (dict(num_ways=0), "must be positive"),
    ],
)
def test_impossible_batches_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_dataloader(dict(dataset=Labeled(), batch_sampler={**EPISODES, **changes}), seed=3)
    with pytest.raises(ValueError, match="batches of 3 × 3 samples: remove batch_size=4"):
        build_dataloader(dict(dataset=Labeled(), batch_sampler=EPISODES, batch_size=4), seed=3)


def test_classes_can_be_kept_for_the_test() -> None:
    dataset = dict(type="FashionMNISTSubset", indices=200)

    def loader(**sampler: Any) -> Any:
        return build_dataloader(dict(dataset=dataset, batch_sampler=sampler), seed=0)

    found = loader(**EPISODES, classes=["Coat", "Bag", 6])
    assert {label for batch in found for label in batch["data_samples"].gt_label.tolist()} == {4, 8, 6}
    pairs = loader(type="PKBatchSampler", num_classes=2, num_samples=5, classes=[0, 1])
    assert len(pairs) == 5, "24 and 26 samples"
    with pytest.raises(ValueError, match="the class 'Goat' has no samples: did you mean 'Coat'"):
        loader(**EPISODES, classes=["Goat", "Bag", "Shirt"])
    with pytest.raises(ValueError, match="the class 10 has no samples: the classes are T-shirt/top, "):
        loader(**EPISODES, classes=[10, 2, 3])
    with pytest.raises(ValueError, match="needs 3 classes, but there are 2"):
        loader(**EPISODES, classes=[1, 2])


def test_check_accepts_them_and_finds_typos() -> None:
    def errors(sampler: dict[str, Any]) -> list[ConfigError]:
        data = dict(dataset=dict(type="FashionMNISTSubset"), batch_sampler=sampler)
        optimizer = dict(optimizer=dict(type="SGD", lr=0.1))
        return check(
            dict(model=dict(type="LeNet"), train_dataloader=data, train_cfg=dict(max_epochs=1), optim_wrapper=optimizer)
        )

    assert errors(EPISODES) == errors(dict(type="PKBatchSampler", num_classes=2, num_samples=3)) == []
    assert "num_ways" in errors({**EPISODES, "num_way": 3})[0].hint


class Seen(Hook):
    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append(data_batch[1].tolist())


def train(folder: Path, *hooks: Hook, **options: Any) -> list[list[float]]:
    seen = Seen()
    make_runner(
        folder, [seen, *hooks], dataset=Labeled(), batch_size=1, lr=1e-5, model=Line(),
        train_dataloader=dict(batch_sampler=EPISODES), train_cfg=dict(max_epochs=2), **options,
    ).train()  # fmt: skip
    return seen.batches


def test_a_run_that_was_cut_has_the_same_episodes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert len(whole) == 16
    first = train(tmp_path / "cut", StopAt(5), checkpoint=dict(interval=99))
    second = train(tmp_path / "cut", StopAt(10), checkpoint=dict(interval=99), resume=True)
    assert first + second + train(tmp_path / "cut", checkpoint=dict(interval=99), resume=True) == whole


def test_ranks_have_different_episodes() -> None:
    sampler = DefaultSampler(Labeled(), seed=0)
    assert len(EpisodeBatchSampler(sampler, 2, 1, 1, num_episodes=5)) == 5

    def of_rank() -> Any:
        own = PKBatchSampler(DefaultSampler(Labeled(), seed=0), 2, 2, num_batches=5)
        return len(own), list(own)

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (size, one), (_, other) = run_group(2, of_rank, Path(folder))
    assert size == 3 and not any(batch in other for batch in one)
