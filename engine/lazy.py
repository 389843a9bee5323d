"""Lazy imports of the public names of a package (PEP 562)."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any


def attach(package: str, init_file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Import the names listed in a package's ``__init__.pyi`` on first use.

    The stub is the only list of public names, for type checkers and for this function. ``__module__`` of classes and
    functions is set to the package, so that help, messages and pickles use the short path
    (``trainwright.engine.Runner``), which does not change when a file moves.

    Args:
        package: ``__name__`` of the package.
        init_file: ``__file__`` of the package.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__`` for the package.

    Raises:
        ImportError: the package is imported under its bare name (``import engine``), which would create a second copy
            of it, with a second set of registries.
    """
    if not package.startswith("trainwright."):
        raise ImportError(f"import this package as 'trainwright.{package}', not as {package!r}")
    stub = Path(init_file).with_suffix(".pyi")
    origin: dict[str, str] = {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else str(node.module)
            origin.update((alias.asname or alias.name, module) for alias in node.names)

    def __getattr__(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(origin[name]), name)
        if isinstance(value, type | FunctionType) and value.__module__ == origin[name]:
            value.__module__ = package
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, lambda: sorted(origin), sorted(origin)
