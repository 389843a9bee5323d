"""Sharded tensors (``DTensor``): their local parts, whole values, and copies.

Nothing here imports ``torch.distributed.tensor``, which takes a second, unless there is a sharded tensor.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.distributed import is_main_process
from trainwright.engine.trees import map_tensors


def is_sharded(value: Any) -> bool:
    """Return whether a value is a ``DTensor``, of which this process has only a part (or a copy)."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def has_shards(module: nn.Module) -> bool:
    """Return whether any parameter of a module is sharded."""
    return any(is_sharded(param) for param in module.parameters())


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor in this process, sharing its memory; the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return the value of a sharded tensor as a plain tensor, in a collective call; other tensors unchanged."""
    if not is_sharded(tensor):
        return tensor
    on_device: Any = tensor.to(device_type_of(tensor))  # tensors in host memory (CPU offload) cannot be gathered
    return on_device.full_tensor()  # type: ignore[no-any-return]


def device_type_of(tensor: Tensor) -> str:
    """Return the type of the device that computes with a tensor, though it may be stored in host memory."""
    return str(tensor.device_mesh.device_type if is_sharded(tensor) else tensor.device.type)  # type: ignore[attr-defined]


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Distribute a whole tensor, the same in all processes, like a sharded one. There is no communication.

    If it has another shape, as the factors of some optimizers do, every process keeps all of it.

    Args:
        value: the whole tensor; a sharded one is returned unchanged.
        like: a tensor; if it is not sharded, ``value`` is returned unchanged.
    """
    if not is_sharded(like) or is_sharded(value):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    everywhere = [Replicate()] * mesh.ndim
    copied = DTensor.from_local(value.to(local(like).device), mesh, everywhere, run_check=False)
    if value.shape != like.shape:
        return copied
    shard = copied.redistribute(placements=like.placements).clone()  # type: ignore[attr-defined]  # not a view of all
    return shard.to(local(like).device)  # host memory with CPU offload


def shard_all_like(value: Any, like: Any) -> Any:
    """Distribute the tensors in nested containers like those at the same places of others, as :func:`shard_like`."""
    if isinstance(value, Tensor):
        return shard_like(value, like) if isinstance(like, Tensor) else value
    if isinstance(value, Mapping) and isinstance(like, Mapping):
        return {key: shard_all_like(item, like.get(key)) for key, item in value.items()}
    if isinstance(value, list | tuple) and isinstance(like, list | tuple) and len(value) == len(like):
        return type(value)(shard_all_like(item, other) for item, other in zip(value, like))
    return value


def gather_whole(state: Any) -> Any:
    """Return nested containers with whole tensors in CPU memory in place of sharded ones, in a collective call.

    In processes other than rank 0, sharded tensors are replaced by None.
    """
    main = is_main_process()
    gathered: dict[Any, Tensor | None] = {}  # tied tensors once

    def gather(tensor: Tensor) -> Tensor | None:
        if not is_sharded(tensor):
            return tensor
        part = local(tensor)
        key = part.untyped_storage()._cdata, part.storage_offset(), tensor.shape
        if key not in gathered:
            full = whole(tensor.detach())
            gathered[key] = full.cpu() if main else None
        return gathered[key]

    return map_tensors(state, gather)


def reshard(module: nn.Module) -> None:
    """Put the sharded parameters of a module in place if a forward pass without a backward pass left whole ones."""
    for part in module.modules():
        if callable(to_shards := getattr(part, "reshard", None)):
            to_shards()


@contextmanager
def whole_weights(module: nn.Module, *, empty: bool = False, keep: bool = True) -> Iterator[None]:
    """Replace the sharded parameters of a module by whole plain ones in this context, in a collective call.

    Changes must be the same in all processes.

    Args:
        module: the module.
        empty: provide uninitialized parameters in CPU memory instead, without communication.
        keep: whether to keep the changes.
    """
    reshard(module)
    plain: dict[int, nn.Parameter] = {}
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    for part in module.modules():
        owned: dict[str, Any] = part._parameters
        for name, param in owned.items():
            if is_sharded(param):
                if id(param) not in plain:
                    data = torch.empty(param.shape, dtype=param.dtype) if empty else whole(param.detach())
                    plain[id(param)] = nn.Parameter(data, param.requires_grad)
                replaced.append((owned, name, param))
    for owner, name, param in replaced:
        owner[name] = plain[id(param)]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, param in replaced:
                if keep:
                    local(param).copy_(local(shard_like(owner[name].detach(), param)))
                owner[name] = param


def copy_weights(module: nn.Module) -> nn.Module:
    """Return a copy of a module; of a sharded one, a tree of bare modules with copies of its tensors.

    Such a tree has the same names and its state dict the same keys, but it cannot be called.
    """
    return _Copy(module, {}) if has_shards(module) else deepcopy(module)


class _Copy(nn.Module):
    """A tree of modules with the names and copies of the tensors of another."""

    def __init__(self, module: nn.Module, memo: dict[int, Any]) -> None:
        super().__init__()
        reshard(module)
        for name, param in module._parameters.items():
            if param is not None and id(param) not in memo:
                memo[id(param)] = nn.Parameter(param.detach().clone(), param.requires_grad)
            self._parameters[name] = None if param is None else memo[id(param)]
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = buffer.detach().clone()
            self._buffers[name] = None if buffer is None else memo[id(buffer)]
        self._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
        for name, child in module.named_children():
            self.add_module(name, _Copy(child, memo))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the average of a sharded model cannot be called: swap its weights into the model")


def clip_grad_norm_(
    parameters: Sequence[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Clip sharded gradients by their global norm, like :func:`torch.nn.utils.clip_grad_norm_`.

    Unlike there, parameters may be distributed over different meshes, and the result is a plain tensor.
    """
    from torch.nn.utils import clip_grads_with_norm_, get_total_norm

    groups = by_mesh([param for param in parameters if param.grad is not None])
    norms = [
        whole(get_total_norm([p.grad for p in group if p.grad is not None], norm_type, False, foreach))
        for group in groups
    ]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), norm_type)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(
            f"the gradient norm of order {norm_type} is not finite, so it cannot be clipped: "
            "set error_if_nonfinite=False to scale the gradients by it anyway"
        )
    for group in groups:
        clip_grads_with_norm_(group, max_norm, total, foreach)
    return total


def clip_grad_value_(parameters: Sequence[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clip sharded gradients by value, like :func:`torch.nn.utils.clip_grad_value_`."""
    for group in by_mesh(parameters):
        torch.nn.utils.clip_grad_value_(group, clip_value, foreach)


def by_mesh(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group sharded tensors by their mesh, since PyTorch refuses different ones in one call."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(getattr(tensor, "device_mesh", None), []).append(tensor)
    return list(groups.values())
