"""Python configs: their style, the bases they name, and running them so that every key learns its line.

A config is rewritten before it runs, as a syntax tree with all lines in place: dictionaries know the lines of
their keys, imports of other packages become lazy objects, and imports of configs read those configs.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from trainwright.engine.config.config_dict import ConfigDict, own, reading
from trainwright.engine.config.lazy_object import LazyObject
from trainwright.engine.config.variables import BASE_VARIABLE, base_value
from trainwright.engine.errors import ConfigError, ConfigFileError, Origin, did_you_mean

BASE_KEY = "_base_"

_ENGINES = ("trainwright.engine", "trainwright.engine.config", "mmengine", "mmengine.config")
_ENGINE_NAMES = ("Config", "ConfigDict", "read_base")
_DATA = (str, int, float, list, tuple, dict)  # imported in the text style, this is part of the config
_ONLY_IN_READ_BASE = "configs are imported inside `with read_base():`"


class BaseImport(NamedTuple):
    """``from .module import name as alias, ...`` inside ``with read_base():``."""

    module: str
    level: int
    names: tuple[tuple[str, str], ...]
    origin: Origin


class Executed(NamedTuple):
    """What a config defines.

    Args:
        keys: the config.
        helpers: imported names, functions and classes: no part of the config, but of use to one that imports
            it.
    """

    keys: ConfigDict
    helpers: dict[str, Any]


class PythonConfig:
    """A config file in Python, parsed.

    Args:
        text: its text.
        file: its name, for origins and tracebacks.

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
        self._statements = list(_statements(self._tree.body))
        self._base = self._find_base()

    @property
    def assigns_base(self) -> bool:
        """Whether the file says ``_base_ = ...``, and so is of the text style."""
        return self._base is not None

    def pure_origin(self) -> Origin | None:
        """Returns the first statement that makes the file pure-Python (see :meth:`is_pure`), or None."""
        for node in self._statements:
            if _is_read_base(node) or (isinstance(node, ast.ImportFrom) and node.level > 0):
                break
            if isinstance(node, ast.ImportFrom) and _is_foreign(node.module or "", node.names):
                break
            if isinstance(node, ast.Import) and any(_is_foreign(alias.name, ()) for alias in node.names):
                break
        else:
            return None
        return Origin(self.file, node.lineno)

    @property
    def is_pure(self) -> bool:
        """Whether the file is pure-Python: it imports configs or other packages, and has no ``_base_``."""
        return not self.assigns_base and self.pure_origin() is not None

    def bases(self) -> list[tuple[str, Origin]]:
        """Returns the files that ``_base_`` names, in order, each with its place.

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
        """Runs the file.

        Args:
            base: what ``_base_`` is while a file of the text style runs.
            import_base: reads what ``with read_base():`` names; makes imports of other packages lazy too.

        Raises:
            ConfigFileError: whatever the file raises, with its line (chained).
        """
        lazy = import_base is not None
        namespace = _Namespace(self.file, lazy=lazy)
        rewriter = _Rewriter(self._text, self.file, lazy=lazy, base=self._base)
        tree = rewriter.visit(self._tree)
        helpers = _Helpers(namespace, rewriter, base, import_base)
        dict.update(namespace, helpers.names(), __file__=self.file, __name__="__config__")
        if base is not None:
            dict.__setitem__(namespace, BASE_KEY, base)
        token = reading.set(self.file)
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
            reading.reset(token)
        return namespace.collect()

    def _find_base(self) -> ast.Assign | ast.AnnAssign | None:
        assignments = [node for node in self._statements if isinstance(node, ast.Assign | ast.AnnAssign)]
        found = [node for node in assignments if _assigns(node, BASE_KEY)]
        for extra in found:
            if extra is not found[0] or extra not in self._tree.body:
                message = "`_base_` is assigned once, at the top level of a config"
                raise ConfigFileError("", message, "", Origin(self.file, extra.lineno))
        return found[0] if found else None


def checked_bases(value: Any, element_origins: Sequence[Origin], origin: Origin) -> list[tuple[str, Origin]]:
    """Returns the files of a ``_base_``, each with its place.

    Raises:
        ConfigFileError: ``value`` is neither a string nor a list of strings.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigFileError("", f"`_base_` is a file name or a list of them, not {value!r:.60}", "", origin)
    origins = element_origins if len(element_origins) == len(names) else [origin] * len(names)
    return list(zip(names, origins))


class _Namespace(dict[str, Any]):
    """The variables of a running config: knows the line that set each, and which are no part of it."""

    def __init__(self, file: str, *, lazy: bool) -> None:
        super().__init__()
        self.file = file
        self.lazy = lazy
        self.origins: dict[str, Origin] = {}
        self.helpers: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.origins[name] = Origin(self.file, sys._getframe(1).f_lineno)
        self.helpers.discard(name)

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
                if imported or isinstance(value, FunctionType | ModuleType):
                    helpers[name] = value
                elif name != BASE_KEY:
                    origin = self.origins.get(name, Origin(self.file))
                    keys[name] = own(value, origin)
                    keys.set_origin(name, origin)
        return Executed(keys, helpers)


