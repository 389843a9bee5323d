"""Groups of processes forked from that of the tests, one for each rank, as a launcher would start them."""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DDP imports it, which takes seconds
from forked import Process

from trainwright.tools.cli import main


class Ranks:
    """The ranks of one command.

    Args:
        words: arguments after ``trainwright``.
        folder: folder for their output.
        world_size: number of ranks.
        before: called in each rank with its number before the command, to prepare a fault.
        environment: additional environment variables.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        world_size: int = 2,
        before: Callable[[int], Any] | None = None,
        **environment: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("rank.*.0.txt")))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def start(rank: int) -> Process:
            variables = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, **environment,
            }  # fmt: skip

            def action() -> int:
                os.environ.update({name: str(value) for name, value in variables.items()})
                torch.set_num_threads(1)
                if before is not None:
                    before(rank)
                return main(words)

            return Process(action, folder / f"rank.{number}.{rank}.txt")

        self.processes = [start(rank) for rank in range(world_size)]

    def wait(self, timeout: float = 60) -> list[int]:
        """Wait until all ranks have ended, like torchrun: if one fails, the others get SIGTERM, later SIGKILL.

        Returns:
            Their statuses, as of ``subprocess``.
        """
        end, told_at = time.monotonic() + timeout, None
        statuses: list[int | None] = [None] * len(self.processes)
        while None in statuses:
            now = time.monotonic()
            for rank, process in enumerate(self.processes):
                if statuses[rank] is None:
                    statuses[rank] = process.poll()
            if told_at is None and any(statuses):
                told_at = now
                self._signal(signal.SIGTERM, statuses)
            if now > end or (told_at is not None and now > told_at + 30):
                self._signal(signal.SIGKILL, statuses)
                raise TimeoutError(f"ranks did not end; statuses {statuses}:\n{self.printed}")
            time.sleep(0.005)
        return [status for status in statuses if status is not None]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all ranks."""
        self._signal(number, [process.poll() for process in self.processes])

    def _signal(self, number: int, statuses: Sequence[int | None]) -> None:
        for process, status in zip(self.processes, statuses):
            if status is None:
                process.kill(number)

    @property
    def printed(self) -> str:
        """The output of all ranks so far, one after the other."""
        return "\n".join(f"--- rank {rank}\n{process.printed}" for rank, process in enumerate(self.processes))
