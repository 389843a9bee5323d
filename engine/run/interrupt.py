"""Signals that stop a run cleanly."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainwright.engine.ranks import failures
from trainwright.engine.ranks.start import close_dist
from trainwright.engine.run.state import RunState

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Slurm can send SIGUSR1 before the time limit


@contextmanager
def stop_on_signals(state: RunState) -> Iterator[None]:
    """Context manager in which SIGINT, SIGTERM and SIGUSR1 stop the run at the next iteration boundary.

    A second signal ends the process immediately; of several ranks, only one that comes more than a second later, since
    launchers pass on signals that the ranks also receive themselves. Only the main thread can handle signals; in others
    this is a no-op.

    Args:
        state: the state of the run, which records the request.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received_at = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received_at
        now = time.monotonic()
        if not received_at:
            received_at = now
            state.request_stop(f"signal {signal.Signals(number).name}", signal=number)
        elif not state.shared or now > received_at + 1:
            signal.signal(number, previous[number])
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    # A handler installed outside of Python, such as by MPI, is None here and cannot be restored.
    previous = {number: signal.signal(number, handle) or signal.SIG_DFL for number in SIGNALS}
    try:
        with failures.noticing_signals():
            yield
    finally:
        for number, handler in previous.items():
            # After a failure, the launcher sends a signal to a rank that is about to end with a status of its own.
            signal.signal(number, signal.SIG_IGN if failures.is_ending() else handler)


def raise_for_signal(state: RunState) -> None:
    """Exit as the signal that stopped a run would have done, once everything is saved by all ranks.

    Args:
        state: the state of the run.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for other signals, with status 128 + number.
    """
    number = state.stop_signal
    if number and state.shared:
        close_dist()
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:  # the launcher sends another one to those that exit last
                signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise SystemExit(128 + number)
