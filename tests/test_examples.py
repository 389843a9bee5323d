"""The examples run, in small, and are as short as they are meant to be."""

import runpy
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from trainwright.engine import Config, Runner, check

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL: dict[str, dict[str, Any]] = {
    "detectron2_style": {
        "train_dataloader.dataset.num_samples": 6,
        "train_dataloader.batch_size": 3,
        "val_dataloader.dataset.num_samples": 2,
        "train_cfg": dict(max_epochs=2, val_interval=2),
        "param_scheduler.total_steps": 2,
    },
}
RESULTS = {"detectron2_style": "coco/bbox_mAP"}


@cache
def load(name: str) -> dict[str, Any]:
    """Run an example, which registers its parts, and return its variables."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.py")))
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "detectron2_style":
        pytest.importorskip("pycocotools")
    monkeypatch.chdir(tmp_path)
    cfg = Config(deepcopy(load(name)["cfg"]))
    assert check(cfg) == []
    cfg.merge_from_dict(SMALL[name])
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert f"val/{RESULTS[name]}" in runner.message_hub.log_scalars
    assert list((tmp_path / cfg.work_dir).glob("*.pth"))


def test_examples_are_short() -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert lengths and max(lengths.values()) <= 80, lengths


@pytest.mark.slow
def test_the_detector_in_the_style_of_detectron2_reaches_its_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = Runner.from_cfg(load("detectron2_style")["cfg"])
    runner.train()
    assert runner.message_hub.log_scalars["val/coco/bbox_mAP_50"].current() > 0.6
