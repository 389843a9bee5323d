"""Compare the time of a training step with a bare PyTorch loop and other frameworks."""

import argparse
import os
import warnings
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from contestants import CONTESTANTS
from jobs import JOBS, build_job
from measure import CLOCKS, profile, run_rounds
from report import table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    names = [contestant.name for contestant in CONTESTANTS]
    parser = argparse.ArgumentParser(description=f"{__doc__} See benchmarks/README.md.")
    parser.add_argument(
        "--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="JOB", help=f"{', '.join(JOBS)}; default: all"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"contestants: {', '.join(names)}; default: all",
    )
    parser.add_argument("--rounds", type=int, help="measured rounds; default: depends on the job")
    parser.add_argument("--steps", type=int, help="steps per round; default: depends on the job")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu for a busy machine; default: %(default)s")
    parser.add_argument("--profile", nargs=1, choices=names, metavar="NAME", help="profile this contestant instead")
    arguments = parser.parse_args(argv)
    if (arguments.rounds is not None and arguments.rounds < 1) or (
        arguments.steps is not None and arguments.steps < 10
    ):
        parser.error("--rounds must be at least 1, and --steps at least 10")

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, one thread")
    chosen = [contestant for contestant in CONTESTANTS if contestant.name in (arguments.profile or arguments.only)]
    for contestant in chosen:
        if not contestant.installed:
            print(f"{contestant.name}: skipped, {contestant.package} is not installed")
    for name in arguments.jobs:
        job = build_job(name, arguments.steps)
        contestants = [contestant for contestant in chosen if contestant.installed and contestant.supports(name)]
        if arguments.profile:
            for contestant in contestants:
                profile(job, contestant)
            continue
        rounds = arguments.rounds or job.rounds
        seconds = run_rounds(job, contestants, rounds, CLOCKS[arguments.clock])
        print(f"\n{name}: {job.title}")
        print(f"{job.steps} steps, {rounds} rounds, {arguments.clock} time")
        print(table(seconds, "bare", "per step", lambda time: f"{1e6 * time:,.0f} us"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
