"""Faults of single ranks: every rank ends soon, the failed one is named, and the resumed run has the same bits."""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_faults import kill_at, send_at
from fault_runs import NOTES, Tally, at_forward, differences, on, send, train_on_ranks, write_config

from trainwright.engine.checkpoints.files import find_latest_checkpoint, load_checkpoint_file

pytestmark = pytest.mark.long

TIMEOUT = 20
"""Seconds until a rank that hangs ends the others, in these runs."""


class Reference:
    """An uninterrupted run of two ranks.

    Args:
        config: path of its config.
        work_dir: its folder.
        seconds: its duration.
    """

    def __init__(self, folder: Path, name: str, **changes: Any) -> None:
        self.config = write_config(
            folder / "configs" / name, **{"env_cfg": {"dist_cfg": {"timeout": TIMEOUT}}, **changes}
        )
        self.work_dir = folder / name
        ranks = train_on_ranks(self.config, self.work_dir)
        assert ranks.wait() == [0, 0], ranks.printed
        self.seconds = min(process.seconds for process in ranks.processes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def noisy(folder: Path) -> Reference:
    """Each rank has state of its own: batch norms, accumulated gradients, random numbers of Python."""
    return Reference(folder, "noisy")


@pytest.fixture(scope="module")
def steady(folder: Path) -> Reference:
    """No rank has state of its own between two iterations."""
    return Reference(folder, "steady", model__backbone__type="SteadyNet", optim_wrapper__accumulative_counts=1)


def same_training(work_dir: Path, reference: Path) -> bool:
    """Return whether the weights, the optimizer and the schedulers of two finished runs have the same bits."""
    files = [find_latest_checkpoint(each)[0] for each in (work_dir, reference)]
    first, second = (load_checkpoint_file(file) for file in files if file is not None)
    keys = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
    return all(_same(first[key], second[key]) for key in keys)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other))
    return bool(one == other)


PLACES: dict[str, Callable[[int], None]] = {
    "an iteration": lambda number: at_forward(True, 7, partial(send, number)),
    "the validation": lambda number: at_forward(False, 1, partial(send, number)),
    "the first iteration": lambda number: at_forward(True, 1, partial(send, number)),
    "a save": lambda number: send_at("half iter_8.pth", 1, number),
}
"""Where a rank gets a signal; only rank 0 saves."""


