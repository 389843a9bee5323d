"""EmptyCacheHook acts only at the enabled hook points."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Scripted, make_runner

from trainwright.hooks import EmptyCacheHook


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, 2 + 1),  # two epochs, one validation
        ({"after_epoch": False, "before_epoch": True}, 2 + 1),
        ({"after_epoch": False, "after_iter": True}, 4 + 1),
        ({"after_epoch": False}, 0),
    ],
)
def test_the_cache_is_emptied_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], calls: int
) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: emptied.append(1), raising=False)
    make_runner(
        tmp_path,
        [EmptyCacheHook(**options)],
        metric=Scripted(acc=[1]),
        train_cfg={"max_epochs": 2, "val_interval": 2},
    ).train()
    assert len(emptied) == calls


def test_a_cpu_has_no_cache_to_empty(tmp_path: Path) -> None:
    make_runner(tmp_path, [EmptyCacheHook(before_epoch=True, after_iter=True)], train_cfg={"max_epochs": 1}).train()


def test_what_is_off_is_never_called() -> None:
    stages = EmptyCacheHook().get_triggered_stages()
    assert stages == ["after_train_epoch", "after_val_epoch", "after_test_epoch"]
