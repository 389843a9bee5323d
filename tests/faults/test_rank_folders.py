"""Faults while two ranks write a sharded checkpoint: it is complete or does not exist, and the resumed run is exact."""

import errno
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoint_bits import different_bits
from disk_faults import fail_at, kill_at
from fault_runs import INTERVAL, Tally, at_forward, lost_iterations, on, send, train_on_ranks, write_config

from trainwright.engine.checkpoints.files import find_latest_checkpoint, verify

pytestmark = pytest.mark.long

STRATEGIES: dict[str, dict[str, Any]] = {
    "FSDP2": {"strategy": {"type": "FSDP2"}, "default_hooks__checkpoint__save_best": "accuracy/top1", "val_cfg": {}},
    # no rank has state of its own, so that the checkpoint that a survivor saves alone is exact, too
    "DDP": {"strategy": {"type": "DDP"}, "model__backbone__type": "SteadyNet", "optim_wrapper__accumulative_counts": 1},
}
TIMEOUT = 20
"""Seconds until a rank that hangs ends the other, in these runs."""


def configure(folder: Path, strategy: str, *, async_save: bool) -> Path:
    return write_config(
        folder,
        env_cfg={"dist_cfg": {"timeout": TIMEOUT}},
        default_hooks__checkpoint__rule=None,
        default_hooks__checkpoint__sharded=True,
        default_hooks__checkpoint__async_save=async_save,
        **STRATEGIES[strategy],
    )


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], tuple[Path, Path]]:
    """Return a function for the config and the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("folders")

    def reference(strategy: str, async_save: bool) -> tuple[Path, Path]:
        config, work_dir = folder / f"{strategy}_{async_save}", folder / strategy
        file = configure(config, strategy, async_save=async_save)
        if not work_dir.exists():
            ranks = train_on_ranks(file, work_dir)
            assert ranks.wait() == [0, 0], ranks.printed
        return file, work_dir

    return reference


def same_training(work_dir: Path, reference: Path) -> bool:
    """Return whether weights, optimizer and schedulers have the same bits; a survivor may have saved more files."""
    files = [find_latest_checkpoint(folder)[0] for folder in (work_dir, reference)]
    assert files[0] is not None and files[1] is not None
    parts = ("state_dict.", "ema_state_dict.", "optimizer.", "param_schedulers.")
    return not [line for line in different_bits(*files) if line.startswith(parts)]


def resume(config: Path, work_dir: Path, reference: Path, tally: Tally, kind: str) -> None:
    """Resume a run after a fault, and compare it with the uninterrupted one."""
    newest, _ = find_latest_checkpoint(work_dir)
    assert newest is None or verify(newest) is None
    resumed = train_on_ranks(config, work_dir, resume=True)
    assert resumed.wait() == [0, 0], resumed.printed
    lost, identical = lost_iterations(work_dir), same_training(work_dir, reference)
    tally.note(kind, faults=1, resumed=1, identical=identical)
    tally.row(kind).lost += lost
    assert max(lost) <= 2 * INTERVAL  # with those during a save in the background
    assert identical


KILLS = [  # strategy, rank, operation, its number, in the background
    ("FSDP2", 1, "half __1_0.distcp", 2, False),
    *(
        pytest.param(strategy, rank, operation, number, async_save, marks=pytest.mark.slow)
        for strategy in STRATEGIES
        for async_save in (False, True)
        for rank, operation, number in [
            (0, "open __0_0.distcp", 2),
            (1, "open __1_0.distcp", 2),
            (0, "fsync __0_0.distcp", 2),
            (1, "fsync __1_0.distcp", 2),
            (0, "fsync .metadata.tmp", 2),
            (1, "open rank_1.pth", 2),
            (0, "half run.pth", 2),
            (0, "fsync run.pth", 2),
            (1, "replace rank_1.pth", 2),
            (0, "open files.json", 2),
            (0, "fsync files.json", 2),
            (0, "replace iter_8.dist", 1),
            (0, "fsync last_checkpoint", 2),
            (0, "replace last_checkpoint", 2),
        ]
    ),
]


@pytest.mark.parametrize(("strategy", "rank", "operation", "number", "async_save"), KILLS)
def test_a_rank_is_killed_while_all_save(
    strategy: str, rank: int, operation: str, number: int, async_save: bool,
    references: Callable[[str, bool], tuple[Path, Path]], tmp_path: Path, tally: Tally,
) -> None:  # fmt: skip
    config, reference = references(strategy, async_save)
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(config, work_dir, before=on(rank, partial(kill_at, operation, number)))
    statuses = ranks.wait(40)
    assert statuses[rank] == -signal.SIGKILL, ranks.printed
    assert statuses[1 - rank] == 1, ranks.printed
    assert f"Rank {rank} of 2 failed: " in ranks.printed
    resume(config, work_dir, reference, tally, "SIGKILL while all ranks save")


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def small_files_for_a_while() -> None:
    """Let this process write only small files, as on a full disk, from iteration 4 to 8."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    at_forward(True, 4, partial(limit, 20_000))
    at_forward(True, 9, partial(limit, resource.getrlimit(resource.RLIMIT_FSIZE)[0]))


DISKS: dict[str, Callable[[], None]] = {
    "write": small_files_for_a_while,
    "fsync": partial(fail_at, r"fsync __\d_0.distcp", 2, 2, errno.ENOSPC),
    "own state": partial(fail_at, "fsync (run|rank_1).pth", 2, 2, errno.ENOSPC),
}


@pytest.mark.parametrize(
    ("strategy", "rank", "operation", "async_save"),
    [
        ("FSDP2", 1, "fsync", True),
        *(
            pytest.param(strategy, rank, operation, async_save, marks=pytest.mark.slow)
            for strategy in STRATEGIES
            for rank in (0, 1)
            for operation in DISKS
            for async_save in (False, True)
        ),
    ],
)
def test_the_disk_of_one_rank_is_full(
    strategy: str, rank: int, operation: str, async_save: bool,
    references: Callable[[str, bool], tuple[Path, Path]], tmp_path: Path, tally: Tally,
) -> None:  # fmt: skip
    config, reference = references(strategy, async_save)
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(config, work_dir, before=on(rank, DISKS[operation]))
    assert ranks.wait() == [0, 0], ranks.printed
    (line, *_) = (line for line in ranks.printed.splitlines() if "NOT saved" in line)
    assert f"rank {rank}: " in line and "Training continues" in line
    assert not list(work_dir.glob(".*.tmp"))
    assert not [verify(folder) for folder in work_dir.glob("*.dist") if verify(folder)]
    identical = same_training(work_dir, reference)
    tally.note("a full disk of one rank", faults=1, identical=identical)
    assert identical


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_failed_rank_and_the_survivor(
    strategy: str, references: Callable[[str, bool], tuple[Path, Path]], tmp_path: Path, tally: Tally
) -> None:
    """A survivor has the whole state with DDP, and saves a file; with FSDP2 it has a part, and says so."""
    config, reference = references(strategy, False)
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(
        config,
        work_dir,
        before=on(1, partial(at_forward, False, 3 if strategy == "FSDP2" else 2, partial(send, signal.SIGKILL))),
    )
    assert ranks.wait(40) == [1, -signal.SIGKILL], ranks.printed
    saved = find_latest_checkpoint(work_dir)[0]
    assert saved is not None
    assert saved.name == ("iter_6.pth" if strategy == "DDP" else "iter_4.dist")
    assert ("each process has only a part" in ranks.printed) == (strategy == "FSDP2")
    resume(config, work_dir, reference, tally, "SIGKILL of one rank")
