"""Rewriting the imports of a project from MMEngine to this engine."""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from trainwright.compat.finder import ROOMS
from trainwright.compat.libraries import LIBRARIES

_HERE = "trainwright.compat.mmengine"
_PACKAGES = ("trainwright.engine", "trainwright.models", "trainwright.datasets", "trainwright.hooks")
_NO_COUNTERPART = "there is no counterpart"
_REQUIREMENT = "require trainwright instead of mmengine"
_IMPORTING = ("import_module", "__import__", "find_spec", "importorskip", "version", "is_installed")
_WIDTH = 100


class Finding(NamedTuple):
    """A place that was not rewritten.

    Args:
        line: line number, counted from 1.
        text: what is there.
        remedy: what to do about it.
    """

    line: int
    text: str
    remedy: str


class Migrated(NamedTuple):
    """A file after the migration.

    Args:
        text: its new text.
        findings: what could not be rewritten, by line.
        libraries: the OpenMMLab libraries that it imports, with the first line of each.
    """

    text: str
    findings: list[Finding]
    libraries: dict[str, int]


class _Edit(NamedTuple):
    start: int  # offsets in the text
    end: int
    text: str


def place_of(module: str, name: str) -> str | None:
    """Return the module of this project from which a name of an MMEngine module is imported, or None.

    Args:
        module: the module of MMEngine, such as ``mmengine.runner``.
        name: the name in it.
    """
    for room in _rooms(module):
        found = getattr(import_module(f"{_HERE}.{room}"), name, None)
        if found is None or isinstance(found, ModuleType):
            continue
        for package in _PACKAGES:
            public = import_module(package)
            if name in public.__all__ and getattr(public, name) is found:
                return package
        return f"{_HERE}.{room}"
    return None


def _elsewhere(module: str, name: str) -> str | None:
    """Return the place of a name that an MMEngine module imports from another one, if it means one thing only."""
    if not _rooms(module):
        return None
    places = [place for other in ROOMS if other and (place := place_of(f"mmengine.{other}", name)) is not None]
    meanings = {id(getattr(import_module(place), name)) for place in places}
    if len(meanings) != 1:
        return None
    own = str(getattr(getattr(import_module(places[0]), name), "__module__", ""))
    return own if own in places else places[0]


def migrate(source: str) -> Migrated:
    """Rewrite the imports of MMEngine in a Python file, and dotted names of MMEngine in its strings.

    Comments and line ends are kept.

    Args:
        source: the text of the file.

    Raises:
        SyntaxError: the file is not Python.
    """
    return _Migration(source).run()


def migrate_config(source: str) -> Migrated:
    """Rewrite the dotted names of MMEngine in a YAML or JSON file."""
    findings = [
        Finding(line, text.strip(), _REQUIREMENT)
        for line, text in enumerate(source.splitlines(), 1)
        if re.match(r"\s*-\s+['\"]?mmengine\b(?![.\w])", text)
    ]

    def placed(match: re.Match[str]) -> str:
        found = _located(match[0])
        if found is None and not _is_scoped(match[0]):
            findings.append(Finding(source.count("\n", 0, match.start()) + 1, match[0], _NO_COUNTERPART))
        return found or match[0]

    text = re.sub(r"(?<![\w./-])mmengine(?:\.\w+)+", placed, source)
    return Migrated(text, sorted(findings), {})


def mentions(source: str, pattern: str = r"\bmmengine\b") -> list[Finding]:
    """Return the lines that require MMEngine, in files that are not rewritten."""
    lines = enumerate(source.splitlines(), 1)
    return [Finding(line, text.strip(), _REQUIREMENT) for line, text in lines if re.search(pattern, text)]


