"""Processes forked from that of the tests, which can be signaled and killed without importing PyTorch again."""

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from trainwright.tools.cli import main


class Process:
    """A process forked from this one.

    Args:
        action: function to run; an exception ends the process with a traceback and status 1.
        output: file for its output.
    """

    running: ClassVar[set["Process"]] = set()
    """Those that have not ended, as far as is known: ``tests/conftest.py`` ends them after each test."""

    def __init__(self, action: Callable[[], Any], output: Path) -> None:
        self.output = output
        self._status: int | None = None
        self.began = time.monotonic()
        self.seconds = 0.0
        self.pid = os.fork()
        if self.pid == 0:
            _run(action, output)
        self.running.add(self)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the process to exit, and return its status like ``subprocess``: negative after a signal.

        Raises:
            TimeoutError: it does not exit within ``timeout`` seconds. The message has its output and its stacks.
        """
        self.wait_until(lambda: self.poll() is not None, timeout)
        if self._status is None:
            self.abort()
            raise TimeoutError(f"the process did not end within {timeout} s:\n{self.printed}")
        return self._status

    def poll(self) -> int | None:
        """Return the status as :meth:`wait` does, or None if the process is still running."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.began
                self.running.discard(self)
                with contextlib.suppress(ProcessLookupError):  # data workers may not have noticed that it is dead
                    self.kill_group(signal.SIGKILL)
        return self._status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill_group(self, number: int) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.pid, number)

    def end(self) -> None:
        """Kill the process and its children, if it is still running."""
        if self.poll() is None:
            self.kill()
            self.wait()

    def abort(self) -> None:
        """End the process, if it is still running, after it has added the stacks of its threads to its output."""
        if self.poll() is None:
            self.kill(signal.SIGABRT)
            self.wait_until(lambda: self.poll() is not None, 5)
            self.end()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until a condition holds, or until a timeout."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            time.sleep(0.002)

    @property
    def printed(self) -> str:
        """The output so far."""
        return self.output.read_text() if self.output.exists() else ""


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
        faulthandler.enable()  # SIGABRT prints the stacks of all threads
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
