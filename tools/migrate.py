"""Moving a project from MMEngine to this engine."""

import difflib
import sys
from pathlib import Path

from trainwright.compat.migration import migrate, python_files
from trainwright.engine.errors import ConfigError


def migrate_project(path: Path, write: bool) -> int:
    """Rewrite the imports of a project, or print the changes, and list what could not be placed.

    Args:
        path: a Python file or a folder.
        write: change the files; otherwise the changes are printed.

    Returns:
        The number of places that were not rewritten.

    Raises:
        ConfigError: the path does not exist.
    """
    if not path.exists():
        raise ConfigError("PATH", f"there is no file or folder {str(path)!r}")
    changed = problems = 0
    for file in python_files(path):
        with file.open(encoding="utf-8", newline="") as stream:  # newline="": line ends are kept
            source = stream.read()
        try:
            text, findings = migrate(source)
        except SyntaxError as error:
            print(f"{file}:{error.lineno}: not read, since it is not Python: {error.msg}", file=sys.stderr)
            problems += 1
            continue
        for finding in findings:
            print(f"{file}:{finding.line}: {finding.text}: {finding.remedy}", file=sys.stderr)
        problems += len(findings)
        if text == source:
            continue
        changed += 1
        if write:
            with file.open("w", encoding="utf-8", newline="") as stream:
                stream.write(text)
        else:
            lines = difflib.unified_diff(source.splitlines(), text.splitlines(), str(file), str(file), lineterm="")
            print("\n".join(lines))
    done = "changed" if write else "to change (nothing is written without --write)"
    print(f"{changed} files {done}, {problems} places to look at")
    return problems
