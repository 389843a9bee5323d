"""Import rules, checked in the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "engine": {"engine"},
    "models": {"models", "engine"},
    "datasets": {"datasets", "engine"},
    "hooks": {"hooks", "engine"},
    "compat": {"compat", "engine", "models", "datasets", "hooks"},
    "tools": {"tools", "engine", "models", "datasets", "hooks", "compat", "configs"},
}


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import in a file, including those in functions and for type checkers."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for line, module in imports_of(file):
            if module.startswith("trainwright.") and module.split(".")[1] not in MAY_IMPORT[package]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {module}")
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_own_modules_are_imported_by_their_full_name(package: str) -> None:
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            bare = isinstance(node, ast.Import) and any(a.name.split(".")[0] in MAY_IMPORT for a in node.names)
            if relative or bare:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_hooks_know_each_other_only_through_the_contract() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {module}; ask through a method of Hook instead"
        for file in sorted((ROOT / "hooks").glob("*.py"))
        for line, module in imports_of(file)
        if module.startswith("trainwright.hooks")
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["engine", "hooks", "models", "datasets", "compat", "tools"])
def test_no_cuda_only_code(package: str) -> None:
    calls = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
    ]
    assert not [
        call for call in calls if not call.startswith(("engine/structures/elements.py", "models/preprocessor.py"))
    ]
