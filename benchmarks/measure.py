"""Rounds of measurements, in which everybody takes a turn."""

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
    """Lets everybody train in turn: one round to warm up, then those that count, each begun by another one.

    Args:
        job: what to train.
        contestants: who trains.
        rounds: number of rounds that count.
        clock: returns seconds.

    Returns:
        By name the seconds per step in each round.
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
    """Trains once and returns the seconds per step.

    A job ``from_dataset`` is measured from call to return. Of others only the steps count, without the first
    tenth: from forward pass to forward pass, so that neither preparations nor the checkpoint at the end do.
    """
    network = Clocked(job.build_network(), clock)
    with tempfile.TemporaryDirectory() as folder, silenced():
        gc.collect()
        begin = clock()
        train(job, network, Path(folder))
        end = clock()
    return (end - begin) / job.steps if job.from_dataset else network.seconds_per_step(job.warm_up)


def profile(job: Job, contestant: Contestant, lines: int = 25) -> None:
    """Prints where the time of one training goes, after another one to warm up."""
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
    """Sends everything that this process prints, from C++ too, to nowhere."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(stream.fileno()) for stream in streams]
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    try:
        yield
    finally:
        for stream, descriptor in zip(streams, kept):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
