"""The memory, communication and computation of training steps, measured on real or fake tensors."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch._guards import active_fake_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from trainwright.engine.strategy.shards import is_sharded, local

_RESULT = -1
_COLLECTIVES = {
    # operator: kind, index of the argument with the whole message, index of the group
    "c10d.allreduce_": ("all-reduce", 0, 1),
    "c10d.allreduce_coalesced_": ("all-reduce", 0, 1),
    "c10d.broadcast_": ("broadcast", 0, 1),
    "c10d.reduce_": ("reduce", 0, 1),
    "c10d.allgather_": ("all-gather", 0, 2),
    "c10d._allgather_base_": ("all-gather", 0, 2),
    "c10d.allgather_into_tensor_coalesced_": ("all-gather", 0, 2),
    "c10d.reduce_scatter_": ("reduce-scatter", 1, 2),
    "c10d._reduce_scatter_base_": ("reduce-scatter", 1, 2),
    "c10d.reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 2),
    "c10d.alltoall_": ("all-to-all", 1, 2),
    "c10d.alltoall_base_": ("all-to-all", 1, 2),
    "c10d.send": ("send", 0, 1),
    "c10d.recv_": ("receive", 0, 1),
    "_c10d_functional.all_reduce": ("all-reduce", 0, 2),
    "_c10d_functional.all_reduce_": ("all-reduce", 0, 2),
    "_c10d_functional.all_reduce_coalesced": ("all-reduce", 0, 2),
    "_c10d_functional.all_reduce_coalesced_": ("all-reduce", 0, 2),
    "_c10d_functional.broadcast": ("broadcast", 0, 2),
    "_c10d_functional.broadcast_": ("broadcast", 0, 2),
    "_c10d_functional.all_gather_into_tensor": ("all-gather", _RESULT, 2),
    "_c10d_functional.all_gather_into_tensor_out": ("all-gather", _RESULT, 2),
    "_c10d_functional.all_gather_into_tensor_coalesced": ("all-gather", _RESULT, 2),
    "_c10d_functional.reduce_scatter_tensor": ("reduce-scatter", 0, 3),
    "_c10d_functional.reduce_scatter_tensor_coalesced": ("reduce-scatter", 0, 3),
    "_c10d_functional.all_to_all_single": ("all-to-all", 0, 3),
    "_dtensor.shard_dim_alltoall": ("all-to-all", 0, 3),
}
_FLOPS = dict(flop_registry)
if (cpu_attention := getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)) is not None:
    _FLOPS.setdefault(cpu_attention, _FLOPS[torch.ops.aten._scaled_dot_product_flash_attention])
    _FLOPS.setdefault(
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
        _FLOPS[torch.ops.aten._scaled_dot_product_flash_attention_backward],
    )


@dataclass(eq=False)
class Block:
    """A piece of memory. Times are numbers of allocations and releases so far.

    Args:
        nbytes: its size.
        allocated: when it was allocated.
        released: when it was released; None if it was not.
        is_gathered: whether its tensor gets memory only for a while, as the gathered weights of ``fully_shard`` do.
    """

    nbytes: int
    allocated: int
    released: int | None = None
    is_gathered: bool = False


@dataclass(frozen=True)
class Collective:
    """A collective call, or a message from one rank to another.

    Args:
        kind: such as ``all-reduce``.
        nbytes: size of the whole message: of the gathered tensor, or of the one to reduce.
        ranks: the participants.
    """

    kind: str
    nbytes: int
    ranks: tuple[int, ...]

    @property
    def sent(self) -> int:
        """Bytes that a participant sends, with the ring algorithms."""
        others = len(self.ranks) - 1
        if self.kind in ("all-gather", "reduce-scatter", "all-to-all"):
            return self.nbytes * others // len(self.ranks)
        if self.kind == "all-reduce":
            return 2 * self.nbytes * others // len(self.ranks)
        return self.nbytes if others and self.kind != "receive" else 0


@dataclass
class Use:
    """What was used since :meth:`Meter.restart`.

    Args:
        collectives: calls in order.
        flops: floating-point operations of products, convolutions and attention; one multiply-add counts as two.
    """

    collectives: list[Collective] = field(default_factory=list)
    flops: int = 0


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that records allocated memory, collectives and operations of this process, below autograd.

    Attributes:
        use: collectives and operations since :meth:`restart`.
        blocks: memory that was in use at any time since :meth:`restart`.
        assumptions: what was assumed about values that fake tensors do not have.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.use = Use()
        self.blocks: list[Block] = []
        self.assumptions: set[str] = set()
        self._alive: dict[int, tuple[weakref.ref[Any], Block]] = {}
        self._clock = self._nbytes = self._peak = self._peak_at = 0
        self._ranks: dict[str, tuple[int, ...]] = {}
        self._depth = 0
        self._fake_mode: Any = None

    def restart(self) -> None:
        """Forget everything but the memory that is in use."""
        self.use = Use()
        self.blocks = [block for _, block in self._alive.values()]
        self._peak, self._peak_at = self._nbytes, self._clock

    @property
    def peak(self) -> list[Block]:
        """The memory in use when it was largest."""
        at = self._peak_at
        return [b for b in self.blocks if b.allocated <= at and (b.released is None or b.released > at)]

    @property
    def in_use(self) -> list[Block]:
        """The memory in use now."""
        return [block for _, block in self._alive.values()]

    def blocks_of(self, tensors: Iterable[Tensor]) -> set[Block]:
        """Return the memory of tensors, or of their parts in this process. What was not yet recorded is recorded."""
        return {self._record(local(tensor) if is_sharded(tensor) else tensor) for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, _dtensor()) for kind in types):
            return NotImplemented  # decomposed into operators on local parts and collectives
        kwargs = kwargs or {}
        result = self.call(func, args, kwargs)
        if active_fake_mode() is not self._fake_mode:  # DTensor computes the shape of a result
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._record(leaf)
        packet = func._overloadpacket
        if packet in _FLOPS:
            self.use.flops += _FLOPS[packet](*args, **kwargs, out_val=result)
        elif func.namespace in ("c10d", "_c10d_functional", "_dtensor"):
            self._record_collective(str(packet), args, result)
        return result

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator."""
        return func(*args, **kwargs)

    def __enter__(self) -> Self:
        if self._depth == 0:
            self._fake_mode = active_fake_mode()
            self._resize: Any = torch.UntypedStorage.resize_
            torch.UntypedStorage.resize_ = self._recording_resize()  # type: ignore[method-assign]
        self._depth += 1
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __exit__(self, *args: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*args)  # type: ignore[no-untyped-call]

    def _record(self, tensor: Tensor) -> Block:
        storage = tensor.untyped_storage()
        known = self._alive.get(storage._cdata)
        if known is not None and known[0]() is storage:
            return known[1]
        return self._allocate(storage)

    def _allocate(self, storage: Any, is_gathered: bool = False) -> Block:
        key = storage._cdata
        self._clock += 1
        block = Block(storage.nbytes(), self._clock, is_gathered=is_gathered)
        self._alive[key] = weakref.ref(storage, lambda _: self._release(key, block)), block
        self.blocks.append(block)
        self._nbytes += block.nbytes
        if self._nbytes > self._peak:
            self._peak, self._peak_at = self._nbytes, self._clock
        return block

    def _release(self, key: int, block: Block) -> None:
        if block.released is None:
            self._clock += 1
            block.released = self._clock
            self._nbytes -= block.nbytes
            if key in self._alive and self._alive[key][1] is block:
                del self._alive[key]

    def _recording_resize(self) -> Any:
        resize = self._resize

        def resize_(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            if (known := self._alive.get(storage._cdata)) is not None and known[1].nbytes != size:
                self._release(storage._cdata, known[1])
                self._allocate(storage, is_gathered=True)
            return result

        return resize_

    def _record_collective(self, operator: str, args: Any, result: Any) -> None:
        if operator not in _COLLECTIVES:
            return
        kind, place, group_at = _COLLECTIVES[operator]
        message = tree_leaves(result if place == _RESULT else args[place])
        nbytes = sum(tensor.nbytes for tensor in message if isinstance(tensor, Tensor))
        self.use.collectives.append(Collective(kind, nbytes, self._ranks_of(args[group_at])))

    def _ranks_of(self, group: Any) -> tuple[int, ...]:
        from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

        if isinstance(group, str):
            group = _resolve_process_group(group)  # type: ignore[arg-type]  # a plain string in older releases
        elif not isinstance(group, dist.ProcessGroup):
            group = dist.ProcessGroup.unbox(group)
        name: str = group.group_name
        if name not in self._ranks:
            self._ranks[name] = tuple(dist.get_process_group_ranks(group))
        return self._ranks[name]


def _dtensor() -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor
