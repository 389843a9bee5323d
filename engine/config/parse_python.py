"""Executing Python configs so that each key records its line.

The syntax tree of a config is rewritten first, keeping its line numbers: dictionaries record the lines of their keys,
imports of other packages become lazy objects, and imports of configs read those configs.
"""

import __future__

import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from traceback import walk_tb
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from trainwright.engine.config.config_dict import ConfigDict, OriginDict, copy_containers, running_file
from trainwright.engine.config.lazy_object import LazyObject
from trainwright.engine.config.python_syntax import BaseImport, Rewriter, assigns, is_foreign, is_read_base, statements
from trainwright.engine.config.variables import base_value
from trainwright.engine.errors import ConfigError, ConfigFileError, Origin, did_you_mean

BASE_KEY = "_base_"

_NOT_KEYS = (FunctionType, ModuleType, type(__future__.annotations))
_DATA = (str, int, float, list, tuple, dict)  # part of the config, even if imported (text style)


class Executed(NamedTuple):
    """The keys of a config, and its helpers: imported names, functions and classes that other configs can import."""

    keys: ConfigDict
    helpers: dict[str, Any]


class PythonConfig:
    """A parsed Python config. The file name is used in origins and tracebacks.

    Raises:
        ConfigFileError: a syntax error.
    """

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._text = text
        try:
            self._tree = ast.parse(text, file)
        except SyntaxError as error:
            raise _syntax_error(error, file) from None
        except ValueError as error:
            raise ConfigFileError("", f"not valid Python: {error}", "", Origin(file)) from None
        self._statements = list(statements(self._tree.body))
        self._base = self._find_base()

    @property
    def assigns_base(self) -> bool:
        """Whether the file assigns ``_base_`` and so is in the text style."""
        return self._base is not None

    def pure_origin(self) -> Origin | None:
        """Return the first statement that makes the file pure-Python (see :attr:`is_pure`), or None."""
        for node in self._statements:
            if isinstance(node, ast.ImportFrom):
                is_pure = node.level > 0 or is_foreign(node.module or "", node.names)
            elif isinstance(node, ast.Import):
                is_pure = any(is_foreign(alias.name, ()) for alias in node.names)
            else:
                is_pure = is_read_base(node)
            if is_pure:
                return Origin(self.file, node.lineno)
        return None

    @property
    def is_pure(self) -> bool:
        """Whether the file is pure-Python: it imports configs or other packages, and has no ``_base_``."""
        return not self.assigns_base and self.pure_origin() is not None

    def bases(self) -> list[tuple[str, Origin]]:
        """Return the files in ``_base_`` with their origins.

        Raises:
            ConfigFileError: ``_base_`` is neither a string nor a list of strings.
        """
        if self._base is None:
            return []
        expression = self._base.value
        assert expression is not None
        origin = Origin(self.file, self._base.lineno)
        try:
            value = eval(compile(ast.Expression(expression), self.file, "eval"), {})
        except Exception as error:
            raise _runtime_error(error, self.file, origin) from error
        elements = expression.elts if isinstance(expression, ast.List | ast.Tuple) else []
        return checked_bases(value, [Origin(self.file, node.lineno) for node in elements], origin)

    def execute(
        self, *, base: ConfigDict | None = None, import_base: Callable[[BaseImport], Executed] | None = None
    ) -> Executed:
        """Execute the file.

        Args:
            base: the value of ``_base_`` in a file in the text style.
            import_base: reads a config imported inside ``with read_base():``. If set, imports of other packages are
                lazy.

        Raises:
            ConfigFileError: the file raised an exception (chained); the origin is the line.
        """
        lazy = import_base is not None
        namespace = _Namespace(self.file, lazy=lazy)
        rewriter = Rewriter(self._text, self.file, lazy=lazy, base=self._base)
        tree = rewriter.visit(self._tree)
        helpers = _Helpers(namespace, rewriter, base, import_base)
        dict.update(namespace, helpers.names(), __file__=self.file, __name__="__config__")
        if base is not None:
            dict.__setitem__(namespace, BASE_KEY, base)
        token = running_file.set(self.file)
        try:
            exec(compile(tree, self.file, "exec"), namespace)
        except SyntaxError as error:
            if error.filename != self.file:
                raise _runtime_error(error, self.file) from error
            raise _syntax_error(error, self.file) from None
        except ConfigError as error:
            if error.origin is None:
                error.origin = _failing_line(error, self.file)
            raise
        except Exception as error:
            raise _runtime_error(error, self.file) from error
        finally:
            running_file.reset(token)
        return namespace.collect()

    def _find_base(self) -> ast.Assign | ast.AnnAssign | None:
        assignments = [node for node in self._statements if isinstance(node, ast.Assign | ast.AnnAssign)]
        found = [node for node in assignments if assigns(node, BASE_KEY)]
        for extra in found:
            if extra is not found[0] or extra not in self._tree.body:
                message = "`_base_` must be assigned once, at the top level of a config"
                raise ConfigFileError("", message, "", Origin(self.file, extra.lineno))
        return found[0] if found else None


