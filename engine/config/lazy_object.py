"""Placeholders for the names that a pure-Python config imports from other packages."""

from typing import Any

from trainwright.engine.building import import_object
from trainwright.engine.errors import ConfigError, Origin, did_you_mean


class LazyObject:
    """A placeholder in a config for a module, class or function that is imported on first use.

    Its attributes are lazy as well: ``LazyObject("torch.nn").Linear`` is ``LazyObject("torch.nn.Linear")``. It is equal
    to its full dotted name, which replaces it in a dumped config.

    Args:
        name: full dotted name, such as ``torch.optim.SGD``.
        origin: the import statement in the config.
    """

    __slots__ = ("_lazy_name", "_lazy_origin")

    def __init__(self, name: str, origin: Origin | None = None) -> None:
        self._lazy_name = name
        self._lazy_origin = origin

    def __getattr__(self, attribute: str) -> "LazyObject":
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return LazyObject(f"{self._lazy_name}.{attribute}", self._lazy_origin)

    def build(self) -> Any:
        """Import the object, or raise a :class:`ConfigError` as :func:`resolve` does."""
        return resolve(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self._lazy_name} cannot be called in a config, since configs are read without importing other packages; "
            f"write dict(type={self._lazy_name.rpartition('.')[2]}, ...) instead"
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
    """Import the object that a lazy object refers to.

    Raises:
        ConfigError: the module or attribute does not exist, or importing a module fails (chained).
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
    raise ConfigError("", f"cannot import {name!r}: not found", hint, origin)
