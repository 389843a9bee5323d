"""Public names, which are listed in the stubs ``*/__init__.pyi``."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

from trainwright.engine.registry import ROOT_REGISTRIES

PACKAGES = ("trainwright.engine", "trainwright.models", "trainwright.datasets", "trainwright.hooks")
TESTS = Path(__file__).parent
FIND_IN_FRESH_PROCESSES = """\
import json, os, sys, torch
from importlib import import_module
from trainwright.engine.registry import ROOT_REGISTRIES

for variable, names in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        for location in ROOT_REGISTRIES[variable]._locations:
            import_module(location)
        missing = set(names) - set(ROOT_REGISTRIES[variable].module_dict)
        print(*(f"{variable}:{name}" for name in sorted(missing)), "", flush=True)
        os._exit(0)
    os.wait()
"""


def modules_after(statement: str) -> set[str]:
    """Return the modules loaded in a fresh process after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


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


def test_optional_modules_are_not_imported() -> None:
    """Modules of the tasks, which need torchvision, are only loaded by name."""
    everything = "from trainwright.engine import *\nfrom trainwright.hooks import *\n"
    bases = (
        "from trainwright.models import BaseModel, ImgDataPreprocessor, LeNet, ModuleWrapper\n"
        "from trainwright.datasets import BaseDataset, ConcatDataset, DefaultSampler, FashionMNISTSubset, XOR\n"
    )
    loaded = modules_after(everything + bases)
    optional = {"torchvision", "PIL", "tensorboard", "torch.utils.tensorboard", "rich.progress", "matplotlib"}
    optional |= {"timm", "segmentation_models_pytorch", "torchmetrics", "wandb", "mlflow"}
    assert "torch" in loaded
    assert sorted(loaded & optional) == []


@pytest.fixture(scope="module")
def registered() -> list[tuple[str, str, Any]]:
    """Import all modules, and return the registry, name and member of everything that Trainwright registers."""
    for package in PACKAGES:
        found = import_module(package)
        for module in walk_packages(found.__path__, f"{package}."):
            import_module(module.name)
    return [
        (variable, name, member)
        for variable, registry in ROOT_REGISTRIES.items()
        for name, member in registry.module_dict.items()
        if member.__module__.startswith(PACKAGES)
    ]


def test_every_registered_component_is_found_by_its_name(registered: list[tuple[str, str, Any]]) -> None:
    """A lazy package finds names in its stub; an ordinary module registers its names on import."""
    by_location: dict[str, list[str]] = {}
    for variable, name, _ in registered:
        locations = [import_module(location) for location in ROOT_REGISTRIES[variable]._locations]
        if not any(getattr(location, "__all__", None) and name in location.__all__ for location in locations):
            by_location.setdefault(variable, []).append(name)
    assert "Constant" in by_location["WEIGHT_INITIALIZERS"]
    assert "LeNet" not in by_location.get("MODELS", [])
    done = subprocess.run(
        [sys.executable, "-c", FIND_IN_FRESH_PROCESSES, json.dumps(by_location)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    forgotten = set(done.stdout.split())
    lines = [_remedy(variable, member) for variable, name, member in registered if f"{variable}:{name}" in forgotten]
    assert not lines, "configs cannot use these yet:\n" + "\n".join(lines)


def test_every_registered_component_can_be_imported_from_its_package(registered: list[tuple[str, str, Any]]) -> None:
    lines = []
    for variable, _, member in registered:
        package = ".".join(member.__module__.split(".")[:2])
        listed = import_module(package).__all__
        # Those in vision_transforms and resizing replace torchvision's of the same name in configs only.
        if member.__name__ not in listed and not member.__module__.endswith((".vision_transforms", ".resizing")):
            lines.append(_remedy(variable, member))
    assert not lines, "these are not public yet:\n" + "\n".join(lines)


def _remedy(variable: str, member: Any) -> str:
    name = member.__name__
    if member.__module__ in PACKAGES:  # listed in the stub
        return f"{name}: the registry {variable} does not look there; put it into one of its locations in registry.py"
    _, package, module = member.__module__.split(".", 2)
    return f"add to {package}/__init__.pyi: from .{module} import {name} as {name}"


def test_every_registered_component_has_a_test(registered: list[tuple[str, str, Any]]) -> None:
    words = set().union(*(re.findall(r"\w+", file.read_text()) for file in TESTS.rglob("*.py")))
    kinds = ("HOOKS", "MODELS", "DATASETS", "DATA_SAMPLERS", "TRANSFORMS", "METRICS", "PARAM_SCHEDULERS", "INFERENCERS")
    names = {member.__name__ for variable, _, member in registered if variable in kinds}
    untested = sorted(name for name in names if not {name, re.sub("(LR|Momentum|ParamScheduler)$", "", name)} & words)
    assert not untested, "no file in tests/ mentions these; add a test for each"
