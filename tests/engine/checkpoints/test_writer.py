"""Saving checkpoints inline and in the background, also on full disks."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import disk_faults
import pytest
import torch
from tiny_runs import Points, Scripted, files_in, make_runner, weights_of
from torch import nn

from trainwright.engine import CheckpointError, MMLogger, Runner
from trainwright.engine.checkpoints.disk_space import bytes_of
from trainwright.engine.checkpoints.durable import remove_leftovers
from trainwright.engine.checkpoints.files import load_checkpoint_file, verify
from trainwright.engine.checkpoints.writer import HostCopier
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.hooks import CheckpointHook

BOTH = pytest.mark.parametrize("async_save", [False, True], ids=["sync", "async"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 120 kB."""
    with disk_faults.small_disk(tmp_path / "disk", 120 * 1024) as folder:
        yield folder


class At(Hook):
    """Call a function after given iterations."""

    priority = "HIGHEST"

    def __init__(self, **actions: Callable[[], None]) -> None:
        self.actions = actions

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.actions.get(f"iter_{runner.iter + 1}", lambda: None)()


def fill(disk: Path) -> None:
    note = disk / "run" / "last_checkpoint"
    for _ in range(500):  # let a background write finish first
        if note.exists() or not note.parent.exists():
            break
        time.sleep(0.01)
    disk_faults.fill(disk / "ballast")


def run(work_dir: Path, hooks: list[Hook] | None = None, checkpoint: Any = None, **options: Any) -> Runner:
    checkpoint = {"by_epoch": False, "interval": 2, "max_keep_ckpts": 1, **(checkpoint or {})}
    options.setdefault("train_cfg", {"by_epoch": False, "max_iters": 8})
    runner = make_runner(work_dir, hooks or [], checkpoint=checkpoint, **options)
    runner.train()
    return runner


@BOTH
def test_a_full_disk_costs_a_warning_and_the_saves_while_it_was_full(small_disk: Path, async_save: bool) -> None:
    """The disk is full at iterations 4 and 6, and has space again at iteration 8."""
    work_dir = small_disk / "run"
    hook = At(iter_3=lambda: fill(small_disk), iter_7=(small_disk / "ballast").unlink)
    runner = run(work_dir, [hook], {"async_save": async_save})
    assert files_in(work_dir) == ["iter_8.pth"]
    assert verify(work_dir / "iter_8.pth") is None
    assert list(work_dir.glob(".*.tmp")) == []
    expected = run(small_disk.parent / "undisturbed")
    assert all(torch.equal(a, b) for a, b in zip(weights_of(runner).values(), weights_of(expected).values()))


