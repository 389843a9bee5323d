"""Modules that change what they load: by version, by name, by shape."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_runner
from torch import Tensor, nn

from trainwright.engine import load_checkpoint, load_checkpoint_file, load_state_dict, save_checkpoint
from trainwright.engine.checkpoints.files import get_state_dict


class Renaming(nn.Linear):
    """A layer whose weight was stored negated before version 2."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class Resizing(nn.Module):
    """A model that interpolates its position embedding when it loads one of another size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, size))
        self.head = nn.Linear(size, 2)
        self._register_load_state_dict_pre_hook(self._resize)

    def _resize(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        given = state_dict[f"{prefix}position"]
        if given.shape != self.position.shape:
            state_dict[f"{prefix}position"] = nn.functional.interpolate(given[None], self.position.shape[1])[0]


def test_weights_of_the_current_version_are_not_taken_for_old_ones(tmp_path: Path) -> None:
    source, target = Renaming(2, 2), Renaming(2, 2)
    save_checkpoint({"state_dict": source.state_dict()}, tmp_path / "now.pth")
    load_checkpoint(target, tmp_path / "now.pth")
    assert torch.equal(target.weight, source.weight)
    save_checkpoint({"state_dict": dict(source.state_dict())}, tmp_path / "old.pth")
    load_checkpoint(target, tmp_path / "old.pth")
    assert torch.equal(target.weight, -source.weight)


def test_checkpoints_of_a_run_have_the_versions(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1)).train()
    file = next(tmp_path.rglob("epoch_*.pth"))
    assert get_state_dict(load_checkpoint_file(file))._metadata[""]["version"] == 1  # type: ignore[attr-defined]


def test_a_module_may_reshape_what_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    source, target = Resizing(4), Resizing(8)
    nn.init.normal_(source.position)
    load_state_dict(target, source.state_dict())
    assert torch.equal(target.position[0, ::2], source.position[0])
    printed = capsys.readouterr().out
    assert "position" not in printed
    assert "head.weight: (2, 4) in the file, (2, 8) in the model" in printed
