"""Signatures of classes and functions, and checking values against annotations."""

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import did_you_mean


def signature_of(component: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a class or function, or None if it is unknown."""
    try:
        return inspect.signature(component)
    except (ValueError, TypeError):
        return None


def parameters_of(component: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the named parameters by name, and whether all others are rejected.

    ``**kwargs: Unpack[Options]`` is expanded to the keys of the ``TypedDict``; the default of an optional key is that
    of the parameter of the same name in a base class, or ``...``. If a constructor passes other ``**kwargs`` to
    ``super().__init__``, the parameters of its bases are included. Annotations are evaluated if possible.
    """
    if signature_of(component) is None:
        return {}, False
    found, kwargs = _named_parameters(component, component)
    if kwargs is None or not inspect.isclass(component):
        return found, kwargs is None
    filled: set[str] = set()
    positional = 0
    for cls in component.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        own, kwargs = _named_parameters(init, component)
        names = [*own][1:]  # without self
        filled.update(names[:positional])
        for name in names:
            if name not in filled:
                found.setdefault(name, own[name])
        if kwargs is None:
            return found, True
        call = _super_call(init, kwargs)
        if call is None:
            return found, False
        filled.update(keyword.arg for keyword in call.keywords if keyword.arg is not None)
        positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    return found, False


def accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Return those options that a function has an argument for, such as an override with fewer arguments."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def mismatch(value: Any, annotation: Any) -> tuple[str, str] | None:
    """Return why a value does not match an annotation, with a hint, or None if it matches."""
    if _fits(value, annotation):
        return None
    hint = ""
    if isinstance(value, str):
        try:
            number = float(value)
            hint = f"it is a string: write {value.strip() if value.strip().isdigit() else repr(number)}"
        except ValueError:
            if typing.get_origin(annotation) is typing.Literal:
                hint = did_you_mean(value, map(str, typing.get_args(annotation)))
    kind = annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")
    return f"must be {kind}, not {type(value).__name__} {value!r}", hint


def _named_parameters(call: Any, owner: Any) -> tuple[dict[str, inspect.Parameter], inspect.Parameter | None]:
    """Return the named parameters of a function or class, and ``**kwargs`` if it accepts others.

    The defaults of a ``TypedDict`` are looked up in the bases of ``owner``.
    """
    named: dict[str, inspect.Parameter] = {}
    kwargs = None
    names = getattr(inspect.unwrap(call.__init__ if inspect.isclass(call) else call), "__globals__", {})
    for name, parameter in inspect.signature(call).parameters.items():
        if isinstance(parameter.annotation, str):
            try:
                parameter = parameter.replace(annotation=eval(parameter.annotation, dict(names)))
            except Exception:  # a name that exists for type checkers only
                parameter = parameter.replace(annotation=parameter.empty)
        if parameter.kind is parameter.VAR_KEYWORD and typing.get_origin(parameter.annotation) is typing.Unpack:
            (options,) = typing.get_args(parameter.annotation)
            for key, kind in typing.get_type_hints(options).items():
                default = parameter.empty if key in options.__required_keys__ else _default_in_bases(owner, key)
                named[key] = inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs = parameter
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            named[name] = parameter
    return named, kwargs


def _default_in_bases(owner: Any, name: str) -> Any:
    for cls in getattr(owner, "__mro__", ()):
        signature = signature_of(cls.__init__)
        parameter = signature.parameters.get(name) if signature else None
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return ...


def _super_call(init: Any, kwargs: inspect.Parameter) -> ast.Call | None:
    """Return the call of ``super().__init__`` that receives a constructor's ``**kwargs``, if that is their only use.

    Which arguments of the base class the constructor itself passes can only be seen in its source.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError, SystemError):  # SystemError: CPython 3.11 bug if a finalizer runs
        return None
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == kwargs.name]
    calls = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == kwargs.name for k in call.keywords)
    ]
    return calls[0] if len(uses) == len(calls) == 1 else None


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a value matches an annotation; True if that cannot be checked."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(annotation))
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    kind = origin or annotation
    if kind is bool or kind is str:
        return isinstance(value, kind)
    if kind is int or kind is float:
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (list, tuple) or (inspect.isclass(kind) and kind in (Sequence, Iterable)):
        return not isinstance(value, bool | int | float | Mapping) and value is not None
    if inspect.isclass(kind) and issubclass(kind, Mapping | Tensor | nn.Module):
        return not isinstance(value, bool | int | float | str) and value is not None
    return True
