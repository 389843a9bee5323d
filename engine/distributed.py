"""Ranks and collectives for training in several processes. In a single process, collectives are no-ops."""

import functools
import itertools
import os
import pickle
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainwright.engine.errors import ConfigError
from trainwright.engine.ranks import failures
from trainwright.engine.ranks.start import close_dist as close_dist
from trainwright.engine.ranks.start import control_group
from trainwright.engine.ranks.start import infer_launcher as infer_launcher
from trainwright.engine.ranks.start import init_dist as init_dist

P = ParamSpec("P")
R = TypeVar("R")

_REDUCE_OPS = {
    "sum": "SUM", "mean": "SUM", "product": "PRODUCT", "min": "MIN", "max": "MAX", "band": "BAND",
    "bor": "BOR", "bxor": "BXOR",
}  # fmt: skip
_NUMBERS_PER_PART = 32
_ABSENT = object()
_alone_as: int | None = None
"""The rank of this process after it has lost the others; None before."""
_data_ranks: tuple[Any, int, int] | None = None


def is_distributed() -> bool:
    """Return whether a process group is initialized."""
    return dist.is_available() and dist.is_initialized()


def get_rank(group: "dist.ProcessGroup | None" = None) -> int:
    """Return the rank of this process in the group."""
    if _alone_as is not None:
        return _alone_as
    return dist.get_rank(group) if is_distributed() else 0


def get_world_size(group: "dist.ProcessGroup | None" = None) -> int:
    """Return the number of processes in the group."""
    return dist.get_world_size(group) if is_distributed() else 1


def continue_alone(as_main: bool) -> None:
    """Make the collectives of this module act as in a single process, because another rank has failed.

    Only saving the run remains to be done. The world size stays the same, since it is part of what is saved.

    Args:
        as_main: whether this process becomes the main process; that of rank 0 is anyway.
    """
    global _alone_as
    if _alone_as is None:
        _alone_as = 0 if as_main else get_rank()


def has_peers(group: "dist.ProcessGroup | None" = None) -> bool:
    """Return whether collectives exchange anything: there are several processes, and none has failed."""
    return get_world_size(group) > 1 and _alone_as is None


def is_alone() -> bool:
    """Return whether this process has lost the others; see :func:`continue_alone`."""
    return _alone_as is not None


def get_dist_info(group: "dist.ProcessGroup | None" = None) -> tuple[int, int]:
    """Return rank and world size."""
    return get_rank(group), get_world_size(group)


def get_data_rank() -> int:
    """Return the position of this process among those that train on different data, as set by the strategy."""
    return get_rank() if _data_ranks is None or _data_ranks[0] is not _group() else _data_ranks[1]


def get_data_size() -> int:
    """Return the number of processes that train on different data, as set by the strategy."""
    return get_world_size() if _data_ranks is None or _data_ranks[0] is not _group() else _data_ranks[2]


def set_data_ranks(rank: int, size: int) -> None:
    """Set :func:`get_data_rank` and :func:`get_data_size`; consecutive processes share a data rank."""
    global _data_ranks
    _data_ranks = _group(), rank, size


def _group() -> Any:
    """Return the default group, for settings that end with it."""
    return dist.group.WORLD if is_distributed() else None


