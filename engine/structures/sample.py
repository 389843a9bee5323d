"""The annotations and predictions of a sample or a batch."""

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData


def _field(name: str, dtype: type | tuple[type, ...], meaning: str) -> Any:
    """Return a property for a field of :class:`DataSample` that checks the type of its value."""
    stored = f"_{name}"

    def getter(self: "DataSample") -> Any:
        try:
            return self.__dict__[stored]
        except KeyError:
            raise AttributeError(f"this sample has no {name!r}", name=name, obj=self) from None

    def setter(self: "DataSample", value: Any) -> None:
        self.set_field(value, stored, dtype)

    return property(getter, setter, lambda self: delattr(self, stored), meaning)


class DataSample(BaseDataElement):
    """Annotations and predictions of a sample or a batch.

    The types of the fields below are checked; other names can be set too. In a batched sample, every tensor has a
    leading batch dimension, and meta information is a list with one item per sample.

    Example:
        >>> sample = DataSample().set_gt_label(3).set_pred_score([0.1, 0.2, 0.3, 0.4])
        >>> batch = DataSample.batch([sample, sample])
        >>> batch.gt_label.shape, batch.pred_score.shape
        (torch.Size([2]), torch.Size([2, 4]))
    """

    gt_label: Tensor = _field("gt_label", Tensor, "True label: int64 of shape () or (1,); (N,) in a batch.")
    gt_score: Tensor = _field("gt_score", Tensor, "True probability of each class: shape (C,); (N, C) in a batch.")
    pred_label: Tensor = _field("pred_label", Tensor, "Predicted label: int64 of shape () or (1,); (N,) in a batch.")
    pred_score: Tensor = _field("pred_score", Tensor, "Score of each class: float of shape (C,); (N, C) in a batch.")
    gt_instances: InstanceData = _field("gt_instances", InstanceData, "True instances: boxes, masks, labels.")
    pred_instances: InstanceData = _field("pred_instances", InstanceData, "Predicted instances.")
    gt_sem_seg: PixelData = _field("gt_sem_seg", PixelData, "True class of each pixel.")
    pred_sem_seg: PixelData = _field("pred_sem_seg", PixelData, "Predicted class of each pixel.")
    gt_caption: str | list[str] = _field("gt_caption", (str, list), "A text on the image, or several.")
    gt_depth_map: PixelData = _field("gt_depth_map", PixelData, "True depth of each pixel, as `data`; 0 is unknown.")
    pred_depth_map: PixelData = _field("pred_depth_map", PixelData, "Predicted depth of each pixel, as `data`.")

    def set_gt_label(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[int] | int") -> Self:
        """Set one or more true labels; return the sample."""
        self.gt_label = _label_tensor(value)
        return self

    def set_gt_score(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[float]") -> Self:
        """Set the true probability of each class; return the sample."""
        self.gt_score = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        return self

    def set_pred_label(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[int] | int") -> Self:
        """Set one or more predicted labels; return the sample."""
        self.pred_label = _label_tensor(value)
        return self

    def set_pred_score(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[float]") -> Self:
        """Set the score of each class; return the sample."""
        self.pred_score = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        return self

    @classmethod
    def batch(cls, samples: "Sequence[DataSample]") -> Self:
        """Stack the tensors of samples to one batched sample; labels with one element each get shape (N,).

        Raises:
            ValueError: there are no samples, or their fields or shapes differ.
            TypeError: a field is not a tensor, such as instances, whose number differs: keep the samples in a list.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample, got no samples")
        names, meta_names = samples[0].keys(), samples[0].metainfo_keys()
        for sample in samples:
            if set(sample.keys()) != set(names) or set(sample.metainfo_keys()) != set(meta_names):
                different = f"{samples[0].all_keys()}, {sample.all_keys()}"
                raise ValueError(f"samples with different fields cannot be batched: {different}")
        batched = cls(metainfo={name: [getattr(sample, name) for sample in samples] for name in meta_names})
        for name in names:
            setattr(batched, name, _stack([getattr(sample, name) for sample in samples], name))
        return batched

    def unbatch(self) -> "list[Self]":
        """Return the samples of a batched sample, with views of its tensors.

        A list in the meta information with the length of the batch is split among the samples; other meta information
        is copied to each.

        Raises:
            ValueError: the fields differ in length.
            TypeError: a field is not a tensor.
        """
        columns = {name: _unstack(value, name) for name, value in self.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"not a batched sample, its fields differ in length: {lengths}")
        size = next(iter(lengths.values()), 0)
        samples = [type(self)() for _ in range(size)]
        for name, column in columns.items():
            for sample, value in zip(samples, column):
                setattr(sample, name, value)
        for name, value in self.metainfo_items():
            split = value if isinstance(value, list) and len(value) == size else itertools.repeat(value, size)
            for sample, item in zip(samples, split):
                sample.set_metainfo({name: item})
        return samples


def sample_name(sample: Any) -> str:
    """Return the name of a sample for error messages: its file, or else its number."""
    for key in ("img_path", "filename", "frame_dir"):
        if found := sample.get(key):
            return str(found)
    return f"sample {sample.get('sample_idx', '(without number)')}"


def _label_tensor(value: Any) -> Tensor:
    label = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.int64)
    return label.reshape(1) if label.ndim == 0 else label


def _stack(values: list[Any], name: str) -> Tensor:
    if not all(isinstance(value, Tensor) for value in values):
        raise TypeError(f"{name} is not a tensor and cannot be stacked: keep these samples in a list")
    if name.endswith("_label") and all(value.numel() == 1 for value in values):
        return torch.cat([value.reshape(1) for value in values])
    if len({value.shape for value in values}) > 1:
        raise ValueError(f"{name} has different shapes in these samples: keep them in a list")
    return torch.stack(values)


def _unstack(value: Any, name: str) -> Sequence[Tensor]:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor with a batch dimension, got a {type(value)}")
    return value.unbind()