@BOTH
def test_the_last_good_checkpoint_stays_and_resumes_exactly(
    small_disk: Path, async_save: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    work_dir = small_disk / "run"
    run(work_dir, [At(iter_3=lambda: fill(small_disk))], {"async_save": async_save})
    assert files_in(work_dir) == ["iter_2.pth"]
    out = capfd.readouterr().out
    assert "the checkpoint of iteration 4 was NOT saved" in out
    assert "the newest checkpoint is iter_2.pth" in out
    assert "The final state was NOT saved: the newest checkpoint is iter_2.pth" in out
    (small_disk / "ballast").unlink()
    resumed = run(work_dir, resume=True)
    expected = run(small_disk.parent / "undisturbed")
    assert resumed.iter == 8
    assert all(torch.equal(a, b) for a, b in zip(weights_of(resumed).values(), weights_of(expected).values()))


@BOTH
def test_on_request_a_full_disk_ends_the_run(small_disk: Path, async_save: bool) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint of iteration 4 was NOT saved"):
        run(
            small_disk / "run",
            [At(iter_3=lambda: fill(small_disk))],
            {"async_save": async_save, "on_save_error": "raise"},
        )


def test_a_best_score_that_could_not_be_saved_is_not_the_one_to_beat(small_disk: Path) -> None:
    hook = At(iter_3=lambda: fill(small_disk), iter_5=(small_disk / "ballast").unlink)
    options: dict[str, Any] = {"by_epoch": True, "interval": 1, "save_best": "acc", "rule": "greater"}
    runner = run(
        small_disk / "run",
        [hook],
        options,
        metric=Scripted(acc=[1, 5, 3]),
        train_cfg={"by_epoch": True, "max_epochs": 3},
    )
    saved = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    assert saved.folder.best_scores == {"acc": 3}
    assert files_in(small_disk / "run") == ["best_acc_epoch_3.pth", "epoch_3.pth"]
    assert runner.message_hub.get_info("best_score") == 3


def test_a_stop_on_a_full_disk_says_what_is_lost(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work_dir = small_disk / "run"
    hook = At(iter_3=lambda: fill(small_disk))
    hook.actions["iter_4"] = lambda: runner.request_stop("enough")
    runner = make_runner(work_dir, [hook], checkpoint={"by_epoch": False, "interval": 2})
    runner.train()
    out = capfd.readouterr().out
    assert "Iteration 4 was NOT saved" in out
    assert "iter_2.pth is lost" in out


def test_too_little_space_is_reported_before_the_first_step(small_disk: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 20_000), nn.Linear(20_000, 1))
    with pytest.raises(CheckpointError, match=r"so not even one fits: free some space, or choose another `out_dir`"):
        run(small_disk / "run", [], {"on_save_error": "raise"}, model=model, dataset=_Columns())


class _Columns(Points):
    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        return inputs, (target > 0.5).long()


@BOTH
def test_the_background_writes_the_same_file(tmp_path: Path, async_save: bool) -> None:
    run(tmp_path / "run", [], {"async_save": async_save})
    checkpoint = load_checkpoint_file(tmp_path / "run" / "iter_8.pth")
    reference = tmp_path / "reference"
    run(reference, [], {"async_save": False})
    expected = load_checkpoint_file(reference / "iter_8.pth")
    for name, value in expected["state_dict"].items():
        assert torch.equal(checkpoint["state_dict"][name], value)
    assert checkpoint["trainwright"]["counters"] == expected["trainwright"]["counters"]


def test_a_copy_is_not_touched_by_later_steps_and_tied_weights_stay_tied() -> None:
    shared = torch.zeros(4)
    copier = HostCopier()
    copy = copier.begin()
    whole, part = copy(shared), copy(shared[1:3])
    shared += 1
    assert whole.tolist() == [0, 0, 0, 0]
    whole[1] = 7
    assert part.tolist() == [7, 0]
    assert bytes_of({"a": shared, "b": [shared[1:3], (shared,)]}) < 4 * 4 + 4 * 300


def test_buffers_of_the_previous_copy_are_reused() -> None:
    copier = HostCopier()
    weight, moment = torch.zeros(4), torch.ones(8)
    first = [copy(tensor) for copy in [copier.begin()] for tensor in (weight, moment)]
    weight += 5
    second = [copy(tensor) for copy in [copier.begin()] for tensor in (weight, moment, weight[:2])]
    assert [tensor.data_ptr() for tensor in first] == [tensor.data_ptr() for tensor in second[:2]]
    assert second[0].tolist() == [5, 5, 5, 5]
    assert second[2].data_ptr() == second[0].data_ptr()
    other = [copy(tensor) for copy in [copier.begin()] for tensor in (moment, weight)]
    assert [tensor.tolist() for tensor in other] == [moment.tolist(), weight.tolist()]


def test_an_error_of_another_kind_in_the_background_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("inside the thread")

    monkeypatch.setattr("trainwright.engine.checkpoints.writer.save_checkpoint", broken)
    with pytest.raises(ZeroDivisionError, match="inside the thread"):
        run(tmp_path / "run", [], {"async_save": True})


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    same_pid = f".iter_4.pth.0.{os.getpid()}.tmp"  # as in a restarted container
    for name in (f".iter_2.pth.7.{gone.pid}.tmp", same_pid, f".iter_6.pth.0.{os.getppid()}.tmp", ".mine.tmp"):
        (tmp_path / name).touch()
    assert sorted(remove_leftovers(tmp_path)) == [f".iter_2.pth.7.{gone.pid}.tmp", same_pid]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_cannot_make_a_run_remove_files_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim.pth"
    victim.touch()
    hook = CheckpointHook()
    evil = {
        "best_scores": {"acc": 1.0, "loss": 0.1},
        "best_ckpts": {"acc": "../victim.pth", "loss": "best.pth"},
        "keep_ckpts": ["../victim.pth", str(victim), "..", "epoch_1.pth"],
        "last_ckpt": str(victim),
        "obsolete": ["../victim.pth", "a\\..\\victim.pth", "epoch_0.pth"],
    }
    hook.load_state_dict(evil)
    assert hook.state_dict() == {
        "best_scores": {"acc": 1.0, "loss": 0.1},
        "rules": {},
        "best_ckpts": {"loss": "best.pth"},
        "keep_ckpts": ["epoch_1.pth"],
        "last_ckpt": None,
        "last_at": None,
        "obsolete": ["epoch_0.pth"],
    }


@pytest.mark.parametrize("name", ["../iter_{}.pth", "/tmp/iter_{}.pth", "a/iter_{}.pth"])
def test_a_file_name_cannot_lead_out_of_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a file name"):
        CheckpointHook(filename_tmpl=name)


def test_an_unwritable_work_dir_is_a_mistake_of_the_config(small_disk: Path) -> None:
    from trainwright.engine import Config

    fill(small_disk)
    with pytest.raises(ConfigError, match=r"work_dir: cannot be written: .*No space left"):
        make_runner(small_disk, cfg=Config({"note": "x" * 20_000}))


def test_a_full_disk_does_not_end_the_scalars(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner = run(small_disk / "run", [], {"interval": 8})
    fill(small_disk)
    with MMLogger.set_current(runner.logger):
        for index in range(2000):
            runner.visualizer.add_scalars({"x": index}, step=index)
    assert capfd.readouterr().out.count("LocalVisBackend cannot write") == 1
