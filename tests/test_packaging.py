"""The list of packages, the contents of the wheel, and a training with only the wheel installed."""

import configparser
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("engine", "models", "datasets", "hooks", "compat", "configs", "tools")
GUARDED = ("engine", "models", "datasets", "hooks", "compat")


def run(command: Sequence[str | Path], cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_in(folder: Path) -> set[str]:
    """Return the files in a source folder, by their names in the wheel."""
    return {
        f"trainwright/{path.relative_to(folder.parent).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the sources, without any stray files."""
    folder = tmp_path_factory.mktemp("sources")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--wheel-dir", "dist", "."], cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment that shares all other packages, and return its ``bin`` folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], cwd=folder)
    # `.pth` files in these folders are not processed, which excludes our editable installation.
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))
    return folder / "bin"


def test_the_listed_packages_are_those_on_disk() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    folders_with_code = {
        file.parent for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if folder != "configs"
    }
    without_init = sorted(str(folder) for folder in folders_with_code if not (folder / "__init__.py").exists())
    assert not without_init, "add an __init__.py that states the purpose of the package"
    on_disk = {
        "trainwright." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert len(listed) == len(set(listed))
    assert sorted(on_disk - set(listed)) == [], "list these packages in setup.cfg, under [options] packages"
    assert sorted(set(listed) - on_disk) == [], "remove these packages from setup.cfg, [options] packages"
    folders = dict(line.split(" = ") for line in config["options"]["package_dir"].split("\n") if line)
    assert folders == {f"trainwright.{folder}": folder for folder in FOLDERS}


def test_every_package_is_marked_as_typed() -> None:
    typed = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert typed == set(FOLDERS) - {"configs"}


@pytest.mark.long
def test_the_wheel_contains_all_files_and_no_others(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        contents = set(archive.namelist())
    about = {name for name in contents if name.split("/")[0].endswith(".dist-info")}
    assert contents - about == set().union(*(files_in(ROOT / folder) for folder in FOLDERS))
    images = "trainwright/datasets/data/fashion_mnist_subset"
    assert {f"{images}/README.md", f"{images}/train-images-idx3-ubyte.gz"} <= contents
    assert {"trainwright/engine/__init__.pyi", "trainwright/engine/config/config.py"} <= contents
    assert "trainwright/__init__.py" not in contents
    assert any(name.endswith("/LICENSE") for name in about)


def test_the_notice_of_the_images_names_their_license() -> None:
    notice = (ROOT / "datasets" / "data" / "fashion_mnist_subset" / "README.md").read_text()
    assert "MIT" in notice
    assert "Zalando" in notice


@pytest.mark.long
def test_the_installed_command_trains_from_an_empty_folder(installed: Path, in_tmp: Path) -> None:
    place = run([installed / "python", "-c", "import trainwright.engine as e; print(e.__file__)"], cwd=in_tmp)
    assert Path(place).is_relative_to(installed.parent)
    options = ["--cfg-options", "train_cfg.max_epochs=2", "train_cfg.val_interval=1"]
    run([installed / "trainwright", "train", "toy/perceptron_two_clouds", *options], cwd=in_tmp)
    assert [path.name for path in in_tmp.iterdir()] == ["work_dirs"]
    work_dir = in_tmp / "work_dirs" / "perceptron_two_clouds"
    names = {path.name for path in work_dir.iterdir()}
    assert {"last_checkpoint", "perceptron_two_clouds.py"} <= names
    assert (work_dir / (work_dir / "last_checkpoint").read_text()).is_file()


@pytest.mark.long
def test_the_installed_command_knows_the_shipped_configs(installed: Path, in_tmp: Path) -> None:
    for config in ("classification/lenet_fashion_mnist", "toy/mlp_xor"):
        text = run([installed / "trainwright", "print-config", config], cwd=in_tmp)
        assert "train_dataloader" in text


@pytest.mark.long
def test_the_installed_package_finds_its_images(installed: Path, in_tmp: Path) -> None:
    code = "from trainwright.datasets import FashionMNISTSubset as F; print(len(F('train')), len(F('test')))"
    assert run([installed / "python", "-c", code], cwd=in_tmp) == "10000 2000\n"


@pytest.mark.parametrize("package", GUARDED)
def test_a_bare_name_is_refused(package: str, in_tmp: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {package}"
    done = subprocess.run([sys.executable, "-c", code], cwd=in_tmp, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: import this package as 'trainwright.{package}', not as '{package}'" in done.stderr


def test_another_package_named_datasets_does_not_collide(in_tmp: Path) -> None:
    (in_tmp / "datasets").mkdir()
    (in_tmp / "datasets" / "__init__.py").write_text("NAME = 'another package'\n")
    code = (
        "import datasets, trainwright.datasets\n"
        "from trainwright.engine import DATASETS\n"
        "print(datasets.NAME, DATASETS.get('TwoClouds').__name__, trainwright.datasets.__name__)"
    )
    assert run([sys.executable, "-c", code], cwd=in_tmp) == ("another package TwoClouds trainwright.datasets\n")
