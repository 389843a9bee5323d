"""Analyzing the syntax tree of a Python config, and rewriting it for execution."""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from trainwright.engine.config.variables import BASE_VARIABLE
from trainwright.engine.errors import ConfigFileError, Origin

_ENGINES = ("trainwright.engine", "trainwright.engine.config", "mmengine", "mmengine.config")
_ENGINE_NAMES = ("Config", "ConfigDict", "read_base")
_ONLY_IN_READ_BASE = "configs must be imported inside `with read_base():`"


class BaseImport(NamedTuple):
    """``from .module import name as alias, ...`` inside ``with read_base():``."""

    module: str
    level: int
    names: tuple[tuple[str, str], ...]
    origin: Origin


class Rewriter(ast.NodeTransformer):
    """A transformer of the syntax tree of a config.

    Args:
        text: text of the config.
        file: file name, for origins.
        lazy: replace imports of other packages with lazy objects (pure-Python style).
        base: the assignment of ``_base_``, which is removed.
    """

    def __init__(self, text: str, file: str, *, lazy: bool, base: ast.stmt | None) -> None:
        self.lines: list[tuple[dict[Any, Origin], Origin]] = []  # per dict: origins of its keys, its own
        self.base_imports: list[BaseImport] = []
        self._text = text
        self._file = file
        self._lazy = lazy
        self._base = base
        self._depth = 0

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign) -> ast.AST | None:
        return None if node is self._base else self.generic_visit(node)

    visit_AnnAssign = visit_Assign

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        lines = {key.value: self._origin(key) for key in node.keys if isinstance(key, ast.Constant)}
        return self._with_lines(node, self.generic_visit(node), lines)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._with_lines(node, self.generic_visit(node), {})

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict":
            return node
        node.func.id = "__dict_with_lines__"
        return self._with_lines(node, node, {key.arg: self._origin(key) for key in node.keywords if key.arg})

    def visit_Set(self, node: ast.Set) -> ast.AST:
        """Replace ``{{ _base_.a.b }}``, which is a set in a set to Python."""
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
            return node  # escaped braces in a dump: text that looks like a variable
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

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_inside(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> list[ast.AST]:
        return [self._visit_inside(node), *self._mark_helpers(node, [node.name])]

    def visit_Import(self, node: ast.Import) -> list[ast.AST]:
        bound = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        statements: list[ast.AST] = []
        for alias, name in zip(node.names, bound):
            if self._lazy and is_foreign(alias.name, ()):
                statements.append(self._assign_lazy(node, name, alias.name if alias.asname else name))
            else:
                statements.append(ast.copy_location(ast.Import([alias]), node))
        return [*statements, *self._mark_helpers(node, bound)]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.AST]:
        module = node.module or ""
        bound = [alias.asname or alias.name for alias in node.names]
        if module == "__future__":
            return [node]
        if node.level == 0 and module in _ENGINES and not is_foreign(module, node.names):
            node.module = __package__  # mmengine need not be installed
        if not self._lazy or (node.level == 0 and not is_foreign(module, node.names)):
            return [node, *self._mark_helpers(node, [name for name in bound if name != "*"])]
        if node.level > 0:
            raise self._error(node, f"a relative import of {module!r}: {_ONLY_IN_READ_BASE}")
        if "*" in bound:
            raise self._error(node, f"`from {module} import *`: {_ONLY_IN_READ_BASE}, and other packages by name")
        assigned = [self._assign_lazy(node, name, f"{module}.{alias.name}") for name, alias in zip(bound, node.names)]
        return [*assigned, *self._mark_helpers(node, bound)]

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.AST]:
        if not is_read_base(node):
            return self.generic_visit(node)
        if self._depth > 0:
            raise self._error(node, "`with read_base():` must be at the top level of a config")
        if not self._lazy:
            raise self._error(node, "a config cannot have both `_base_` and `with read_base():`")
        calls: list[ast.AST] = []
        for statement in node.body:
            if not isinstance(statement, ast.ImportFrom) or statement.module is None:
                raise self._error(statement, "`with read_base():` may only contain `from ... import ...` of configs")
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
        values = [arg if isinstance(arg, ast.expr) else ast.copy_location(ast.Constant(arg), node) for arg in arguments]
        return ast.copy_location(ast.Call(function, values, []), node)

    def _origin(self, node: ast.AST) -> Origin:
        return Origin(self._file, getattr(node, "lineno", 0))

    def _error(self, node: ast.AST, message: str) -> ConfigFileError:
        return ConfigFileError("", message, "", self._origin(node))


def statements(body: Iterable[Any]) -> Iterator[ast.stmt]:
    """Yield the statements of a block and of its nested blocks."""
    for node in body:
        if isinstance(node, ast.stmt):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(node, block, ()))


def is_foreign(module: str, names: Sequence[ast.alias]) -> bool:
    """Return whether a module is neither in the standard library nor the config module of the engine."""
    if module in _ENGINES and names and all(alias.name in _ENGINE_NAMES for alias in names):
        return False
    return module.partition(".")[0] not in sys.stdlib_module_names


def is_read_base(node: ast.AST) -> bool:
    """Return whether a statement is ``with read_base():``."""
    if not isinstance(node, ast.With) or len(node.items) > 1:
        return False
    function = getattr(node.items[0].context_expr, "func", None)
    return getattr(function, "id", getattr(function, "attr", "")) == "read_base"


def assigns(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    """Return whether a statement assigns the variable ``name``."""
    if node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)