class _Migration:
    def __init__(self, source: str) -> None:
        self.source = source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's strings
            self.tree = ast.parse(source)
        self.lines = list(io.StringIO(source, newline=""))  # as Python counts lines
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.newline = "\r\n" if self.lines and self.lines[0].endswith("\r\n") else "\n"
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.findings: list[Finding] = []
        self.edits: list[_Edit] = []
        self.libraries: dict[str, int] = {}
        self._blocks: set[tuple[int, str]] = set()

    def run(self) -> Migrated:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                self._library(str(node.module), node.lineno)
                if _is_mmengine(str(node.module)):
                    self._from_import(node)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self._library(alias.name, node.lineno)
                if any(_is_mmengine(alias.name) for alias in node.names):
                    self._import(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._string(node)
        text = self.source
        for edit in sorted(set(self.edits), reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return Migrated(text, sorted(set(self.findings)), self.libraries)

    def _library(self, module: str, line: int) -> None:
        package = module.partition(".")[0]
        if package in LIBRARIES or package == "mmcv":
            self.libraries[package] = min(line, self.libraries.get(package, line))

    def _from_import(self, node: ast.ImportFrom) -> None:
        module = str(node.module)
        targets: dict[str, list[tuple[str, ast.alias]]] = {}
        renamed = False
        for alias in node.names:
            bound = alias.asname or alias.name
            words = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
            inner = f"{module}.{alias.name}"
            if alias.name == "*":
                renamed = True
                for target, star_words in self._star(module):
                    targets.setdefault(target, []).append((star_words, alias))
            elif (place := place_of(module, alias.name) or _elsewhere(module, alias.name)) is not None:
                targets.setdefault(place, []).append((words, alias))
            elif len(rooms := _rooms(inner)) == 1:
                words = rooms[0] if rooms[0] == bound else f"{rooms[0]} as {bound}"
                renamed = renamed or rooms[0] != alias.name
                targets.setdefault(_HERE, []).append((words, alias))
                for line in self._uses(bound, inner, node):
                    if line.startswith("import "):
                        renamed = True
                        targets.setdefault(line, [])
            else:
                targets.setdefault(module, []).append((words, alias))
                self._report(node, f"from {module} import {alias.name}", _NO_COUNTERPART)
        start = self._offset(node.lineno, node.col_offset)
        head = re.match(r"from(?:\s|\\\r?\n)+([\w.]+)", self.source[start:])
        if len(targets) == 1 and not renamed and head is not None:  # the rest of the statement stays as it is
            (place,) = targets
            self.edits.append(_Edit(start + head.start(1), start + head.end(1), place))
            return
        self._statements(node, targets)

    def _statements(self, node: ast.ImportFrom, targets: dict[str, list[tuple[str, ast.alias]]]) -> None:
        """Replace an import by several, each with the comments of its names."""
        general, of_names = self._comments(node)
        lines = []
        for target, names in targets.items():
            words = [each for each, _ in names]
            comments = [of_names.get(alias, "") for _, alias in names]
            line = f"from {target} import {', '.join(words)}" if names else target
            if any(comments) or (len(line) + node.col_offset > _WIDTH and words != ["*"]):
                rows = (f"    {each},{f'  {comment}' if comment else ''}\n" for each, comment in zip(words, comments))
                line = f"from {target} import (\n{''.join(rows)})"
            lines.append(line)
        self._replace_statement(node, [*general, *lines])

    def _comments(self, node: ast.ImportFrom) -> tuple[list[str], dict[ast.alias, str]]:
        """Return the comments inside a statement: those of the whole, and those behind a name."""
        general: list[str] = []
        of_names: dict[ast.alias, str] = {}
        segment = "".join(self.lines[node.lineno - 1 : node.end_lineno])
        tokens = tokenize.generate_tokens(io.StringIO(segment.lstrip()).readline)
        for token in tokens:
            line = node.lineno + token.start[0] - 1
            if token.type != tokenize.COMMENT or line == node.end_lineno:  # behind the statement, it stays there
                continue
            here = [alias for alias in node.names if alias.end_lineno == line]
            if here:
                of_names[here[-1]] = token.string
            else:
                general.append(token.string)
        return general, of_names

    def _star(self, module: str) -> list[tuple[str, str]]:
        """Return the imports that replace a star: of the names that the file uses or, if it uses none, of all."""
        used = sorted({node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)})
        bound = {
            alias.asname or alias.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        found = [(place, name) for name in used if name not in bound and (place := place_of(module, name)) is not None]
        return found or [(f"{_HERE}.{room}", "*") for room in _rooms(module)]

    def _import(self, node: ast.Import) -> None:
        """Rewrite ``import mmengine`` and the dotted names that use it."""
        kept = []
        for alias in node.names:
            if not _is_mmengine(alias.name):
                kept.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
            elif alias.asname is None:
                kept += self._uses("mmengine", "mmengine", node)
            else:
                kept += self._uses(alias.asname, alias.name, node)
        self._replace_statement(node, list(dict.fromkeys(kept)))

    def _uses(self, name: str, module: str, node: ast.stmt) -> list[str]:
        """Rewrite the uses of a name that is bound to a module of MMEngine.

        Returns:
            The imports that they need; none if another import of the same block has them.
        """
        block = self.parents[node]
        field = next((key for key, value in ast.iter_fields(block) if isinstance(value, list) and node in value), "")
        key = (id(block), f"{field} {name} {module}")
        if key in self._blocks:
            return []
        self._blocks.add(key)
        rooms = _rooms(module)
        own = f"from {_HERE} import {rooms[0]}" if len(rooms) == 1 else ""
        own += f" as {name}" if own and rooms[0] != name else ""
        imports = [own] if own else []
        for used in _uses_of(self._scope(node), name):
            words = ast.unparse(used).split(".")[1:]
            if own and (not words or place_of(module, words[0]) is not None):
                continue
            place = _place(".".join([module, *words]))
            if place is None:
                if not own:
                    imports.append("import mmengine" + (f" as {name}" if name != "mmengine" else ""))
                self._report(used, ast.unparse(used), _NO_COUNTERPART if words else "the module itself is used")
            else:
                imports.append(f"import {place[0]}")
                self._replace(used, ".".join(place))
        return list(dict.fromkeys(imports)) or ["import trainwright.engine"]

    def _scope(self, node: ast.AST) -> ast.AST:
        """Return the function around a statement, or the file."""
        while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            node = self.parents[node]
        return node

    def _string(self, node: ast.Constant) -> None:
        text = str(node.value)
        parent = self.parents.get(node)
        if "mmengine" not in text or isinstance(parent, ast.Expr):  # a docstring
            return
        if isinstance(parent, ast.JoinedStr):
            if re.search(r"\bmmengine\.", text):
                self._report(parent, ast.unparse(parent), "it is put together at run time")
        elif re.fullmatch(r"mmengine\s*[\[<>=!~].*", text) or (
            text == "mmengine" and isinstance(parent, ast.List | ast.Tuple)
        ):
            self._report(node, repr(text), _REQUIREMENT)
        elif text == "mmengine" and isinstance(parent, ast.Call) and _name_of(parent.func) in _IMPORTING:
            self._report(node, repr(text), "the module itself is used")
        elif re.fullmatch(r"mmengine(\.\w+)+", text) and not _is_scoped(text):
            found = _located(text)
            literal = ast.get_source_segment(self.source, node) or ""
            if found is None or text not in literal:
                self._report(node, repr(text), "write the name that the class has here")
            else:
                self._replace(node, literal.replace(text, found))

    def _report(self, node: ast.AST, text: str, remedy: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 0), text, remedy))

    def _replace(self, node: ast.stmt | ast.expr, text: str) -> None:
        self.edits.append(_Edit(self._offset(node.lineno, node.col_offset), self._end(node), text))

    def _replace_statement(self, node: ast.stmt, lines: list[str]) -> None:
        """Replace a statement by several, on one line if there are other statements on its line."""
        start, end = self._offset(node.lineno, node.col_offset), self._end(node)
        indent = self.source[self.starts[node.lineno - 1] : start]
        rest = self.source[end : self.starts[node.end_lineno or 0]]
        is_alone = not indent.strip() and not rest.lstrip().startswith(";")
        if not lines and is_alone and not rest.strip():
            self.edits.append(_Edit(start - len(indent), end + len(rest), ""))
        elif is_alone:
            text = "\n".join(lines or ["pass"]).replace("\n", f"\n{indent}")
            self.edits.append(_Edit(start, end, text.replace("\n", self.newline)))
        else:
            text = "; ".join(line for line in lines if not line.startswith("#")) or "pass"
            self.edits.append(_Edit(start, end, text.replace("\n", self.newline)))
            for comment in (line for line in lines if line.startswith("#")):
                self._report(node, comment, "this comment is lost")

    def _end(self, node: ast.stmt | ast.expr) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Return the offset of a column, which ``ast`` counts in bytes."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())


