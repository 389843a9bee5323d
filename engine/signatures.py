"""Signatures: the parameters of a class or function, and which values they take."""

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def signature_of(component: Callable[..., Any]) -> inspect.Signature | None:
    """Returns the signature of a class or function, or None where Python cannot tell."""
    try:
        return inspect.signature(component)
    except (ValueError, TypeError):
        return None


def parameters_of(component: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Returns the parameters that can be named, and whether there are no others.

    A constructor with ``**kwargs`` that hands them on to ``super().__init__`` takes its bases' parameters too.
    """
    signature = signature_of(component)
    if signature is None:
        return {}, False
    found = {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if not any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()):
        return found, True
    if not inspect.isclass(component):
        return found, False
    filled: set[str] = set()
    positional = 0
    for cls in component.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        named = [p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for parameter in named[positional:]:
            if parameter.name not in filled:
                found.setdefault(parameter.name, parameter)
        if not any(p.kind == p.VAR_KEYWORD for p in own):
            return found, True
        call = _super_call(init)
        if call is None:
            return found, False
        filled = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    return found, False


def _super_call(init: Any) -> ast.Call | None:
    """Returns the call of ``super().__init__`` that gets a constructor's ``**kwargs``, if nothing else reads them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError, SystemError):  # the last: CPython 3.11, if a finalizer parses meanwhile
        return None
    name = next(p.name for p in inspect.signature(init).parameters.values() if p.kind == p.VAR_KEYWORD)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    calls = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name for k in call.keywords)
    ]
    return calls[0] if len(uses) == len(calls) == 1 else None


def annotation_of(parameter: inspect.Parameter, owner: Any) -> Any:
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(getattr(owner, "__module__", ""), None)
    try:
        return eval(annotation, dict(vars(module)) if module else {})
    except Exception:  # a name that exists for type checkers only: this kind cannot be checked
        return inspect.Parameter.empty


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value may be what an annotation says. In doubt, yes."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(annotation))
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    kind = origin or annotation
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in (list, tuple) or (inspect.isclass(kind) and kind in (Sequence, Iterable)):
        return not isinstance(value, bool | int | float | Mapping) and value is not None
    if inspect.isclass(kind) and issubclass(kind, Mapping | Tensor | nn.Module):
        return not isinstance(value, bool | int | float | str) and value is not None
    return True


def describe(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
