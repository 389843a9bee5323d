"""Objects that stand in for another one."""

from typing import Any

from trainwright.engine.errors import did_you_mean


class Proxy:
    """Stands in for another object: every attribute that is not its own is read from, and written to, that object.

    Writing reaches only attributes that exist. A plain object would take any name, so that a typo in a hook that
    changes the dataset during training would have no effect, and nobody would notice.

    Args:
        inner: the other object.
        **own: attributes of the proxy itself.
    """

    _inner: Any

    def __init__(self, inner: Any, **own: Any) -> None:
        self.__dict__.update(_inner=inner, **own)

    def __getattr__(self, name: str) -> Any:
        if "_inner" not in self.__dict__:  # while being unpickled
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        elif hasattr(self._inner, name):
            setattr(self._inner, name, value)
        else:
            inner = self._inner
            while isinstance(inner, Proxy):
                inner = inner._inner
            hint = did_you_mean(name, dir(inner)) or "only attributes that exist can be set from outside"
            raise AttributeError(f"{type(inner).__name__} has no attribute {name!r} to set: {hint}")