class _Helpers:
    """The functions that a rewritten config calls."""

    def __init__(
        self,
        namespace: _Namespace,
        rewriter: "_Rewriter",
        base: ConfigDict | None,
        import_base: Callable[[BaseImport], Executed] | None,
    ) -> None:
        self._namespace = namespace
        self._rewriter = rewriter
        self._base = base
        self._import_base = import_base

    def names(self) -> dict[str, Any]:
        return {
            "__config_dict__": ConfigDict,
            "__lines__": self.with_lines,
            "__lazy__": self.lazy,
            "__helpers__": self._namespace.helpers.update,
            "__import_base__": self.import_base,
            "__base_value__": self.base_value,
        }

    def with_lines(self, mapping: dict[Any, Any], index: int) -> ConfigDict:
        """Returns the dictionary of an expression, its keys with their lines."""
        lines, default = self._rewriter.lines[index]
        marked = mapping if isinstance(mapping, ConfigDict) else ConfigDict(mapping)
        for key in dict.keys(marked):
            if key in lines or marked.origin(key) is None:
                marked.set_origin(key, lines.get(key, default))
        return marked

    def lazy(self, name: str, line: int) -> LazyObject:
        return LazyObject(name, Origin(self._namespace.file, line))

    def base_value(self, path: str, line: int) -> Any:
        return base_value(self._base or ConfigDict(), path, Origin(self._namespace.file, line))

    def import_base(self, index: int) -> None:
        statement = self._rewriter.base_imports[index]
        assert self._import_base is not None
        keys, helpers = self._import_base(statement)
        for name, alias in statement.names:
            if name == "*":
                for key, value in dict.items(keys):
                    self._namespace.add_key(key, value, keys.origin(key))
                for key, value in helpers.items():
                    self._namespace.add_helper(key, value)
            elif name in keys:
                self._namespace.add_key(alias, dict.__getitem__(keys, name), keys.origin(name))
            elif name in helpers:
                self._namespace.add_helper(alias, helpers[name])
            else:
                message = f"the config {statement.module!r} has no {name!r}"
                raise ConfigFileError("", message, did_you_mean(name, keys), statement.origin)


