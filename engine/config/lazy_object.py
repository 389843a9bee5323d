"""Names that a pure-Python config imports from other packages, without the import."""

from typing import Any

from trainwright.engine.building import import_object
from trainwright.engine.errors import ConfigError, Origin, did_you_mean


class LazyObject:
    """Stands in a config for a module, class or function that is imported at its first use.

    An attribute of it is again one: ``nn.Linear`` of ``LazyObject("torch.nn")`` is
    ``LazyObject("torch.nn.Linear")``. It equals its full dotted name, which is what a dumped config holds.

    Args:
        name: full dotted name, such as ``torch.optim.SGD``.
        origin: where the config imports it.
    """

    __slots__ = ("_lazy_name", "_lazy_origin")

    def __init__(self, name: str, origin: Origin | None = None) -> None:
        self._lazy_name = name
        self._lazy_origin = origin

    def __getattr__(self, attribute: str) -> "LazyObject":
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return LazyObject(f"{self._lazy_name}.{attribute}", self._lazy_origin)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self._lazy_name} cannot be called in a config, which imports nothing while it is read; "
            f"describe the object instead: dict(type={self._lazy_name.rpartition('.')[2]}, ...)"
        )

    def __eq__(self, other: object) -> bool:
        return self._lazy_name == (other._lazy_name if isinstance(other, LazyObject) else other)

    def __hash__(self) -> int:
        return hash(self._lazy_name)

    def __str__(self) -> str:
        return self._lazy_name

    __repr__ = __str__

    def __copy__(self) -> "LazyObject":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "LazyObject":
        return self

    def __reduce__(self) -> tuple[type["LazyObject"], tuple[str, Origin | None]]:
        return LazyObject, (self._lazy_name, self._lazy_origin)


def resolve(lazy: LazyObject) -> Any:
    """Imports what a lazy object stands for.

    Raises:
        ConfigError: there is no such module or attribute, or a module fails while it is imported (chained).
    """
    name, origin = lazy._lazy_name, lazy._lazy_origin
    try:
        found = import_object(name)
        if found is not None:
            return found
        outer, _, last = name.rpartition(".")
        hint = did_you_mean(last, dir(import_object(outer))) if outer else ""
    except Exception as error:
        raise ConfigError("", f"cannot import {name!r}: {type(error).__name__}: {error}", "", origin) from error
    raise ConfigError("", f"cannot import {name!r}: there is no such name", hint, origin)
