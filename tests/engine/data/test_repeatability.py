import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import Points, log_of, make_runner
from torch.utils.data import Dataset, RandomSampler

from trainwright.engine.data.loader import build_dataloader, start_at
from trainwright.engine.data.own_generators import find_generators
from trainwright.engine.data.repeatability import find_difference
from trainwright.engine.structures.elements import BaseDataElement


class Holder:
    """A transform that draws from a generator of its own."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def draw(self) -> float:
        return float(self.generator.random())


class Holders(Dataset):
    """A dataset that keeps generators of all kinds, in all places."""

    def __init__(self) -> None:
        self.numpy = np.random.default_rng(0)
        self.transforms = [Holder(np.random.Generator(np.random.MT19937(1))), {"inner": Holder(random.Random(2))}]
        self.steps: Any = (partial(np.random.RandomState.rand, np.random.RandomState(3)), self.transforms[0].draw)
        self.torch, self.method = torch.Generator(), np.random.default_rng(7).random
        self.order = RandomSampler([1, 2], generator=torch.Generator())  # left alone
        self.annotations = [random.Random(number) for number in range(100)]  # data, left alone

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[float, ...]:
        own = self.transforms[1]["inner"].draw(), *(step() for step in self.steps)
        return index, self.numpy.random(), float(torch.rand((), generator=self.torch)), self.method(), *own


class Remembers(Dataset):
    """A dataset whose samples depend on earlier ones, on numbers that are not seeded, or on neither.

    Args:
        kind: ``counts``, ``unseeded``, ``mixes`` (with samples in a cache, once it is full) or ``caches``.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.cache, self.count = kind, {}, 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.cache.setdefault(index, np.full(3, float(index)))
        self.count += 1
        value = self.cache[index] * random.random()
        if self.kind == "counts":
            value = value + self.count
        elif self.kind == "unseeded":
            value = value + np.random.default_rng().random()
        elif self.kind == "mixes" and len(self.cache) > 10:
            value = value + self.cache[list(self.cache)[-int(self.count % 3) - 1]]
        return {"img": Image.new("L", (2, 2), index), "data": [{"value": value}, float("nan")]}


def build(dataset: Any, *, training: bool = True, **options: Any) -> Any:
    cfg = {"dataset": dataset, "batch_size": 4, "collate_fn": list, **options}
    return build_dataloader(cfg, seed=3, path="train_dataloader", training=training)


def batches(loader: Any, epoch: int = 0, batch: int = 0) -> list[Any]:
    assert start_at(loader, epoch, batch)
    return list(loader)


def test_generators_in_attributes_are_seeded_for_each_sample() -> None:
    loader = build(Holders())
    first, second = batches(loader, 0), batches(loader, 1)
    assert batches(build(Holders(), num_workers=2), 1) == second
    assert batches(build(Holders()), 1, batch=2) == second[2:]
    samples = [sample for batch in [*first, *second] for sample in batch]
    for numbers in list(zip(*samples))[1:]:
        assert len(set(numbers)) == len(samples)


def test_generators_of_a_transform_that_is_replaced_are_found_in_the_next_epoch() -> None:
    whole, resumed = build(Holders()), build(Holders())
    batches(whole, 0)
    for loader in (whole, resumed):
        loader.dataset.transforms[1]["inner"] = Holder(np.random.default_rng(5))
    assert batches(whole, 1)[3:] == batches(resumed, 1, batch=3)


def test_a_dataset_that_refers_to_itself_is_searched_once() -> None:
    dataset = Holders()
    dataset.itself = [dataset]
    assert len(find_generators(dataset)) == 6


@pytest.mark.parametrize("kind", ["counts", "unseeded", "mixes"])
def test_samples_that_cannot_be_repeated_are_reported(kind: str, log: pytest.LogCaptureFixture) -> None:
    loader = build(Remembers(kind))
    for epoch in range(3):
        batches(loader, epoch)
    (line,) = log.messages
    assert " of Remembers differs in 'data.0.value' when it is loaded again" in line


def test_repeatable_samples_and_those_of_an_evaluation_are_not_reported(log: pytest.LogCaptureFixture) -> None:
    loader = build(Remembers("caches"))
    for epoch in range(3):
        batches(loader, epoch)
    batches(build(Remembers("counts"), training=False))
    assert not log.messages


class Counting(Points):
    count = 0

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        return self.inputs[index] + self.count, self.targets[index]


def test_samples_that_can_be_loaded_only_once_do_not_stop_a_training() -> None:
    class Consumed(Points):
        def __getitem__(self, index: int) -> Any:
            left.remove(index)
            return super().__getitem__(index)

    left = list(range(24))
    assert len(batches(build(Consumed(24)))) == 6 and not left


@pytest.mark.parametrize(("dataset", "expected"), [(Points(24), 0), (Counting(24), 1)])
def test_a_data_worker_reports_them_once_in_the_log_of_the_run(tmp_path: Path, dataset: Points, expected: int) -> None:
    runner = make_runner(tmp_path, dataset=dataset, train_dataloader=dict(num_workers=2))
    runner.train()
    assert log_of(runner).count("differs in '0' when it is loaded again") == expected


def element(**fields: Any) -> BaseDataElement:
    return BaseDataElement(metainfo={"shape": (3, 4)}, **fields)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": [1, "x", None]}, {"a": [1, "x", None]}, None),
        ({"a": [1, "x"]}, {"a": [1, "y"]}, "a.1"),
        ({"a": 1}, {"b": 1}, ""),
        ([1, 2], [1, 2, 3], ""),
        ((1.0, float("nan")), (1.0, float("nan")), None),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), None),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16), ""),
        (torch.zeros(1).long().expand(3), torch.zeros(3).long(), None),
        (torch.ones(1, 1).expand(1, 2), torch.zeros(1, 2), ""),
        (torch.tensor(1), torch.tensor(2), ""),
        (torch.tensor(True), torch.tensor(1), ""),
        (torch.ones(2, dtype=torch.cfloat).conj(), torch.ones(2, dtype=torch.cfloat).conj(), None),
        (torch.zeros(0, 4), torch.zeros(0, 4), None),
        (torch.ones(2, 2).T.to_sparse(), torch.zeros(2, 2).to_sparse(), None),  # not compared
        (np.ones((4, 4))[::2, ::-1], np.ones((2, 4)), None),
        (np.ones(2), np.ones(3), ""),
        (np.array(["a"], dtype=object), np.array(["a"], dtype=object), None),
        ({"p": Image.new("L", (2, 3), 1)}, {"p": Image.new("L", (3, 2), 1)}, "p"),
        (element(boxes=torch.ones(1)), element(boxes=torch.ones(1)), None),
        ({"s": element(boxes=torch.ones(1))}, {"s": element(boxes=torch.zeros(1))}, "s.boxes"),
        ({"f": object()}, {"f": object()}, None),
    ],
)
def test_the_first_difference_of_two_samples_is_named(one: Any, other: Any, expected: str | None) -> None:
    assert find_difference(one, other) == expected
