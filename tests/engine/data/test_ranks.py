"""Data of several ranks: a pass that begins on one number of them and ends on another."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from torch.utils.data import IterableDataset

from trainwright.datasets import samplers
from trainwright.engine import distributed
from trainwright.engine.data import cursor as cursors
from trainwright.engine.data import loader as loaders
from trainwright.engine.data import seeded, sharing, streams
from trainwright.engine.data.cursor import END, DataCursor
from trainwright.engine.data.loader import build_dataloader
from trainwright.engine.data.traits import is_sharded
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.state import RunState

RANK = [0, 1]


@pytest.fixture(autouse=True)
def any_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the code take this process for the rank of a group that is in ``RANK``."""
    functions = {
        "get_data_rank": lambda: RANK[0],
        "get_data_size": lambda: RANK[1],
    }
    for module, (name, function) in product(
        (samplers, distributed, cursors, loaders, seeded, sharing, streams), functions.items()
    ):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, function)
    yield
    RANK[:] = [0, 1]


@functools.cache
def loader_of(rank: int, world_size: int, size: int, batch_size: int, sampler: str) -> Any:
    RANK[:] = [rank, world_size]
    cfg = dict(dataset=list(range(size)), batch_size=batch_size, collate_fn=list, sampler=dict(type=sampler))
    return build_dataloader(cfg, seed=3, training=True)


class Run:
    """A run whose number of ranks changes: the samples of each pass, and the ranks that ended it."""

    def __init__(self, size: int, sampler: str, by_epoch: bool) -> None:
        self.size, self.sampler, self.by_epoch = size, sampler, by_epoch
        self.seen: dict[int, Counter[int]] = defaultdict(Counter)
        self.ended_by: dict[int, int] = {}
        self.state: dict[str, Any] | None = None
        self.counters = RunState()

    def go(self, world_size: int, batch_size: int, iterations: int) -> None:
        """Continue on a number of ranks."""
        ends = []
        for rank in range(world_size):
            RANK[:] = [rank, world_size]
            counters = RunState()
            counters.load_state_dict(self.counters.state_dict())
            cursor = DataCursor(counters, self.by_epoch)
            cursor.dataloader = loader_of(rank, world_size, self.size, batch_size, self.sampler)
            if self.state is not None and (move := cursor.load_state_dict(self.state)) and self.by_epoch:
                counters.epoch, counters.inner_iter = move.data_pass, move.batch
                counters.iter = move.data_pass * cursor.length + move.batch
            cursor.open()
            for _ in range(iterations):
                batch = cursor.next()
                while batch is END:
                    assert counters.inner_iter == cursor.length  # whatever was the beginning of the epoch
                    counters.epoch, counters.inner_iter = counters.epoch + 1, 0
                    cursor.open()
                    batch = cursor.next()
                data_pass = cursor.position(counters.iter)[0]
                assert cursor.indices(counters.iter) == batch
                self.seen[data_pass].update(batch)
                self.ended_by[data_pass] = world_size
                counters.iter += 1
                counters.inner_iter += 1
            ends.append((cursor.state_dict(), counters))
        assert all(end == ends[0] for end in ends)
        self.state, self.counters = ends[0]


KINDS = [("DefaultSampler", True), ("DefaultSampler", False), ("InfiniteSampler", False)]


