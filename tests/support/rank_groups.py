"""Groups of processes forked from that of the tests, each a rank of a gloo group."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # otherwise each rank imports it, when it wraps the model
from forked import Process

from trainwright.engine.registry import HOOKS, MODEL_WRAPPERS

TIMEOUT = 60
HOOKS.get("CheckpointHook"), MODEL_WRAPPERS.get("MMDistributedDataParallel")  # the ranks need not import these either


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(action: Callable[[], Any], folder: Path, world_size: int) -> list[Process]:
    """Start a process per rank that calls ``action`` in ``folder``, with the environment that torchrun sets."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("rank0.*.txt")))
    return [
        Process(_of_rank(action, folder, rank, world_size, port), folder / f"rank{rank}.{number}.txt")
        for rank in range(world_size)
    ]


def run_ranks(action: Callable[[], Any], folder: Path, world_size: int) -> list[str]:
    """Run ``action`` in every rank of a group, and return what each rank printed.

    Raises:
        AssertionError: a rank ended with another status than 0.
    """
    ranks = start_ranks(action, folder, world_size)
    try:
        statuses = [rank.wait(TIMEOUT) for rank in ranks]
    finally:
        for rank in ranks:
            rank._end_group()
    printed = [rank.printed for rank in ranks]
    assert statuses == [0] * world_size, "\n".join(printed)
    return printed


def values_of_ranks(function: Callable[[], Any], folder: Path, world_size: int) -> list[Any]:
    """Run ``function`` in every rank of an initialized group, and return its results by rank."""

    def action() -> None:
        from trainwright.engine.distributed import close_dist, init_dist

        init_dist("pytorch", "gloo", timeout=TIMEOUT)
        torch.save(function(), folder / f"value{os.environ['RANK']}.pt")
        close_dist()

    run_ranks(action, folder, world_size)
    return [torch.load(folder / f"value{rank}.pt", weights_only=False) for rank in range(world_size)]


def _of_rank(action: Callable[[], Any], folder: Path, rank: int, world_size: int, port: int) -> Callable[[], Any]:
    def in_rank() -> Any:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        os.chdir(folder)
        return action()

    return in_rank
