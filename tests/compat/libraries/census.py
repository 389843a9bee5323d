"""Import every module of OpenMMLab's libraries on this engine, and print how many import, and why the others do not.

python tests/compat/libraries/census.py [LIBRARY…] [--markdown]
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMES = {
    "mmpretrain": "mmpretrain", "mmdet": "mmdet", "mmseg": "mmsegmentation", "mmpose": "mmpose", "mmaction": "mmaction2",
    "mmocr": "mmocr", "mmagic": "mmagic", "mmyolo": "mmyolo", "mmdet3d": "mmdet3d", "mmrazor": "mmrazor",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("libraries", nargs="*", default=list(NAMES))
    parser.add_argument("--markdown", action="store_true", help="print rows of a table")
    parser.add_argument("--here", action="store_true", help="import in this process, and print JSON")
    given = parser.parse_args()
    if given.here:
        print(json.dumps(import_all(given.libraries[0])))
        return
    for library in given.libraries:
        command = [sys.executable, __file__, "--here", library]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"{library}: the process ended with {run.returncode}: {run.stderr[-500:]}")
            continue
        report = json.loads(run.stdout.splitlines()[-1])
        reasons = Counter(report["failures"].values()).most_common()
        good = report["modules"] - len(report["failures"])
        if given.markdown:
            why = "; ".join(f"{reason} ({number})" for reason, number in reasons)
            print(f"| {NAMES[library]} | {report['version']} | {good} of {report['modules']} | {why} |")
            continue
        print(f"{library} {report['version']}: {good} of {report['modules']}")
        for reason, _ in reasons:
            modules = [module for module, why in report["failures"].items() if why == reason]
            print(f"  {len(modules)} {reason}: {', '.join(modules[:4])}{' …' if len(modules) > 4 else ''}")


def import_all(library: str) -> dict[str, Any]:
    """Import all modules of a library."""
    from importlib import import_module

    from trainwright.compat import install

    install()
    spec = find_spec(library)
    assert spec is not None and spec.origin is not None, f"{library} is not installed"
    root = Path(spec.origin).parent
    failures = {}
    modules = sorted(module_names(root))
    for module in modules:
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            failures[module] = reason_of(error)
    return dict(version=sys.modules[library].__version__, modules=len(modules), failures=failures)


def module_names(root: Path) -> list[str]:
    """Return the modules below a package, except those of shipped scripts and configs."""
    names = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if all(part.isidentifier() for part in parts) and ".mim" not in parts:
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def reason_of(error: BaseException) -> str:
    """Return what an import lacks."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"`{error.name.partition('.')[0]}` is not installed"
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if match := re.search(r"[Pp]lease (?:run .)?(?:pip )?install ['\"]?([\w-]+)", message):
        return f"`{match[1]}` is not installed"
    return f"{type(error).__name__}: {message}"[:160]


if __name__ == "__main__":
    main()
