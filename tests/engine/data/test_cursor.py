"""Positions in the data: of batches, of their samples, and after a change of the batch size."""

from typing import Any

import pytest
from torch.utils.data import DataLoader, SequentialSampler

from trainwright.engine.data.cursor import END, DataCursor
from trainwright.engine.data.loader import build_dataloader
from trainwright.engine.errors import TrainingError
from trainwright.engine.run.state import RunState


def make_cursor(batch_size: int = 4, by_epoch: bool = True, loader: Any = None, **cfg: Any) -> DataCursor:
    """Return a cursor over 20 samples that equal their indices."""
    cfg = {"dataset": list(range(20)), "batch_size": batch_size, "collate_fn": list, **cfg}
    cursor = DataCursor(RunState(), by_epoch)
    cursor.dataloader = loader or build_dataloader(cfg, seed=3, training=True)
    return cursor


def take(cursor: DataCursor, number: int) -> list[Any]:
    """Train for some iterations, and return their batches."""
    batches = []
    for _ in range(number):
        batches.append(cursor.next())
        count(cursor, 1)
    return batches


def count(cursor: DataCursor, iterations: int) -> None:
    cursor._counters.iter += iterations
    cursor._counters.inner_iter += iterations


BATCHES = {
    "batches": {},
    "a batch sampler": dict(batch_sampler=dict(type="torch.utils.data.BatchSampler", drop_last=True)),
    "no batches": dict(batch_size=None, collate_fn=lambda sample: [sample]),
}


@pytest.mark.parametrize("cfg", BATCHES.values(), ids=BATCHES)
def test_the_samples_of_an_iteration_are_worked_out_without_loading_them(cfg: dict[str, Any]) -> None:
    cursor = make_cursor(by_epoch=False, **cfg)
    cursor.open()
    batches = take(cursor, cursor.length + 2)
    for iteration in (cursor.length, cursor.length + 1):
        assert cursor.indices(iteration) == batches[iteration]
    assert cursor.indices(0) is None  # the sampler is in another pass


def test_the_passes_of_a_loop_by_epochs_end() -> None:
    cursor = make_cursor()
    cursor.open()
    batches = take(cursor, 5)
    assert sorted(index for batch in batches for index in batch) == list(range(20))
    assert cursor.next() is END
    cursor._counters.epoch, cursor._counters.inner_iter = 1, 0
    cursor.open()
    assert take(cursor, 5) != batches
    assert cursor.indices(0) is None and cursor.indices(9) is not None


@pytest.mark.parametrize("by_epoch", [False, True])
def test_fetching_again_continues_with_the_batch_that_is_due(by_epoch: bool) -> None:
    cursor, expected = make_cursor(by_epoch=by_epoch, num_workers=1), make_cursor(by_epoch=by_epoch)
    cursor.reopen()  # nothing has been prefetched
    cursor.open()
    expected.open()
    batches = take(cursor, 2)
    cursor.reopen()
    assert batches + take(cursor, 3) == take(expected, 5)


@pytest.mark.parametrize("sampler", ["DefaultSampler", "InfiniteSampler"])
@pytest.mark.parametrize("done", [3, 8])
def test_a_position_is_a_number_of_samples(sampler: str, done: int) -> None:
    cfg = dict(by_epoch=False, sampler=dict(type=sampler, shuffle=True))
    before, after = make_cursor(4, **cfg), make_cursor(2, **cfg)
    count(before, done)
    assert before.load_state_dict(before.state_dict()) is None
    count(after, done)
    move = after.load_state_dict(before.state_dict())
    endless = sampler == "InfiniteSampler"
    assert move[:2] == ((0, 2 * done) if endless else (done // 5, done % 5 * 2))
    assert move.repeated == 0
    assert move.before.changes(after.batching) == "samples per iteration: 4 → 2, iterations per epoch: 5 → 10"
    before.open(), after.open()
    assert take(before, 1) == [[*first, *second] for first, second in [take(after, 2)]]
    assert after.position(done) == (*move[:2], 0) or endless


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_a_pass_is_divided_into_batches_of_another_size(workers: int) -> None:
    before, after = make_cursor(4), make_cursor(6, num_workers=workers)
    count(before, 2)
    move = after.load_state_dict(before.state_dict())
    assert (move.data_pass, move.batch, move.repeated) == (0, 2, 0)  # the last one is the fourth, as usual
    count(after, 2)
    before.open(), after.open()
    rest = [index for batch in take(before, 3) for index in batch]
    assert take(after, 1) == [rest[:6]]
    assert after.indices(3) == rest[6:] and after.indices(1) is None
    again = make_cursor(6)
    count(again, 3)
    assert again.load_state_dict(after.state_dict()) is None
    after.reopen(), again.open()
    assert take(again, 1) == take(after, 1) == [rest[6:]]
    assert after.next() is again.next() is END
    assert after.state_dict()["taken"] == 20  # not a whole number of batches
    after._counters.epoch, after._counters.inner_iter = 1, 0
    before._counters.epoch, before._counters.inner_iter = 1, 0
    before.open(), after.open()
    whole = [[index for batch in take(cursor, cursor.length) for index in batch] for cursor in (after, before)]
    assert whole[0] == whole[1]


def test_a_sampler_of_the_user_repeats_the_samples_of_a_batch_that_does_not_fit() -> None:
    sampler = dict(type=lambda dataset, seed: SequentialSampler(dataset))
    before, after = make_cursor(4, sampler=sampler), make_cursor(6, sampler=sampler)
    count(before, 2)
    move = after.load_state_dict(before.state_dict())
    assert (move.data_pass, move.batch, move.repeated) == (0, 1, 2)


def test_a_loader_without_batches_is_an_error() -> None:
    class Once:
        batches = iter([1, 2])

        def __iter__(self) -> Any:
            return self.batches

    cursor = make_cursor(by_epoch=False, loader=Once())
    cursor.open()
    assert take(cursor, 2) == [1, 2]
    with pytest.raises(TrainingError, match="does not yield any batch"):
        cursor.next()


def test_a_loader_of_the_user_says_neither_samples_nor_indices() -> None:
    cursor = make_cursor(loader=DataLoader(list(range(20)), batch_size=4))
    assert cursor.batching == (True, None, 5, 1)
    assert cursor.indices(0) is None
