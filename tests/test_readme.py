"""The commands, configs and code in the README work."""

import re
import shlex
from pathlib import Path

import pytest
from forked import trainwright
from PIL import Image

pytestmark = pytest.mark.long
README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.strip().partition("#")[0] for line in README.splitlines() if line.startswith("    trainwright ")]
SHORT_LENET = (
    "trainwright train classification/lenet_fashion_mnist --cfg-options train_cfg.max_epochs=1 param_scheduler.total_steps=1 "
    "train_dataloader.num_batch_per_epoch=5 val_dataloader.num_batch_per_epoch=1 test_dataloader.num_batch_per_epoch=1"
)


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "trainwright"
    process = trainwright(words[1:], folder)
    assert process.wait(120) == 0, f"{command}\n{process.printed}"
    return process.printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with the files that the README asks to create."""
    folder = tmp_path_factory.mktemp("readme")
    for block in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (folder / name.group(1)).write_text(block)
    return folder


def test_all_commands_in_order(folder: Path) -> None:
    assert len(COMMANDS) >= 7
    outputs = [run(command, folder) for command in COMMANDS]
    fit = next(output for command, output in zip(COMMANDS, outputs) if command.strip() == "trainwright train line.py")
    slope, offset = map(float, re.findall(r"y = (\S+) x \+ (\S+)", fit)[-1])
    assert slope == pytest.approx(3, abs=0.3)
    assert offset == pytest.approx(0, abs=0.15)


def test_the_config_that_is_explained(tmp_path: Path) -> None:
    (tmp_path / "explained.py").write_text(next(block for block in BLOCKS if "FashionMNISTSubset" in block))
    assert "no mistakes found" in run("trainwright check explained.py", tmp_path)


def test_the_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(SHORT_LENET, tmp_path)
    Image.new("L", (28, 28), 90).save(tmp_path / "shirt.png")
    code = next(block for block in BLOCKS if "Inferencer" in block).replace("epoch_8", "epoch_1")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "pred_class" in capsys.readouterr().out


def test_link_targets_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target.partition("#")[0]).exists(), target
