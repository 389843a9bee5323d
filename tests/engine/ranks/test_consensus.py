"""How soon a request of one rank takes effect on all."""

import time
from pathlib import Path

from ranks import run_group

from trainwright.engine.distributed import get_rank
from trainwright.engine.ranks.consensus import Consensus
from trainwright.engine.run.state import RunState


def iterations_to_stop(requested_at: int, seconds: list[float]) -> tuple[int, bool]:
    """Return how many iterations of the given durations end before a stop, and whether they count as short."""
    state = RunState(shared=True)
    consensus = Consensus(state)
    consensus.begin(always=True)
    consensus.end()
    for done, duration in enumerate(seconds):
        if done == requested_at and get_rank() == 1:
            state.request_stop("of rank 1")
        consensus.begin()
        time.sleep(duration)
        consensus.end()
        if state.stop_reason is not None:
            return done + 1, state.short_iterations
    return len(seconds), state.short_iterations


def test_a_stop_takes_effect_within_100_ms_or_at_the_next_iteration(tmp_path: Path) -> None:
    def in_rank() -> list[tuple[int, bool]]:
        return [
            iterations_to_stop(0, [0.12] * 8),  # the agreement before the first iteration does not measure any
            iterations_to_stop(3, [0.12] * 8),
            iterations_to_stop(50, [0.001] * 50 + [0.12] * 40),  # slower than they used to be
            iterations_to_stop(100, [0.0] * 1000),
        ]

    first, second = run_group(2, in_rank, tmp_path)
    assert first == second
    assert first[:2] == [(1, False), (4, False)]
    assert 50 < first[2][0] <= 82
    assert 100 < first[3][0] <= 132 and first[3][1]
