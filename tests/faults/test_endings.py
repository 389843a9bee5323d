"""Resuming in another folder, from the best checkpoint, and after the end."""

import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from disk_faults import kill_at
from fault_runs import INTERVAL, MAX_ITERS, Reference, Tally, files_of, train, write_config


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_the_folder_is_elsewhere(how: str, tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    reference = references[True]
    first, second = tmp_path / "run", tmp_path / "deep" / "down" / "another"
    process = train(reference.config, first, before=partial(kill_at, "open iter_16.pth"))
    assert process.wait() == -signal.SIGKILL
    second.parent.mkdir(parents=True)
    if how == "moved":
        first.rename(second)
    else:
        shutil.copytree(first, second, copy_function=shutil.copyfile)  # without modification times
        before = {name: (first / name).read_bytes() for name in files_of(first)}
    resumed = train(reference.config, second, resume=True)
    assert resumed.wait() == 0, resumed.printed
    if how == "copied":
        assert before == {name: (first / name).read_bytes() for name in files_of(first)}
    tally.compare(f"the folder {how}", second, reference.work_dir, most_lost=0)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_the_best_checkpoint_is_resumed(
    by_epoch: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    reference = references[by_epoch]
    work_dir = tmp_path / "run"
    process = train(reference.config, work_dir, before=partial(kill_at, "open iter_12.pth"))
    assert process.wait() == -signal.SIGKILL
    best = next(work_dir.glob("best_loss_iter_*.pth"))
    resumed = train(reference.config, work_dir, "--resume", str(best))
    assert resumed.wait() == 0, resumed.printed
    assert f"Resumed from {best}" in resumed.printed
    tally.compare("resumed from best_*", work_dir, reference.work_dir, most_lost=6)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_after_the_end_there_is_nothing_left_to_do(
    by_epoch: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    reference = references[by_epoch]
    work_dir = tmp_path / "run"
    for resume in (False, True, True):
        process = train(reference.config, work_dir, resume=resume)
        assert process.wait() == 0, process.printed
    assert f"(iteration {MAX_ITERS}): nothing left to do" in process.printed
    tally.compare("resumed at the end", work_dir, reference.work_dir, faults=0, most_lost=0)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_after_the_end_a_longer_run_goes_on(
    by_epoch: bool, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """The result is the same as if the final length had been set from the start."""
    longer = {"train_cfg__max_epochs": 4} if by_epoch else {"train_cfg__max_iters": 24, "train_cfg__val_interval": 6}
    config = write_config(tmp_path / "longer", by_epoch=by_epoch, **longer)
    shorter = {} if by_epoch else {"train_cfg__val_interval": 6}
    start = write_config(tmp_path / "shorter", by_epoch=by_epoch, **shorter)
    for process in (train(config, tmp_path / "whole"), train(start, tmp_path / "run")):
        assert process.wait() == 0, process.printed
    resumed = train(config, tmp_path / "run", resume=True)
    assert resumed.wait() == 0, resumed.printed
    name = "max_epochs: 3 → 4" if by_epoch else "max_iters: 18 → 24"
    assert f"train_cfg.{name}" in resumed.printed
    tally.compare("prolonged after the end", tmp_path / "run", tmp_path / "whole", faults=0, most_lost=INTERVAL)
