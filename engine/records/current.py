"""Objects of which one is the current one: the hub, the logger and the visualizer of the run in progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self


class CurrentMixin:
    """Gives a class a current instance, so that code deep inside a model reaches that of its run.

    A run makes its own instance the current one while it is active; two runs in one process never mix.
    Outside a run there is a fallback, created when it is first asked for. A direct subclass owns all of this;
    its own subclasses share it.

    Args:
        name: name of the instance.
    """

    _current: ClassVar[ContextVar[Any]]
    _instances: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if CurrentMixin in cls.__bases__:
            cls._current = ContextVar(cls.__name__, default=None)
            cls._instances = {}

    def __init__(self, name: str) -> None:
        self._instance_name = name

    @property
    def instance_name(self) -> str:
        """Name of the instance."""
        return self._instance_name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Returns the instance of this name: the current one, or one that this method has made.

        Args:
            name: its name.
            **kwargs: further arguments, used when the instance is made now.
        """
        current = cls._current.get()
        if current is not None and current.instance_name == name:
            return current  # type: ignore[no-any-return]  # one variable serves all subclasses
        if name not in cls._instances:
            cls._instances[name] = cls(name=name, **kwargs)
        return cls._instances[name]  # type: ignore[no-any-return]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Returns whether :meth:`get_instance` finds an instance of this name rather than makes one."""
        current = cls._current.get()
        return (current is not None and current.instance_name == name) or name in cls._instances

    @classmethod
    def get_current_instance(cls) -> Self:
        """Returns the instance of the active run; outside, the last that :meth:`get_instance` made."""
        current = cls._current.get()
        if current is not None:
            return current  # type: ignore[no-any-return]
        if not cls._instances:
            cls._instances["trainwright"] = cls._fallback()
        return next(reversed(cls._instances.values()))  # type: ignore[no-any-return]

    @classmethod
    @contextmanager
    def set_current(cls, instance: Self) -> Iterator[Self]:
        """While active, ``instance`` is the current one."""
        token = cls._current.set(instance)
        try:
            yield instance
        finally:
            cls._current.reset(token)

    @classmethod
    def _fallback(cls) -> Self:
        """Makes the instance that serves outside any run."""
        return cls(name="trainwright")