@pytest.mark.parametrize(("sampler", "by_epoch"), KINDS)
@pytest.mark.parametrize("size", [64, 61, 7])
def test_no_sample_is_lost_or_repeated_on_another_number_of_ranks(size: int, sampler: str, by_epoch: bool) -> None:
    """From one to four ranks to one to four others, and once more within the same pass, with a save in between."""
    for first, second in product(range(1, 5), repeat=2):
        sizes = 3, 2 + (first + second) % 2, 2
        run = Run(size, sampler, by_epoch)
        run.go(first, sizes[0], 2)
        run.go(second, sizes[1], 1)
        run.go(second, sizes[1], 1)  # a save and a resume, without a change
        run.go(5 - second, sizes[2], 1)
        run.go(first, sizes[0], 2 * size // first // 3 + 2)
        case = f"{first} -> {second} -> {5 - second} -> {first} ranks, batches of {sizes}"
        if sampler == "InfiniteSampler":
            seen = sum(run.seen.values(), Counter())
            rounds = {seen[index] for index in range(size)}
            assert max(rounds) - min(rounds) <= 1, case
            continue
        passes = sorted(run.seen)[:-1]
        assert passes, case
        for data_pass in passes:
            seen = run.seen[data_pass]
            assert len(seen) == size, case
            assert seen.total() - size < run.ended_by[data_pass], case  # its own padding at most


class Numbers(IterableDataset[int]):
    """A stream of numbers that can resume.

    Args:
        size: number of samples.
        sharded: as the dataset declares it.
    """

    def __init__(self, size: int, sharded: bool | None) -> None:
        self.size, self.done = size, 0
        if sharded is not None:
            self.sharded = sharded

    def __iter__(self) -> Iterator[int]:
        while self.done < self.size:
            self.done += 1
            yield self.done - 1
        self.done = 0

    def __len__(self) -> int:
        return self.size

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


def stream_of(rank: int, world_size: int, sharded: bool | None, training: bool = False, workers: int = 0) -> Any:
    RANK[:] = [rank, world_size]
    cfg = dict(dataset=Numbers(13, sharded), batch_size=2, collate_fn=list, num_workers=workers)
    return build_dataloader(cfg, seed=3, training=training)


@pytest.mark.parametrize(
    ("sharded", "workers", "world_size"),
    [*product((None, False), (0,), (1, 2, 3, 4)), (False, 2, 3)],
)
def test_a_stream_is_shared_out(sharded: bool | None, workers: int, world_size: int) -> None:
    for rank in range(world_size):
        loader = stream_of(rank, world_size, sharded, workers=workers)
        samples = [number for batch in loader for number in batch]
        assert samples == list(range(13))[rank::world_size]
        assert len(loader) == -(-len(samples) // 2)
        padded = [number for batch in stream_of(rank, world_size, sharded, True, workers) for number in batch]
        assert padded == [*samples, 12][: -(-13 // world_size)]


RESUMED_ON = [(2, 2, None), (2, 2, 0), (2, 1, 1), (1, 3, 0), (3, 2, 0)]


@pytest.mark.parametrize(
    ("sharded", "workers", "before", "after", "source"),
    [
        *((sharded, 0, *ranks) for sharded in (None, False) for ranks in RESUMED_ON),
        (False, 2, 3, 2, 0),
        (False, 2, 2, 2, None),
    ],
)
def test_a_stream_continues_on_any_number_of_ranks(
    sharded: bool | None, workers: int, before: int, after: int, source: int | None
) -> None:
    for taken in (1, 2):
        states, seen = [], []
        for rank in range(before):
            loader = stream_of(rank, before, sharded, True, workers)
            batches = iter(loader)
            seen += [number for _ in range(taken) for number in next(batches)]
            states.append(loader.state_dict())
        assert sorted(seen) == list(range(2 * taken * before))
        rest = []
        for rank in range(after):
            loader = stream_of(rank, after, sharded, True, workers)
            loader.load_state_dict(states[rank if source is None else source])
            rest.append([number for batch in loader for number in batch])
        assert len({len(part) for part in rest}) == 1
        due = list(range(2 * taken * before, 13))
        assert rest == [[*due[rank::after], 12][: -(-len(due) // after)] for rank in range(after)]


def test_a_stream_of_which_each_process_reads_its_own_part_is_not_divided_anew() -> None:
    loader = stream_of(0, 2, True)
    assert [number for batch in loader for number in batch] == list(range(13))  # as its dataset yields them
    batches = iter(stream := stream_of(0, 2, True))
    next(batches)
    with pytest.raises(ConfigError, match="rank 0 of 3 cannot continue at the position of rank 0 of 2"):
        stream_of(0, 3, True).load_state_dict(stream.state_dict())


def test_datasets_that_are_split_by_node_are_recognized() -> None:
    class Dataset(Numbers):
        def __init__(self) -> None:
            super().__init__(1, None)

    def split_by_node() -> None:
        pass

    dataset: Any = Dataset()
    dataset._distributed, dataset.pipeline = object(), [split_by_node]
    assert is_sharded(dataset) is None
    for module in ("datasets.iterable_dataset", "webdataset.compat"):
        Dataset.__module__ = module
        assert is_sharded(dataset) is True
        assert is_sharded(Dataset()) is None
