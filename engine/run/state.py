"""The counters of a run, and which runs are active."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from trainwright.engine.random_streams import kept_generators
from trainwright.engine.records.logger import get_logger

_running: list[int] = []  # threads with an active run, once for each


def in_run() -> bool:
    """Return whether a run is active in this thread: what is built or run now is inside a hook of it, say."""
    return threading.get_ident() in _running


@contextmanager
def active_run() -> Iterator[None]:
    """While active, a run uses the generators of this process; one inside another leaves them as they were."""
    me = threading.get_ident()
    if set(_running) - {me}:
        get_logger().warning(
            "Another thread of this process is running an experiment. They share the random generators, so neither can "
            "be repeated exactly: start a process for each."
        )
    with kept_generators() if in_run() else nullcontext():
        _running.append(me)
        try:
            yield
        finally:
            _running.remove(me)


@dataclass
class RunState:
    """The counters of a run. The loop writes them; everything else reads.

    Args:
        epoch: 0-based index of the epoch in progress; the number of finished epochs between epochs.
        iter: 0-based index of the training iteration in progress; the number of finished ones between iterations.
        inner_iter: number of finished iterations of the epoch in progress.
        validated_at: value of ``iter`` at the last finished validation; -1 before the first.
        micro_batches: how many parts a batch is trained in, because it does not fit into memory.
        iter_done: the iteration in progress is finished and not yet counted (while ``after_train_iter`` is called).
        epoch_done: likewise the epoch (while ``after_train_epoch`` is called).
        stop_reason: why the run is to stop at the next boundary, or None.
        complete: the stop is a regular end of the training (early stopping), not an interruption.
        stop_signal: number of the signal that asked for it, or 0.
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

    @property
    def interrupted(self) -> bool:
        """Whether the training was stopped before its end, to be resumed."""
        return bool(self.stop_signal) or (self.stop_reason is not None and not self.complete)

    def state_dict(self) -> dict[str, int]:
        """Returns how many epochs and iterations are finished, those included that are not counted yet."""
        return {
            "epoch": self.epoch + self.epoch_done,
            "iter": self.iter + self.iter_done,
            "inner_iter": 0 if self.epoch_done else self.inner_iter + self.iter_done,
            "validated_at": self.validated_at,
            "micro_batches": self.micro_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over saved counters."""
        for name in self.state_dict():
            setattr(self, name, int(state.get(name, getattr(self, name))))