def checked_bases(value: Any, element_origins: Sequence[Origin], origin: Origin) -> list[tuple[str, Origin]]:
    """Return the files in the value of ``_base_`` with their origins.

    Raises:
        ConfigFileError: ``value`` is neither a string nor a list of strings.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigFileError("", f"`_base_` must be a file name or a list of them, not {value!r:.60}", "", origin)
    origins = element_origins if len(element_origins) == len(names) else [origin] * len(names)
    return list(zip(names, origins))


class _Namespace(dict[str, Any]):
    """The variables of a config during execution, with their origins and the set of helpers."""

    def __init__(self, file: str, *, lazy: bool) -> None:
        super().__init__()
        self.file = file
        self.lazy = lazy
        self.origins: dict[str, Origin] = {}
        self.helpers: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        self.add_key(name, value, Origin(self.file, sys._getframe(1).f_lineno))

    def add_key(self, name: str, value: Any, origin: Origin | None) -> None:
        super().__setitem__(name, value)
        self.origins[name] = origin or Origin(self.file)
        self.helpers.discard(name)

    def add_helper(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.helpers.add(name)

    def collect(self) -> Executed:
        keys = ConfigDict()
        helpers = {}
        for name, value in self.items():
            if not isinstance(name, str) or not name.startswith("__"):
                imported = name in self.helpers and (self.lazy or not isinstance(value, _DATA))
                if imported or isinstance(value, _NOT_KEYS):
                    helpers[name] = value
                elif name != BASE_KEY:
                    origin = self.origins.get(name, Origin(self.file))
                    keys[name] = copy_containers(value, origin)
                    keys.set_origin(name, origin)
        return Executed(keys, helpers)


@dataclass
class _Helpers:
    """The functions called by a rewritten config."""

    namespace: _Namespace
    rewriter: Rewriter
    base: ConfigDict | None
    read_import: Callable[[BaseImport], Executed] | None

    def names(self) -> dict[str, Any]:
        return {
            "__dict_with_lines__": OriginDict,
            "__lines__": self.with_lines,
            "__lazy__": lambda name, line: LazyObject(name, Origin(self.namespace.file, line)),
            "__helpers__": self.namespace.helpers.update,
            "__import_base__": self.import_base,
            "__base_value__": self.base_value,
        }

    def with_lines(self, mapping: dict[Any, Any], index: int) -> OriginDict:
        """Return the dictionary of an expression with the lines of its keys."""
        lines, default = self.rewriter.lines[index]
        marked = mapping if isinstance(mapping, OriginDict) else OriginDict(mapping)
        for key in dict.keys(marked):
            if key in lines or marked.origin(key) is None:
                marked.set_origin(key, lines.get(key, default))
        return marked

    def base_value(self, path: str, line: int) -> Any:
        return base_value(self.base or ConfigDict(), path, Origin(self.namespace.file, line))

    def import_base(self, index: int) -> None:
        statement = self.rewriter.base_imports[index]
        assert self.read_import is not None
        keys, helpers = self.read_import(statement)
        for name, alias in statement.names:
            if name == "*":
                for key, value in dict.items(keys):
                    self.namespace.add_key(key, value, keys.origin(key))
                for key, value in helpers.items():
                    self.namespace.add_helper(key, value)
            elif name in keys:
                self.namespace.add_key(alias, dict.__getitem__(keys, name), keys.origin(name))
            elif name in helpers:
                self.namespace.add_helper(alias, helpers[name])
            else:
                message = f"the config {statement.module!r} has no {name!r}"
                raise ConfigFileError("", message, did_you_mean(name, keys), statement.origin)


def _syntax_error(error: SyntaxError, file: str) -> ConfigFileError:
    hint = (error.text or "").strip()
    return ConfigFileError("", f"syntax error: {error.msg}", hint, Origin(file, error.lineno or 0))


def _runtime_error(error: Exception, file: str, origin: Origin | None = None) -> ConfigFileError:
    return ConfigFileError("", f"{type(error).__name__}: {error}", "", origin or _failing_line(error, file))


def _failing_line(error: Exception, file: str) -> Origin:
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return Origin(file, lines[-1] if lines else 0)