def one_per_data_rank(parts: list[Any]) -> list[Any]:
    """Return the items of the processes with different data, given one item of each process by rank."""
    return parts[:: max(1, len(parts) // get_data_size())]


def get_local_rank() -> int:
    """Return the rank of this process on its machine, as set by the launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main_process(group: "dist.ProcessGroup | None" = None) -> bool:
    """Return whether this process has rank 0."""
    return get_rank(group) == 0


def master_only(func: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a function to run on rank 0 only; other ranks return None."""

    @functools.wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper


def get_device(device: "str | torch.device | None" = None) -> torch.device:
    """Return the device to compute on.

    Args:
        device: the requested device; if None, the current accelerator, or the CPU if there is none.

    Raises:
        ConfigError: the device does not exist.
    """
    if device is not None:
        return _checked_device(device)
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


def _checked_device(device: "str | torch.device") -> torch.device:
    try:
        wanted = torch.device(device)
    except RuntimeError:
        hint = "use 'cuda', 'cuda:1' for the second GPU, 'cpu', 'mps' or 'xpu'"
        raise ConfigError("device", f"unknown device {device!r}", hint) from None
    if wanted.type not in ("cuda", "mps", "xpu"):
        return wanted
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != wanted.type:
        there = "only the CPU" if accelerator is None else f"'{accelerator.type}'"
        hint = "without --device and `device` in the config, the accelerator is used if there is one"
        if wanted.type == "cuda":
            built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
            hint = f"PyTorch {torch.__version__} {built}; see `nvidia-smi` and CUDA_VISIBLE_DEVICES\n{hint}"
        raise ConfigError("device", f"device {str(wanted)!r} not found: PyTorch finds {there}", hint)
    count = torch.accelerator.device_count()
    if (wanted.index or 0) >= count:
        raise ConfigError("device", f"device {str(wanted)!r} not found", f"there are {count}, numbered from 0")
    return wanted


def barrier(group: "dist.ProcessGroup | None" = None) -> None:
    """Wait until all processes have reached this point."""
    if has_peers(group):
        dist.barrier(group)


def all_reduce(data: Tensor, op: str = "sum", group: "dist.ProcessGroup | None" = None) -> None:
    """Reduce a tensor over all processes, in place.

    Args:
        data: a tensor of any shape, which must be the same in every process.
        op: ``sum``, ``mean``, ``product``, ``min``, ``max``, ``band``, ``bor`` or ``bxor``. The mean of
            integers is rounded down.
        group: the participating processes; all if None.

    Raises:
        ValueError: the operation is unknown.
    """
    reduce_op = _reduce_op(op)
    world_size = get_world_size(group)
    if not has_peers(group):
        return
    moved = data.to(_comm_device(data.device, group)).contiguous()
    dist.all_reduce(moved, reduce_op, group)
    if op.lower() == "mean":
        moved.div_(world_size, rounding_mode=None if moved.is_floating_point() or moved.is_complex() else "floor")
    if moved is not data:
        data.copy_(moved)


def all_gather(data: Tensor, group: "dist.ProcessGroup | None" = None) -> list[Tensor]:
    """Return the tensors of all processes, ordered by rank. All must have the same shape."""
    world_size = get_world_size(group)
    if not has_peers(group):
        return [data]
    moved = data.to(_comm_device(data.device, group)).contiguous()
    gathered = [torch.empty_like(moved) for _ in range(world_size)]
    dist.all_gather(gathered, moved, group)
    return [tensor.to(data.device) for tensor in gathered]


class _GatherWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor) -> Tensor:
        ctx.size = len(data)
        return torch.cat(all_gather(data))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        all_reduce(total)
        return total.narrow(0, get_rank() * ctx.size, ctx.size)


def gather_with_gradients(data: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks along the first dimension, such as the negatives of a contrastive loss.

    The gradient of a rank's tensor is the sum over the losses of all ranks. With gradients that are averaged over the
    ranks, training is then the same as with the whole batch in one process.

    Args:
        data: tensor of shape (N, ...), with the same N on every rank.

    Returns:
        Tensor of shape (world size × N, ...), in the order of the ranks; ``data`` itself in a single process.
    """
    return _GatherWithGradients.apply(data) if get_world_size() > 1 else data


def gather(data: Tensor, dst: int = 0, group: "dist.ProcessGroup | None" = None) -> list[Tensor]:
    """Return the tensors of all processes, ordered by rank, on rank ``dst``; an empty list elsewhere."""
    world_size = get_world_size(group)
    if not has_peers(group):
        return [data]
    moved = data.to(_comm_device(data.device, group)).contiguous()
    here = get_rank(group) == dst
    gathered = [torch.empty_like(moved) for _ in range(world_size)] if here else None
    dist.gather(moved, gathered, group=group, group_dst=dst)
    return [tensor.to(data.device) for tensor in gathered or []]


def broadcast(data: Tensor, src: int = 0, group: "dist.ProcessGroup | None" = None) -> None:
    """Overwrite a tensor with that of rank ``src``, in place."""
    if not has_peers(group):
        return
    moved = data.to(_comm_device(data.device, group)).contiguous()
    dist.broadcast(moved, group=group, group_src=src)
    if moved is not data:
        data.copy_(moved)


def all_reduce_dict(data: dict[str, Tensor], op: str = "sum", group: "dist.ProcessGroup | None" = None) -> None:
    """Reduce every tensor in a dictionary over all processes, in place. The keys must be the same everywhere."""
    all_reduce_params([data[key] for key in sorted(data)], op=op, group=group)


def all_reduce_params(
    params: Iterable[Tensor],
    coalesce: bool = True,
    bucket_size_mb: float = -1,
    op: str = "sum",
    group: "dist.ProcessGroup | None" = None,
) -> None:
    """Reduce parameters or buffers over all processes, in place.

    Args:
        params: the tensors, in the same order in every process.
        coalesce: send tensors of the same dtype and device as one flat buffer.
        bucket_size_mb: maximum buffer size in MiB; unlimited if not positive.
        op: as in :func:`all_reduce`.
        group: the participating processes; all if None.
    """
    _reduce_op(op)
    if not has_peers(group):
        return
    tensors = [param.detach() for param in params]
    if not coalesce:
        for tensor in tensors:
            all_reduce(tensor, op, group)
        return
    for bucket in _buckets(tensors, bucket_size_mb * 2**20):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        all_reduce(flat, op, group)
        pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [piece.view_as(tensor) for piece, tensor in zip(pieces, bucket)])


def average_gradients(params: Iterable[Tensor]) -> None:
    """Average the gradients of parameters over all processes, in place.

    A parameter with a gradient in some processes only gets one in all of them, as if the others had zeros.

    Args:
        params: the parameters, in the same order in every process.
    """
    if not has_peers():
        return
    trainable = [param for param in params if param.requires_grad]
    present = torch.tensor([param.grad is not None for param in trainable], dtype=torch.uint8)
    dist.all_reduce(present, dist.ReduceOp.MAX, control_group())  # host memory: the device is not waited for
    chosen = [param for param, is_present in zip(trainable, present.tolist()) if is_present]
    for param in chosen:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    all_reduce_params([param.grad for param in chosen if param.grad is not None], bucket_size_mb=64, op="mean")


def broadcast_parameters(module: torch.nn.Module, src: int = 0, group: "dist.ProcessGroup | None" = None) -> None:
    """Overwrite parameters and buffers with those of rank ``src``, in place."""
    if not has_peers(group):
        return
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        broadcast(tensor.detach(), src, group)


def broadcast_object_list(data: list[Any], src: int = 0, group: "dist.ProcessGroup | None" = None) -> None:
    """Overwrite the items of a list with those of rank ``src``. They can be any picklable objects."""
    if has_peers(group):
        dist.broadcast_object_list(data, group=group, group_src=src)


def value_of_main_process(value: Any) -> Any:
    """Return the value of rank 0 in all processes; it can be any picklable object."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def all_gather_object(data: Any, group: "dist.ProcessGroup | None" = None) -> list[Any]:
    """Return the objects of all processes, ordered by rank."""
    world_size = get_world_size(group)
    if not has_peers(group):
        return [data]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, data, group)
    return gathered


def start_means(parts: Sequence[Mapping[str, float]]) -> Callable[[], list[dict[str, float]]]:
    """Start to average numbers over the ranks, while the caller computes something else.

    The usual case, the same few names on all ranks, takes one small message.

    Args:
        parts: numbers, finite or not, by name; the number of parts must be the same on all ranks.

    Returns:
        A function that waits for the other ranks and returns the parts with the mean of each number over the ranks that
        have it, or the numbers themselves if another rank has failed. All ranks must call it at the same point.
    """
    own = [dict(part) for part in parts]
    if not has_peers():
        return lambda: own
    size = _NUMBERS_PER_PART * len(own)
    content = [number for part in own for number in part.values()]
    names = zlib.crc32("\n".join(map(" ".join, own)).encode()) >> 12 if len(content) + 2 <= size else 0
    content = [names, names**2, *content] if names else []
    values = array("d", content + [0.0] * (size - len(content)))
    try:
        work = control_group().allreduce([torch.frombuffer(values, dtype=torch.float64)])  # shares its memory
    except RuntimeError as error:
        _raise_unless_lost(error)
        return lambda: own

    def finish() -> list[dict[str, float]]:
        if not has_peers() and not work.is_completed():
            return own
        ranks = get_world_size()
        try:
            work.wait()
            # If the names differ, the mean of the squares is not the square of the mean; sums below 2**53 are exact.
            if names and values[0] == names * ranks and values[1] == float(names**2) * ranks:
                totals = iter(values[2:])
                return [{name: next(totals) / ranks for name in part} for part in own]
            gathered = all_gather_object(own, control_group()) if has_peers() else [own]
        except RuntimeError as error:
            _raise_unless_lost(error)
            return own
        return [_mean_of_those_present(part, others) for part, others in zip(own, zip(*gathered))]

    return finish


def _mean_of_those_present(part: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shares = {name: [other[name] for other in others if name in other] for name in part}
    return {name: sum(numbers) / len(numbers) for name, numbers in shares.items()}


def _raise_unless_lost(error: RuntimeError) -> None:
    """Raise an error, unless another rank has failed: then the next step fails, too, and saves the run."""
    if not failures.is_lost_connection(error):
        raise error


def gather_object(data: Any, dst: int = 0, group: "dist.ProcessGroup | None" = None) -> list[Any] | None:
    """Return the objects of all processes, ordered by rank, on rank ``dst``; None elsewhere."""
    world_size = get_world_size(group)
    if not has_peers(group):
        return [data]
    gathered: list[Any] | None = [None] * world_size if get_rank(group) == dst else None
    dist.gather_object(data, gathered, group=group, group_dst=dst)
    return gathered


def collect_results(
    results: list[Any], size: int, device: str = "cpu", tmpdir: str | Path | None = None
) -> list[Any] | None:
    """Return the results of all samples, in the order of the dataset, on rank 0; None elsewhere.

    Data rank ``r`` of ``w`` is assumed to have the samples ``r``, ``r + w``, ``r + 2 w``, …: our samplers distribute
    round-robin.

    Args:
        results: one item per sample of this process; must be picklable.
        size: number of samples in the dataset. Results beyond it, of samples that a sampler repeated as padding, are
            dropped; in a single process none are.
        device: ``"cpu"`` or ``"gpu"``, as in MMEngine. Results are sent from CPU memory if the backend supports it.
        tmpdir: folder shared by all processes, for results that are too large to send (``"cpu"`` only). A temporary
            subfolder is created in it and removed afterwards.

    Raises:
        ValueError: ``device`` is invalid, or ``tmpdir`` is set for ``"gpu"``.
    """
    if device not in ("cpu", "gpu"):
        raise ValueError(f"device must be 'cpu' or 'gpu', not {device!r}")
    if device == "gpu" and tmpdir is not None:
        raise ValueError("tmpdir requires device='cpu'")
    if not has_peers():
        return results
    parts = gather_object(results) if tmpdir is None else _gather_through_files(results, Path(tmpdir))
    if parts is None:
        return None
    shares = one_per_data_rank(parts)
    ordered = itertools.chain.from_iterable(itertools.zip_longest(*shares, fillvalue=_ABSENT))
    return [result for result in ordered if result is not _ABSENT][:size]


def sync_random_seed(group: "dist.ProcessGroup | None" = None) -> int:
    """Return a random seed from 0 to 2**31 - 1 that is the same in all processes."""
    seed = [int.from_bytes(os.urandom(4), "little") >> 1]
    broadcast_object_list(seed, group=group)
    return seed[0]


def _reduce_op(op: str) -> Any:
    if op.lower() not in _REDUCE_OPS:
        raise ValueError(f"unknown reduce operation {op!r}: use one of {', '.join(_REDUCE_OPS)}")
    return getattr(dist.ReduceOp, _REDUCE_OPS[op.lower()])


def _comm_device(device: torch.device, group: "dist.ProcessGroup | None") -> torch.device:
    """Return ``device`` if the backend of the group supports it, or else one that it does support."""
    reachable: Mapping[str, str] = dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
    if device.type in reachable:
        return device
    return torch.device("cpu") if "cpu" in reachable else get_device()


def _buckets(tensors: list[Tensor], limit: float) -> list[list[Tensor]]:
    """Group tensors by dtype and device into lists of at most ``limit`` bytes, unless one tensor is larger."""
    open_buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    buckets: list[list[Tensor]] = []
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        if key not in open_buckets or 0 < limit < sizes[key] + tensor.nbytes:
            open_buckets[key], sizes[key] = [], 0
            buckets.append(open_buckets[key])
        open_buckets[key].append(tensor)
        sizes[key] += tensor.nbytes
    return buckets


def _gather_through_files(results: list[Any], folder: Path) -> list[list[Any]] | None:
    """Return the results of all processes, ordered by rank, on rank 0; None elsewhere."""
    place = [""]
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        place[0] = tempfile.mkdtemp(prefix="results_", dir=folder)
    broadcast_object_list(place)
    shared = Path(place[0])
    file = shared / f"part_{get_rank()}.pkl"
    if shared.is_dir():
        with file.open("wb") as stream:
            pickle.dump(results, stream)
    barrier()
    if not is_main_process():
        return None
    try:
        return [_read_part(shared / f"part_{rank}.pkl") for rank in range(get_world_size())]
    finally:
        shutil.rmtree(shared)


def _read_part(file: Path) -> list[Any]:
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: tmpdir must be shared by all processes")
    with file.open("rb") as stream:
        part: list[Any] = pickle.load(stream)  # just written by this run
    return part
