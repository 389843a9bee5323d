"""Trainings with configs that OpenMMLab's libraries ship, where these are installed.

``environment.sh FOLDER`` makes such an environment; run ``pytest -m slow tests/compat/test_libraries.py`` in it. The
training curves in ``libraries/curves.json`` are those of the real MMEngine 0.10.7 (``run.py --real``).
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "libraries"
CURVES: dict[str, Any] = json.loads((HERE / "curves.json").read_text())
# Each logs a warning: the stage of growth, pasted objects and the order of degradations are not in checkpoints.
NOT_EXACT = ("pggan", "pointpillars", "realesrnet")
LIBRARIES = {name: curve["library"] for name, curve in CURVES.items()}
WITH_LIBRARY = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed"),
            *([pytest.mark.slow] if name != "resnet" else [pytest.mark.long]),
        ],
    )
    for name, library in LIBRARIES.items()
]


def run(name: str, folder: Path, *options: str, fidelity: bool = False) -> list[dict[str, Any]]:
    """Run stages of an experiment in a new process, and return the results of each."""
    words = [sys.executable, "-m", "trainwright.compat", *(["--fidelity"] if fidelity else [])]
    done = subprocess.run(
        [*words, str(HERE / "run.py"), name, str(folder), *options],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"engine"')]


@pytest.mark.parametrize("name", WITH_LIBRARY)
def test_fidelity_reproduces_the_curve_of_mmengine(name: str, tmp_path: Path) -> None:
    (got,), expected = run(name, tmp_path, fidelity=True), CURVES[name]
    assert got["engine"] == "trainwright.engine"
    if processor() == expected["processor"]:
        assert got["losses"] == expected["losses"]
        assert got["digest"] == expected["digest"]
    # Rounding of another processor grows with each step of an untrained network: to 5 % in seven steps of ResNet-18.
    assert got["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-5)
    assert got["losses"][:3] == pytest.approx(expected["losses"][:3], rel=1e-3)
    assert len(got["losses"]) == len(expected["losses"])


@pytest.mark.parametrize("name", [case for case in WITH_LIBRARY if case.values[0] not in NOT_EXACT])
def test_a_stopped_training_is_resumed_to_the_same_bits_and_can_be_tested(name: str, tmp_path: Path) -> None:
    whole, whole_tested = run(name, tmp_path / "whole", "--stage", "train", "test")
    stop = len(whole["losses"]) // 4 + 1  # in the middle of an epoch
    (first,) = run(name, tmp_path / "stopped", "--stop-after", str(stop))
    second, tested = run(name, tmp_path / "stopped", "--stage", "resume", "test")
    assert [*first["losses"], *second["losses"]] == whole["losses"]
    assert second["digest"] == whole["digest"]
    assert tested == whole_tested


def processor() -> str:
    """Return the name of the processor and the instructions that PyTorch uses on it."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.split('+')[0]}"
