"""Optimizers of optional packages, and their names in ``mmengine.optim.optimizer.builder``."""

import sys
from pathlib import Path

import pytest
import torch

from trainwright.compat.mmengine import optim as builder
from trainwright.engine.registry import OPTIMIZERS

BITSANDBYTES = """
import torch
class AdamW8bit(torch.optim.AdamW): ...
class PagedAdamW(AdamW8bit): ...
class Adam(AdamW8bit): ...
"""


def test_optimizers_of_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").touch()
    (tmp_path / "bitsandbytes" / "optim.py").write_text(BITSANDBYTES)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert builder.BITSANDBYTES_OPTIMIZERS == ["AdamW8bit", "PagedAdamW", "bnb_Adam"]
        assert OPTIMIZERS.get("Adam") is torch.optim.Adam and "Adam" in builder.TORCH_OPTIMIZERS
        assert builder.SOPHIA_OPTIMIZERS == []
    finally:
        for name in ("AdamW8bit", "PagedAdamW", "bnb_Adam"):
            OPTIMIZERS.module_dict.pop(name, None)
        for name in ("bitsandbytes", "bitsandbytes.optim"):
            sys.modules.pop(name, None)
