"""Two training runs cannot share a work dir."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from locked_runs import hold
from tiny_runs import make_runner

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.lock import LOCK, locked
from trainwright.engine.run.runner import Runner


def test_a_second_training_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError, match=rf"another run is training in .*: process {process.pid} on"):
        make_runner(tmp_path).train()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    runner = make_runner(tmp_path)  # the lock of a killed process does not block others
    runner.train()
    assert runner.iter == 6
    assert not (tmp_path / LOCK).exists()


def test_so_is_one_in_the_same_process(tmp_path: Path) -> None:
    refused: list[str] = []

    class Nested(Hook):
        def after_train_epoch(self, runner: Runner) -> None:
            with pytest.raises(ConfigError, match="this process") as error:
                make_runner(tmp_path).train()
            refused.append(str(error.value))

    make_runner(tmp_path, [Nested()]).train()
    assert len(refused) == 3
    make_runner(tmp_path).train()


def test_data_workers_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        process = multiprocessing.get_context("fork").Process(target=signal.pause)
        process.start()
    try:
        with locked(tmp_path):
            pass
    finally:
        process.kill()
        process.join()


def test_a_file_system_without_locks_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*args: Any) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    runner = make_runner(tmp_path)
    runner.train()
    assert runner.iter == 6
