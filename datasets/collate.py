"""Collate functions."""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate as stack
from torch.utils.data import get_worker_info

from trainwright.engine.registry import FUNCTIONS
from trainwright.engine.structures.elements import BaseDataElement


@FUNCTIONS.register_module()
def pseudo_collate(data_batch: Any) -> Any:
    """Transpose a list of samples without stacking: a list of dicts becomes a dict of lists.

    Args:
        data_batch: list of samples with the same nested structure. A mapping is assumed to be a batch already and
            returned unchanged.

    Raises:
        RuntimeError: sequences in the samples differ in length.
    """
    return _collate(data_batch, lambda leaves: leaves)


@FUNCTIONS.register_module()
def default_collate(data_batch: Any) -> Any:
    """Transpose a list of samples and stack arrays, tensors and numbers; data elements stay in lists.

    Args:
        data_batch: list of samples with the same nested structure. A mapping is assumed to be a batch already and
            returned unchanged.

    Raises:
        RuntimeError: sequences in the samples differ in length, or tensors in shape.
    """
    return _collate(data_batch, _stack)


@FUNCTIONS.register_module()
def list_collate(data_batch: Any) -> Any:
    """Return the list of samples unchanged, for models that take such a list, as those of Detectron2."""
    return data_batch


@FUNCTIONS.register_module()
def pad_collate(data_batch: Any, padding_value: float = 0) -> Any:
    """Transpose a list of samples and stack tensors, padding those of different sizes, such as points and tokens.

    In dicts, ``NAME_mask`` is added for each padded tensor ``NAME``: a bool tensor that is True for real elements, of
    the shape of the batch up to the last axis that is padded.

    Args:
        data_batch: list of samples with the same nested structure; arrays and tensors must have the same number of
            dimensions.
        padding_value: value of the padding, at the end of each axis.

    Raises:
        RuntimeError: sequences in the samples differ in length, or tensors in their number of dimensions.
    """
    first = data_batch[0]
    if not isinstance(first, Mapping):
        return _collate(data_batch, lambda leaves: _pad(leaves, padding_value)[0])
    batch: dict[str, Any] = {}
    for name in first:
        values = [sample[name] for sample in data_batch]
        if isinstance(values[0], Tensor | np.ndarray):
            batch[name], mask = _pad(values, padding_value)
            if mask is not None:
                batch[f"{name}_mask"] = mask
        elif isinstance(values[0], Mapping):
            batch[name] = pad_collate(values, padding_value)
        else:
            batch[name] = _collate(values, _stack)
    return batch


def _pad(leaves: Sequence[Any], value: float) -> tuple[Any, Tensor | None]:
    """Return a stacked batch, and a mask of its real elements if any had to be padded."""
    if not isinstance(leaves[0], Tensor | np.ndarray):
        return _stack(leaves), None
    tensors = [torch.as_tensor(leaf) for leaf in leaves]
    if len(dims := {tensor.dim() for tensor in tensors}) > 1:
        raise RuntimeError(f"cannot pad tensors with {' and '.join(map(str, sorted(dims)))} dimensions to one size")
    sizes = [max(axis) for axis in zip(*(tensor.shape for tensor in tensors))]
    ragged = [axis for axis, size in enumerate(sizes) if any(tensor.shape[axis] != size for tensor in tensors)]
    if not ragged:
        return _stack(tensors), None
    batch = tensors[0].new_full((len(tensors), *sizes), value)
    mask = torch.zeros(len(tensors), *sizes[: ragged[-1] + 1], dtype=torch.bool)
    for index, tensor in enumerate(tensors):
        real = [slice(size) for size in tensor.shape]
        batch[index][tuple(real)] = tensor
        mask[index][tuple(real[: ragged[-1] + 1])] = True
    return batch, mask


@FUNCTIONS.register_module()
def whole_batch(data_batch: Any) -> Any:
    """Return the batch unchanged, for datasets that fetch whole batches (``__getitems__``)."""
    return data_batch


@FUNCTIONS.register_module()
def worker_init_fn(
    worker_id: int, num_workers: int, rank: int, seed: int, disable_subprocess_warning: bool = False
) -> None:
    """Seed a data worker from its id, as MMEngine does.

    The engine does not need it, because it derives a random stream per sample. Use it with your own data loaders.

    Args:
        worker_id: id of the worker within its data loader.
        num_workers: number of workers of the data loader.
        rank: rank of the process.
        seed: seed of the run.
        disable_subprocess_warning: silence the warnings of all workers except the first.
    """
    worker_seed = num_workers * rank + worker_id + seed
    random.seed(worker_seed)
    np.random.seed(worker_seed)
    torch.manual_seed(worker_seed)
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter("ignore")


def _stack(leaves: Any) -> Any:
    if type(leaves[0]) is Tensor and get_worker_info() is None:
        return torch.stack(leaves)  # same result as torch's default_collate, with less overhead
    return leaves if isinstance(leaves[0], BaseDataElement) else stack(leaves)


def _collate(samples: Any, collate_leaves: Callable[[Any], Any]) -> Any:
    if isinstance(samples, Mapping):
        return samples
    first = samples[0]
    if type(first) is Tensor:  # the common case first: the checks below are slower
        return collate_leaves(samples)
    if isinstance(first, str | bytes):
        return samples
    if isinstance(first, Mapping):
        return type(first)({key: _collate([s[key] for s in samples], collate_leaves) for key in first})  # type: ignore[call-arg]  # any mapping
    if isinstance(first, Sequence):
        return _collate_sequences(samples, collate_leaves)
    return collate_leaves(samples)


def _collate_sequences(samples: Sequence[Any], collate_leaves: Callable[[Any], Any]) -> Any:
    first = samples[0]
    lengths = {len(sample) for sample in samples}
    if len(lengths) > 1:
        raise RuntimeError(
            f"cannot collate sequences of different lengths {sorted(lengths)}; "
            "put them into a data element, which is kept whole"
        )
    columns = [_collate(list(column), collate_leaves) for column in zip(*samples)]
    if hasattr(first, "_fields"):
        return type(first)(*columns)
    if isinstance(first, tuple):
        return columns
    try:
        return type(first)(columns)
    except TypeError:
        return columns  # a sequence such as range
