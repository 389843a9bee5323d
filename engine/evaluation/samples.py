"""Splitting batched predictions into samples."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample

_REMEDY = "return a list with one item per sample, or one dictionary of tensors with samples along dim 0"
_SHARED = (str, bytes, bool, int, float, complex, np.generic, type(None))


def samples_of(predictions: Any, data_batch: Any = None) -> list[Any]:
    """Return the predictions for a batch as a list.

    A batched data sample, a mapping or a named tuple is split into one data sample or dictionary per sample, a tensor
    or array into its rows. Any other iterable must already contain one item per sample.

    Args:
        predictions: output of ``predict``. In a mapping, tensors and arrays have samples along dim 0, lists and tuples
            have one item per sample, and nested mappings are split recursively; numbers, strings and None are shared
            by all samples.
        data_batch: the batch from the data loader, if available, to check the number of predictions.

    Raises:
        TypeError: the predictions cannot be split.
        ValueError: the lengths in a mapping differ, or the batch has a different number of samples.
    """
    if isinstance(predictions, DataSample):
        samples: list[Any] = predictions.unbatch()
    elif is_batch(predictions):
        samples = split_batch(predictions)
    elif isinstance(predictions, Tensor | np.ndarray):
        if not predictions.ndim:
            raise TypeError(f"predict returned one number for a whole batch: {_REMEDY}")
        samples = list(predictions)
    elif isinstance(predictions, str | bytes | BaseDataElement) or not isinstance(predictions, Iterable):
        raise TypeError(f"predict returned {describe(predictions)} for a whole batch: {_REMEDY}")
    else:
        samples = list(predictions)
        if not all(isinstance(sample, Mapping | BaseDataElement) for sample in samples):
            return samples  # for metrics of MMEngine that unpack them: `scores, labels = data_samples`
    check_number(samples, data_batch, predictions)
    return samples


def is_batch(predictions: Any) -> bool:
    """Return whether predictions are a mapping or a named tuple for a whole batch."""
    return isinstance(predictions, Mapping) or hasattr(predictions, "_fields")


def number_of(predictions: Any) -> int:
    """Return the number of samples in the predictions for a batch; see :func:`samples_of`."""
    if isinstance(predictions, DataSample):
        predictions = predictions.to_dict()
    if is_batch(predictions):
        return size_of_batch(predictions)
    return len(predictions) if isinstance(predictions, Sized) else len(samples_of(predictions))


def split_batch(predictions: Any) -> list[dict[str, Any]]:
    """Split a mapping or named tuple into one dictionary per sample; see :func:`samples_of`."""
    fields = _fields(predictions)
    return [_row(fields, index) for index in range(size_of_batch(fields))]


def size_of_batch(predictions: Any) -> int:
    """Return the number of samples in a mapping or named tuple of predictions.

    Raises:
        TypeError: a field cannot be split, or no field has one value per sample.
        ValueError: the fields differ in length.
    """
    lengths = dict(_lengths(_fields(predictions), ""))
    if not lengths:
        raise TypeError(f"predict returned {describe(predictions)}, without one value per sample: {_REMEDY}")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"predict returned fields for different numbers of samples: {found}. {_REMEDY.capitalize()}")
    return next(iter(lengths.values()))


def check_number(samples: Any, data_batch: Any, predictions: Any) -> None:
    """Raise a ``ValueError`` if the length of ``samples`` does not match the batch."""
    possible = _possible_sizes(data_batch)
    if possible and len(samples) not in possible:
        raise ValueError(
            f"there are {len(samples)} predictions for a batch of {' or '.join(map(str, sorted(possible)))} samples; "
            f"predict returned {describe(predictions)}: {_REMEDY}"
        )


def describe(value: Any) -> str:
    """Return a short description of predictions, for messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)}"
    if is_batch(value):
        fields = _fields(value)
        return f"{type(value).__name__} of {', '.join(f'{name}: {describe(item)}' for name, item in fields.items())}"
    if isinstance(value, list | tuple):
        shown = ", ".join(describe(item) if isinstance(item, Tensor) else type(item).__name__ for item in value[:3])
        return f"a {type(value).__name__} of {len(value)} ({shown}{', …' if len(value) > 3 else ''})"
    return type(value).__name__


def _fields(predictions: Any) -> Mapping[Any, Any]:
    return predictions if isinstance(predictions, Mapping) else predictions._asdict()


def _lengths(fields: Mapping[Any, Any], path: str) -> Iterable[tuple[str, int]]:
    for name, value in fields.items():
        if isinstance(value, Tensor | np.ndarray):
            if value.ndim:
                yield f"{path}{name}", len(value)
        elif is_batch(value):
            yield from _lengths(_fields(value), f"{path}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{path}{name}", len(value)
        elif not isinstance(value, _SHARED):
            kind = type(value).__name__
            raise TypeError(f"predict returned {path}{name} as {kind}, which cannot be split into samples: {_REMEDY}")


def _row(fields: Mapping[Any, Any], index: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in fields.items():
        if is_batch(value):
            row[name] = _row(_fields(value), index)
        elif isinstance(value, list | tuple) or (isinstance(value, Tensor | np.ndarray) and value.ndim):
            row[name] = value[index]
        else:
            row[name] = value
    return row


def _possible_sizes(data_batch: Any) -> set[int]:
    """Return possible numbers of samples in a batch; empty if unknown.

    A list of tensors, for instance, has one item per sample, or per view in test-time augmentation.
    """
    if isinstance(data_batch, Tensor | np.ndarray):
        return {len(data_batch)} if data_batch.ndim else set()
    if isinstance(data_batch, DataSample):
        return _possible_sizes(data_batch.to_dict())
    if isinstance(data_batch, Mapping):
        parts: Iterable[Any] = data_batch.values()
    elif isinstance(data_batch, list | tuple):
        parts = data_batch
        if data_batch and all(isinstance(item, Mapping | BaseDataElement) for item in data_batch):
            return {len(data_batch)}
    else:
        return set()
    sizes = set()
    for part in parts:
        if isinstance(part, list | tuple):
            sizes.add(len(part))
            sizes |= {len(item) for item in part if isinstance(item, list | tuple)}
            sizes |= {len(item) for item in part if isinstance(item, Tensor | np.ndarray) and item.ndim}
        else:
            sizes |= _possible_sizes(part)
    return sizes
