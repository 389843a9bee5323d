"""The base class of data elements, whose attributes are data or meta information."""

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

FIELD_SETS = ("_metainfo_fields", "_data_fields")
_IMMUTABLE = (str, int, float, bool, bytes, complex, type(None))


class BaseDataElement:
    """Annotations or predictions with their meta information, as attributes.

    Data (tensors, arrays, other elements) and meta information (shapes, file names) share one namespace; each name is
    one of the two. Assigned attributes are data; meta information is set with :meth:`set_metainfo`. Names keep their
    insertion order.

    A subclass may define a property to check the type of a field: its setter calls ``set_field(value, "_name",
    dtype=...)``, and the field is listed as ``name``.

    Example:
        >>> sample = BaseDataElement(metainfo=dict(img_shape=(28, 28)), bboxes=torch.rand(5, 4))
        >>> sample.bboxes.shape, sample.img_shape, "bboxes" in sample
        (torch.Size([5, 4]), (28, 28), True)

    Args:
        metainfo: meta information by name; deep-copied.
        **kwargs: data by name.
    """

    def __init__(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.__dict__.update(_metainfo_fields=set(), _data_fields=set())
        if metainfo is not None:
            self.set_metainfo(metainfo=metainfo)
        for name, value in kwargs.items():
            setattr(self, name, value)

    if TYPE_CHECKING:
        _metainfo_fields: set[str]
        _data_fields: set[str]

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELD_SETS:
            raise AttributeError(f"{name} cannot be set: it is reserved for the fields of this element")
        self.set_field(value, name)

    def __delattr__(self, name: str) -> None:
        if name in FIELD_SETS:
            raise AttributeError(f"{name} cannot be deleted: it is reserved for the fields of this element")
        super().__delattr__(name)
        self._metainfo_fields.discard(name)
        self._data_fields.discard(name)

    __delitem__ = __delattr__

    def __contains__(self, name: object) -> bool:
        return name in self._data_fields or name in self._metainfo_fields

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        for name in FIELD_SETS:
            copied.__dict__[name] = set(self.__dict__[name])
        return copied

    def set_field(
        self, value: Any, name: str, dtype: type | tuple[type, ...] | None = None, field_type: str = "data"
    ) -> None:
        """Set a field, for the setter of a property.

        Args:
            value: the value.
            name: name of the field; ``_name`` in the setter of the property ``name``.
            dtype: the type that ``value`` must have.
            field_type: ``"data"`` or ``"metainfo"``.

        Raises:
            TypeError: ``value`` has another type.
            ValueError: an unknown ``field_type``.
            AttributeError: the element has a field of the other type with this name.
        """
        if dtype is not None and not isinstance(value, dtype):
            raise TypeError(f"{name.lstrip('_')} must be a {dtype}, got a {type(value)}: {value!r}")
        if field_type == "data":
            fields, others, other_type = self._data_fields, self._metainfo_fields, "metainfo"
        elif field_type == "metainfo":
            fields, others, other_type = self._metainfo_fields, self._data_fields, "data"
        else:
            raise ValueError(f"field_type must be 'data' or 'metainfo', got {field_type!r}")
        if name in others:
            raise AttributeError(f"{name} cannot be set as {field_type}: it is already {other_type} of this element")
        super().__setattr__(name, value)
        fields.add(name)

    def set_metainfo(self, metainfo: dict[str, Any]) -> None:
        """Set meta information by name; values are deep-copied."""
        if not isinstance(metainfo, dict):
            raise TypeError(f"metainfo must be a dict, got a {type(metainfo)}")
        for name, value in metainfo.items():
            self.set_field(_deepcopy(value), name, field_type="metainfo")

    def set_data(self, data: dict[str, Any]) -> None:
        """Set data by name."""
        if not isinstance(data, dict):
            raise TypeError(f"data must be a dict, got a {type(data)}")
        for name, value in data.items():
            setattr(self, name, value)

    def update(self, instance: "BaseDataElement") -> None:
        """Set all data and meta information of another element."""
        if not isinstance(instance, BaseDataElement):
            raise TypeError(f"expected a data element, got a {type(instance)}")
        self.set_metainfo(instance.metainfo)
        self.set_data(dict(instance.items()))

    def new(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> Self:
        """Return an element of the same class with the same fields.

        ``metainfo`` replaces all meta information, and ``kwargs`` replace all data.
        """
        element = type(self)()
        element.set_metainfo(self.metainfo if metainfo is None else metainfo)
        element.set_data(kwargs or dict(self.items()))
        return element

    def clone(self) -> Self:
        """Return an element with the same data (not copied) and a copy of the meta information."""
        return self.new()

    def keys(self) -> list[str]:
        """Return the names of the data."""
        fields = self._data_fields
        names = []
        for stored in self.__dict__:
            if stored in fields:
                public = stored[1:]
                hidden = stored[0] == "_" and public in fields and _is_property(type(self), public)
                names.append(public if hidden else stored)
        if len(names) < len(fields):  # some properties store their values elsewhere
            hidden_names = {f"_{name}" for name in names if _is_property(type(self), name)}
            names += sorted(fields - hidden_names - set(names))
        return names

    def values(self) -> list[Any]:
        """Return the values of the data."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of the data."""
        for name in self.keys():
            yield name, getattr(self, name)

    def metainfo_keys(self) -> list[str]:
        """Return the names of the meta information."""
        fields = self._metainfo_fields
        return [name for name in self.__dict__ if name in fields]

    def metainfo_values(self) -> list[Any]:
        """Return the values of the meta information."""
        return [getattr(self, name) for name in self.metainfo_keys()]

    def metainfo_items(self) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of the meta information."""
        for name in self.metainfo_keys():
            yield name, getattr(self, name)

    def all_keys(self) -> list[str]:
        """Return the names of the meta information and data."""
        return self.metainfo_keys() + self.keys()

    def all_values(self) -> list[Any]:
        """Return the values of the meta information and data."""
        return self.metainfo_values() + self.values()

    def all_items(self) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of the meta information and data."""
        yield from self.metainfo_items()
        yield from self.items()

    @property
    def metainfo(self) -> dict[str, Any]:
        """The meta information by name."""
        return dict(self.metainfo_items())

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or ``default`` if it does not exist."""
        return getattr(self, key, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a field and return its value, or the default if it does not exist.

        Raises:
            KeyError: the field does not exist, and there is no default.
        """
        if len(default) > 1:
            raise TypeError(f"pop expected at most one default, got {len(default)}")
        if name in self:
            value = getattr(self, name)
            delattr(self, name)
            return value
        if default:
            return default[0]
        raise KeyError(f"{name} is neither data nor meta information of this element")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return a new element in which ``to`` is called on all data that has this method."""
        return self.with_data(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def pin_memory(self) -> Self:
        """Return a new element with its tensors in pinned memory, from which copies to an accelerator can overlap."""
        return self._with_each("pin_memory", Tensor, lambda tensor: tensor.pin_memory())

    def cpu(self) -> Self:
        """Return a new element with its tensors on the CPU."""
        return self._with_each("cpu", Tensor, lambda tensor: tensor.cpu())

    def cuda(self) -> Self:
        """Return a new element with its tensors on the current CUDA device."""
        return self._with_each("cuda", Tensor, lambda tensor: tensor.cuda())

    def detach(self) -> Self:
        """Return a new element with its tensors detached from the graph."""
        return self._with_each("detach", Tensor, lambda tensor: tensor.detach())

    def numpy(self) -> Self:
        """Return a new element with its tensors converted to NumPy arrays."""
        return self._with_each("numpy", Tensor, lambda tensor: tensor.detach().cpu().numpy())

    def to_tensor(self) -> Self:
        """Return a new element with its NumPy arrays converted to tensors."""
        return self._with_each("to_tensor", np.ndarray, torch.from_numpy)

    def to_dict(self) -> dict[str, Any]:
        """Return the meta information and data by name, with nested elements as dictionaries."""
        return {
            name: value.to_dict() if isinstance(value, BaseDataElement) else value for name, value in self.all_items()
        }

    def __repr__(self) -> str:
        body = f"\n\n    META INFORMATION{_indented(self.metainfo)}\n\n    DATA FIELDS{_indented(dict(self.items()))}"
        return f"<{type(self).__name__}({body}\n) at {hex(id(self))}>"

    def with_data(self, convert: Callable[[Any], Any]) -> Self:
        """Return a new element with ``convert`` applied to all data."""
        converted = self.new()
        for name, value in self.items():
            new_value = convert(value)
            if new_value is not value:
                setattr(converted, name, new_value)
        return converted

    def _with_each(self, method: str, kind: type, convert: Callable[[Any], Any]) -> Self:
        """Convert all data of one type, and call ``method`` of nested elements."""

        def convert_value(value: Any) -> Any:
            if isinstance(value, BaseDataElement):
                return getattr(value, method)()
            return convert(value) if isinstance(value, kind) else value

        return self.with_data(convert_value)


def _is_property(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), property)


def _deepcopy(value: Any) -> Any:
    """Return a deep copy, with a fast path for numbers, strings and tuples of them."""
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) is tuple and all(isinstance(item, _IMMUTABLE) for item in value):
        return value
    return copy.deepcopy(value)


def _indented(value: Any) -> str:
    """Return the ``repr`` of a value, and that of dictionaries as a tree."""
    is_tree = isinstance(value, dict)
    text = "".join(f"\n{name}: {_indented(item)}" for name, item in value.items()) if is_tree else repr(value)
    return text.replace("\n", "\n    ")
