"""Expected orders are those of MMEngine 0.10.7 with seed 7 and torch's CPU generator (Mersenne Twister)."""

from collections import Counter
from itertools import islice

import pytest

from trainwright.datasets import samplers
from trainwright.datasets.samplers import (
    AspectRatioBatchSampler,
    ClassAwareSampler,
    DefaultSampler,
    InfiniteSampler,
    RepeatAugSampler,
)
from trainwright.engine.registry import DATA_SAMPLERS

FIRST_PASS = [5, 0, 3, 4, 1, 7, 9, 6, 8, 2]


class Labeled:
    """Ten samples of class 0, three of class 1, one of both classes and one without a class."""

    labels = ([0],) * 10 + ([1],) * 3 + ([0, 1], [])

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


@pytest.fixture
def as_rank(monkeypatch):
    """Return a function that builds a sampler as on the given rank of several."""

    def build(make, rank, world_size):
        monkeypatch.setattr(samplers, "get_data_rank", lambda: rank)
        monkeypatch.setattr(samplers, "get_data_size", lambda: world_size)
        return make()

    return build


def test_default_order_is_mmengines():
    sampler = DefaultSampler(range(10), seed=7)
    assert list(sampler) == FIRST_PASS
    sampler.set_epoch(3)
    assert list(sampler) == [7, 4, 6, 1, 3, 5, 9, 8, 2, 0]
    assert list(DefaultSampler(range(10), shuffle=False, seed=7)) == list(range(10))


@pytest.mark.parametrize(
    "options, epoch, expected",
    [
        ({}, 1, [[3, 1, 4, 9], [5, 2, 7, 3], [0, 6, 8, 5]]),
        ({"round_up": False}, 1, [[3, 1, 4, 9], [5, 2, 7], [0, 6, 8]]),
        ({"shuffle": False}, 0, [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]),
    ],
)
def test_default_shares_among_ranks_as_mmengine(as_rank, options, epoch, expected):
    for rank, indices in enumerate(expected):
        sampler = as_rank(lambda: DefaultSampler(range(10), seed=7, **options), rank, len(expected))
        sampler.set_epoch(epoch)
        assert list(sampler) == indices
        assert len(sampler) == len(indices)


def test_default_repeats_more_than_once_for_more_ranks_than_samples(as_rank):
    ranks = [list(as_rank(lambda: DefaultSampler(range(3), shuffle=False, seed=0), rank, 7)) for rank in range(7)]
    assert ranks == [[0], [1], [2], [0], [1], [2], [0]]


def test_infinite_first_pass_is_mmengines_and_later_ones_follow_the_seed():
    stream = list(islice(InfiniteSampler(range(10), seed=7), 20))
    assert stream[:10] == FIRST_PASS
    assert stream[10:] == list(DefaultSampler(range(10), seed=8))


@pytest.mark.parametrize(
    "shuffle, world_size, expected",
    [
        (False, 3, [[0, 3, 6, 9, 2, 5], [1, 4, 7, 0, 3, 6], [2, 5, 8, 1, 4, 7]]),
        (True, 2, [[5, 3, 1, 9, 8], [0, 4, 7, 6, 2]]),
    ],
)
def test_infinite_shares_among_ranks_as_mmengine(as_rank, shuffle, world_size, expected):
    for rank, indices in enumerate(expected):
        sampler = as_rank(lambda: InfiniteSampler(range(10), shuffle=shuffle, seed=7), rank, world_size)
        assert list(islice(sampler, len(indices))) == indices


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_infinite_ranks_interleave_to_the_one_stream(as_rank, world_size):
    stream = list(islice(InfiniteSampler(range(5), seed=3), 35))
    for rank in range(world_size):
        sampler = as_rank(lambda: InfiniteSampler(range(5), seed=3), rank, world_size)
        expected = stream[rank::world_size]
        assert list(islice(sampler, len(expected))) == expected


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DefaultSampler(range(10), seed=7),
        lambda: InfiniteSampler(range(10), seed=7),
        lambda: ClassAwareSampler(Labeled(), seed=7, num_sample_class=2),
    ],
)
def test_every_sampler_starts_anywhere(as_rank, make, world_size):
    sampler = as_rank(make, world_size - 1, world_size)
    whole = list(islice(sampler, 40))
    for start in (0, 1, 3, len(whole)):
        assert list(islice(sampler.iter_from(start), len(whole) - start)) == whole[start:]


@pytest.mark.parametrize("skip", [1, 6, 13])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DefaultSampler(range(13), seed=7),
        lambda: InfiniteSampler(range(13), seed=7),
        lambda: ClassAwareSampler(Labeled(), seed=7),
        lambda: RepeatAugSampler(range(13), seed=7),
    ],
)
def test_every_sampler_divides_the_rest_of_an_epoch(as_rank, make, skip):
    """Whatever the number of ranks that have begun it."""
    whole = list(islice(as_rank(make, 0, 1), 30))
    for world_size in (1, 2, 3):
        shares = [
            list(islice(as_rank(make, rank, world_size).iter_from(0, skip=skip), 5)) for rank in range(world_size)
        ]
        assert len({len(share) for share in shares}) == 1
        rest = [index for indices in zip(*shares, strict=True) for index in indices]
        due = whole[skip : skip + len(rest)]
        assert rest[: len(due)] == due and len(rest) - len(due) < world_size
        later = as_rank(make, 0, world_size).iter_from(1, skip=skip)
        assert list(islice(later, 4)) == shares[0][1:]


