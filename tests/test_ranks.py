"""The groups of processes in other tests: what a failure shows, and that nothing is left running."""

import os
import select
import time
from pathlib import Path

import pytest
from forked import Process
from ranks import Ranks, run_ranks


def hang() -> None:
    time.sleep(1000)


def test_a_rank_that_fails_shows_its_traceback_and_ends_the_others(tmp_path: Path) -> None:
    def action() -> None:
        print(f"hello from {os.environ['RANK']}")
        if os.environ["RANK"] == "1":
            while not Path("said").exists():
                time.sleep(0.001)
            raise ValueError("of rank 1")
        Path("said").touch()
        hang()

    with pytest.raises(
        AssertionError, match=r"(?s)\[-15, 1\].*hello from 0.*hello from 1.*in action.*Error: of rank 1"
    ):
        run_ranks(2, action, tmp_path)
    assert not Process.running


def test_ranks_that_hang_show_their_stacks_and_end_with_their_children(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def action() -> None:
        os.fork()
        os.write(writer, b"+")
        hang()

    ranks = Ranks(2, action, tmp_path)
    os.close(writer)
    assert all(os.read(reader, 1) for _ in range(4))
    with pytest.raises(TimeoutError, match=r"(?s)rank 0.*in hang.*in action.*rank 1.*in hang.*in action"):
        ranks.wait(0.1)
    assert not Process.running
    ended, _, _ = select.select([reader], [], [], 10)
    assert ended and not os.read(reader, 1)  # no process has the other end
    os.close(reader)
