"""Full or failing disks: the run continues, keeps its last good checkpoint, and tries again."""

import errno
import re
import resource
import signal
from functools import partial
from pathlib import Path

import pytest
from disk_faults import fail_at, fill, small_disk
from fault_runs import INTERVAL, MAX_ITERS, Reference, Tally, at_forward, train, when_saved, write_config

from trainwright.engine.checkpoints.files import LAST, verify

BOTH = pytest.mark.parametrize("async_save", [False, True], ids=["plain", "async"])


def configured(folder: Path, async_save: bool) -> Path:
    return write_config(folder, by_epoch=False, default_hooks__checkpoint__async_save=async_save)


@BOTH
@pytest.mark.parametrize("room", [False, True], ids=["no room", "too little room"])
def test_a_disk_that_is_full_for_a_while(
    room: bool, async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """The disk is full during the save of iteration 8, detected before or while writing; later there is space again."""
    config = configured(tmp_path / "config", async_save)
    size = (references[False].work_dir / "iter_16.pth").stat().st_size if room else 0
    with small_disk(tmp_path / "run", 400 * 1024) as work_dir:

        def fault() -> None:
            at_forward(True, 7, when_saved(partial(fill, work_dir / "ballast", size)))
            at_forward(True, 10, when_saved((work_dir / "ballast").unlink))

        process = train(config, work_dir, before=fault)
        assert process.wait() == 0, process.printed
        assert "the checkpoint of iteration 8 was NOT saved" in process.printed
        assert ("a checkpoint needs about" in process.printed) == (not room)
        assert "the newest checkpoint is iter_4.pth. The next save will be tried as usual." in process.printed
        tally.compare("a full disk", work_dir, references[False].work_dir, most_lost=0)


@BOTH
def test_a_disk_that_stays_full(
    async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """The final checkpoint is missing, which is logged; resuming with enough space repeats the lost iterations."""
    config = configured(tmp_path / "config", async_save)
    with small_disk(tmp_path / "run", 400 * 1024) as work_dir:
        process = train(
            config, work_dir, before=partial(at_forward, True, 7, when_saved(partial(fill, work_dir / "ballast")))
        )
        assert process.wait() == 0, process.printed
        assert "The final state was NOT saved: the newest checkpoint is iter_4.pth" in process.printed
        assert verify(work_dir / (work_dir / LAST).read_text()) is None
        (work_dir / "ballast").unlink()
        resumed = train(config, work_dir, resume=True)
        assert resumed.wait() == 0, resumed.printed
        tally.compare("a full disk", work_dir, references[False].work_dir, most_lost=MAX_ITERS - INTERVAL)


@BOTH
def test_files_may_not_grow_beyond_a_limit(
    async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """Writing fails halfway because of a process limit or quota, even with free disk space."""

    def limit(size: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    def fault() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        at_forward(True, 7, when_saved(partial(limit, 20_000)))
        at_forward(True, 13, when_saved(partial(limit, resource.getrlimit(resource.RLIMIT_FSIZE)[0])))

    config = configured(tmp_path / "config", async_save)
    process = train(config, tmp_path / "run", before=fault)
    assert process.wait() == 0, process.printed
    for iteration in (8, 10, 12):
        assert f"the checkpoint of iteration {iteration} was NOT saved" in process.printed
    tally.compare("a limit of file sizes", tmp_path / "run", references[False].work_dir, most_lost=0)


FAILURES = {
    "write": "half iter_8.pth",
    "fsync": "fsync iter_8.pth",
    "rename": "replace iter_8.pth",
    "folder": "fsync folder",
    "note": "(open|fsync|replace) last_checkpoint",
}


@BOTH
@pytest.mark.parametrize("operation", FAILURES)
def test_a_file_system_that_fails(
    operation: str, async_save: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """One EIO during the save of iteration 8."""
    first = {"folder": 5, "note": 7}.get(operation, 1)
    config = configured(tmp_path / "config", async_save)
    work_dir = tmp_path / "run"
    process = train(config, work_dir, before=partial(fail_at, FAILURES[operation], first, first))
    assert process.wait() == 0, process.printed
    assert "the checkpoint of iteration 8 was NOT saved" in process.printed
    assert "Input/output error" in process.printed
    tally.compare("a failing file system", work_dir, references[False].work_dir, most_lost=0)


def test_an_old_file_that_cannot_be_removed(tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    """The new checkpoint is saved nevertheless, and removing the old one is retried."""
    work_dir = tmp_path / "run"
    process = train(references[False].config, work_dir, before=partial(fail_at, "unlink iter_4.pth", 1, 1, errno.EBUSY))
    assert process.wait() == 0, process.printed
    assert re.search(r"Could not remove .*iter_4.pth", process.printed)
    assert "NOT saved" not in process.printed
    tally.compare("a failing file system", work_dir, references[False].work_dir, most_lost=0)


@pytest.mark.parametrize("stop", ["signal", "error"])
def test_a_stop_that_cannot_be_saved_says_what_is_lost(
    stop: str, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    def fault() -> None:
        fail_at("fsync (iter|epoch)_(6|7|8|1).pth", 1, 9)
        if stop == "signal":
            at_forward(True, 7, partial(signal.raise_signal, signal.SIGTERM))
        else:
            at_forward(False, 2, partial(int, "no number"))

    config, work_dir = references[True].config, tmp_path / "run"
    process = train(config, work_dir, before=fault)
    assert process.wait() == (143 if stop == "signal" else 1), process.printed
    assert "NOT saved" in process.printed
    assert "is lost" in process.printed
    resumed = train(config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    tally.compare("a failing file system", work_dir, references[True].work_dir, most_lost=INTERVAL)
