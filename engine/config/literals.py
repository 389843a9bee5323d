"""Parsing a dumped config without executing it."""

import ast
import math
from typing import Any

from trainwright.engine.errors import ConfigFileError


def parse_literals(text: str) -> dict[str, Any]:
    """Return the keys of a config that :func:`~trainwright.engine.config.dump.format_python` (or MMEngine) wrote.

    Such a text consists of assignments of literals: numbers, strings, containers, ``dict(...)``, ``float('inf')``.
    It is never executed, so it may come from an untrusted source.

    Raises:
        ConfigFileError: the text contains anything but literals.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigFileError("", f"not a config: {error}") from None
    keys: dict[str, Any] = {}
    try:
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    keys[name] = _value(value)
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="update") as update, args=[others])) if (
                    ast.unparse(update) == "globals().update"
                ):
                    keys.update(_value(others))  # keys that are not valid variable names
                case _:
                    raise _not_a_literal(statement)
    except (TypeError, ValueError, RecursionError) as error:  # an unhashable key, float('x')
        raise error if isinstance(error, ConfigFileError) else ConfigFileError("", f"not a config: {error}") from None
    return keys


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Set(elts=items) | ast.Call(func=ast.Name(id="set" | "frozenset"), args=[ast.List(elts=items)]):
            return {_value(item) for item in items}
        case ast.Call(func=ast.Name(id="set" | "frozenset"), args=[], keywords=[]):
            return set()
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            return {_value(key): _value(value) for key, value in zip(keys, values) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(item.arg for item in keywords):
            return {item.arg: _value(item.value) for item in keywords}
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as number)], keywords=[]):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id="inf" | "nan" as number):
            return getattr(math, number)
        case _:
            raise _not_a_literal(node)


def _not_a_literal(node: ast.AST) -> ConfigFileError:
    return ConfigFileError("", f"line {getattr(node, 'lineno', 0)} is not a literal: {ast.unparse(node):.60}")
