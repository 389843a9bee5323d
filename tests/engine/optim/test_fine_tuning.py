"""Settings for fine-tuning are refused where nothing is loaded that could be fine-tuned."""

from pathlib import Path
from typing import Any

import pytest

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.fine_tuning import missing_weights
from trainwright.engine.run.runner import Runner

XOR = Path(__file__).parents[3] / "configs/toy/mlp_xor.py"


def config(work_dir: Path, **options: Any) -> dict[str, Any]:
    cfg = Config.fromfile(XOR).to_dict()
    cfg["optim_wrapper"]["paramwise_cfg"] = dict(needs_pretrained=True)
    return {**cfg, "work_dir": str(work_dir), **options}


@pytest.mark.parametrize("resume", [False, "auto"])
def test_training_is_refused_before_the_first_step(resume: bool | str, tmp_path: Path) -> None:
    """Also with ``resume="auto"``, if there is nothing to resume."""
    with pytest.raises(ConfigError, match="loads no pretrained weights"):
        Runner.from_cfg(config(tmp_path, resume=resume)).train()
    assert not list(tmp_path.glob("*.pth"))


def test_weights_of_a_checkpoint_are_enough(tmp_path: Path) -> None:
    runner = Runner.from_cfg({**Config.fromfile(XOR).to_dict(), "work_dir": str(tmp_path / "first")})
    runner.save_checkpoint(str(tmp_path), "start.pth")
    cfg = config(tmp_path / "second", load_from=str(tmp_path / "start.pth"))
    cfg["train_cfg"]["max_epochs"] = 1
    Runner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (dict(needs_pretrained=True), True), (dict(decay_rate=0.8), True), (dict(layer_decay_rate=0.8), True),
        (dict(decay_rate=1.0), False), (dict(decay_rate=0.8, needs_pretrained=False), False), ({}, False),
    ],
)  # fmt: skip
def test_settings(settings: dict[str, Any], refused: bool) -> None:
    cfg: dict[str, Any] = dict(model=dict(type="Net", backbone=dict(weights=None)))
    cfg["optim_wrapper"] = dict(paramwise_cfg=settings)
    assert (missing_weights(cfg) is not None) is refused
    cfg["optim_wrapper"] = dict(head=dict(optimizer={}, paramwise_cfg=settings))
    assert (missing_weights(cfg) is not None) is refused
    cfg["model"]["backbone"]["weights"] = "net.pth"
    assert missing_weights(cfg) is None
