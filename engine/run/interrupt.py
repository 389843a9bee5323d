"""Signals that end a run cleanly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainwright.engine.run.state import RunState

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # SIGUSR1 is Slurm's warning before the time is up


@contextmanager
def stop_on_signals(state: RunState) -> Iterator[None]:
    """While active, SIGINT, SIGTERM and SIGUSR1 ask the run to stop at the next iteration boundary.

    A second one ends it at once.
    Only the main thread can receive signals; elsewhere nothing changes.

    Args:
        state: counters of the run; the request goes there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if state.stop_signal:
            signal.signal(number, previous[number])
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        state.stop_signal = number
        state.stop_reason = f"signal {signal.Signals(number).name}"

    # A handler that is not Python's own, such as one of MPI, is None here and cannot be put back.
    previous = {number: signal.signal(number, handle) or signal.SIG_DFL for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def raise_for_signal(number: int) -> None:
    """Ends the process as the signal would have, now that everything is saved.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: with status 128 + number for the others.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise SystemExit(128 + number)
