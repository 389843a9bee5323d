"""Compare import times, each in a fresh process."""

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
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds; default: %(default)s")
    arguments = parser.parse_args(argv)

    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for statement in ("import torch, torchvision", "from trainwright.engine import Runner"):
        _seconds(statement)  # fills the file system cache for all of them
    for _ in range(arguments.rounds):
        for statement in STATEMENTS:
            seconds[statement].append(_seconds(statement))
    print(f"including the start of Python, {arguments.rounds} rounds")
    print(table(seconds, STATEMENTS[0], "seconds", lambda time: f"{time:.2f}"))
    return 0


def _seconds(statement: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=folder)
        return perf_counter() - begin


if __name__ == "__main__":
    raise SystemExit(main())
