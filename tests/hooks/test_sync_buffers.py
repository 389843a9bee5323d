"""SyncBuffersHook in a single process; see test_several_processes.py for several."""

from pathlib import Path

import torch
from tiny_runs import Line, make_runner


def test_one_process_keeps_its_buffers(tmp_path: Path) -> None:
    synced = make_runner(tmp_path / "a", [{"type": "SyncBuffersHook"}], model=Line(batch_norm=True))
    synced.train()
    plain = make_runner(tmp_path / "b", model=Line(batch_norm=True))
    plain.train()
    torch.testing.assert_close(dict(synced.model.named_buffers()), dict(plain.model.named_buffers()), rtol=0, atol=0)
