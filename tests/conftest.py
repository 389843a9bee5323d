"""What all tests share: one torch thread, and an empty folder of their own to stand in."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty folder the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