@pytest.mark.parametrize(
    ("rank", "place", "number"),
    [
        (1, "an iteration", signal.SIGTERM),
        (1, "the validation", signal.SIGINT),
        pytest.param(0, "an iteration", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(0, "a save", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(0, "the validation", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(1, "the first iteration", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(0, "the first iteration", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_stops_all(
    rank: int, place: str, number: signal.Signals, noisy: Reference, tmp_path: Path, tally: Tally
) -> None:
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(noisy.config, work_dir, before=on(rank, partial(PLACES[place], number)))
    assert ranks.wait() == [{signal.SIGINT: 130}.get(number, 128 + number)] * 2, ranks.printed
    assert f"(signal {number.name})" in ranks.printed
    resumed = train_on_ranks(noisy.config, work_dir, resume=True)
    assert resumed.wait() == [0, 0], resumed.printed
    tally.compare(f"{number.name} to one rank", work_dir, noisy.work_dir, most_lost=0)


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 40))])
def test_signals_to_all_ranks_one_after_the_other(number: int, noisy: Reference, tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(number)
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(noisy.config, work_dir)
    began = work_dir.with_name(f"{work_dir.name}{NOTES}")
    ranks.processes[0].wait_until(began.exists)
    time.sleep(noisy.seconds / 3 * chance.random())
    for process in chance.sample(ranks.processes, 2):
        if process.poll() is None:
            process.kill(signal.SIGTERM)
        time.sleep(chance.choice([0, 0.002]))
    statuses = ranks.wait()
    ended = [0, 0], [-signal.SIGTERM] * 2, [0, -signal.SIGTERM], [-signal.SIGTERM, 0]  # training was complete
    assert statuses == [143, 143] or statuses in ended, ranks.printed
    if statuses == [143, 143]:
        resumed = train_on_ranks(noisy.config, work_dir, resume=True)
        assert resumed.wait() == [0, 0], resumed.printed
    tally.compare("SIGTERM to all ranks", work_dir, noisy.work_dir, faults=2, most_lost=0)


def test_four_ranks_stop_and_resume(tmp_path: Path, tally: Tally) -> None:
    """The order in which three or more gradients are added is the same after resuming."""
    config, reference, work_dir = write_config(tmp_path / "config"), tmp_path / "reference", tmp_path / "run"
    stop = on(2, partial(at_forward, True, 2, partial(send, signal.SIGTERM)))
    whole = train_on_ranks(config, reference, world_size=4)
    stopped = train_on_ranks(config, work_dir, world_size=4, before=stop)
    assert whole.wait() == [0] * 4, whole.printed
    assert stopped.wait() == [143] * 4, stopped.printed
    resumed = train_on_ranks(config, work_dir, world_size=4, resume=True)
    assert resumed.wait() == [0] * 4, resumed.printed
    tally.compare("SIGTERM to one of four ranks", work_dir, reference, most_lost=0)


def fail() -> None:
    raise ValueError("the first failure")


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "raise": (fail, "ValueError: the first failure"),
    "out of memory": (lambda: torch.empty(1 << 46), "can't allocate memory"),
    "SIGKILL": (partial(send, signal.SIGKILL), "its process has ended without an error"),
}


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        ("raise", 1),
        ("SIGKILL", 0),
        *(pytest.param(*fault, marks=pytest.mark.slow) for fault in [
            ("raise", 0), ("out of memory", 0), ("out of memory", 1), ("SIGKILL", 1)
        ]),
    ],
)  # fmt: skip
def test_a_failed_rank_is_named_and_nothing_is_lost(
    kind: str, rank: int, steady: Reference, tmp_path: Path, tally: Tally
) -> None:
    fault, reason = FAULTS[kind]
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(steady.config, work_dir, before=on(rank, partial(at_forward, True, 7, fault)))
    statuses = ranks.wait(30)
    assert statuses[1 - rank] == 1, ranks.printed
    assert statuses[rank] == (-signal.SIGKILL if kind == "SIGKILL" else 1)
    full = f"Rank {rank} of 2 failed: "
    (line,) = (line for line in ranks.printed.splitlines() if line.startswith(full))
    assert reason in line
    assert f"Rank {1 - rank} of 2 ended, because Rank {rank} of 2 failed: " in ranks.printed
    assert ranks.printed.count("Traceback") == (kind != "SIGKILL"), ranks.printed
    resumed = train_on_ranks(steady.config, work_dir, resume=True)
    assert resumed.wait() == [0, 0], resumed.printed
    assert "iteration 6" in next(line for line in resumed.printed.splitlines() if "Resumed from" in line)
    tally.note(f"{kind} of one rank", faults=1, resumed=1, identical=same_training(work_dir, steady.work_dir))
    assert same_training(work_dir, steady.work_dir)


def test_a_rank_that_hangs_is_found(steady: Reference, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "config", env_cfg={"dist_cfg": {"timeout": 3}}, model__backbone__type="SteadyNet",
        optim_wrapper__accumulative_counts=1,
    )  # fmt: skip
    ranks = train_on_ranks(
        config, tmp_path / "run", before=on(1, partial(at_forward, True, 6, partial(time.sleep, 1000)))
    )
    assert ranks.wait(20) == [1, 1], ranks.printed
    first, second = (process.printed for process in ranks.processes)
    assert "Rank 0 of 2 failed: it has waited in vain for another rank" in first
    assert "Rank 1 of 2 is here:" in second
    assert "in watched" in second  # the stack of the rank that hangs
    newest, _ = find_latest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.name == "iter_5.pth"


@pytest.mark.parametrize(
    "operation",
    ["half iter_8.pth", pytest.param("replace iter_8.pth", marks=pytest.mark.slow), "replace last_checkpoint"],
)
def test_rank_0_is_killed_while_it_saves(operation: str, noisy: Reference, tmp_path: Path, tally: Tally) -> None:
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(
        noisy.config, work_dir, before=on(0, partial(kill_at, operation, 2 if "last" in operation else 1))
    )
    assert ranks.wait() == [-signal.SIGKILL, 1], ranks.printed
    resumed = train_on_ranks(noisy.config, work_dir, resume=True)
    assert resumed.wait() == [0, 0], resumed.printed
    tally.note("SIGKILL while saving", faults=1, resumed=1, identical=not differences(work_dir, noisy.work_dir))


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 40))])
def test_a_rank_is_killed_at_a_random_moment(number: int, steady: Reference, tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(number)
    work_dir = tmp_path / "run"
    ranks = train_on_ranks(steady.config, work_dir)
    time.sleep(steady.seconds * chance.random())
    victim = ranks.processes[chance.randrange(2)]
    if victim.poll() is None:
        victim.kill()
    statuses = ranks.wait(40)
    assert statuses in ([0, 0], [-9, 1], [1, -9], [-9, 0], [0, -9]) or -15 in statuses, ranks.printed
    resumed = train_on_ranks(steady.config, work_dir, resume=True)
    assert resumed.wait() == [0, 0], resumed.printed
    tally.note("SIGKILL at a random moment", faults=1, resumed=1, identical=same_training(work_dir, steady.work_dir))
    assert same_training(work_dir, steady.work_dir)


def test_a_restarted_job_resumes_from_its_own_checkpoints(steady: Reference, tmp_path: Path) -> None:
    """Torchrun starts the same command again; a checkpoint of an earlier job in the same folder does not count."""
    work_dir = tmp_path / "run"
    job = {"TORCHELASTIC_MAX_RESTARTS": "2"}
    earlier = train_on_ranks(steady.config, work_dir)
    assert earlier.wait() == [0, 0], earlier.printed
    first = train_on_ranks(
        steady.config, work_dir, before=on(1, partial(at_forward, True, 2, partial(send, signal.SIGKILL))), **job
    )
    assert first.wait() == [1, -signal.SIGKILL], first.printed
    (work_dir / "iter_1.pth").unlink()  # as if it had not been possible to save it
    second = train_on_ranks(
        steady.config, work_dir, before=on(1, partial(at_forward, True, 6, partial(send, signal.SIGKILL))),
        TORCHELASTIC_RESTART_COUNT="1", **job,
    )  # fmt: skip
    assert second.wait() == [1, -signal.SIGKILL], second.printed
    assert "there is no checkpoint of this job yet" in second.printed
    third = train_on_ranks(steady.config, work_dir, TORCHELASTIC_RESTART_COUNT="2", **job)
    assert third.wait() == [0, 0], third.printed
    assert "Restart 2: resuming from" in third.printed
    assert "iteration 5" in next(line for line in third.printed.splitlines() if "Resumed from" in line)
    assert same_training(work_dir, steady.work_dir)


def test_a_mistake_of_all_ranks_is_printed_once(steady: Reference, tmp_path: Path) -> None:
    """An error for users is printed once, without a traceback."""
    ranks = train_on_ranks(steady.config, tmp_path / "run", "--load-from", str(tmp_path / "missing.pth"))
    assert ranks.wait() in ([2, 2], [2, -signal.SIGTERM]), ranks.printed  # the launcher ends the other
    lines = list(chain.from_iterable(process.printed.splitlines() for process in ranks.processes))
    assert sum("there is no file" in line for line in lines) == 1, ranks.printed
    assert "Traceback" not in ranks.printed
