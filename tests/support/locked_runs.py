"""A process that trains for a long time."""

import signal
from typing import Any

from trainwright.engine.run.lock import locked


def hold(folder: str, ready: Any) -> None:
    """Lock a work dir until the process is killed."""
    with locked(folder):
        ready.set()
        signal.pause()
