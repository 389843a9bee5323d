"""Dead data workers, bad samples, a failing validation, and NaN losses."""

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fault_runs import (
    INTERVAL,
    TRAINING_SAMPLES,
    Reference,
    Tally,
    at_forward,
    at_sample,
    differences,
    files_of,
    notes_of,
    train,
    write_config,
)
from forked import Process
from torch.utils.data import get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trainwright.engine.checkpoints.files import LAST, verify


def notice_soon() -> None:
    """Make data loaders check their workers more often than every five seconds, the default."""
    _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.1,)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def first_time(flag: Path, act: Callable[[], Any]) -> Callable[[], None]:
    """Run an action once, in the first process that gets here."""

    def call() -> None:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        act()

    return call


def die() -> None:
    if get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_is_killed_from_outside(tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    def slow() -> None:
        notice_soon()
        for sample in range(TRAINING_SAMPLES):
            at_sample(sample, partial(time.sleep, 0.03))

    config = write_config(tmp_path / "config", by_epoch=False, workers=2)
    process = train(config, tmp_path / "run", before=slow)
    process.wait_until(lambda: "begin 0" in notes_of(tmp_path / "run"))
    while len(children_of(process.pid)) < 2:
        time.sleep(0.01)
    os.kill(children_of(process.pid)[1], signal.SIGKILL)
    assert process.wait() == 0, process.printed
    assert "Restarting the data workers at the same batch (restart 1 of at most 3)" in process.printed
    tally.compare("data worker killed", tmp_path / "run", references[False].work_dir, most_lost=0)


@pytest.mark.parametrize("sample", [3, 17])
@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_a_worker_dies_while_it_loads(
    by_epoch: bool, sample: int, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    def fault() -> None:
        notice_soon()
        at_sample(sample, first_time(tmp_path / "died", die))

    config = write_config(tmp_path / "config", by_epoch=by_epoch, workers=2)
    process = train(config, tmp_path / "run", before=fault)
    assert process.wait() == 0, process.printed
    assert (tmp_path / "died").exists()
    tally.compare("data worker killed", tmp_path / "run", references[by_epoch].work_dir, most_lost=0)


def ends_and_resumes(
    kind: str, process: Process, config: Path, work_dir: Path, reference: Reference, tally: Tally, most_lost: int = 0
) -> None:
    """Check that an error ends a run, and that resuming it gives the same result as an uninterrupted run."""
    assert process.wait() == 1, process.printed
    assert verify(work_dir / (work_dir / LAST).read_text()) is None
    resumed = train(config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    tally.compare(kind, work_dir, reference.work_dir, most_lost=most_lost)


def test_workers_die_again_and_again(tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    deadly = tmp_path / "deadly"

    def fault() -> None:
        notice_soon()
        at_sample(7, lambda: die() if deadly.exists() else None)
        at_forward(True, 9, deadly.touch)

    config = write_config(tmp_path / "config", by_epoch=False, workers=2)
    process = train(config, tmp_path / "run", before=fault)
    ends_and_resumes("data workers killed", process, config, tmp_path / "run", references[False], tally)
    assert "TrainingError: data workers died 4 times" in process.printed
    assert "was killed by signal 9" in process.printed and "out-of-memory" not in process.printed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_raises_is_named_and_what_was_done_is_kept(
    workers: int, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    flag = tmp_path / "broken"

    def fault() -> None:
        at_sample(11, lambda: broken() if flag.exists() else None)
        at_forward(True, 7, flag.touch)

    config = write_config(tmp_path / "config", by_epoch=True, workers=workers)
    process = train(config, tmp_path / "run", before=fault)
    ends_and_resumes("a sample that raises", process, config, tmp_path / "run", references[True], tally)
    assert "while loading sample 11 (images/011.png) of NoisyImages" in process.printed
    assert re.search(r"Stopped after iteration \d+ \(the data could not be loaded\)", process.printed)


def broken() -> None:
    raise OSError("the image is truncated")


def test_bad_samples_are_skipped_and_reported(tmp_path: Path, tally: Tally) -> None:
    """The replacements are the same with and without workers, and after a kill and resume."""
    found = {}
    for workers in (0, 2):
        config = write_config(
            tmp_path / f"config_{workers}", by_epoch=False, workers=workers, train_dataloader__skip_bad_samples=1
        )
        process = train(config, tmp_path / f"run_{workers}", before=partial(at_sample, 11, broken))
        assert process.wait() == 0, process.printed
        assert process.printed.count("Skipped sample 11 (images/011.png) of NoisyImages: OSError: the image is") == 1
        found[workers] = tmp_path / f"run_{workers}"
    different = differences(found[0], found[2])
    tally.note("a bad sample skipped", faults=2, identical=not different)
    assert different == []


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_end_the_run(workers: int, tmp_path: Path) -> None:
    def fault() -> None:
        for sample in (2, 11, 12):
            at_sample(sample, broken)

    config = write_config(tmp_path / "config", workers=workers, train_dataloader__skip_bad_samples=2)
    process = train(config, tmp_path / "run", before=fault)
    assert process.wait() == 1
    assert "TrainingError: more than skip_bad_samples=2 samples could not be loaded" in process.printed
    for sample in (2, 11, 12):
        assert f"sample {sample} (images/{sample:03d}.png)" in process.printed


@pytest.mark.parametrize("async_save", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_a_validation_that_fails_leaves_a_checkpoint(
    by_epoch: bool, async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    config = write_config(tmp_path / "config", by_epoch=by_epoch, default_hooks__checkpoint__async_save=async_save)
    process = train(config, tmp_path / "run", before=partial(at_forward, False, 5, partial(math.sqrt, -1)))
    ends_and_resumes("an error in validation", process, config, tmp_path / "run", references[by_epoch], tally)
    assert "ValueError" in process.printed
    assert "the validation failed" in process.printed


def test_an_error_does_not_overtake_the_save_in_the_background(
    tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """The data of iteration 9 cannot be loaded while a slow save of iteration 8 is in progress."""

    def fault() -> None:
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                time.sleep(0.1)
            fsync(descriptor)

        os.fsync = slow  # type: ignore[assignment]
        broken_now = threading.Event()
        at_forward(True, 9, broken_now.set)
        for sample in range(TRAINING_SAMPLES):
            at_sample(sample, lambda: broken() if broken_now.is_set() else None)

    config = write_config(tmp_path / "config", by_epoch=False, default_hooks__checkpoint__async_save=True)
    process = train(config, tmp_path / "run", before=fault)
    assert process.wait() == 1
    assert (tmp_path / "run" / LAST).read_text() == "iter_9.pth"
    ends_and_resumes("an error during an async save", process, config, tmp_path / "run", references[False], tally)


def test_a_loss_that_is_nan_ends_the_run_before_it_is_saved(
    tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    config = references[False].config
    process = train(config, tmp_path / "run", before=partial(at_forward, True, 11, lambda: math.nan))
    assert process.wait() == 1
    assert "TrainingError: The loss of iteration 11 is nan" in process.printed
    assert re.search(r"Samples in its batch: \[\d+, \d+, \d+, \d+\]", process.printed)
    assert files_of(tmp_path / "run") == ["best_loss_iter_10.pth", "iter_4.pth", "iter_8.pth"]
    ends_and_resumes("NaN loss", process, config, tmp_path / "run", references[False], tally, most_lost=INTERVAL)


def test_a_loss_that_is_nan_is_rolled_back_a_few_times(tmp_path: Path, tally: Tally) -> None:
    guard = {"type": "NanGuardHook", "action": "rollback", "interval": 1, "snapshot_interval": 1, "max_rollbacks": 1}
    config = write_config(tmp_path / "config", by_epoch=False, custom_hooks__2=guard)
    once = train(config, tmp_path / "once", before=partial(at_forward, True, 11, lambda: math.nan))
    assert once.wait() == 0, once.printed
    assert "ROLLED BACK to the state after 10 iterations (1 of at most 1)" in once.printed

    def twice() -> None:
        at_forward(True, 11, lambda: math.nan)
        at_forward(True, 13, lambda: math.nan)

    process = train(config, tmp_path / "twice", before=twice)
    assert process.wait() == 1
    assert "The maximum number of rollbacks (1) is reached" in process.printed
    resumed = train(config, tmp_path / "twice", resume=True)
    assert resumed.wait() == 0, resumed.printed
    different = differences(tmp_path / "twice", tmp_path / "once")
    tally.note("NaN loss", faults=3, resumed=1, identical=not different)
    assert different == []
