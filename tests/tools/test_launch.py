"""``trainwright launch``: the options of torchrun, and the exit status."""

from pathlib import Path
from typing import Any

import pytest
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from trainwright.tools.cli import main

TRAIN = ["-m", "trainwright.tools.cli", "train", "net.py", "--resume"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the arguments of torchrun instead of running it."""
    calls: list[list[str]] = []
    monkeypatch.setattr(torchrun, "main", calls.append)
    return calls


def test_one_machine(asked: list[list[str]]) -> None:
    assert main(["launch", "--nproc", "2", "--max-restarts", "3", "net.py", "--resume"]) == 0
    (words,) = asked
    assert words[:3] == ["--nproc-per-node=2", "--nnodes=1", "--max-restarts=3"]
    assert words[3:] == ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *TRAIN]


def test_several_machines(asked: list[list[str]]) -> None:
    machines = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "host"]
    assert main(["launch", "--nproc", "8", *machines, "test", "net.py", "a.pth"]) == 0
    (words,) = asked
    assert words[3:6] == ["--node-rank=1", "--master-addr=host", "--master-port=29500"]
    assert words[6:] == ["-m", "trainwright.tools.cli", "test", "net.py", "a.pth"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nproc", "2", "--nnodes", "2", "net.py"], "--master-addr: the machines have to find each other"),
        (["--nproc", "2", "net.py", "--resumee"], "unrecognized arguments: --resumee"),
        (["--nproc", "2"], "the following arguments are required: CONFIG"),
    ],
)
def test_mistakes_are_found_before_any_process_starts(
    words: list[str], message: str, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["launch", *words]) == 2
    except SystemExit as error:
        assert error.code == 2
    assert message in capsys.readouterr().err
    assert not asked


@pytest.mark.parametrize(
    ("exit_codes", "status"),
    [([143], 143), ([-9], 137), ([2], 2), ([-15, 2], 2), ([143, -9, 143], 137), ([143, -15], 143)],
)
def test_the_status_is_that_of_the_process_that_failed_and_not_of_one_that_torchrun_ended(
    exit_codes: list[int], status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(words: list[str]) -> Any:
        failures = {
            rank: ProcessFailure(rank, 1, code, str(tmp_path / "error")) for rank, code in enumerate(exit_codes)
        }
        raise ChildFailedError("train", failures)

    monkeypatch.setattr(torchrun, "main", fail)
    assert main(["launch", "--nproc", "2", "net.py"]) == status
