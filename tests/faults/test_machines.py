"""Training on two machines, played by two network namespaces, started with ``trainwright launch``."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fault_runs import write_config

from trainwright.engine.checkpoints.files import load_checkpoint_file

pytestmark = pytest.mark.slow

ADDRESSES = ("10.93.0.1", "10.93.0.2")
SUPPORT = Path(__file__).parents[1] / "support"


def run(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Connect two network namespaces, and return their names."""
    names = [f"trainwright{os.getpid()}_{number}" for number in range(2)]
    try:
        if not (all(run("ip", "netns", "add", name) for name in names) and run(
            "ip", "link", "add", "net0", "netns", names[0], "type", "veth", "peer", "name", "net0", "netns", names[1]
        )):  # fmt: skip
            pytest.skip("network namespaces are not allowed here")
        for name, address in zip(names, ADDRESSES):
            inside = ("ip", "-n", name)
            assert run(*inside, "addr", "add", f"{address}/24", "dev", "net0")
            assert run(*inside, "link", "set", "net0", "up")
            assert run(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            run("ip", "netns", "del", name)


def launch(machine: str, number: int, words: Sequence[str], output: Path) -> "subprocess.Popen[bytes]":
    """Start this machine's part of a run of two machines."""
    command = [
        "ip", "netns", "exec", machine, sys.executable, "-m", "trainwright.tools.cli", "launch", "--nproc", "1", "--nnodes", "2",
        "--node-rank", str(number), "--master-addr", ADDRESSES[0], "--master-port", "29571", *words,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "GLOO_SOCKET_IFNAME": "net0", "OMP_NUM_THREADS": "1"}
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def test_two_machines_train_together(machines: list[str], tmp_path: Path) -> None:
    config = write_config(tmp_path / "config")
    words = [str(config), "--work-dir", str(tmp_path / "run")]
    outputs = [tmp_path / "0.txt", tmp_path / "1.txt"]
    parts = [launch(name, number, words, outputs[number]) for number, name in enumerate(machines)]
    assert [part.wait(120) for part in parts] == [0, 0], [output.read_text() for output in outputs]
    checkpoint = load_checkpoint_file(tmp_path / "run" / "iter_9.pth")
    assert checkpoint["trainwright"]["ranks"]["world_size"] == 2


def test_one_machine_is_told_to_stop(machines: list[str], tmp_path: Path) -> None:
    config = write_config(tmp_path / "config", train_cfg__max_epochs=2000)
    words = [str(config), "--work-dir", str(tmp_path / "run")]
    outputs = [tmp_path / "0.txt", tmp_path / "1.txt"]
    parts = [launch(name, number, words, outputs[number]) for number, name in enumerate(machines)]
    notes = tmp_path / "run.notes.1"
    while not notes.exists() and all(part.poll() is None for part in parts):
        os.sched_yield()
    parts[1].send_signal(signal.SIGTERM)
    statuses = [part.wait(120) for part in parts]
    assert statuses == [143, 143], [output.read_text() for output in outputs]
    assert "Stopped after iteration" in outputs[0].read_text()
