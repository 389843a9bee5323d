"""SIGKILL at random times and at each disk operation of a save; the resumed run must be bit-identical."""

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from disk_faults import kill_at, trace
from fault_runs import INTERVAL, Reference, Tally, train, write_config
from forked import Process

from trainwright.engine.checkpoints.files import LAST, verify

KILLS, FAST_KILLS = 30, 16
AT_ONCE = 4
"""Number of concurrent runs: they mostly wait for the disk."""


def configured(folder: Path, by_epoch: bool, async_save: bool = False, workers: int = 0) -> Path:
    name = f"{'epochs' if by_epoch else 'iterations'}{'_async' if async_save else ''}_{workers}"
    return write_config(
        folder / name, by_epoch=by_epoch, workers=workers, default_hooks__checkpoint__async_save=async_save
    )


def most_lost(async_save: bool) -> int:
    """Return the number of iterations that may be lost: one interval, or more if saves run in the background."""
    return 2 * INTERVAL if async_save else INTERVAL


def kill_after(process: Process, seconds: float) -> bool:
    """Kill a process after a delay, and return whether it was still running."""
    time.sleep(max(0.0, process.began + seconds - time.monotonic()))
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "number",
    [*range(FAST_KILLS), *(pytest.param(number, marks=pytest.mark.slow) for number in range(FAST_KILLS, KILLS))],
)
def test_killed_at_a_random_moment(
    number: int, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """Kills, also the fast ones alone, are spread over the duration of a run; half of the runs are killed again."""
    chance = random.Random(number)
    by_epoch, async_save, workers = bool(number % 2), number // 2 % 2 == 1, 2 * (number % 5 == 4)
    reference = references[by_epoch]
    config = configured(tmp_path, by_epoch, async_save, workers)
    work_dir = tmp_path / "run"
    moment = reference.seconds * (7 * number % KILLS + chance.random()) / KILLS
    faults = int(kill_after(train(config, work_dir), moment))
    if number // 4 % 2:
        again = train(config, work_dir, resume=True)
        faults += kill_after(again, reference.seconds * chance.random())
    last = train(config, work_dir, resume=True)
    assert last.wait() == 0, last.printed
    tally.compare(
        "SIGKILL at a random moment", work_dir, reference.work_dir, faults=faults, most_lost=most_lost(async_save)
    )


def operations_of_a_save(reference: Reference, folder: Path) -> list[tuple[str, int]]:
    """List all disk operations from the save of iteration 12 to the next one.

    A checkpoint is written and an old one removed; after the validation, the regular checkpoint is hard-linked as the
    best one, which replaces the previous best.

    Returns:
        For each operation, its name and the number of its occurrences so far.
    """
    process = train(reference.config, folder / "traced", before=partial(trace, folder / "trace"))
    assert process.wait() == 0, process.printed
    names = (folder / "trace").read_text().splitlines()
    first, end = names.index("open iter_12.pth"), names.index("open iter_16.pth")
    return [(names[place], names[: place + 1].count(names[place])) for place in range(first, end + 1)]


@pytest.mark.parametrize("async_save", [False, True], ids=["plain", "async"])
def test_killed_at_each_operation_of_a_save(
    async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """Kill before each operation, which is also after the previous one."""
    reference = references[True]
    config = configured(tmp_path, True, async_save)
    operations = operations_of_a_save(reference, tmp_path)
    kinds = {operation.split()[0] for operation, _ in operations}
    assert kinds == {"open", "half", "fsync", "replace", "link", "unlink"}
    for first in range(0, len(operations), AT_ONCE):
        cases = operations[first : first + AT_ONCE]
        work_dirs = [tmp_path / f"{name.replace(' ', '_')}_{number}" for name, number in cases]
        killed = [train(config, work_dir, before=partial(kill_at, *case)) for case, work_dir in zip(cases, work_dirs)]
        for process, work_dir in zip(killed, work_dirs):
            assert process.wait() == -signal.SIGKILL, process.printed
            assert verify(work_dir / (work_dir / LAST).read_text()) is None
        resumed = [train(config, work_dir, resume=True) for work_dir in work_dirs]
        for process, work_dir in zip(resumed, work_dirs):
            assert process.wait() == 0, process.printed
            kind = f"SIGKILL within {'an async' if async_save else 'a'} save"
            tally.compare(kind, work_dir, reference.work_dir, most_lost=most_lost(async_save))


def test_killed_while_an_epoch_is_saved(tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    """With a checkpoint per epoch: kill while saving the second, and while removing the first after the third."""
    config = write_config(
        tmp_path / "config",
        default_hooks__checkpoint__by_epoch=True,
        default_hooks__checkpoint__interval=1,
    )
    places = ["half epoch_2.pth", "open best_loss_epoch_2.pth", "link epoch_2.pth", "unlink epoch_1.pth"]
    work_dirs = [tmp_path / f"run_{number}" for number in range(len(places))]
    whole = train(config, tmp_path / "whole")
    killed = [train(config, run, before=partial(kill_at, place)) for place, run in zip(places, work_dirs)]
    assert whole.wait() == 0, whole.printed
    assert [process.wait() for process in killed] == [-signal.SIGKILL] * len(places)
    resumed = [train(config, run, resume=True) for run in work_dirs]
    assert [process.wait() for process in resumed] == [0] * len(places)
    for run in work_dirs:
        tally.compare("SIGKILL within a save", run, tmp_path / "whole", most_lost=6)
