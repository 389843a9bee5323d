"""Data workers share annotations instead of copying them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/annotations.py"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
@pytest.mark.long
def test_workers_take_little_memory_for_annotations() -> None:
    """Run a small benchmark; annotations as objects are copied, which shows that the measurement detects copies."""
    command = [sys.executable, str(BENCHMARK), "--annotations", "20000", "--workers", "2", "--objects", "--json"]
    numbers = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    none, shared = numbers["bytes"]
    none_of_objects, copied = numbers["objects"]
    assert shared <= 1.3 * none
    assert shared - none < (copied - none_of_objects) / 2
