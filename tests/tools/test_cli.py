import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import trainwright

from trainwright.engine.config.paths import find_named_config
from trainwright.tools.cli import main

ROOT = Path(__file__).parent.parent.parent
SLOW_MODULE = """\
import time
from trainwright.engine import HOOKS, Hook


@HOOKS.register_module()
class SlowHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(0.02)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(self.in_val)

    def __init__(self, in_val=0.0):
        self.in_val = in_val
"""


@pytest.fixture
def config(in_tmp: Path) -> Iterator[Path]:
    file = in_tmp / "mine.py"
    file.write_text(
        "_base_ = 'trainwright::toy/perceptron_two_clouds.py'\ntrain_cfg = dict(max_epochs=2, val_interval=1)\n"
    )
    yield file


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom trainwright.tools.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit as error: assert error.code == 0\n"
        "assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--cfg-options" in done.stdout


def test_train_then_test_then_resume(config: Path, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mine.py", "--seed", "3", "--device", "cpu"]) == 0
    folder = in_tmp / "work_dirs" / "mine"
    assert (folder / "epoch_2.pth").exists()
    assert "Epoch(test) [1/1]    accuracy/top1: 100.0000" in capfd.readouterr().out
    assert main(["test", "mine.py", str(folder / "epoch_2.pth")]) == 0
    assert "accuracy/top1: 100.0000" in capfd.readouterr().out
    assert main(["train", "mine.py", "--resume", "--cfg-options", "train_cfg.max_epochs=3"]) == 0
    output = capfd.readouterr().out
    assert "Resumed from" in output
    assert "train_cfg.max_epochs: 2 → 3 (--cfg-options)" in output
    assert (folder / "epoch_3.pth").exists()


def test_options_reach_the_run(config: Path, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--work-dir", "here", "--seed", "5", "--deterministic", "--amp"]
    values = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=50", "custom_hooks.0.size=100"]
    assert main(["train", "mine.py", *options, "--cfg-options", *values]) == 0
    saved = (in_tmp / "here" / "mine.py").read_text()
    assert "batch_size=50" in saved
    assert "size=100" in saved
    assert "randomness = dict(deterministic=True, seed=5)" in saved
    assert "type='AmpOptimWrapper'" in saved
    assert "Seed: 5" in capfd.readouterr().out
    assert len(list((in_tmp / "here").rglob("decision_boundary*.png"))) == 1
    import torch

    torch.use_deterministic_algorithms(False)


def test_the_saved_config_trains_again(config: Path, in_tmp: Path) -> None:
    assert main(["train", "mine.py"]) == 0
    assert main(["train", str(in_tmp / "work_dirs" / "mine" / "mine.py"), "--work-dir", "again"]) == 0
    assert (in_tmp / "again" / "epoch_2.pth").exists()


def test_mistakes_end_with_status_2_and_no_traceback(
    config: Path, in_tmp: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        config.read_text()
        + "optim_wrapper = dict(optimizer=dict(momentun=0.9))\nval_evaluator = dict(type='Acuracy')\n"
    )
    assert main(["train", "mine.py"]) == 2
    printed = capfd.readouterr().err
    assert "mine.py:3: optim_wrapper.optimizer.momentun: SGD takes no such argument" in printed
    assert "did you mean 'momentum'?" in printed
    assert "mine.py:4: val_evaluator.type: 'Acuracy' is not registered as a metric" in printed
    assert "Traceback" not in printed
    assert not (in_tmp / "work_dirs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mine.yp"], "there is no config 'mine.yp'"),
        (["train", "toy/perceptron_to_clouds"], "did you mean 'toy/perceptron_two_clouds'?"),
        (["train", "mine.py", "--resume", "none.pth"], "resume: there is no file 'none.pth'"),
        (["test", "mine.py", "none.pth"], "load_from: there is no file 'none.pth'"),
    ],
)
def test_missing_files(config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_shipped_configs_are_found_by_name_and_own_files_first(in_tmp: Path) -> None:
    assert find_named_config("toy/mlp_xor") == ROOT / "configs" / "toy" / "mlp_xor.py"
    (in_tmp / "toy").mkdir()
    (in_tmp / "toy" / "mlp_xor.py").write_text("model = dict()\n")
    assert find_named_config("toy/mlp_xor") == Path("toy/mlp_xor.py")


def test_print_config_with_origins(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config", "mine.py", "--origins", "--cfg-options", "optim_wrapper.optimizer.lr=0.5"]) == 0
    output = capsys.readouterr().out
    assert "train_cfg.max_epochs = 2  # mine.py:2" in output
    assert "optim_wrapper.optimizer.lr = 0.5  # --cfg-options" in output


def test_print_config_can_be_read_again(config: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config", "mine.py"]) == 0
    (in_tmp / "printed.py").write_text(capsys.readouterr().out)
    assert main(["check", "printed.py"]) == 0


def test_check_reports_mistakes(config: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "bad.py").write_text("_base_ = 'mine.py'\nmodel = dict(typ=1)\n")
    assert main(["check", "mine.py", "bad.py"]) == 2
    output = capsys.readouterr()
    assert "mine.py: no mistakes found" in output.out
    assert "bad.py:2: model.typ: ImageClassifier takes no such argument" in output.err


@pytest.mark.parametrize("file", sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*") if p.suffix in (".py", ".yaml") and "_base_" not in str(p) and "__" not in p.name))  # fmt: skip
def test_every_shipped_config_checks(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(ROOT / file)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("script", ["train", "test"])
def test_the_scripts_run_the_command(script: str, in_tmp: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{script}.py"), "--help"], cwd=in_tmp, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert f"trainwright {script}" in done.stdout


@pytest.mark.parametrize(
    ("number", "status", "in_val"),
    [
        (signal.SIGINT, 130, 0.0),
        (signal.SIGTERM, 143, 0.0),
        (signal.SIGUSR1, 138, 0.0),
        (signal.SIGTERM, 143, 3.0),
    ],
)
@pytest.mark.long
def test_a_signal_ends_the_run_cleanly_and_it_can_be_resumed(
    config: Path, in_tmp: Path, number: int, status: int, in_val: float
) -> None:
    (in_tmp / "slow.py").write_text(SLOW_MODULE)
    config.write_text(
        "_base_ = 'trainwright::toy/perceptron_two_clouds.py'\ncustom_imports = dict(imports=['slow'])\n"
        f"custom_hooks = [dict(type='SlowHook', in_val={in_val})]\ntrain_cfg = dict(max_epochs=3, val_interval=1)\n"
        "default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=-1, save_best=None))\n"
    )
    process = trainwright(["train", "mine.py"], in_tmp)
    due = "Epoch(train) [1][10/10]" if in_val else "Epoch(train) [1][ 4/10]"
    process.wait_until(lambda: due in process.printed)
    if in_val:
        time.sleep(1)
    process.kill(number)
    assert process.wait() == status
    output = process.printed
    assert "run the same command with --resume" in output
    assert "Traceback" not in output
    checkpoint = (in_tmp / "work_dirs" / "mine" / "last_checkpoint").read_text()
    assert checkpoint == "epoch_1.pth" if in_val else checkpoint.startswith("iter_")
    config.write_text(config.read_text().replace(f"in_val={in_val}", "in_val=0.0"))
    resumed = trainwright(["train", "mine.py", "--resume"], in_tmp)
    assert resumed.wait() == 0, resumed.printed
    assert "Resumed from" in resumed.printed
    scalars = [
        json.loads(line)
        for path in (in_tmp / "work_dirs").rglob("scalars.json")
        for line in path.read_text().splitlines()
    ]
    assert sorted(line["step"] for line in scalars if "accuracy/top1" in line and "loss" not in line) == [1, 2, 3]


@pytest.mark.parametrize(("encoding", "mistaken"), [("ascii", "check"), ("cp1252", "train")])
@pytest.mark.long
def test_consoles_that_do_not_support_all_characters(in_tmp: Path, encoding: str, mistaken: str) -> None:
    (in_tmp / "c.py").write_text("classes = ['猫', '→', 'ž']\nmodel = dict(type='LeNét')\n", encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONIOENCODING": encoding,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    for command, status in (("print-config", 0), (mistaken, 2)):
        done = subprocess.run(
            [sys.executable, "-m", "trainwright.tools.cli", command, "c.py"], capture_output=True, env=environment
        )
        assert done.returncode == status and b"Traceback" not in done.stderr
        if command == "print-config":
            assert rb"\u732b" in done.stdout
