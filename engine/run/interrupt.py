"""Signals that stop a run cleanly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainwright.engine.run.state import RunState

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Slurm can send SIGUSR1 before the time limit


@contextmanager
def stop_on_signals(state: RunState) -> Iterator[None]:
    """Context manager in which SIGINT, SIGTERM and SIGUSR1 stop the run at the next iteration boundary.

    A second signal ends the process immediately. Only the main thread can handle signals; in others this is a no-op.

    Args:
        state: the state of the run, which records the request.
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

    # A handler installed outside of Python, such as by MPI, is None here and cannot be restored.
    previous = {number: signal.signal(number, handle) or signal.SIG_DFL for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def raise_for_signal(number: int) -> None:
    """Exit as the signal would have done, once everything is saved.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for other signals, with status 128 + number.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise SystemExit(128 + number)
