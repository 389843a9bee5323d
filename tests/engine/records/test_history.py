"""Histories: bounded values, exact totals, statistics by name."""

import math

import numpy as np
import pytest

from trainwright.engine.records.history import HistoryBuffer


def test_history_statistics() -> None:
    history = HistoryBuffer([4.0, 1.0, 7.0, 2.0], [1, 1, 2, 2])
    assert history.current() == 2.0
    assert history.mean() == 14.0 / 6
    assert history.mean(2) == 9.0 / 4
    assert (history.min(), history.max()) == (1.0, 7.0)
    assert (history.min(2), history.max(2)) == (2.0, 7.0)
    assert history.statistics("mean", 1) == 1.0
    values, counts = history.data
    np.testing.assert_array_equal(values, [4.0, 1.0, 7.0, 2.0])
    np.testing.assert_array_equal(counts, [1, 1, 2, 2])


def test_history_is_bounded_but_totals_are_exact() -> None:
    history = HistoryBuffer(max_length=3)
    for value in range(10):
        history.update(value)
    assert list(history.data[0]) == [7, 8, 9]
    assert len(history) == 3
    assert history.total_length == 10
    assert history.mean() == 4.5
    assert (history.min(), history.max()) == (0, 9)
    assert history.mean(5) == 8.0  # only the kept values


def test_history_reserve_keeps_more() -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1], max_length=2)
    history.reserve(4)
    history.extend([3.0, 4.0, 5.0], [1, 1, 1])
    assert list(history.data[0]) == [2.0, 3.0, 4.0, 5.0]
    history.reserve(1)
    assert history.max_length == 4


def test_history_keeps_ints() -> None:
    history = HistoryBuffer([3, 4], [1, 1])
    assert isinstance(history.current(), int)


def test_history_does_not_hide_nan() -> None:
    history = HistoryBuffer([1.0, math.nan, 0.5], [1, 1, 1])
    history.update(2.0)
    assert math.isnan(history.min()) and math.isnan(history.max()) and math.isnan(history.mean())
    assert (history.min(2), history.max(2)) == (0.5, 2.0)
    assert math.isnan(history.max(3))


def test_history_with_infinities() -> None:
    history = HistoryBuffer([math.inf, -math.inf, 1.0], [1, 1, 1])
    assert (history.min(), history.max()) == (-math.inf, math.inf)


def test_history_mean_with_zero_count_is_nan() -> None:
    assert math.isnan(HistoryBuffer([0.0], [0]).mean())


def test_history_mistakes() -> None:
    with pytest.raises(ValueError, match="empty"):
        HistoryBuffer().current()
    with pytest.raises(ValueError, match="empty"):
        HistoryBuffer().mean()
    with pytest.raises(ValueError, match="2 values and 1 counts"):
        HistoryBuffer([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="window_size"):
        HistoryBuffer([1.0], [1]).mean(0)
    with pytest.raises(ValueError, match="max_length"):
        HistoryBuffer(max_length=0)
    with pytest.raises(KeyError, match="did you mean 'mean'"):
        HistoryBuffer().statistics("maen")


def test_registered_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HistoryBuffer, "_statistics", dict(HistoryBuffer._statistics))

    @HistoryBuffer.register_statistics
    def spread(history: HistoryBuffer, window_size: int | None = None) -> float:
        return history.max(window_size) - history.min(window_size)

    @HistoryBuffer.register_statistics
    def newest_weighted(history: HistoryBuffer, weight: int) -> float:  # as in MMEngine's documentation
        return float(history._log_history[-1] * weight / history._count_history[-1])

    assert HistoryBuffer([1.0, 5.0, 4.0], [1, 1, 1]).statistics("spread", window_size=2) == 1.0
    assert HistoryBuffer([1.0, 6.0], [1, 3]).statistics("newest_weighted", 5) == 10.0
    with pytest.raises(KeyError, match="'spread'"):
        HistoryBuffer.register_statistics(spread)