def _is_mmengine(module: str) -> bool:
    return module.partition(".")[0] == "mmengine"


def _is_scoped(text: str) -> bool:
    """Return whether a string is a registered name with its scope, which the registries here accept too."""
    _, _, name = text.partition(".")
    return "." not in name and name not in ROOMS and _place(text) is None


def _name_of(function: ast.expr) -> str:
    return str(getattr(function, "attr", getattr(function, "id", "")))


def _rooms(module: str) -> tuple[str, ...]:
    """Return the modules of ``trainwright.compat.mmengine`` with the names of a module of MMEngine."""
    return ROOMS.get(module.partition(".")[2], ()) if _is_mmengine(module) else ()


def _place(dotted: str) -> tuple[str, str] | None:
    """Return our module, and the name in it, for a dotted name such as ``mmengine.runner.Runner.train``, or None."""
    words = dotted.split(".")
    for end in range(len(words) - 1, 0, -1):
        place = place_of(".".join(words[:end]), words[end])
        if place is not None:
            return place, ".".join(words[end:])
    return None


def _located(dotted: str) -> str | None:
    """Return the dotted name of ours for one of MMEngine's, or for a module of it, or None."""
    place = _place(dotted)
    if place is not None:
        return ".".join(place)
    rooms = _rooms(dotted)
    return f"{_HERE}.{rooms[0]}" if len(rooms) == 1 else None


def _uses_of(tree: ast.AST, name: str) -> Iterator[ast.expr]:
    """Yield the dotted names that begin with ``name``, each once, in full length."""
    for node in ast.iter_child_nodes(tree):
        here: ast.AST = node
        while isinstance(here, ast.Attribute):
            here = here.value
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(here, ast.Name) and here.id == name:
            yield node
        elif not _has_own(node, name):
            yield from _uses_of(node, name)


def _has_own(node: ast.AST, name: str) -> bool:
    """Return whether a function has an argument, a variable or an import of its own with this name."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return False
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.id == name:
            return True
        if isinstance(each, ast.arg) and each.arg == name:
            return True
        if isinstance(each, ast.alias) and (each.asname or each.name.partition(".")[0]) == name:
            return True
    return False
