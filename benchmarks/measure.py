"""Interleaved measurements of several contestants."""

import cProfile
import gc
import os
import pstats
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

from contestants import Contestant, Train
from jobs import Clocked, Job

CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}


def run_rounds(
    job: Job, contestants: Sequence[Contestant], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Let the contestants train in turn: one warm-up round, then measured rounds with rotating order.

    Args:
        job: the job to train.
        contestants: the training loops to compare.
        rounds: the number of measured rounds.
        clock: a function that returns the time in seconds.

    Returns:
        The seconds per step in each round, by contestant name.
    """
    trains = {contestant.name: contestant.load() for contestant in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in trains}
    names = list(trains)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = seconds_per_step(job, trains[name], clock)
            if number:
                seconds[name].append(result)
    return seconds


def seconds_per_step(job: Job, train: Train, clock: Callable[[], float]) -> float:
    """Train once and return the seconds per step.

    A job with ``from_dataset`` is measured from call to return. For other jobs, the time between forward passes is
    measured, without the first tenth of the steps. This excludes the setup and the final checkpoint.
    """
    network = Clocked(job.build_network(), clock)
    with tempfile.TemporaryDirectory() as folder, silenced():
        gc.collect()
        begin = clock()
        train(job, network, Path(folder))
        end = clock()
    return (end - begin) / job.steps if job.from_dataset else network.seconds_per_step(job.warm_up)


def profile(job: Job, contestant: Contestant, lines: int = 25) -> None:
    """Profile one training after a warm-up, and print the result."""
    train = contestant.load()
    seconds_per_step(job, train, perf_counter)
    profiler = cProfile.Profile()
    profiler.enable()
    seconds_per_step(job, train, perf_counter)
    profiler.disable()
    for order in ("tottime", "cumtime"):
        pstats.Stats(profiler).sort_stats(order).print_stats(lines)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard the output of this process, including that of C++ code."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    devnull = os.open(os.devnull, os.O_WRONLY)
    saved = [os.dup(stream.fileno()) for stream in streams]
    for stream in streams:
        os.dup2(devnull, stream.fileno())
    os.close(devnull)
    try:
        yield
    finally:
        for stream, descriptor in zip(streams, saved):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