def test_iter_from_follows_an_overridden_order():
    class Backwards(DefaultSampler):
        def __iter__(self):
            return iter(range(len(self.dataset) - 1, -1, -1))

    assert list(Backwards(range(5), seed=0).iter_from(2)) == [2, 1, 0]


def test_class_aware_takes_all_classes_equally_often():
    sampler = ClassAwareSampler(Labeled(), seed=0)
    indices = list(sampler)
    assert len(indices) == len(sampler) == 15
    turns = [indices[start : start + 2] for start in range(0, 14, 2)]
    members = sampler.members
    assert members == {0: [*range(10), 13], 1: [10, 11, 12, 13]}
    for turn in turns:
        assert any(a in members[0] and b in members[1] for a, b in (turn, turn[::-1]))
    rare = Counter(index for index in indices if index in (10, 11, 12))
    assert set(rare) == {10, 11, 12}, "within a class every sample comes before one comes again"


def test_class_aware_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = ClassAwareSampler(Labeled(), seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 1) == order(1, 0)


def test_class_aware_takes_some_of_a_class_in_a_row():
    members = ClassAwareSampler(Labeled(), seed=0).members
    indices = list(ClassAwareSampler(Labeled(), seed=0, num_sample_class=3))
    for start in range(0, 15, 3):
        run = set(indices[start : start + 3])
        assert any(run <= set(of_class) for of_class in members.values())


@pytest.mark.parametrize("make", [DefaultSampler, InfiniteSampler, ClassAwareSampler, RepeatAugSampler])
def test_an_empty_dataset_is_refused(make):
    with pytest.raises(ValueError, match="list is empty"):
        make([], seed=0)


def test_class_aware_refuses_what_it_cannot_balance():
    class Unlabeled(Labeled):
        labels = ([], [])

    with pytest.raises(ValueError, match="no sample of Unlabeled has a class"):
        ClassAwareSampler(Unlabeled(), seed=0)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ClassAwareSampler(Labeled(), seed=0, num_sample_class=0)


def test_repeated_augmentation_visits_a_part_of_the_samples_several_times():
    sampler = RepeatAugSampler(range(10), num_repeats=3, seed=7)
    assert list(sampler) == [5, 5, 5, 0, 0, 0, 3, 3, 3, 4]  # the first of DefaultSampler's order
    assert len(sampler) == 10
    assert list(sampler.iter_from(8)) == [3, 4]
    sampler.set_epoch(3)
    assert list(sampler)[::3] == [7, 4, 6, 1]
    assert list(RepeatAugSampler(range(4), shuffle=False, num_repeats=2, seed=7)) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="num_repeats must be at least 1, not 0"):
        RepeatAugSampler(range(4), num_repeats=0, seed=7)


def test_the_copies_of_a_sample_go_to_different_ranks(as_rank):
    shares = [list(as_rank(lambda: RepeatAugSampler(range(10), num_repeats=3, seed=7), rank, 3)) for rank in range(3)]
    assert shares == [FIRST_PASS[:4]] * 3
    alone = as_rank(lambda: RepeatAugSampler(range(1), num_repeats=2, seed=7), 2, 3)
    assert list(alone) == [0]


@pytest.mark.parametrize("name", ["DefaultSampler", "InfiniteSampler", "ClassAwareSampler", "RepeatAugSampler"])
def test_samplers_are_found_by_name(name):
    assert len(DATA_SAMPLERS.build({"type": name}, dataset=Labeled(), seed=1)) == 15


class Sized2(list):
    """A dataset of (width, height)."""

    def get_data_info(self, index: int) -> dict[str, int]:
        return dict(zip(("width", "height"), self[index]))


def test_landscape_and_portrait_images_are_in_different_batches():
    sizes = Sized2([(9, 5), (5, 9), (8, 5), (5, 5), (7, 5), (4, 5), (9, 3)])
    sampler = AspectRatioBatchSampler(DefaultSampler(sizes, shuffle=False), 2)
    assert list(sampler) == [[0, 2], [1, 3], [4, 6], [5]]
    assert len(sampler) == 4
    shuffled = DefaultSampler(sizes, seed=3)
    for drop_last, number in ((False, 3), (True, 2)):
        sampler = AspectRatioBatchSampler(shuffled, 3, drop_last)
        orders = []
        for epoch in range(6):
            shuffled.set_epoch(epoch)
            batches = list(sampler)
            orders.append(batches)
            assert [len(batch) for batch in batches] == [3, 3, 1][:number]
            assert len(sampler) == number
            assert len({index for batch in batches for index in batch}) == sum(map(len, batches))
        assert len({str(order) for order in orders}) > 1
    with pytest.raises(ValueError, match="sample 0 has no width or height"):
        list(AspectRatioBatchSampler(DefaultSampler(Sized2([()]), shuffle=False), 1))
