"""Processes forked from that of the tests, which can be signaled and killed without importing PyTorch again."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainwright.tools.cli import main


class Process:
    """A process forked from this one.

    Args:
        action: function to run; an exception ends the process with a traceback and status 1.
        output: file for its output.
    """

    def __init__(self, action: Callable[[], Any], output: Path) -> None:
        self.output = output
        self._status: int | None = None
        self.began = time.monotonic()
        self.seconds = 0.0
        self.pid = os.fork()
        if self.pid == 0:
            _run(action, output)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the process to exit, and return its status like ``subprocess``: negative after a signal."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"the process did not end within {timeout} s:\n{self.printed}")
            time.sleep(0.002)
        return status

    def poll(self) -> int | None:
        """Return the status as :meth:`wait` does, or None if the process is still running."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.began
                self._end_group()
        return self._status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill_group(self, number: int) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.pid, number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until a condition holds, or until a timeout."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            time.sleep(0.002)

    @property
    def printed(self) -> str:
        """The output so far."""
        return self.output.read_text() if self.output.exists() else ""

    def _end_group(self) -> None:
        """Kill data workers that have not yet noticed that their parent is dead."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _run(action: Callable[[], Any], output: Path) -> NoReturn:
    """Run the action in this new process, and exit like the interpreter does."""
    status = 1
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        try:
            status = action() or 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is an exception
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def trainwright(words: Sequence[str], folder: Path) -> Process:
    """Start the command in a separate process.

    Args:
        words: arguments after ``trainwright``.
        folder: current folder of the process.
    """

    def action() -> int:
        os.chdir(folder)
        return main(words)

    number = len(list(folder.glob("out.*.txt")))
    return Process(action, folder / f"out.{number}.txt")
