"""The means over all ranks of a model's buffers, such as batch-norm statistics, which every rank updates by itself.

Training never uses them: a rank continues with its own buffers. Validation and checkpoints do, so that the validated
model is the saved one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainwright.engine.distributed import all_reduce, broadcast, get_world_size, has_peers


def float_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that may differ between ranks, by name: the persistent floating-point ones."""
    found: dict[str, Tensor] = {}
    for prefix, submodule in module.named_modules():
        for name, buffer in submodule._buffers.items():
            if buffer is None or name in submodule._non_persistent_buffers_set or not buffer.is_floating_point():
                continue
            found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def mean_over_ranks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over all ranks of the tensors that differ between them, by name; an empty dict for one process.

    Each mean is that of the differences from rank 0, added to its value. Equal values therefore keep their bits.

    Args:
        tensors: floating-point tensors, the same names and shapes in every rank.
    """
    if not has_peers() or not tensors:
        return {}
    own = torch.cat([tensor.detach().to("cpu", torch.float64).reshape(-1) for tensor in tensors.values()])
    first = own.clone()
    broadcast(first)
    differences = torch.where(own == first, 0.0, own - first)  # infinities can be equal, too
    differs = (differences != 0).to(torch.float64)  # true for NaN
    both = torch.stack([differences, differs])
    all_reduce(both)
    means: dict[str, Tensor] = {}
    start = 0
    for name, tensor in tensors.items():
        part = slice(start, start + tensor.numel())
        start = part.stop
        if both[1, part].any():
            mean = first[part] + both[0, part] / get_world_size()
            means[name] = mean.view(tensor.shape).to(tensor.device, tensor.dtype)
    return means


@contextmanager
def averaged_buffers(model: nn.Module) -> Iterator[None]:
    """Give a model the means of its buffers over all ranks, and restore this rank's own on exit.

    All ranks enter it together. On exit, which may be due to an exception, ranks do not wait for each other.
    """
    buffers = float_buffers(model)
    means = mean_over_ranks(buffers)
    own = {name: buffers[name].clone() for name in means}
    for name, mean in means.items():
        buffers[name].copy_(mean)
    try:
        yield
    finally:
        for name, value in own.items():
            buffers[name].copy_(value)
