"""Classes whose instances have names and can be accessed from everywhere, as in MMEngine."""

import inspect
import threading
import warnings
from typing import Any, Self, TypeVar

T = TypeVar("T")
_lock = threading.RLock()


def _accquire_lock() -> None:
    """Wait for the lock of all instances."""
    _lock.acquire()


def _release_lock() -> None:
    """Release the lock of all instances."""
    _lock.release()


class ManagerMeta(type):
    """The type of :class:`ManagerMixin`, which gives each class its own instances."""

    _instance_dict: dict[str, Any]

    def __init__(cls, *args: Any) -> None:
        cls._instance_dict = {}
        assert "name" in inspect.getfullargspec(cls).args, f"{cls} must have an argument 'name'"
        super().__init__(*args)


class ManagerMixin(metaclass=ManagerMeta):
    """Base class of objects that can be accessed by name from everywhere in the process.

    Args:
        name: name of the instance.
        **kwargs: ignored.
    """

    def __init__(self, name: str = "", **kwargs: Any) -> None:
        assert isinstance(name, str) and name, f"name must be a string that is not empty, got {name!r}"
        self._instance_name = name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance with a name, or create it with ``kwargs``."""
        with _lock:
            assert isinstance(name, str), f"name must be a string, got {name!r}"
            if name not in cls._instance_dict:
                cls._instance_dict[name] = cls(name=name, **kwargs)
            elif kwargs:
                warnings.warn(f"{cls.__name__} {name!r} exists already: ignored {', '.join(kwargs)}", stacklevel=2)
            return cls._instance_dict[name]  # type: ignore[no-any-return]

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return the newest instance.

        Raises:
            RuntimeError: there is none.
        """
        with _lock:
            if not cls._instance_dict:
                raise RuntimeError(f"no {cls.__name__} exists: call {cls.__name__}.get_instance(name=…) first")
            return next(reversed(cls._instance_dict.values()))  # type: ignore[no-any-return]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether an instance with this name exists."""
        return name in cls._instance_dict

    @property
    def instance_name(self) -> str:
        """Name of the instance."""
        return self._instance_name
