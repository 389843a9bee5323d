"""Compares how long imports take, each in a fresh process: ``python benchmarks/imports.py --help``."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from time import perf_counter

from report import table

STATEMENTS = (
    "import torch",
    "import trainwright.engine",
    "import torch, trainwright.engine",
    "from trainwright.engine import Runner",
    "from trainwright.engine import Config",
    "import torch, torchvision",
    "pass",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
        argv: the words after the file name; those of this process if None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description="Compares how long imports take, each in a fresh process.")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    arguments = parser.parse_args(argv)

    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for number in range(arguments.rounds + 1):  # the first one fills the caches of files
        for statement in STATEMENTS:
            result = _seconds(statement)
            if number:
                seconds[statement].append(result)
    print(f"start of Python included, {arguments.rounds} rounds")
    print(table(seconds, STATEMENTS[0], "seconds", lambda time: f"{time:.2f}"))
    return 0


def _seconds(statement: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=folder)
        return perf_counter() - begin


if __name__ == "__main__":
    raise SystemExit(main())
