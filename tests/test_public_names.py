"""What users import by name. ``UPDATE_PUBLIC_NAMES=1 pytest tests/test_public_names.py`` writes the list anew."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

from trainwright.engine.registry import ROOT_REGISTRIES

PACKAGES = ("trainwright.engine", "trainwright.models", "trainwright.datasets", "trainwright.hooks")
FROZEN = Path(__file__).parent / "public_names.txt"
FIND_IN_FRESH_PROCESSES = """\
import json, os, sys, torch
from importlib import import_module
from trainwright.engine.registry import ROOT_REGISTRIES

for variable, names in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        for location in ROOT_REGISTRIES[variable]._locations:
            import_module(location)
        missing = set(names) - set(ROOT_REGISTRIES[variable].module_dict)
        print(*(f"{variable}: {name}" for name in sorted(missing)), sep="\\n", end="", flush=True)
        os._exit(0)
    os.wait()
"""


def public_names() -> list[str]:
    return [f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__]


def modules_after(statement: str) -> set[str]:
    """Returns the modules that are loaded in a fresh process after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_list_of_public_names_is_frozen() -> None:
    names = public_names()
    if os.environ.get("UPDATE_PUBLIC_NAMES"):
        FROZEN.write_text("".join(f"{name}\n" for name in names))
    frozen = FROZEN.read_text().split()
    added, removed = sorted(set(names) - set(frozen)), sorted(set(frozen) - set(names))
    assert (added, removed) == ([], []), "if that is meant, write tests/public_names.txt anew (see above)"
    assert names == frozen


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_shadows_a_public_name(package: str) -> None:
    module = import_module(package)
    modules = {path.stem for path in Path(module.__path__[0]).iterdir() if path.suffix in ("", ".py")}
    assert sorted(modules & set(module.__all__)) == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    module = import_module("trainwright.engine")
    with pytest.raises(AttributeError, match=r"'trainwright\.engine' has no attribute 'Runer'"):
        _ = module.Runer


def test_packages_load_lazily() -> None:
    loaded = modules_after("import " + ", ".join(PACKAGES))
    assert not loaded & {"torch", "numpy", "rich", "yaml"}
    ours = {name for name in loaded if name.startswith("trainwright.")}
    assert ours == {*PACKAGES, "trainwright.engine.lazy"}


def test_what_a_config_may_not_need_is_not_imported() -> None:
    """The modules of the tasks, which all need torchvision, are loaded by name."""
    everything = "from trainwright.engine import *\nfrom trainwright.hooks import *\n"
    bases = (
        "from trainwright.models import BaseModel, ImgDataPreprocessor, LeNet, ModuleWrapper\n"
        "from trainwright.datasets import BaseDataset, ConcatDataset, DefaultSampler, FashionMNISTSubset, XOR\n"
    )
    loaded = modules_after(everything + bases)
    optional = {"torchvision", "PIL", "tensorboard", "torch.utils.tensorboard", "rich.progress", "matplotlib"}
    optional |= {"timm", "torchmetrics", "wandb", "mlflow"}
    assert "torch" in loaded
    assert sorted(loaded & optional) == []


def test_every_registered_class_is_found_by_its_name() -> None:
    """A lazy package finds its public names; an ordinary module registers something whenever it is imported."""
    for package in PACKAGES:
        found = import_module(package)
        for module in walk_packages(found.__path__, f"{package}."):
            import_module(module.name)
    by_location: dict[str, list[str]] = {}
    for variable, registry in ROOT_REGISTRIES.items():
        locations = [import_module(location) for location in registry._locations]
        for name, member in registry.module_dict.items():
            if not member.__module__.startswith(PACKAGES):
                continue
            if not any(getattr(location, "__all__", None) and name in location.__all__ for location in locations):
                by_location.setdefault(variable, []).append(name)
    assert "Constant" in by_location["WEIGHT_INITIALIZERS"]
    assert "LeNet" not in by_location.get("MODELS", [])
    done = subprocess.run(
        [sys.executable, "-c", FIND_IN_FRESH_PROCESSES, json.dumps(by_location)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
