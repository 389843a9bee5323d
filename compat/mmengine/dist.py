"""Names of ``mmengine.dist``."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_dist
from torch import Tensor

from trainwright.compat.mmengine.device import is_mlu_available, is_musa_available, is_npu_available
from trainwright.compat.mmengine.dl_utils import TORCH_VERSION
from trainwright.compat.mmengine.utils import digit_version
from trainwright.engine import distributed
from trainwright.engine.distributed import (
    all_gather,
    all_gather_object,
    all_reduce,
    all_reduce_dict,
    all_reduce_params,
    barrier,
    broadcast,
    broadcast_object_list,
    gather,
    gather_object,
    get_dist_info,
    get_local_rank,
    get_rank,
    get_world_size,
    infer_launcher,
    is_distributed,
    is_main_process,
    master_only,
)

_LOCAL_PROCESS_GROUP: Any = None


def init_dist(launcher: str, backend: str | None = "nccl", init_backend: str = "torch", **kwargs: Any) -> None:
    """Initialize the default process group; see :func:`trainwright.engine.distributed.init_dist`.

    Args:
        launcher: ``"pytorch"`` (torchrun), ``"slurm"`` or ``"mpi"`` (Open MPI).
        backend: a backend of ``torch.distributed``; gloo is used instead of nccl without a GPU.
        init_backend: ``"torch"``.
        **kwargs: ``timeout`` in seconds, ``port`` of the first machine, and further arguments of
            :func:`torch.distributed.init_process_group`.

    Raises:
        ValueError: the launcher is unknown, or ``init_backend`` is another one.
    """
    if init_backend != "torch":
        hint = "use strategy=dict(type='FSDP2') instead of DeepSpeed or ColossalAI"
        raise ValueError(f"init_backend={init_backend!r} is not supported: {hint}")
    port = kwargs.pop("port", None)
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    distributed.init_dist(launcher, backend, **kwargs)


def init_local_group(node_rank: int, num_gpus_per_node: int) -> None:
    """Create the group of the processes on each machine; all processes must call it.

    Args:
        node_rank: number of this machine.
        num_gpus_per_node: number of processes on each machine.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None
    first = node_rank * num_gpus_per_node
    _LOCAL_PROCESS_GROUP = torch_dist.new_group(list(range(first, first + num_gpus_per_node)))


def get_local_group() -> Any:
    """Return the group of the processes on this machine; None in a single process.

    Raises:
        RuntimeError: :func:`init_local_group` was not called.
    """
    if is_distributed() and _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError("there is no group of this machine: call init_local_group() first")
    return _LOCAL_PROCESS_GROUP if is_distributed() else None


def get_local_size() -> int:
    """Return the number of processes on this machine, as set by the launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", get_world_size(get_local_group())))


def get_default_group() -> Any:
    """Return the group of all processes.

    Raises:
        ValueError: it is not initialized.
    """
    return torch_dist.distributed_c10d._get_default_group()


def get_backend(group: Any = None) -> str | None:
    """Return the backend of a group; None in a single process."""
    return torch_dist.get_backend(group) if is_distributed() else None


def get_comm_device(group: Any = None) -> torch.device:
    """Return the device whose tensors the backend of a group exchanges: the current accelerator, or the CPU."""
    return distributed.get_device() if get_backend(group) in ("nccl", "xccl") else torch.device("cpu")


def get_data_device(data: Any) -> torch.device:
    """Return the device of a tensor, or of all tensors in nested lists, tuples and dictionaries.

    Raises:
        ValueError: there is none, or there are several devices.
        TypeError: there is something else than tensors.
    """
    devices = {tensor.device for tensor in _tensors(data)}
    if len(devices) != 1:
        raise ValueError(f"expected tensors on one device, got {', '.join(map(str, devices)) or 'no tensors'}")
    return devices.pop()


def _tensors(data: Any) -> list[Tensor]:
    if isinstance(data, Tensor):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, str | np.ndarray):
        raise TypeError(f"expected tensors, or lists, tuples or dictionaries of them, got {type(data)}")
    return [tensor for item in (data.values() if isinstance(data, Mapping) else data) for tensor in _tensors(item)]


def cast_data_device(data: Any, device: torch.device, out: Any = None) -> Any:
    """Return a tensor, or those in nested lists, tuples and dictionaries, on a device.

    Args:
        data: the tensors.
        device: the device.
        out: tensors in the same structure, into which the values are copied, too.

    Raises:
        ValueError: there are no tensors, or ``out`` has another length.
        TypeError: there is something else than tensors, or ``out`` has another type.
    """
    if out is not None and (type(data) is not type(out) or isinstance(out, set)):
        raise TypeError(f"out must have the type of data, {type(data)}, which cannot be a set: got {type(out)}")
    if isinstance(data, Tensor):
        moved = data.to(device)
        if out is not None:
            out.copy_(moved)
        return moved
    if not _tensors(data):
        raise ValueError("data must not be empty")
    if out is not None and len(data) != len(out):
        raise ValueError(f"data and out differ in length: {len(data)} and {len(out)}")
    if isinstance(data, Mapping):
        return type(data)(  # type: ignore[call-arg]
            {key: cast_data_device(item, device, None if out is None else out[key]) for key, item in data.items()}
        )
    targets = [None] * len(data) if out is None else out
    return type(data)(cast_data_device(item, device, target) for item, target in zip(data, targets))


def sync_random_seed(group: Any = None) -> int:
    """Return a random seed from 0 to 2**31 - 1 that is the same in all processes, drawn by NumPy on rank 0."""
    seed = [int(np.random.randint(2**31))]
    broadcast_object_list(seed, group=group)
    return seed[0]


def collect_results(results: list[Any], size: int, device: str = "cpu", tmpdir: str | None = None) -> list[Any] | None:
    """Return the results of all processes, in the order of the dataset, on rank 0; None elsewhere.

    Args:
        results: one item for each sample of this process.
        size: number of samples in the dataset; results beyond it are dropped.
        device: ``"cpu"``, ``"gpu"`` or ``"npu"``. Results are sent from CPU memory if the backend supports it.
        tmpdir: folder shared by all processes, for results that are too large to send (``"cpu"`` only).

    Raises:
        NotImplementedError: the device is another one.
    """
    if device not in ("cpu", "gpu", "npu"):
        raise NotImplementedError(f"device must be 'cpu', 'gpu' or 'npu', not {device!r}")
    collected = distributed.collect_results(results, size, "cpu" if device == "cpu" else "gpu", tmpdir)
    return None if collected is None else collected[:size]


def collect_results_cpu(result_part: list[Any], size: int, tmpdir: str | None = None) -> list[Any] | None:
    """Return the results of all processes; see :func:`collect_results`."""
    return collect_results(result_part, size, "cpu", tmpdir)


def collect_results_gpu(result_part: list[Any], size: int) -> list[Any] | None:
    """Return the results of all processes; see :func:`collect_results`."""
    return collect_results(result_part, size, "gpu")
