"""``python -m trainwright.compat [--fidelity] SCRIPT [ARGS…]`` or ``… -m MODULE [ARGS…]``."""

import argparse
import runpy
import sys
from pathlib import Path

from trainwright.compat import install


def main() -> None:
    """Run a script or module as ``python`` does, with OpenMMLab's libraries on this engine."""
    parser = argparse.ArgumentParser(
        "python -m trainwright.compat",
        description="Run a script or module that uses MMEngine or a library built on it, on Trainwright.",
    )
    parser.add_argument("--fidelity", action="store_true", help="reproduce MMEngine's randomness and arithmetic")
    parser.add_argument("-m", dest="module", action="store_true", help="run a module instead of a script")
    parser.add_argument("--local-rank", "--local_rank", help=argparse.SUPPRESS)  # from torch.distributed.launch
    parser.add_argument("program", metavar="SCRIPT|MODULE")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="arguments of the program")
    given = parser.parse_args()
    install(given.fidelity)
    rank = [] if given.local_rank is None else [f"--local-rank={given.local_rank}"]
    sys.argv = [given.program, *rank, *given.arguments]
    if given.module:
        sys.path.insert(0, "")
        runpy.run_module(given.program, run_name="__main__", alter_sys=True)
    elif not Path(given.program).exists():
        parser.error(f"there is no file {given.program!r}")
    else:
        sys.path.insert(0, str(Path(given.program).resolve().parent))
        runpy.run_path(given.program, run_name="__main__")


if __name__ == "__main__":
    main()
