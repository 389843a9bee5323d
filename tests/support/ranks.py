"""Groups of processes forked from that of the tests, one for each rank, as a launcher would start them."""

import functools
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DDP imports it, which takes seconds in each rank
from forked import Process

from trainwright.engine.distributed import close_dist, get_dist_info, init_dist
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.registry import HOOKS, MODEL_WRAPPERS

HOOKS.get("CheckpointHook"), MODEL_WRAPPERS.get("MMDistributedDataParallel")  # the ranks need not import these either


class Ranks:
    """The ranks of one job.

    Args:
        world_size: number of ranks.
        action: function that each rank calls in ``folder``, with the environment variables that torchrun sets.
        folder: folder for the output of the ranks.
        **environment: additional environment variables.
    """

    def __init__(self, world_size: int, action: Callable[[], Any], folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        outputs = Path(tempfile.mkdtemp(prefix="ranks.", dir=folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

        def start(rank: int) -> Process:
            def of_rank() -> Any:
                variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in variables.items()})
                os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": loopback, **environment})
                os.chdir(folder)
                torch.set_num_threads(1)
                return action()

            return Process(of_rank, outputs / f"{rank}.txt")

        self.processes = [start(rank) for rank in range(world_size)]

    def wait(self, timeout: float = 60) -> list[int]:
        """Wait until all ranks have ended, like torchrun: if one fails, the others get SIGTERM.

        Returns:
            Their statuses, as of ``subprocess``.

        Raises:
            TimeoutError: they do not end within ``timeout`` seconds, or 30 seconds after SIGTERM. The message has
                their output, with the stacks of those that were still running.
        """
        end, told = time.monotonic() + timeout, False
        while None in (statuses := [process.poll() for process in self.processes]):
            if any(statuses) and not told:
                end, told = min(end, time.monotonic() + 30), True
                self.kill(signal.SIGTERM)
            if time.monotonic() > end:
                for process in self.processes:
                    process.abort()
                raise TimeoutError(f"ranks did not end; statuses {statuses}:\n{self.printed}")
            time.sleep(0.005)
        return [status for status in statuses if status is not None]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all ranks that are still running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill(number)

    @property
    def printed(self) -> str:
        """The output of all ranks so far, one after the other."""
        return "\n".join(f"--- rank {rank}\n{process.printed}" for rank, process in enumerate(self.processes))


def run_ranks(world_size: int, action: Callable[[], Any], folder: Path, timeout: float = 60) -> list[Any]:
    """Call a function in several ranks, and return the results by rank.

    Raises:
        AssertionError: a rank failed. The message has the output of all ranks, with the traceback.
        TimeoutError: as of :meth:`Ranks.wait`.
    """

    def save_result() -> None:
        torch.save(action(), folder / f"result_{os.environ['RANK']}.pt")

    ranks = Ranks(world_size, save_result, folder)
    statuses = ranks.wait(timeout)
    assert not any(statuses), f"ranks ended with {statuses}:\n{ranks.printed}"
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world_size)]


def run_group(world_size: int, action: Callable[[], Any], folder: Path, timeout: float = 60) -> list[Any]:
    """Call a function in several ranks like :func:`run_ranks`, with the process group initialized."""

    def in_group() -> Any:
        init_dist("pytorch", "gloo", timeout=timeout)
        result = action()
        close_dist()
        return result

    return run_ranks(world_size, in_group, folder, timeout)


def in_group(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a forked process that is the only one of a group.

    Gloo's threads do not survive a fork: after a group in the process of the tests, other tests could not fork.
    """

    @functools.wraps(test)
    def forked(**fixtures: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_group(1, lambda: test(**fixtures), Path(folder))

    return forked


def evaluate_on_ranks(
    metrics: Any, samples: Sequence[Any], folder: Path, dataset_meta: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Evaluate samples with predictions on two ranks, divided and padded like the default sampler does."""

    def evaluate_share() -> dict[str, Any]:
        rank, world_size = get_dist_info()
        evaluator = Evaluator(metrics)
        evaluator.dataset_meta = dict(dataset_meta or {})
        for index in range(rank, -(-len(samples) // world_size) * world_size, world_size):
            evaluator.process([samples[index % len(samples)]])
        return evaluator.evaluate(len(samples))

    return run_group(2, evaluate_share, folder)
