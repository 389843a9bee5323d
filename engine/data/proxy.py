"""Proxies for other objects."""

from typing import Any

from trainwright.engine.errors import did_you_mean


class Proxy:
    """A proxy that forwards access to all attributes, except its ``own``, to an ``inner`` object.

    Only existing attributes can be set, so that a misspelled one in a hook that changes the dataset during training
    raises an error instead of having no effect. For ``isinstance``, it is also an instance of the inner object's class.
    """

    _inner: Any

    def __init__(self, inner: Any, **own: Any) -> None:
        self.__dict__.update(_inner=inner, **own)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self) if "_inner" not in self.__dict__ else self._inner.__class__

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.__dict__)

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
            hint = did_you_mean(name, dir(inner)) or "only existing attributes can be set through a proxy"
            raise AttributeError(f"{type(inner).__name__} has no attribute {name!r} to set: {hint}")


def _restored(cls: type[Proxy], attributes: dict[str, Any]) -> Proxy:
    proxy = object.__new__(cls)
    proxy.__dict__.update(attributes)
    return proxy
