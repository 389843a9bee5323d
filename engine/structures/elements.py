"""Data elements: what belongs to one sample, as attributes in two kinds, data and meta information."""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

_FIELD_SETS = ("_metainfo_fields", "_data_fields")
_IMMUTABLE = (str, int, float, bool, bytes, complex, type(None))
E = TypeVar("E", bound="InstanceData")


class BaseDataElement:
    """Annotations or predictions with their meta information, as attributes.

    Data (tensors, arrays, other elements) and meta information (shapes, file names) share one name space; a
    name belongs to one of the two. An attribute that is set is data; meta information is set by
    :meth:`set_metainfo`. Names keep the order in which they were set.

    A subclass may give a field a property, to check its type: the setter calls ``set_field(value, "_name",
    dtype=...)`` and the field appears as ``name``.

    Example:
        >>> sample = BaseDataElement(metainfo=dict(img_shape=(28, 28)), bboxes=torch.rand(5, 4))
        >>> sample.bboxes.shape, sample.img_shape, "bboxes" in sample
        (torch.Size([5, 4]), (28, 28), True)

    Args:
        metainfo: meta information by name; copied deeply.
        **kwargs: data by name.
    """

    def __init__(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> None:
        fields = self.__dict__
        fields["_metainfo_fields"] = set()
        fields["_data_fields"] = set()
        if metainfo is not None:
            self.set_metainfo(metainfo=metainfo)
        for name, value in kwargs.items():
            setattr(self, name, value)

    if TYPE_CHECKING:
        _metainfo_fields: set[str]
        _data_fields: set[str]

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIELD_SETS:
            raise AttributeError(f"{name} cannot be set: it lists the fields of this element")
        self.set_field(value, name)

    def __delattr__(self, name: str) -> None:
        if name in _FIELD_SETS:
            raise AttributeError(f"{name} cannot be deleted: it lists the fields of this element")
        super().__delattr__(name)
        self._metainfo_fields.discard(name)
        self._data_fields.discard(name)

    __delitem__ = __delattr__

    def __contains__(self, name: object) -> bool:
        return name in self._data_fields or name in self._metainfo_fields

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        for name in _FIELD_SETS:
            copied.__dict__[name] = set(self.__dict__[name])
        return copied

    def set_field(
        self, value: Any, name: str, dtype: type | tuple[type, ...] | None = None, field_type: str = "data"
    ) -> None:
        """Sets one field; the way for a property's setter.

        Args:
            value: what to set.
            name: of the field; ``_name`` in the setter of the property ``name``.
            dtype: the type that ``value`` must have.
            field_type: ``"data"`` or ``"metainfo"``.

        Raises:
            TypeError: ``value`` is of another type.
            ValueError: another ``field_type``.
            AttributeError: ``name`` already belongs to the other kind.
        """
        if dtype is not None and not isinstance(value, dtype):
            raise TypeError(f"{name.lstrip('_')} must be a {dtype}, not a {type(value)}: {value!r}")
        if field_type == "data":
            mine, others = self._data_fields, self._metainfo_fields
        elif field_type != "metainfo":
            raise ValueError(f"field_type is 'data' or 'metainfo', not {field_type!r}")
        else:
            mine, others = self._metainfo_fields, self._data_fields
        if name in others:
            kind = "meta information" if field_type == "data" else "data"
            raise AttributeError(f"{name} cannot be set as {field_type}: it is {kind} of this element already")
        super().__setattr__(name, value)
        mine.add(name)

    def set_metainfo(self, metainfo: dict[str, Any]) -> None:
        """Sets meta information by name; values are copied deeply."""
        if not isinstance(metainfo, dict):
            raise TypeError(f"metainfo must be a dict, not a {type(metainfo)}")
        for name, value in metainfo.items():
            self.set_field(_deepcopy(value), name, field_type="metainfo")

    def set_data(self, data: dict[str, Any]) -> None:
        """Sets data by name."""
        if not isinstance(data, dict):
            raise TypeError(f"data must be a dict, not a {type(data)}")
        for name, value in data.items():
            setattr(self, name, value)

    def update(self, instance: "BaseDataElement") -> None:
        """Sets all data and meta information of another element."""
        if not isinstance(instance, BaseDataElement):
            raise TypeError(f"an element is expected, not a {type(instance)}")
        self.set_metainfo(dict(instance.metainfo_items()))
        self.set_data(dict(instance.items()))

    def new(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> Self:
        """Returns an element of the same class with the same fields.

        Args:
            metainfo: takes the place of all meta information.
            **kwargs: take the place of all data.
        """
        element = type(self)()
        element.set_metainfo(dict(self.metainfo_items()) if metainfo is None else metainfo)
        element.set_data(kwargs or dict(self.items()))
        return element

    def clone(self) -> Self:
        """Returns an element with the same data (not copied) and a copy of the meta information."""
        return self.new()

    def keys(self) -> list[str]:
        """Returns the names of the data."""
        fields = self._data_fields
        names = []
        for stored in self.__dict__:
            if stored in fields:
                public = stored[1:]
                hidden = stored[0] == "_" and public in fields and _is_property(type(self), public)
                names.append(public if hidden else stored)
        if len(names) < len(fields):  # fields whose property keeps the value somewhere else
            hidden_names = {f"_{name}" for name in names if _is_property(type(self), name)}
            names += sorted(fields - hidden_names - set(names))
        return names

    def values(self) -> list[Any]:
        """Returns the data."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yields the names of the data with their values."""
        for name in self.keys():
            yield name, getattr(self, name)

    def metainfo_keys(self) -> list[str]:
        """Returns the names of the meta information."""
        fields = self._metainfo_fields
        return [name for name in self.__dict__ if name in fields]

    def metainfo_values(self) -> list[Any]:
        """Returns the meta information."""
        return [getattr(self, name) for name in self.metainfo_keys()]

    def metainfo_items(self) -> Iterator[tuple[str, Any]]:
        """Yields the names of the meta information with their values."""
        for name in self.metainfo_keys():
            yield name, getattr(self, name)

    def all_keys(self) -> list[str]:
        """Returns the names of meta information and data."""
        return self.metainfo_keys() + self.keys()

    def all_values(self) -> list[Any]:
        """Returns meta information and data."""
        return self.metainfo_values() + self.values()

    def all_items(self) -> Iterator[tuple[str, Any]]:
        """Yields the names of meta information and data with their values."""
        yield from self.metainfo_items()
        yield from self.items()

    @property
    def metainfo(self) -> dict[str, Any]:
        """The meta information by name."""
        return dict(self.metainfo_items())

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a field, or ``default`` where there is none."""
        return getattr(self, key, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Removes a field and returns its value, or the default where there is none.

        Raises:
            KeyError: there is no such field, and no default.
        """
        if len(default) > 1:
            raise TypeError("pop takes a name and one default")
        if name in self:
            value = getattr(self, name)
            delattr(self, name)
            return value
        if default:
            return default[0]
        raise KeyError(f"{name} is neither data nor meta information of this element")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Returns a new element; everything in the data that has ``to`` is moved or converted by it."""
        return self._converted(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def cpu(self) -> Self:
        """Returns a new element with its tensors on the CPU."""
        return self._with_tensors("cpu")

    def cuda(self) -> Self:
        """Returns a new element with its tensors on the current CUDA device."""
        return self._with_tensors("cuda")

    def npu(self) -> Self:
        """Returns a new element with its tensors on the current NPU."""
        return self._with_tensors("npu")

    def mlu(self) -> Self:
        """Returns a new element with its tensors on the current MLU."""
        return self._with_tensors("mlu")

    def musa(self) -> Self:
        """Returns a new element with its tensors on the current MUSA device."""
        return self._with_tensors("musa")

    def detach(self) -> Self:
        """Returns a new element with its tensors detached from the graph."""
        return self._with_tensors("detach")

    def numpy(self) -> Self:
        """Returns a new element with NumPy arrays in place of its tensors."""

        def convert(value: Any) -> Any:
            if isinstance(value, BaseDataElement):
                return value.numpy()
            return value.detach().cpu().numpy() if isinstance(value, Tensor) else value

        return self._converted(convert)

    def to_tensor(self) -> Self:
        """Returns a new element with tensors in place of its NumPy arrays."""

        def convert(value: Any) -> Any:
            if isinstance(value, BaseDataElement):
                return value.to_tensor()
            return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

        return self._converted(convert)

    def to_dict(self) -> dict[str, Any]:
        """Returns meta information and data by name, inner elements as dictionaries too."""
        return {
            name: value.to_dict() if isinstance(value, BaseDataElement) else value for name, value in self.all_items()
        }

    def __repr__(self) -> str:
        metainfo = _indent(_tree(dict(self.metainfo_items())))
        data = _indent(_tree(dict(self.items())))
        body = f"\n\n    META INFORMATION{metainfo}\n\n    DATA FIELDS{data}"
        return f"<{type(self).__name__}({body}\n) at {hex(id(self))}>"

    def _converted(self, convert: Callable[[Any], Any]) -> Self:
        converted = self.new()
        for name, value in self.items():
            new_value = convert(value)
            if new_value is not value:
                setattr(converted, name, new_value)
        return converted

    def _with_tensors(self, method: str) -> Self:
        def convert(value: Any) -> Any:
            return getattr(value, method)() if isinstance(value, Tensor | BaseDataElement) else value

        return self._converted(convert)


class InstanceData(BaseDataElement):
    """What belongs to the instances of an image (boxes, labels, scores): all data have the same length.

    An element is indexed like a tensor along its first dimension, by an int, slice, list, array or tensor (of
    indices or of booleans), and gives an element again; by a string it gives that field.

    Example:
        >>> instances = InstanceData(bboxes=torch.rand(3, 4), scores=torch.tensor([0.9, 0.2, 0.7]))
        >>> len(instances[instances.scores > 0.5])
        2
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _FIELD_SETS:
            if not isinstance(value, Sized):
                raise TypeError(f"{name} must have a length, a {type(value)} has none")
            length = len(self)
            if length not in (0, len(value)):
                raise ValueError(f"{name} has length {len(value)}, the other fields have {length}")
        super().__setattr__(name, value)

    __setitem__ = __setattr__

    def __len__(self) -> int:
        names = self.keys()
        return len(getattr(self, names[0])) if names else 0

    def __getitem__(self, item: Any) -> Any:
        """Returns the field of this name, or the instances that ``item`` selects.

        Raises:
            IndexError: an int out of range.
            TypeError: an index that is neither an int nor a slice, list, array or tensor.
            ValueError: an index of more than one dimension; booleans of another length.
        """
        if isinstance(item, str):
            return getattr(self, item)
        if isinstance(item, list | np.ndarray):
            array = np.asarray(item)
            item = torch.from_numpy(array.astype(np.int64) if array.size == 0 or array.dtype.kind in "iu" else array)
        if isinstance(item, int | np.integer):
            if not -len(self) <= item < len(self):
                raise IndexError(f"no instance {item}: there are {len(self)}")
            item = slice(int(item), None, len(self))
        if not isinstance(item, slice | Tensor):
            raise TypeError(f"instances cannot be indexed by a {type(item)}")
        selected = type(self)(metainfo=self.metainfo)
        if isinstance(item, slice):
            selected.set_data({name: value[item] for name, value in self.items()})
            return selected
        if item.dim() != 1:
            raise ValueError(f"an index has one dimension, not {item.dim()}")
        if item.dtype in (torch.bool, torch.uint8):
            if len(item) != len(self):
                raise ValueError(f"{len(item)} booleans cannot select among {len(self)} instances")
            item = item.bool()
        for name, value in self.items():
            selected[name] = _select(value, item, name)
        return selected

    @staticmethod
    def cat(instances_list: "list[E]") -> "E":
        """Returns the instances of all elements together; the first one's meta information is kept.

        Raises:
            ValueError: the list is empty, its elements have different names, or a field is of a type that cannot be
                concatenated.
        """
        if not instances_list or not all(isinstance(element, InstanceData) for element in instances_list):
            raise ValueError("a list of InstanceData is expected, with at least one")
        first = instances_list[0]
        if len(instances_list) == 1:
            return first
        if any(set(element.all_keys()) != set(first.all_keys()) for element in instances_list):
            names = "; ".join(str(element.all_keys()) for element in instances_list)
            raise ValueError(f"the elements have different names: {names}")
        joined = type(first)(metainfo=first.metainfo)
        for name, _ in first.items():
            joined[name] = _concatenate([element[name] for element in instances_list], name)
        return joined


class PixelData(BaseDataElement):
    """What belongs to the pixels of an image: all data are of shape (channels, height, width), of one size.

    An element is cropped by two ints or slices: ``pixels[10:20, 5:15]``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _FIELD_SETS:
            if not isinstance(value, Tensor | np.ndarray):
                raise TypeError(f"{name} must be a tensor or an array, not a {type(value)}")
            if value.ndim not in (2, 3):
                raise ValueError(f"{name} must have 2 or 3 dimensions, not {value.ndim}")
            size = tuple(value.shape[-2:])
            if self.shape not in (None, size):
                raise ValueError(f"{name} has height and width {size}, the other fields {self.shape}")
            if value.ndim == 2:
                value = value[None]
                warnings.warn(f"{name} of shape {size} becomes {tuple(value.shape)}", stacklevel=2)
        super().__setattr__(name, value)

    def __getitem__(self, item: tuple[int | slice, int | slice]) -> Self:
        if not isinstance(item, tuple):
            raise TypeError(f"pixels are cropped by two ints or slices, not by a {type(item)}")
        if len(item) != 2:
            raise ValueError(f"pixels are cropped by two ints or slices, not by {len(item)}")
        if self.shape is None:
            raise ValueError("there are no pixels to crop")
        crop: list[slice] = [slice(None)]
        for part, length in zip(item, self.shape):
            if not isinstance(part, int | slice):
                raise TypeError(f"pixels are cropped by ints or slices, not by a {type(part)}")
            crop.append(slice(part, None, length) if isinstance(part, int) else part)
        cropped = type(self)(metainfo=self.metainfo)
        cropped.set_data({name: value[tuple(crop)] for name, value in self.items()})
        return cropped

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width, or None without data."""
        names = self.keys()
        if not names:
            return None
        height, width = getattr(self, names[0]).shape[-2:]
        return height, width


class LabelData(BaseDataElement):
    """Labels of an image or of its parts."""

    @staticmethod
    def onehot_to_label(onehot: Tensor) -> Tensor:
        """Returns the indices of the ones.

        Args:
            onehot: shape (num_classes,), zeros and ones.

        Returns:
            int64 tensor of shape (number of ones,).

        Raises:
            ValueError: another shape, or values outside of 0 and 1.
        """
        if not isinstance(onehot, Tensor):
            raise TypeError(f"onehot must be a tensor, not a {type(onehot)}")
        if onehot.ndim != 1 or (len(onehot) and not 0 <= onehot.min().item() <= onehot.max().item() <= 1):
            raise ValueError(f"onehot must be one-dimensional with zeros and ones: {onehot}")
        return onehot.nonzero().squeeze(-1)

    @staticmethod
    def label_to_onehot(label: Tensor, num_classes: int) -> Tensor:
        """Returns a tensor of shape (num_classes,) with ones at the labels.

        Args:
            label: int64 indices below ``num_classes``, of shape (number of labels,) or ().
            num_classes: number of classes.
        """
        if not isinstance(label, Tensor):
            raise TypeError(f"label must be a tensor, not a {type(label)}")
        onehot = label.new_zeros(num_classes)
        if label.numel() and label.max().item() >= num_classes:
            raise ValueError(f"label {label} is beyond {num_classes} classes")
        onehot[label] = 1
        return onehot


def _field(name: str, dtype: type, meaning: str) -> Any:
    """Returns a property for a field of :class:`DataSample`, which checks the type of what is set."""
    stored = f"_{name}"

    def getter(self: "DataSample") -> Any:
        try:
            return self.__dict__[stored]
        except KeyError:
            raise AttributeError(f"this sample has no {name!r}", name=name, obj=self) from None

    def setter(self: "DataSample", value: Any) -> None:
        self.set_field(value, stored, dtype)

    def deleter(self: "DataSample") -> None:
        delattr(self, stored)

    return property(getter, setter, deleter, meaning)


class DataSample(BaseDataElement):
    """Annotations and predictions of one sample, or of a whole batch.

    The fields below are checked; any other name may be set besides. In a batched sample every tensor has a
    leading batch dimension, and meta information is a list with an item for each sample.

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

    def set_gt_label(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[int] | int") -> Self:
        """Sets the true label from a number or several; returns the sample."""
        self.gt_label = _label_tensor(value)
        return self

    def set_gt_score(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[float]") -> Self:
        """Sets the true probability of each class; returns the sample."""
        self.gt_score = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        return self

    def set_pred_label(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[int] | int") -> Self:
        """Sets the predicted label from a number or several; returns the sample."""
        self.pred_label = _label_tensor(value)
        return self

    def set_pred_score(self, value: "Tensor | np.ndarray[Any, Any] | Sequence[float]") -> Self:
        """Sets the score of each class; returns the sample."""
        self.pred_score = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        return self

    @classmethod
    def batch(cls, samples: "Sequence[DataSample]") -> Self:
        """Returns one sample with the tensors of all, stacked; labels of one number each give shape (N,).

        Raises:
            ValueError: no samples, or samples with different names or shapes.
            TypeError: a field that is no tensor (instances differ in number: keep the list).
        """
        if not samples:
            raise ValueError("there are no samples to put in a batch")
        names, meta_names = samples[0].keys(), samples[0].metainfo_keys()
        for sample in samples:
            if set(sample.keys()) != set(names) or set(sample.metainfo_keys()) != set(meta_names):
                different = f"{samples[0].all_keys()}, {sample.all_keys()}"
                raise ValueError(f"samples with different names cannot make a batch: {different}")
        batched = cls(metainfo={name: [getattr(sample, name) for sample in samples] for name in meta_names})
        for name in names:
            setattr(batched, name, _stack([getattr(sample, name) for sample in samples], name))
        return batched

    def unbatch(self) -> "list[Self]":
        """Returns the samples of a batched sample, with views of its tensors.

        A list in the meta information that is as long as the batch is dealt out; other meta information is
        shared.

        Raises:
            ValueError: the fields differ in length.
            TypeError: a field that is no tensor.
        """
        columns = {name: _unstack(value, name) for name, value in self.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"this is no batch, its fields differ in length: {lengths}")
        size = next(iter(lengths.values()), 0)
        samples = [type(self)() for _ in range(size)]
        for name, column in columns.items():
            for sample, value in zip(samples, column):
                setattr(sample, name, value)
        for name, value in self.metainfo_items():
            dealt = value if isinstance(value, list) and len(value) == size else itertools.repeat(value, size)
            for sample, item in zip(samples, dealt):
                sample.set_metainfo({name: item})
        return samples


def _is_property(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), property)


def _deepcopy(value: Any) -> Any:
    """Copies deeply; at once for the numbers, strings and tuples of such that meta information mostly is."""
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) is tuple and all(isinstance(item, _IMMUTABLE) for item in value):
        return value
    return copy.deepcopy(value)


def _tree(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"\n{name}: {_indent(_tree(item))}" for name, item in value.items())
    return repr(value)


def _indent(text: str) -> str:
    return text.replace("\n", "\n    ")


def _select(value: Any, index: Tensor, name: str) -> Any:
    """Returns the items of one field that a tensor of indices or booleans selects."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, np.ndarray):
        return value[index.cpu().numpy()]
    if not isinstance(value, str | list | tuple) and not (hasattr(value, "__getitem__") and hasattr(value, "cat")):
        raise ValueError(f"{name} is a {type(value)}: only what has 'cat' can be selected by a tensor")
    positions = (index.nonzero().view(-1) if index.dtype == torch.bool else index).tolist()
    pieces = [value[slice(position, None, len(value))] for position in positions]
    return _concatenate(pieces, name) if pieces else value[:0]


def _concatenate(values: list[Any], name: str) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, str):
        return "".join(values)
    if isinstance(first, list | tuple):
        return type(first)(itertools.chain.from_iterable(values))
    if hasattr(first, "cat"):
        return first.cat(values)
    raise ValueError(f"{name} is a {type(first)}, which has no 'cat'")


def _label_tensor(value: Any) -> Tensor:
    label = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.int64)
    return label.reshape(1) if label.ndim == 0 else label


def _stack(values: list[Any], name: str) -> Tensor:
    if not all(isinstance(value, Tensor) for value in values):
        raise TypeError(f"{name} is no tensor and cannot be stacked: keep these samples in a list")
    if name.endswith("_label") and all(value.numel() == 1 for value in values):
        return torch.cat([value.reshape(1) for value in values])
    if len({value.shape for value in values}) > 1:
        raise ValueError(f"{name} has different shapes in these samples: keep them in a list")
    return torch.stack(values)


def _unstack(value: Any, name: str) -> Sequence[Tensor]:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value)}, not a tensor with a batch dimension")
    return value.unbind()
