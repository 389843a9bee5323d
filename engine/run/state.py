"""The counters of a run, and the active runs of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainwright.engine.random_streams import preserve_generators
from trainwright.engine.records.logger import get_logger

_running: list[int] = []  # thread IDs, one for each active run


def in_run() -> bool:
    """Return whether this thread is inside an active run, such as in one of its hooks."""
    return threading.get_ident() in _running


@contextmanager
def active_run() -> Iterator[None]:
    """Mark a run as active in this thread. A nested run restores the random generators at its end."""
    me = threading.get_ident()
    if set(_running) - {me}:
        get_logger().warning(
            "Another thread of this process is running an experiment. Both share the random generators, so neither is "
            "reproducible: start a separate process for each."
        )
    with preserve_generators() if in_run() else nullcontext():
        _running.append(me)
        try:
            yield
        finally:
            _running.remove(me)


class StopRequest(NamedTuple):
    """A request to stop a run.

    Args:
        reason: stated in the log.
        complete: the stop completes the training rather than interrupting it.
        signal: number of the signal that requested it, or 0.
    """

    reason: str
    complete: bool = False
    signal: int = 0


@dataclass
class RunState:
    """The counters of a run, written by the loop and read by all other parts.

    Args:
        epoch: 0-based index of the epoch in progress; between epochs, the number of finished ones.
        iter: 0-based index of the training iteration in progress; between iterations, the number of finished ones.
        inner_iter: number of finished iterations in the current epoch.
        validated_at: value of ``iter`` at the last finished validation; -1 before the first.
        micro_batches: number of parts that each batch is split into, to fit into memory.
        iter_done: the current iteration is finished but not yet counted (while ``after_train_iter`` is called).
        epoch_done: the same for the epoch (while ``after_train_epoch`` is called).
        stop_reason: why the run should stop after the current iteration or epoch, or None.
        complete: the stop completes the training (early stopping) rather than interrupting it.
        stop_signal: number of the signal that requested the stop, or 0.
        request: a stop that was requested in this process. It becomes the decision, in the last three, at once, or if
            the run is ``shared`` by several ranks, when all of them know of it; see
            :class:`~trainwright.engine.ranks.consensus.Consensus`.
        shared: whether all ranks must agree on a stop.
        short_iterations: number of further iterations in 100 ms, at most 31, on which the ranks have agreed; 0 in one
            process.
    """

    epoch: int = 0
    iter: int = 0
    inner_iter: int = 0
    validated_at: int = -1
    micro_batches: int = 1
    iter_done: bool = False
    epoch_done: bool = False
    stop_reason: str | None = None
    complete: bool = False
    stop_signal: int = 0
    request: StopRequest | None = None
    shared: bool = False
    short_iterations: int = 0

    def request_stop(self, reason: str, *, complete: bool = False, signal: int = 0) -> None:
        """Request a stop. Only the first request counts, or else the first one by a signal."""
        if self.request is None or (signal and not self.request.signal):
            self.request = StopRequest(reason, complete, signal)
            if not self.shared:
                self.decide(self.request)

    def decide(self, request: StopRequest) -> None:
        """Stop after the current iteration or epoch."""
        if self.stop_reason is None:
            self.complete = request.complete
        self.stop_reason, self.stop_signal = request.reason, request.signal

    def clear_stop(self) -> None:
        """Forget the stop of a previous run."""
        self.request, self.stop_reason, self.complete, self.stop_signal = None, None, False, 0

    @property
    def interrupted(self) -> bool:
        """Whether training stopped early and should be resumed."""
        return bool(self.stop_signal) or (self.stop_reason is not None and not self.complete)

    def state_dict(self) -> dict[str, int]:
        """Return the counters, including a finished iteration or epoch that is not yet counted."""
        return {
            "epoch": self.epoch + self.epoch_done,
            "iter": self.iter + self.iter_done,
            "inner_iter": 0 if self.epoch_done else self.inner_iter + self.iter_done,
            "validated_at": self.validated_at,
            "micro_batches": self.micro_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved counters."""
        for name in self.state_dict():
            setattr(self, name, int(state.get(name, getattr(self, name))))
