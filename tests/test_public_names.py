"""What users import by name. ``UPDATE_PUBLIC_NAMES=1 pytest tests/test_public_names.py`` writes the list anew."""

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
    assert not modules & set(module.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    module = import_module("trainwright.engine")
    with pytest.raises(AttributeError, match=r"'trainwright\.engine' has no attribute 'Runer'"):
        _ = module.Runer


def test_packages_load_lazily() -> None:
    loaded = modules_after("import " + ", ".join(PACKAGES))
    assert not loaded & {"torch", "numpy", "rich", "yaml"}
    ours = {name for name in loaded if name.startswith("trainwright.")}
    assert ours == {*PACKAGES, "trainwright.engine.lazy"}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_config_may_not_need_is_not_imported(package: str) -> None:
    loaded = modules_after(f"import {package}\nfor name in {package}.__all__: getattr({package}, name)")
    optional = {"torchvision", "PIL", "tensorboard", "torch.utils.tensorboard", "rich.progress", "matplotlib"}
    optional |= {"timm", "torchmetrics", "wandb", "mlflow"}
    assert "torch" in loaded
    assert not loaded & optional


def test_every_registered_class_is_found_by_its_name() -> None:
    """A lazy package finds only its public names; an ordinary module registers what it defines when imported."""
    for package in PACKAGES:
        found = import_module(package)
        for module in walk_packages(found.__path__, f"{package}."):
            import_module(module.name)
    registered = {
        (variable, name)
        for variable, registry in ROOT_REGISTRIES.items()
        for name, member in registry.module_dict.items()
        if member.__module__.startswith(PACKAGES)
    }
    assert {("HOOKS", "EMAHook"), ("MODELS", "LeNet"), ("FUNCTIONS", "pseudo_collate")} <= registered

    def reachable(variable: str, name: str) -> bool:
        registry = ROOT_REGISTRIES[variable]
        defined_in = registry.module_dict[name].__module__
        locations = [import_module(location) for location in registry._locations]
        return any(
            name in location.__all__ if hasattr(location, "__path__") else location.__name__ == defined_in
            for location in locations
        )

    assert not [f"{variable}: {name}" for variable, name in sorted(registered) if not reachable(variable, name)]
