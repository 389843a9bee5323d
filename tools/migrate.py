"""Moving a project from MMEngine to this engine."""

import difflib
import io
import os
import stat
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from trainwright.compat import migration
from trainwright.compat.migration import Finding, Migrated
from trainwright.engine.checkpoints.durable import remove, temporary_path
from trainwright.engine.errors import ConfigError

_SKIPPED = ("site-packages", "__pycache__", "build", "node_modules")
_REQUIREMENTS = (".toml", ".cfg", ".ini", ".sh", ".ipynb")
_LARGEST = 2**20  # bytes of a YAML or JSON file; larger ones are data


def migrate_project(path: Path, write: bool) -> int:
    """Rewrite the imports of a project, or print the changes, and list what could not be placed.

    Args:
        path: a file or a folder.
        write: change the files, all or none of them; otherwise the changes are printed.

    Returns:
        The number of places that were not rewritten.

    Raises:
        ConfigError: the path does not exist, or a file cannot be written.
    """
    if not path.exists():
        raise ConfigError("PATH", f"there is no file or folder {str(path)!r}")
    changes: dict[Path, bytes] = {}
    problems = 0
    libraries: dict[str, list[str]] = {}
    for file in _files(path):
        migrated, encoding, source = _migrate(file)
        for finding in migrated.findings:
            print(f"{file}:{finding.line}: {finding.text}: {finding.remedy}", file=sys.stderr)
        problems += len(migrated.findings)
        for library, line in migrated.libraries.items():
            libraries.setdefault(library, []).append(f"{file}:{line}")
        if migrated.text == source:
            continue
        changes[file] = migrated.text.encode(encoding)
        if not write:
            lines = difflib.unified_diff(
                source.splitlines(), migrated.text.splitlines(), str(file), str(file), lineterm=""
            )
            print("\n".join(lines))
    if write:
        _write(changes)
    for library, places in sorted(libraries.items()):
        print(f"{library} is imported at {places[0]}" + (f" and in {len(places) - 1} more files" * (len(places) > 1)))
    if libraries:
        print("    it stays: `trainwright train` loads it by itself; in a script of yours, call")
        print("    trainwright.compat.install() first, or start it with `python -m trainwright.compat SCRIPT`")
    done = "changed" if write else "to change (nothing is written without --write)"
    print(f"{len(changes)} files {done}, {problems} places to look at")
    return problems


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or those in a folder that are neither hidden nor in environments or outside of it."""
    if path.is_file():
        yield path
        return
    root = path.resolve()
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if any(part.startswith(".") or part in _SKIPPED or part.endswith(".egg-info") for part in parts):
            continue
        target = file.resolve()
        if target.is_file() and (not file.is_symlink() or not target.is_relative_to(root)):
            yield file  # a link to a file of the project is found as that file


def _migrate(file: Path) -> tuple[Migrated, str, str]:
    """Return a file after the migration, its encoding, and its text."""
    name = file.name.lower()
    is_config = file.suffix in (".yaml", ".yml", ".json") and file.stat().st_size <= _LARGEST
    is_listed = file.suffix in _REQUIREMENTS or name.startswith("dockerfile")
    if not (file.suffix in (".py", ".txt") or is_config or is_listed):
        return Migrated("", [], {}), "", ""
    try:
        data = file.read_bytes()
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0] if file.suffix == ".py" else "utf-8"
        source = data.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        is_text = file.suffix == ".py"  # others may be data
        return Migrated("", [Finding(1, "not read", str(error))] if is_text else [], {}), "", ""
    if "mmengine" not in source and file.suffix != ".py":
        return Migrated(source, [], {}), encoding, source
    if file.suffix == ".py":
        try:
            migrated = migration.migrate(source)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            return (
                Migrated(source, [Finding(line, "not Python", getattr(error, "msg", str(error)))], {}),
                encoding,
                source,
            )
    elif is_config:
        migrated = migration.migrate_config(source)
    else:
        pattern = r"^\s*mmengine\b" if file.suffix == ".txt" else r"\bmmengine\b"
        findings = migration.mentions(source, pattern)
        if file.suffix == ".ipynb" and findings:
            findings = [Finding(findings[0].line, "mmengine", "notebooks are not rewritten")]
        migrated = Migrated(source, findings, {})
    if migrated.text != source and file.is_symlink():
        return Migrated(source, [Finding(1, "not changed", "it is a link to a file outside")], {}), encoding, source
    return migrated, encoding, source


def _write(changes: dict[Path, bytes]) -> None:
    """Write all files, or none if one of them cannot be written."""
    staged: list[tuple[Path, Path]] = []
    try:
        for file, data in changes.items():
            mode = file.stat().st_mode
            if not mode & stat.S_IWUSR or not os.access(file, os.W_OK):
                raise PermissionError(f"{file} is read-only")
            temporary = temporary_path(file)
            staged.append((temporary, file))
            temporary.write_bytes(data)
            temporary.chmod(stat.S_IMODE(mode))
        for temporary, file in staged:
            temporary.replace(file)
    except OSError as error:
        raise ConfigError("--write", f"nothing was changed: {error}") from error
    finally:
        for temporary, _ in staged:
            remove(temporary)
