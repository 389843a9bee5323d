"""A run in one of many processes, without the others and without memory for its tensors."""

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors
from torch.utils._pytree import tree_leaves

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

    Fake tensors have no values. Where a model reads them, they are made up: a number is 0, a check of data (``all``,
    ``isfinite``, ``equal``) succeeds, and results whose size depends on values have their largest size.
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
        name = str(func._overloadpacket)
        if (make_up := _MADE_UP.get(name)) is not None and any(isinstance(arg, FakeTensor) for arg in args[:1]):
            assumption, function = make_up
            made_up = function(func, *args, **kwargs)
            if made_up is not NotImplemented:
                self.assumptions.add(assumption)
                return made_up
        result = func(*args, **kwargs)
        _note_values(name, (args, kwargs), result)
        return result

    @contextmanager
    def fake_parameters(self) -> Iterator[None]:
        """Make parameters fake as they are registered, so that a model is built without memory for them.

        Other tensors are real, so that a constructor can read them, except results of computing with parameters.
        """
        handle = register_module_parameter_registration_hook(self._fake_parameter)
        try:
            with patch.object(Tensor, "__deepcopy__", _deepcopy), _quiet(), self:  # initializers may read values
                yield
        finally:
            handle.remove()

    def _fake_parameter(self, module: nn.Module, name: str, param: Any) -> Any:
        if param is None or isinstance(param, FakeTensor):
            return None
        if is_lazy(param):
            message = f"{type(module).__name__}.{name} gets its shape from the first batch"
            raise ConfigError("model", message, "an estimate needs a layer whose sizes are given")
        with self.mode:
            data = torch.empty_strided(param.size(), param.stride(), dtype=param.dtype)
        fake = nn.Parameter(data, param.requires_grad)
        fake.__dict__.update(param.__dict__)
        return fake

    def fake_buffers(self, model: nn.Module) -> None:
        """Replace the buffers of a model by fake tensors."""
        replaced: dict[int, Tensor] = {}
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and not isinstance(buffer, FakeTensor):
                    module._buffers[name] = replaced.setdefault(id(buffer), self.mode.from_tensor(buffer))

    def fake_batch(self, batch: Any) -> Any:
        """Return a batch with a fake tensor in place of each tensor."""

        def fake(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.mode.from_tensor(value.detach().clone())  # not a view of a larger one
            return value.with_data(fake) if isinstance(value, BaseDataElement) else value

        return map_leaves(batch, fake)


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
    yield patch.object(Tensor, "__deepcopy__", _deepcopy)
    yield _quiet()
    yield patch("torch.distributed.fsdp._fully_shard._fsdp_param._chunk_with_empty", _Chunks)
    if (boxes := sys.modules.get("torchvision.ops.boxes")) is not None:  # on CPUs, a loop over all classes
        yield patch.object(boxes, "_batched_nms_vanilla", boxes._batched_nms_coordinate_trick)


def _quiet() -> AbstractContextManager[Any]:
    """Suppress the tracebacks that PyTorch logs before it raises an error."""
    return patch.object(logging.getLogger(FakeTensor.__module__), "disabled", True)


_deepcopy_real = Tensor.__deepcopy__


def _deepcopy(tensor: Any, memo: dict[int, Any]) -> Any:
    """Copy a fake tensor without its storage, and a real one, such as a constant in a module, as a real one."""
    if not isinstance(tensor, FakeTensor):
        with unset_fake_temporarily():
            return _deepcopy_real(tensor, memo)  # type: ignore[no-untyped-call]
    if id(tensor) not in memo:
        copied: Any = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):  # by a flag: its class is that of fake tensors
            copied = nn.Parameter(copied, tensor.requires_grad)
        memo[id(tensor)] = copied
    return memo[id(tensor)]


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


def _note_values(operator: str, arguments: tuple[Any, Any], result: Any) -> None:
    """Note what is assumed or known about the values of a result, as attributes.

    ``is_true`` marks a successful check. ``most_true`` is the largest number of true values in a mask that was made by
    setting some values of zeros, by which detectors select samples. It is forgotten once something else is done with
    the mask.

    Args:
        operator: name of the operator.
        arguments: its positional and keyword arguments.
        result: its result.
    """
    if operator == "aten.all" or (operator == "aten.mul" and result.dtype is torch.bool):  # the latter by isfinite
        result.is_true = True
    elif operator in ("aten.zeros", "aten.zeros_like", "aten.new_zeros"):
        result.most_true = 0
    elif not operator.startswith("prim."):  # attributes of tensors
        tensors = [arg for arg in tree_leaves(arguments) if isinstance(arg, FakeTensor)]
        known = [tensor for tensor in tensors if hasattr(tensor, "most_true")]
        if not known:
            return
        if operator in ("aten.bitwise_or", "aten.cat") and len(known) == len(tensors):
            result.most_true = sum(tensor.most_true for tensor in known)
        elif operator == "aten.index_put_" and known[0] is tensors[0] and _is_indexed_by_numbers(*arguments[0][:2]):
            known[0].most_true += _size_of_all(arguments[0][1])
        else:
            for tensor in known:
                del tensor.most_true


def _size_of_all(tensors: Iterable[Tensor]) -> int:
    """Return the number of elements of tensors that are broadcast together."""
    shape: torch.Size = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    return shape.numel()


def _is_indexed_by_numbers(tensor: Tensor, indices: Any) -> bool:
    """Return whether each index selects single elements of a tensor."""
    return len(indices) == tensor.dim() and all(index is not None and index.dtype is torch.int64 for index in indices)


def _num_true(mask: Tensor) -> int:
    """Return the largest possible number of true values."""
    return min(mask.numel(), getattr(mask, "most_true", mask.numel()))


def _scalar(func: Any, tensor: Tensor) -> Any:
    return hasattr(tensor, "is_true") if tensor.dtype is torch.bool else 0.0 if tensor.is_floating_point() else 0


def _nonzero(func: Any, tensor: Tensor) -> Tensor:
    return tensor.new_empty((_num_true(tensor), tensor.dim()), dtype=torch.int64)


def _masked_select(func: Any, tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.new_empty(_size_of_all([tensor, mask]))


def _index(func: Any, tensor: Tensor, indices: Any) -> Any:
    if not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return NotImplemented
    chosen: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            chosen += [index.new_empty(_num_true(index), dtype=torch.int64) for _ in range(index.dim())]
        else:
            chosen.append(index)
    return func(tensor, chosen)


def _unique(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    values, numbers = tensor.new_empty(tensor.numel()), tensor.new_empty(tensor.numel(), dtype=torch.int64)
    return values, numbers.view(tensor.shape), numbers.clone()


def _true(func: Any, *args: Any, **kwargs: Any) -> bool:
    return True


def _nms(func: Any, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(len(boxes), dtype=torch.int64)


_SELECTED = "selections by value keep as much as possible: an upper bound"
_READ = "numbers that the step reads from tensors are 0, and its checks of data pass"
_MADE_UP: dict[str, tuple[str, Callable[..., Any]]] = {
    # operator: what is assumed, function that makes up the result
    "aten._local_scalar_dense": (_READ, _scalar),
    "aten.allclose": (_READ, _true),
    "aten.equal": (_READ, _true),
    "aten.nonzero": (_SELECTED, _nonzero),
    "aten.masked_select": (_SELECTED, _masked_select),
    "aten.index": (_SELECTED, _index),
    "aten._unique2": (_SELECTED, _unique),
    "torchvision.nms": ("non-maximum suppression keeps all boxes: an upper bound", _nms),
}
