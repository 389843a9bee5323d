"""The thread that watches for failures of other ranks."""

import subprocess
import sys

SCRIPT = """
import atexit, threading
atexit.register(lambda: print([thread.name for thread in threading.enumerate() if thread.daemon]))  # called last
import torch.distributed as dist
from trainwright.engine.ranks import failures
failures.watch(dist.HashStore(), 0, [failures.this_process()] * 2, False)
"""


def test_the_thread_ends_before_python_does_in_a_script_that_does_not_leave_its_process_group() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
