"""The base class of data elements: attributes of two kinds, data and meta information."""

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
        if name in FIELD_SETS:
            raise AttributeError(f"{name} cannot be set: it lists the fields of this element")
        self.set_field(value, name)

    def __delattr__(self, name: str) -> None:
        if name in FIELD_SETS:
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
        for name in FIELD_SETS:
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