class _Rewriter(ast.NodeTransformer):
    """Rewrites the syntax tree of a config.

    Args:
        text: text of the config.
        file: its name.
        lazy: imports of other packages become lazy objects (pure-Python style).
        base: the assignment of ``_base_``, which is dropped.
    """

    def __init__(self, text: str, file: str, *, lazy: bool, base: ast.stmt | None) -> None:
        self.lines: list[tuple[dict[Any, Origin], Origin]] = []
        self.base_imports: list[BaseImport] = []
        self._text = text
        self._file = file
        self._lazy = lazy
        self._base = base
        self._depth = 0

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if node is self._base else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if node is self._base else self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        keys = [key for key in node.keys if isinstance(key, ast.Constant)]
        lines = {key.value: self._origin(key) for key in keys}
        return self._with_lines(node, self.generic_visit(node), lines)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._with_lines(node, self.generic_visit(node), {})

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict":
            return node
        node.func.id = "__config_dict__"
        return self._with_lines(node, node, {key.arg: self._origin(key) for key in node.keywords if key.arg})

    def visit_Set(self, node: ast.Set) -> ast.AST:
        """``{{ _base_.a.b }}`` is, to Python, a set with a set with an attribute."""
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:
            match = BASE_VARIABLE.fullmatch(f"{{{{{ast.unparse(inner.elts[0])}}}}}")
            if match is not None:
                return self._call("__base_value__", node, match[1], node.lineno)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or not (matches := list(BASE_VARIABLE.finditer(node.value))):
            return node
        if not BASE_VARIABLE.search(ast.get_source_segment(self._text, node) or ""):
            return node  # the braces are escaped, as a dump does with text that looks like a variable
        values = [self._call("__base_value__", node, match[1], node.lineno) for match in matches]
        if matches[0].span() == (0, len(node.value)):
            return values[0]
        texts = BASE_VARIABLE.sub("\0", node.value).split("\0")
        parts: list[ast.expr] = [ast.Constant(texts[0])]
        for value, text in zip(values, texts[1:]):
            parts += [ast.FormattedValue(value, -1), ast.Constant(text)]
        return ast.fix_missing_locations(ast.copy_location(ast.JoinedStr(parts), node))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                value.value = self.visit(value.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_inside(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> list[ast.AST]:
        return [self._visit_inside(node), *self._mark_helpers(node, [node.name])]

    def visit_Import(self, node: ast.Import) -> list[ast.AST]:
        bound = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        statements: list[ast.AST] = []
        for alias, name in zip(node.names, bound):
            if self._lazy and _is_foreign(alias.name, ()):
                statements.append(self._assign_lazy(node, name, alias.name if alias.asname else name))
            else:
                statements.append(ast.copy_location(ast.Import([alias]), node))
        return [*statements, *self._mark_helpers(node, bound)]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.AST]:
        module = node.module or ""
        bound = [alias.asname or alias.name for alias in node.names]
        if module == "__future__":
            return [node]
        if (
            module in _ENGINES
            and node.level == 0
            and all(alias.name in _ENGINE_NAMES for alias in node.names)
        ):
            lazy = [(name, alias) for name, alias in zip(bound, node.names) if alias.name != "read_base"]
            assigned = [self._assign_lazy(node, name, f"{_ENGINES[0]}.{alias.name}") for name, alias in lazy]
            return [*assigned, *self._mark_helpers(node, [name for name, _ in lazy])]
        if not self._lazy or (node.level == 0 and not _is_foreign(module, node.names)):
            return [node, *self._mark_helpers(node, [name for name in bound if name != "*"])]
        if node.level > 0:
            raise self._error(node, f"a relative import of {module!r}: {_ONLY_IN_READ_BASE}")
        if "*" in bound:
            raise self._error(
                node, f"`from {module} import *`: {_ONLY_IN_READ_BASE}, other packages name by name"
            )
        assigned = [
            self._assign_lazy(node, name, f"{module}.{alias.name}") for name, alias in zip(bound, node.names)
        ]
        return [*assigned, *self._mark_helpers(node, bound)]

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.AST]:
        if not _is_read_base(node):
            return self.generic_visit(node)
        if self._depth > 0:
            raise self._error(node, "`with read_base():` stands at the top level of a config")
        if not self._lazy:
            raise self._error(node, "a config has either `_base_` or `with read_base():`, not both")
        calls: list[ast.AST] = []
        for statement in node.body:
            if not isinstance(statement, ast.ImportFrom) or statement.module is None:
                raise self._error(
                    statement, "only `from ... import ...` of configs stands inside `with read_base():`"
                )
            names = tuple((alias.name, alias.asname or alias.name) for alias in statement.names)
            origin = self._origin(statement)
            self.base_imports.append(BaseImport(statement.module, statement.level, names, origin))
            call = self._call("__import_base__", statement, len(self.base_imports) - 1)
            calls.append(ast.copy_location(ast.Expr(call), statement))
        return calls

    def _visit_inside(self, node: ast.AST) -> ast.AST:
        self._depth += 1
        visited = self.generic_visit(node)
        self._depth -= 1
        return visited

    def _with_lines(self, node: ast.expr, visited: ast.AST, lines: dict[Any, Origin]) -> ast.AST:
        self.lines.append((lines, self._origin(node)))
        return self._call("__lines__", node, visited, len(self.lines) - 1)

    def _mark_helpers(self, node: ast.stmt, names: list[str]) -> list[ast.AST]:
        if self._depth > 0 or not names:
            return []
        return [ast.copy_location(ast.Expr(self._call("__helpers__", node, tuple(names))), node)]

    def _assign_lazy(self, node: ast.stmt, name: str, dotted: str) -> ast.AST:
        target = ast.copy_location(ast.Name(name, ast.Store()), node)
        value = self._call("__lazy__", node, dotted, node.lineno)
        return ast.copy_location(ast.Assign([target], value), node)

    def _call(self, helper: str, node: ast.AST, *arguments: Any) -> ast.Call:
        function = ast.copy_location(ast.Name(helper, ast.Load()), node)
        values = [
            item if isinstance(item, ast.expr) else ast.copy_location(ast.Constant(item), node)
            for item in arguments
        ]
        return ast.copy_location(ast.Call(function, values, []), node)

    def _origin(self, node: ast.AST) -> Origin:
        return Origin(self._file, getattr(node, "lineno", 0))

    def _error(self, node: ast.AST, message: str) -> ConfigFileError:
        return ConfigFileError("", message, "", self._origin(node))


def _statements(body: Iterable[Any]) -> Iterator[ast.stmt]:
    """Yields the statements of a block and of the blocks inside it."""
    for node in body:
        if isinstance(node, ast.stmt):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, block, ()))


def _is_foreign(module: str, names: Sequence[ast.alias]) -> bool:
    """Whether a module is neither of the standard library nor the engine's own reader of configs."""
    if module in _ENGINES and names and all(alias.name in _ENGINE_NAMES for alias in names):
        return False
    return module.partition(".")[0] not in sys.stdlib_module_names


def _is_read_base(node: ast.AST) -> bool:
    if not isinstance(node, ast.With) or not isinstance(node.items[0].context_expr, ast.Call):
        return False
    function = node.items[0].context_expr.func
    return getattr(function, "id", getattr(function, "attr", "")) == "read_base"


def _assigns(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _syntax_error(error: SyntaxError, file: str) -> ConfigFileError:
    hint = (error.text or "").strip()
    return ConfigFileError("", f"syntax error: {error.msg}", hint, Origin(file, error.lineno or 0))


def _runtime_error(error: Exception, file: str, origin: Origin | None = None) -> ConfigFileError:
    origin = origin or _failing_line(error, file)
    return ConfigFileError("", f"{type(error).__name__}: {error}", "", origin)


def _failing_line(error: Exception, file: str) -> Origin:
    line = 0
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return Origin(file, line)
