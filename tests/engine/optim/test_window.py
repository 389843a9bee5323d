"""Accumulation windows, without an optimizer."""

import pytest

from trainwright.engine.optim.window import AccumulationWindow


def windows_of(window: AccumulationWindow, losses: int) -> list[tuple[int, int]]:
    """Count losses; return the number of losses in each window, and the divisor of its last loss."""
    found = []
    count = 0
    for _ in range(losses):
        divisor, ends = window.divisor, window.ends_with_next
        window.done += 1
        count += 1
        assert window.is_complete is ends
        if window.is_complete:
            found.append((count, divisor))
            count = 0
            if window.next_size is not None:
                window.resize(window.next_size)
    return found


@pytest.mark.parametrize(
    ("size", "last", "losses", "expected"),
    [
        (1, -1, 3, [1, 1, 1]),
        (3, -1, 7, [3, 3]),
        (3, 7, 7, [3, 3, 1]),
        (4, 11, 11, [4, 4, 3]),
        (8, 5, 5, [5]),
        (4, 6, 10, [4, 2, 2]),  # losses beyond the end of the run
    ],
)
def test_each_loss_is_divided_by_the_length_of_its_window(
    size: int, last: int, losses: int, expected: list[int]
) -> None:
    found = windows_of(AccumulationWindow(size, last=last), losses)
    assert [length for length, _ in found] == expected
    if last == -1 or losses <= last:
        assert found == [(length, length) for length in expected]


@pytest.mark.parametrize(
    ("done", "expected"),
    [(4, [(3, 3), (3, 3), (2, 2)]), (5, [(1, 2), (3, 3), (3, 3)]), (6, [(3, 3), (3, 3)])],
)
def test_a_new_size_holds_from_the_next_window_on(done: int, expected: list[tuple[int, int]]) -> None:
    window = AccumulationWindow(2, last=12)
    windows_of(window, done)
    window.resize(3)
    assert window.size == (2 if done % 2 else 3)
    assert windows_of(window, 12 - done) == expected


@pytest.mark.parametrize("done", range(12))
def test_a_window_in_progress_is_restored(done: int) -> None:
    first = AccumulationWindow(4, last=11)
    windows_of(first, done)
    state = first.state_dict()
    assert ("window_start" in state) is (done % 4 != 0 and done != 11)
    second = AccumulationWindow(3)
    second.load_state_dict(state)
    assert (second.done, second.is_complete) == (first.done, first.is_complete)
    assert second.divisor == (3 if first.is_complete else first.divisor)
    second.last = 11
    assert [length for length, _ in windows_of(second, 11 - done)][:1] == (
        [min(3, 11 - done)] * (done < 11) if first.is_complete else [first.divisor - first.gathered]
    )


def test_renumbering_keeps_the_window() -> None:
    window = AccumulationWindow(4, last=11)
    windows_of(window, 9)
    window.shift(-4)
    assert (window.done, window.gathered, window.divisor) == (5, 1, 3)
    assert windows_of(window, 2) == [(2, 3)]
