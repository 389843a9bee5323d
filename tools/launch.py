"""Starting a command in several processes with torchrun."""

import os
import signal
import sys
from collections.abc import Sequence

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainwright.engine.errors import ConfigError


def launch(
    words: Sequence[str],
    nproc: int | None = None,
    nnodes: str = "1",
    node_rank: int = 0,
    master_addr: str | None = None,
    master_port: int | None = None,
    max_restarts: int = 0,
) -> int:
    """Run ``trainwright`` in several processes, on this machine or on several.

    Args:
        words: arguments after ``trainwright``.
        nproc: number of processes on this machine; by default one per accelerator.
        nnodes: number of machines, or ``"2:4"`` for any number in this range.
        node_rank: number of this machine, from 0.
        master_addr: address of machine 0, required for several machines.
        master_port: a free port of machine 0, by default 29500 for several machines and any for a single one.
        max_restarts: how often to start all processes again if one fails. They resume from their newest checkpoint.

    Returns:
        The exit status: that of the process that failed first, or 0.

    Raises:
        ConfigError: there is no accelerator and ``nproc`` is not set, or there are several machines without an address.
    """
    if nproc is None:
        nproc = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if not nproc:
            raise ConfigError("--nproc", "there is no accelerator to count", "set the number of processes")
    options = [f"--nproc-per-node={nproc}", f"--nnodes={nnodes}", f"--max-restarts={max_restarts}"]
    if nnodes == "1" and master_addr is None and master_port is None:
        options += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    elif master_addr is None and nnodes != "1":
        raise ConfigError("--master-addr", "the machines have to find each other", "set the address of machine 0")
    elif ":" in nnodes:
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint={master_addr}:{master_port or 29500}", "--rdzv-id=train"]
    else:
        options += [f"--node-rank={node_rank}", f"--master-addr={master_addr or 'localhost'}"]
        options += [f"--master-port={master_port or 29500}"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, with a warning
    try:
        torchrun.main([*options, "-m", "trainwright.tools.cli", *words])
    except ChildFailedError as error:  # the process has printed why
        return _status([failure.exitcode for failure in error.failures.values()])
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _status(exit_codes: Sequence[int]) -> int:
    """Return the exit status of a shell for the exit codes of processes that failed, negative after a signal.

    After a failure, torchrun ends the other processes by SIGTERM, so another code than that is the one that counts.
    """
    by_torchrun = (-signal.SIGTERM, 128 + signal.SIGTERM)
    code = next((code for code in exit_codes if code not in by_torchrun), exit_codes[0])
    print(f"a process ended with status {code}", file=sys.stderr)
    return 128 - code if code < 0 else int(code)
