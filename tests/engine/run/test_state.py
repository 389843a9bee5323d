import pytest

from trainwright.engine.run.state import RunState


@pytest.mark.parametrize(
    ("state", "saved"),
    [
        (RunState(epoch=2, iter=20, inner_iter=0), (2, 20, 0)),
        (RunState(epoch=2, iter=23, inner_iter=3, iter_done=True), (2, 24, 4)),
        (RunState(epoch=2, iter=30, inner_iter=10, epoch_done=True), (3, 30, 0)),
    ],
)
def test_counters_are_saved_as_what_is_finished(state: RunState, saved: tuple[int, int, int]) -> None:
    state.stop_reason = "signal SIGTERM"
    counters = state.state_dict()
    assert (counters["epoch"], counters["iter"], counters["inner_iter"]) == saved
    restored = RunState()
    restored.load_state_dict(counters)
    assert restored.state_dict() == counters
    assert restored.stop_reason is None
