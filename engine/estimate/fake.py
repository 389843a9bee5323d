"""A run in one of many processes, without the others and without memory for its tensors."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils import swap_tensors

from trainwright.engine.distributed import close_dist, is_distributed
from trainwright.engine.errors import ConfigError
from trainwright.engine.estimate.meter import Meter
from trainwright.engine.ranks.start import init_fake
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.trees import map_leaves

aten: Any = torch.ops.aten


@contextmanager
def fake_group(world_size: int, rank: int = 0) -> Iterator[None]:
    """Act as one of several processes in this context, whose collectives return at once without communication.

    Raises:
        ConfigError: this process has already joined others.
    """
    if is_distributed():
        raise ConfigError("--world-size", "this process is one of several", "run it without a launcher")
    if world_size == 1:
        yield
        return
    init_fake(world_size, rank)
    try:
        yield
    finally:
        close_dist()
        _forget_groups()


def _forget_groups() -> None:
    """Clear the caches of DTensor, which refer to the groups of meshes."""
    module: Any = sys.modules.get("torch.distributed.tensor._api")
    if module is not None:
        module.DTensor._op_dispatcher.sharding_propagator.propagate_op_sharding.cache_clear()
        clear = getattr(torch._C, "_clear_DTensor_sharding_propagator_cache", lambda: None)  # not in older releases
        clear()


class FakeMeter(Meter):  # type: ignore[no-untyped-call]
    """A meter of fake tensors, in whose context new tensors are fake.

    Fake tensors have no values. Values that a model reads are replaced by 0, and results whose size depends on values
    have their largest size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Record in this context."""
        import torch.distributed._tools.fake_collectives  # noqa: F401  # makes collectives accept fake tensors

        with ExitStack() as stack:
            for replaced in _replacements():
                stack.enter_context(replaced)
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by deepcopy
            stack.enter_context(self.mode)
            stack.enter_context(self)
            yield

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator."""
        if func is torch.ops.c10d.allreduce_.default:
            return args[0], _completed(args[0])
        if func is aten._local_scalar_dense.default and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                return func(*args)
        if (make_up := _MADE_UP.get(func)) is not None and any(isinstance(arg, FakeTensor) for arg in args[:1]):
            made_up = make_up(func, *args, **kwargs)
            if made_up is not NotImplemented:
                self.made_up.add(str(func._overloadpacket).removeprefix("aten."))
                return made_up
        return func(*args, **kwargs)

    def fake_batch(self, batch: Any) -> Any:
        """Return a batch with a fake tensor in place of each tensor."""

        def fake(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.mode.from_tensor(value.detach().clone())  # not a view of a larger one
            return value.with_data(fake) if isinstance(value, BaseDataElement) else value

        return map_leaves(batch, fake)

    def make_fake(self, model: nn.Module) -> None:
        """Replace parameters, which may be on the meta device, and buffers of a model by fake tensors."""
        replaced: dict[int, Any] = {}
        for module in model.modules():
            for name, param in module._parameters.items():
                if param is not None:
                    if id(param) not in replaced:
                        with self.mode:
                            data = torch.empty_strided(param.size(), param.stride(), dtype=param.dtype)
                        replaced[id(param)] = nn.Parameter(data, param.requires_grad)
                        replaced[id(param)].__dict__.update(param.__dict__)
                    module._parameters[name] = replaced[id(param)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    replaced.setdefault(id(buffer), self.mode.from_tensor(buffer))
                    module._buffers[name] = replaced[id(buffer)]


def exchange_by_futures(model: Any) -> None:
    """Let ``DistributedDataParallel`` average its gradients by a hook, since its own code needs results of real ranks.

    A hook that is configured stays.
    """
    if isinstance(model, DistributedDataParallel) and not model._comm_hooks:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        model.register_comm_hook(None, allreduce_hook)


def _completed(tensors: Any) -> Any:
    """Return the handle of a completed collective with a result."""
    from torch._C._distributed_c10d import _create_work_from_future

    future: Any = torch.futures.Future()
    future.set_result(tensors)
    return _create_work_from_future(future).boxed()


def _replacements() -> Iterator[AbstractContextManager[Any]]:
    """Yield replacements of PyTorch's functions that read the values of tensors."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import _sharding_prop

    for name in ("__init__", "__getitem__", "_concatenate", "_flatten", "_unflatten"):
        if name in vars(DeviceMesh):
            yield patch.object(DeviceMesh, name, _with_real_tensors(vars(DeviceMesh)[name]))
    yield patch("torch.distributed.device_mesh.init_device_mesh", _with_real_tensors(init_device_mesh))
    if hasattr(_sharding_prop, "detect_fake_mode"):  # older releases compute shapes in a mode of their own
        yield patch.object(_sharding_prop, "detect_fake_mode", lambda: None)
    # Compares the shapes of parameters of all ranks, and agrees with them on the order of gradients.
    yield patch("torch.nn.parallel.distributed._verify_param_shape_across_processes")
    yield patch.object(dist.Reducer, "_rebuild_buckets", lambda reducer: False)  # type: ignore[attr-defined]
    yield patch("torch.distributed.all_gather_object", _all_gather_object)
    yield patch("torch.distributed.broadcast_object_list")
    yield patch("torch.utils.swap_tensors", _swap_tensors)
    yield patch("torch.distributed.fsdp._fully_shard._fsdp_param._chunk_with_empty", _Chunks)


class _Chunks(Sequence[Tensor]):
    """The chunks of a tensor for each rank, of which only those that are used are made. Others are empty."""

    def __init__(self, tensor: Tensor, num_chunks: int, dim: int) -> None:
        self._tensor, self._number, self._dim = tensor, num_chunks, dim
        self._size = -(-tensor.size(dim) // num_chunks)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        start = range(self._number)[index] * self._size
        if start >= self._tensor.size(self._dim) and index:
            return self._tensor.new_empty(0)
        return self._tensor.narrow(self._dim, start, min(self._size, self._tensor.size(self._dim) - start))


def _with_real_tensors(function: Any) -> Any:
    """Return a function or static method that creates real tensors."""
    inner = function.__func__ if isinstance(function, staticmethod) else function

    @functools.wraps(inner)
    def outside(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return inner(*args, **kwargs)

    return staticmethod(outside) if isinstance(function, staticmethod) else outside


def _all_gather_object(object_list: list[Any], obj: Any, *args: Any, **kwargs: Any) -> None:
    object_list[:] = [obj] * len(object_list)


def _swap_tensors(one: Tensor, other: Tensor) -> None:
    """Swap tensors unless they differ in their values alone, which fake ones do not have."""
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        swap_tensors(one, other)  # type: ignore[no-untyped-call]


def _scalar(func: Any, tensor: Tensor) -> Any:
    return False if tensor.dtype is torch.bool else 0.0 if tensor.is_floating_point() else 0


def _nonzero(func: Any, tensor: Tensor) -> Tensor:
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


def _masked_select(func: Any, tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.new_empty(torch.broadcast_shapes(tensor.shape, mask.shape).numel())  # type: ignore[no-untyped-call]


def _index(func: Any, tensor: Tensor, indices: Any) -> Any:
    if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return NotImplemented
    chosen: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            chosen += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
        else:
            chosen.append(index)
    return func(tensor, chosen)


def _unique(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    values, numbers = tensor.new_empty(tensor.numel()), tensor.new_empty(tensor.numel(), dtype=torch.int64)
    return values, numbers.view(tensor.shape), numbers.clone()


_MADE_UP: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _scalar,
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.index.Tensor: _index,
    aten._unique2.default: _unique,
}
