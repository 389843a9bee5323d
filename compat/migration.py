"""Rewriting the imports of a project from MMEngine to this engine."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trainwright.compat.finder import ROOMS
from trainwright.compat.libraries import LIBRARIES

_PACKAGES = ("trainwright.engine", "trainwright.models", "trainwright.datasets", "trainwright.hooks")


class Finding(NamedTuple):
    """A place that cannot be rewritten.

    Args:
        line: line number, counted from 1.
        text: what is there.
        remedy: what to do about it.
    """

    line: int
    text: str
    remedy: str


class Edit(NamedTuple):
    """A replacement of source text.

    Args:
        start: offset of its first character.
        end: offset after its last one.
        text: the new text.
    """

    start: int
    end: int
    text: str


def place_of(module: str, name: str) -> str | None:
    """Return the module of this project from which a name of an MMEngine module is imported, or None.

    Args:
        module: the module of MMEngine, such as ``mmengine.runner``.
        name: the name in it.
    """
    for room in ROOMS.get(module.partition(".")[2], ()) if module.partition(".")[0] == "mmengine" else ():
        path = f"trainwright.compat.mmengine.{room}"
        found = getattr(import_module(path), name, None)
        if found is None:
            continue
        for package in _PACKAGES:
            public = import_module(package)
            if name in public.__all__ and getattr(public, name) is found:
                return package
        return path
    return None


def migrate(source: str) -> tuple[str, list[Finding]]:
    """Rewrite the imports in a Python file.

    Args:
        source: the text of the file.

    Returns:
        The new text, and what could not be rewritten.

    Raises:
        SyntaxError: the file is not Python.
    """
    return _Migration(source).run()


class _Migration:
    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.findings: list[Finding] = []
        self.edits: list[Edit] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def run(self) -> tuple[str, list[Finding]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_mmengine(node.module):
                self._from_import(node)
            elif isinstance(node, ast.Import) and any(_is_mmengine(alias.name) for alias in node.names):
                self._import(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._string(node)
            self._library(node)
        text = self.source
        for edit in sorted(self.edits, reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text, sorted(self.findings)

    def _from_import(self, node: ast.ImportFrom) -> None:
        module = str(node.module)
        targets: dict[str, list[str]] = {}
        for alias in node.names:
            words = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
            place = place_of(module, alias.name)
            if alias.name == "*":
                rooms = ROOMS.get(module.partition(".")[2], ())
                for room in rooms:
                    targets[f"trainwright.compat.mmengine.{room}"] = ["*"]
            elif place is not None:
                targets.setdefault(place, []).append(words)
            elif f"{module}.{alias.name}".partition(".")[2] in ROOMS:
                (room,) = ROOMS[f"{module}.{alias.name}".partition(".")[2]]
                suffix = f" as {alias.asname or alias.name}" if room != (alias.asname or alias.name) else ""
                targets.setdefault("trainwright.compat.mmengine", []).append(f"{room}{suffix}")
            else:
                targets.setdefault(module, []).append(words)
                self._report(node, f"from {module} import {alias.name}", "there is no counterpart")
        indent = "\n" + " " * node.col_offset
        lines = [f"from {place} import {', '.join(words)}" for place, words in targets.items()]
        self._replace(node, indent.join(_wrapped(line, node.col_offset) for line in lines))

    def _import(self, node: ast.Import) -> None:
        """Rewrite ``import mmengine`` and the dotted names that use it."""
        kept = []
        for alias in node.names:
            rooms = ROOMS.get(alias.name.partition(".")[2], ()) if _is_mmengine(alias.name) else ()
            if not _is_mmengine(alias.name):
                kept.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
            elif alias.asname is not None and len(rooms) == 1:
                kept.append(f"from trainwright.compat.mmengine import {rooms[0]} as {alias.asname}")
            elif alias.asname is not None:
                kept += self._uses(alias.asname, node)
            else:
                kept += self._uses("mmengine", node)
        separator = "\n" + " " * node.col_offset
        self._replace(node, separator.join(dict.fromkeys(kept)) or "pass")

    def _uses(self, root: str, node: ast.Import) -> list[str]:
        """Rewrite the uses of a name for ``mmengine``, and return the imports that they need."""
        imports: list[str] = []
        for used in _longest_chains(self.tree, root):
            dotted = ast.unparse(used).split(".")[1:]
            for end in range(len(dotted), 0, -1):  # mmengine.fileio.load, or mmengine.Config.fromfile
                module, name = ".".join(["mmengine", *dotted[: end - 1]]), dotted[end - 1]
                place = place_of(module, name)
                if place is not None:
                    imports.append(f"import {place}")
                    self._replace(used, ".".join([place, *dotted[end - 1 :]]))
                    break
            else:
                imports.append(f"import mmengine{f' as {root}' if root != 'mmengine' else ''}")
                self._report(used, ast.unparse(used), "there is no counterpart")
        return imports

    def _string(self, node: ast.Constant) -> None:
        text = str(node.value)
        if text.startswith(("mmengine.", "mmengine::")) and " " not in text:
            module, _, name = text.partition("::")[0].rpartition(".")
            place = place_of(module, name)
            if place is None:
                self._report(node, repr(text), "write the name that the class has here")
            else:
                quote = (ast.get_source_segment(self.source, node) or '"')[0]
                self._replace(node, f"{quote}{place}.{name}{quote}")

    def _library(self, node: ast.AST) -> None:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        for name in names:
            package = name.partition(".")[0]
            if package in LIBRARIES or package == "mmcv":
                remedy = f"{package} runs through trainwright.compat: call its install() before this import"
                self._report(node, f"import of {name}", remedy)

    def _report(self, node: ast.AST, text: str, remedy: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 0), text, remedy))

    def _replace(self, node: ast.stmt | ast.expr, text: str) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        self.edits.append(
            Edit(self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset), text)
        )

    def _offset(self, line: int, column: int) -> int:
        """Return the offset of a column, which ``ast`` counts in bytes."""
        start = self._starts[line - 1]
        text = self.source[start : self._starts[line]].encode()
        return start + len(text[:column].decode())


def _is_mmengine(module: str | None) -> bool:
    return str(module).partition(".")[0] == "mmengine"


def _longest_chains(tree: ast.AST, root: str) -> Iterator[ast.expr]:
    """Yield the dotted names that begin with ``root``, each once, in full length."""
    for node in ast.iter_child_nodes(tree):
        here: ast.AST = node
        while isinstance(here, ast.Attribute):
            here = here.value
        if isinstance(node, ast.Attribute) and isinstance(here, ast.Name) and here.id == root:
            yield node
        else:
            yield from _longest_chains(node, root)


def _wrapped(line: str, indent: int, width: int = 100) -> str:
    """Return an import statement with its names on several lines, if it is long."""
    if len(line) + indent <= width:
        return line
    head, _, names = line.partition(" import ")
    pad = " " * indent
    return f"{head} import (\n" + "".join(f"{pad}    {name},\n" for name in names.split(", ")) + f"{pad})"


def python_files(path: Path) -> Iterator[Path]:
    """Yield a file, or the Python files in a folder that are not in hidden folders or environments."""
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*.py")):
        parents = file.relative_to(path).parts[:-1]
        if not any(part.startswith(".") or part in ("site-packages", "__pycache__", "build") for part in parents):
            yield file
