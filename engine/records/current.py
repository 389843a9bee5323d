"""Context-local current instances: the message hub, logger and visualizer of the active run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self


class CurrentMixin:
    """Base class of objects with a current instance, which code deep inside a model can access.

    A run sets its own instance as the current one while it is active, so runs in one process do not mix. Outside a run,
    a fallback is created on first access; with :attr:`outlives_runs`, it is that of the newest Runner instead. Each
    direct subclass has its own instances; its subclasses share them.
    """

    outlives_runs: ClassVar[bool] = False
    """Keep the instances of the newest Runner as the current ones outside of runs, as in MMEngine."""

    _current: ClassVar[ContextVar[Any]]
    _of_newest_runner: ClassVar[list[Any]]  # at most one
    _instance_dict: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if CurrentMixin in cls.__bases__:
            cls._current = ContextVar(cls.__name__, default=None)
            cls._of_newest_runner = []
            cls._instance_dict = {}

    def __init__(self, name: str) -> None:
        self._instance_name = name

    @property
    def instance_name(self) -> str:
        """Name of the instance."""
        return self._instance_name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance with a name: the current one, or else one created by this method with ``kwargs``."""
        current = cls._of_runner()
        if current is not None and current.instance_name == name:
            return current
        if name not in cls._instance_dict:
            cls._instance_dict[name] = cls(name=name, **kwargs)
            cls._of_newest_runner.clear()
        return cls._instance_dict[name]  # type: ignore[no-any-return]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether an instance with this name exists."""
        current = cls._of_runner()
        return (current is not None and current.instance_name == name) or name in cls._instance_dict

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return that of the active run, or else the newest: of a Runner, or created by :meth:`get_instance`."""
        current = cls._of_runner()
        if current is not None:
            return current
        if not cls._instance_dict:
            cls._instance_dict["trainwright"] = cls._fallback()
        return next(reversed(cls._instance_dict.values()))  # type: ignore[no-any-return]

    @classmethod
    @contextmanager
    def set_current(cls, instance: Self) -> Iterator[Self]:
        """Set the current instance within a ``with`` block."""
        token = cls._current.set(instance)
        try:
            yield instance
        finally:
            cls._current.reset(token)

    @classmethod
    def set_newest(cls, instance: Self) -> None:
        """Note the instance of a new Runner, if it shall be the current one outside of runs."""
        cls._of_newest_runner[:] = [instance] if CurrentMixin.outlives_runs else []

    @classmethod
    def _of_runner(cls) -> Self | None:
        """Return the instance of the active run, or else that noted by :meth:`set_newest`."""
        current: Self | None = cls._current.get()
        return next(iter(cls._of_newest_runner), None) if current is None else current

    @classmethod
    def _fallback(cls) -> Self:
        """Create the instance used outside of runs."""
        return cls(name="trainwright")
