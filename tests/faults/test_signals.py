"""SIGTERM, SIGINT and SIGUSR1 at any point: the run saves, stops after the current iteration, and can be resumed."""

import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from disk_faults import send_at
from fault_runs import (
    INTERVAL,
    TRAINING_SAMPLES,
    Reference,
    Tally,
    at_forward,
    at_sample,
    notes_of,
    send,
    train,
    write_config,
)

from trainwright.engine.checkpoints.files import LAST, verify

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}
EACH = pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
PLACES: dict[str, tuple[int, Callable[[int], Callable[[], None]]]] = {
    "the first iteration": (1, lambda number: partial(at_forward, True, 1, partial(send, number))),
    "an iteration": (7, lambda number: partial(at_forward, True, 7, partial(send, number))),
    "the validation": (6, lambda number: partial(at_forward, False, 2, partial(send, number))),
    "a save": (8, lambda number: partial(send_at, "half iter_8.pth", 1, number)),
    "the save of the best": (6, lambda number: partial(send_at, "replace best_loss_iter_6.pth", 1, number)),
}


@EACH
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_stops_the_run_at_the_next_boundary(
    place: str, number: signal.Signals, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    reference = references[True]
    stops_after, fault = PLACES[place]
    work_dir = tmp_path / "run"
    process = train(reference.config, work_dir, before=fault(number))
    assert process.wait() == STATUS[number], process.printed
    assert f"Stopped after iteration {stops_after} (signal {number.name})" in process.printed
    resumed = train(reference.config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    assert re.search(rf"Resumed from .*: epoch \d, iteration {stops_after}$", resumed.printed, re.M), resumed.printed
    tally.compare(f"{number.name}", work_dir, reference.work_dir, most_lost=0)


@EACH
def test_a_signal_during_an_async_save(
    number: signal.Signals, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    config = write_config(tmp_path / "config", by_epoch=False, default_hooks__checkpoint__async_save=True)
    work_dir = tmp_path / "run"
    process = train(config, work_dir, before=partial(send_at, "half iter_8.pth", 1, number))
    assert process.wait() == STATUS[number], process.printed
    resumed = train(config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    tally.compare(f"{number.name}", work_dir, references[False].work_dir, most_lost=0)


@EACH
@pytest.mark.parametrize("place", ["an iteration", "a save"])
def test_a_second_signal_ends_at_once(
    place: str, number: signal.Signals, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    reference = references[False]
    twice = {
        "an iteration": partial(at_forward, True, 7, partial(send, signal.SIGTERM, number)),
        "a save": lambda: (send_at("half iter_8.pth", 1, signal.SIGTERM), send_at("fsync iter_8.pth", 1, number)),
    }
    work_dir = tmp_path / "run"
    process = train(reference.config, work_dir, before=twice[place])
    assert process.wait() == STATUS[number], process.printed
    assert "Stopped after" not in process.printed
    assert verify(work_dir / (work_dir / LAST).read_text()) is None
    resumed = train(reference.config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    tally.compare("a second signal", work_dir, reference.work_dir, most_lost=INTERVAL)


def test_a_signal_from_another_process(tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    """Slurm and Kubernetes signal the whole process group, including data workers."""

    def slow() -> None:
        for sample in range(TRAINING_SAMPLES):
            at_sample(sample, partial(time.sleep, 0.02))

    config = write_config(tmp_path / "config", by_epoch=True, workers=2)
    work_dir = tmp_path / "run"
    process = train(config, work_dir, before=slow)
    process.wait_until(lambda: "done 5" in notes_of(work_dir))
    process.kill_group(signal.SIGTERM)
    assert process.wait() == 143, process.printed
    resumed = train(config, work_dir, resume=True)
    assert resumed.wait() == 0, resumed.printed
    tally.compare("SIGTERM", work_dir, references[True].work_dir, most_lost=0)
