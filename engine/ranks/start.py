"""Joining and leaving the process group, for every launcher."""

import os
import shutil
import subprocess
import warnings
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from trainwright.engine.errors import ConfigError
from trainwright.engine.ranks import failures

_LAUNCHERS = ("pytorch", "slurm", "mpi")
_DEFAULT_PORT = "29500"
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_control_groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The group for small messages by the default group that it was created for, with which it ends."""


def infer_launcher() -> str:
    """Return the launcher that started this process, inferred from the environment: pytorch, slurm, mpi or none."""
    if "WORLD_SIZE" in os.environ:
        return "pytorch"
    if "SLURM_NTASKS" in os.environ:
        return "slurm"
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:
        return "mpi"
    return "none"


def restarts() -> int:
    """Return how often torchrun has restarted the processes, which is above 0 only with ``--max-restarts``."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Return whether torchrun will restart the processes if one of them fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def init_dist(launcher: str, backend: str | None = None, timeout: float | None = None, **kwargs: Any) -> None:
    """Initialize the default process group.

    Each process uses the accelerator with the index of its local rank, if there is one. The default backend exchanges
    both CPU and accelerator tensors.

    Args:
        launcher: ``"pytorch"`` (torchrun), ``"slurm"`` or ``"mpi"`` (Open MPI).
        backend: a backend of ``torch.distributed``; by default gloo for the CPU and PyTorch's default for the
            accelerator (nccl for CUDA).
        timeout: timeout of collectives in seconds, after which a rank that hangs ends the run; PyTorch's default if
            None (30 minutes, or 10 for nccl).
        **kwargs: further arguments of :func:`torch.distributed.init_process_group`.

    Raises:
        ValueError: the launcher is unknown.
        RuntimeError: environment variables that the launcher should have set are missing.
    """
    if launcher not in _LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}: use one of {', '.join(_LAUNCHERS)}")
    if launcher == "slurm":
        _set_environment(RANK="SLURM_PROCID", WORLD_SIZE="SLURM_NTASKS", LOCAL_RANK="SLURM_LOCALID")
        os.environ.setdefault("MASTER_ADDR", _first_slurm_host())
        os.environ.setdefault("MASTER_PORT", _DEFAULT_PORT)
    elif launcher == "mpi":
        prefix = "OMPI_COMM_WORLD_"
        _set_environment(RANK=f"{prefix}RANK", WORLD_SIZE=f"{prefix}SIZE", LOCAL_RANK=f"{prefix}LOCAL_RANK")
        os.environ.setdefault("MASTER_PORT", _DEFAULT_PORT)
    if missing := [name for name in _NEEDED if name not in os.environ]:
        raise RuntimeError(
            f"the launcher {launcher!r} did not set {', '.join(missing)}: start the processes with it, "
            "or set the variables yourself"
        )
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
    elif backend == "nccl":
        warnings.warn("no GPU found: using the backend 'gloo' instead of 'nccl'", stacklevel=2)
        backend = "gloo"
    if backend is None:
        backend = _default_backend()
    if timeout is not None:
        kwargs["timeout"] = timedelta(seconds=timeout)
    if not {"store", "init_method"} & kwargs.keys():
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        kwargs |= {"store": _store(rank, kwargs.get("timeout")), "rank": rank, "world_size": world_size}
    dist.init_process_group(backend, **kwargs)
    control_group()
    if (store := kwargs.get("store")) is not None and dist.get_world_size() > 1:
        from torch.distributed.distributed_c10d import PrefixStore

        processes = [""] * dist.get_world_size()
        dist.all_gather_object(processes, failures.this_process(), control_group())
        hosts_store = dist.get_rank() == 0 and not _by_torchrun()
        failures.watch(PrefixStore("failures", store), dist.get_rank(), processes, hosts_store)


def init_fake(world_size: int, rank: int = 0) -> None:
    """Initialize a process group without other processes, whose collectives return at once without communication.

    Args:
        world_size: the number of processes that there seem to be.
        rank: the rank of this process.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


def refuse_shared_gpus(device: torch.device) -> None:
    """Check that no other rank uses the GPU of this one, if they communicate by NCCL.

    Raises:
        ConfigError: in all ranks, if two of them share a GPU.
    """
    if device.type != "cuda" or not dist.is_initialized() or "nccl" not in dist.get_backend_config():
        return
    properties: Any = torch.cuda.get_device_properties(device)
    used = [""] * dist.get_world_size()
    own = getattr(properties, "uuid", f"of rank {dist.get_rank()}")  # early versions of ROCm have none
    dist.all_gather_object(used, f"{own} ({properties.name})", control_group())
    for gpu in used:
        if len(ranks := [rank for rank, other in enumerate(used) if other == gpu]) > 1:
            message = f"ranks {ranks[0]} and {ranks[1]} use the same GPU, {gpu}, which NCCL does not support"
            hint = "start one process per GPU, or use 'gloo', which is slow"
            raise ConfigError("env_cfg.dist_cfg.backend", message, hint)


def close_dist() -> None:
    """Leave the process group, if there is one, once all processes have finished."""
    if dist.is_available() and dist.is_initialized():
        failures.unwatch()
        dist.barrier(control_group())  # some releases of gloo hang if a peer has already left
        dist.destroy_process_group()


def control_group() -> "dist.ProcessGroup":
    """Return a group of all ranks for small messages in CPU memory, apart from those of the training.

    The first call, by all ranks together, creates it.
    """
    world: Any = dist.group.WORLD
    if world not in _control_groups:
        if dist.get_backend(world) == "fake":
            return world  # type: ignore[no-any-return]
        _control_groups[world] = dist.new_group(backend="gloo")
    return _control_groups[world]  # type: ignore[no-any-return]


def _store(rank: int, timeout: timedelta | None) -> Any:
    """Connect to the store through which the ranks find each other.

    With torchrun, the store can outlive the processes. Keys of a previous attempt would make the ranks connect to
    processes that no longer exist, so each attempt has its own.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__
    from torch.distributed.distributed_c10d import PrefixStore

    options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=rank == 0 and not _by_torchrun(),
        wait_for_workers=False, multi_tenant=True, **options,
    )  # fmt: skip
    return PrefixStore(f"trainwright/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{restarts()}", store)


def _by_torchrun() -> bool:
    """Return whether the store is in a process of torchrun."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _set_environment(**sources: str) -> None:
    """Copy environment variables of a launcher to the names that PyTorch reads."""
    for name, source in sources.items():
        if source in os.environ:
            os.environ[name] = os.environ[source]


def _first_slurm_host() -> str:
    node_list = os.environ.get("SLURM_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    if shutil.which("scontrol") is None:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", node_list)
    command = ["scontrol", "show", "hostnames", node_list]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def _default_backend() -> str:
    if not torch.accelerator.is_available():
        return "gloo"
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return f"cpu:gloo,{accelerator.type}:{dist.get_default_backend_for_device(accelerator)}"
