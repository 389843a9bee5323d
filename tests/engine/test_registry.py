import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trainwright.engine.building import build_from_cfg
from trainwright.engine.errors import UnknownTypeError
from trainwright.engine.registry import (
    HOOKS,
    MODELS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    ROOT_REGISTRIES,
    Registry,
    default_scope,
    prefer_libraries,
)


@pytest.fixture
def animals() -> Registry:
    return Registry("animal", scope="zoo")


def test_there_are_23_root_registries() -> None:
    assert len(ROOT_REGISTRIES) == 23
    assert all(registry.scope == "trainwright" for registry in ROOT_REGISTRIES.values())


def test_register_as_decorator_by_call_and_by_several_names(animals: Registry) -> None:
    @animals.register_module()
    class Cat:
        pass

    @animals.register_module(name=["Dog", "Hound"])
    class _Dog:
        pass

    class Cow:
        pass

    animals.register_module(module=Cow, name="cow")
    assert animals.get("Cat") is Cat
    assert animals.get("Dog") is animals.get("Hound") is _Dog
    assert animals.get("cow") is Cow
    assert len(animals) == 4
    assert "Cat" in animals
    assert "Bat" not in animals


def test_a_name_is_taken_only_once(animals: Registry) -> None:
    @animals.register_module()
    def bark() -> str:
        return "woof"

    with pytest.raises(KeyError, match="bark is already registered in animal at"):
        animals.register_module(name="bark", module=print)
    animals.register_module(name="bark", module=print, force=True)
    assert animals.get("bark") is print


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(module=3), "only classes and functions"),
        (dict(force="yes", module=print), "force must be a bool"),
        (dict(name=[3], module=print), "a name must be a string"),
    ],
)
def test_what_cannot_be_registered(animals: Registry, arguments: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        animals.register_module(**arguments)


def test_forgotten_parentheses_are_named(animals: Registry) -> None:
    with pytest.raises(TypeError, match="with parentheses"):

        @animals.register_module
        class Cat:
            pass


def test_children_ask_their_parents_and_scopes_reach_sideways(animals: Registry) -> None:
    birds = Registry("animal", parent=animals, scope="aviary")
    fish = Registry("animal", parent=animals, scope="tank")
    animals.register_module(name="Cat", module=dict)
    birds.register_module(name="Cat", module=list)
    fish.register_module(name="Carp", module=set)
    assert birds.get("Cat") is list
    assert fish.get("Cat") is dict
    assert birds.get("zoo.Cat") is dict
    assert birds.get("tank.Carp") is set
    assert animals.get("Carp") is None
    assert animals.build(dict(type="Cat", _scope_="aviary")) == []
    with birds.switch_scope("tank") as registry:
        assert registry is fish
        assert animals.get("Carp") is set
    with pytest.raises(ValueError, match="already has a child of scope 'tank'"):
        Registry("animal", parent=animals, scope="tank")


def test_a_scope_is_the_calling_package_by_default() -> None:
    assert Registry("thing").scope == __name__.partition(".")[0]


def test_a_full_dotted_path_needs_no_registration() -> None:
    assert MODELS.get("torch.nn.Linear") is torch.nn.Linear
    assert MODELS.get("torch.nn.Linear.forward") is torch.nn.Linear.forward
    assert MODELS.get("torch.nn.Linnear") is None
    assert MODELS.get("no_such_package.Linear") is None


@pytest.mark.parametrize("packaged", [False, True])
def test_a_full_dotted_path_may_name_a_file_or_a_package_of_a_project(
    packaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"project_models_{packaged}"
    file = tmp_path / name / "__init__.py" if packaged else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert MODELS.get(f"{name}.Net").__name__ == "Net"


def test_a_full_dotted_path_may_name_a_class_of_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")  # without the __spec__ of an imported module, as if Python ran a file
    script.Net = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert MODELS.get("__main__.Net") is dict


@pytest.mark.parametrize("name", [".", "..Net", "a..Net", "torch..nn", "torch.", " .Net"])
def test_a_malformed_path_names_nothing(name: str) -> None:
    assert MODELS.get(name) is None


def test_a_module_that_fails_while_it_is_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_models.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        MODELS.get("broken_models.Net")


def test_built_in_parts_are_found_by_name_alone() -> None:
    assert MODELS.get("LeNet").__module__ == "trainwright.models"
    assert OPTIMIZERS.get("SGD") is torch.optim.SGD


def test_unknown_names_come_with_the_closest_ones() -> None:
    with pytest.raises(UnknownTypeError, match="(?s)'LeNett' is not registered as a model.*did you mean 'LeNet'"):
        MODELS.build(dict(type="LeNett"))
    with pytest.raises(KeyError):
        MODELS.build(dict(type="LeNett"))


def test_a_part_of_another_kind_is_named() -> None:
    with pytest.raises(UnknownTypeError, match="registered as an optimizer"):
        MODELS.build(dict(type="SGD"))


def test_build_func_is_inherited(animals: Registry) -> None:
    zoo = Registry("animal", build_func=lambda cfg, registry: (cfg, registry.scope), scope="z")
    child = Registry("animal", parent=zoo, scope="c")
    assert child.build("x") == ("x", "c")


def test_default_args_yield_to_the_config(animals: Registry) -> None:
    animals.register_module(name="Cat", module=dict)
    for arguments, named in (((dict(legs=4, tail=1),), {}), ((), dict(default_args=dict(legs=4, tail=1)))):
        assert animals.build(dict(type="Cat", legs=3), *arguments, **named) == dict(legs=3, tail=1)
    assert animals.build(dict(legs=3), default_args=dict(type="Cat")) == dict(legs=3)
    assert build_from_cfg(dict(legs=3), animals, dict(type="Cat", legs=4)) == dict(legs=3)
    with pytest.raises(TypeError, match="default_args must be a mapping, not a list"):
        build_from_cfg(dict(type="Cat"), animals, [])  # type: ignore[arg-type]
    zoo = Registry("animal", build_func=lambda cfg, registry, default_args=None: (cfg, default_args), scope="z")
    assert zoo.build("x", dict(y=1)) == ("x", dict(y=1)) == zoo.build_func("x", zoo, dict(y=1))


def test_a_switched_scope_is_that_of_builds_but_not_of_get(animals: Registry) -> None:
    birds, fish = (Registry("animal", parent=animals, scope=scope) for scope in ("aviary", "tank"))
    nested = Registry("animal", parent=fish, scope="pond")
    for registry, member in ((birds, list), (fish, set), (nested, dict)):
        registry.register_module(name="Pet", module=member)
    with birds.switch_scope_and_registry("tank") as registry:
        assert registry is fish
        with birds.switch_scope_and_registry(None) as inner:
            assert inner is fish
        assert birds.build(dict(type="Pet")) == set()
        assert birds.get("Pet") is list
    assert birds.build(dict(type="Pet", _scope_="pond")) == {}
    with birds.switch_scope_and_registry(None) as registry:
        assert registry is birds
    assert animals._search_child("pond") is nested and nested._get_root_registry() is animals
    assert Registry.split_scope_key("tank.Pet") == ("tank", "Pet") and Registry.split_scope_key("Pet") == (None, "Pet")


def test_root_registries_build_what_mmengines_do() -> None:
    linear = dict(type="torch.nn.Linear", in_features=2, out_features=2)
    model = MODELS.build([linear, dict(type="torch.nn.ReLU")])
    assert [type(layer) for layer in model] == [torch.nn.Linear, torch.nn.ReLU]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    cfg = dict(type="StepLR", step_size=2, convert_to_iter_based=True, epoch_length=5, optimizer=optimizer)
    scheduler = PARAM_SCHEDULERS.build(cfg)
    assert (scheduler.step_size, scheduler.by_epoch) == (10, False)
    assert PARAM_SCHEDULERS.build({**cfg, "convert_to_iter_based": False}).step_size == 2


def run_in_package(package: str, code: str, **variables: object) -> None:
    exec(textwrap.dedent(code), {"__name__": f"{package}.module", **variables})


@pytest.mark.parametrize("library_first", [True, False])
@pytest.mark.filterwarnings("error")
def test_a_librarys_part_under_one_of_our_names_is_found_in_scopes_only(
    library_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Registry("transform", scope="trainwright")
    child = Registry("transform", parent=root, scope="mmflow")
    register = "@root.register_module()\nclass Flip: ..."
    for package in ("mmcv", "trainwright") if library_first else ("trainwright", "mmcv"):
        run_in_package(package, register, root=root)
    run_in_package("mmcv", "@root.register_module()\nclass Pad: ...", root=root)

    def found(registry: Registry, name: str = "Flip") -> str:
        return str(registry.get(name).__module__).partition(".")[0]

    assert found(root) == found(root, "trainwright.Flip") == "trainwright"
    assert found(child) == found(root, "mmflow.Flip") == found(root, "mmengine.Flip") == "mmcv"
    assert found(root, "Pad") == found(child, "Pad") == "mmcv"
    for scope, package in (("mmflow", "mmcv"), ("mmengine", "mmcv"), ("trainwright", "trainwright")):
        built = root.build(dict(type="Flip", _scope_=scope))
        assert type(built).__module__ == f"{package}.module"
        with default_scope(scope):
            assert found(root) == package
    with pytest.raises(KeyError, match="already registered"):
        run_in_package("trainwright", register, root=root)
    child.register_module(name="Flip", module=dict)
    assert root.build(dict(type="Flip", _scope_="mmflow")) == {}
    monkeypatch.setattr("trainwright.engine.registry._unscoped", None)  # restored after the test
    prefer_libraries()
    assert found(root) == "mmcv" and found(root, "trainwright.Flip") == "trainwright"


def test_ours_that_is_not_imported_yet_comes_before_a_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_parts.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    root = Registry("transform", scope="late_parts", locations=["late_parts"])
    source = "from test_registry_root import ROOT\n@ROOT.register_module()\nclass Flip: ...\n"
    (tmp_path / "late_parts.py").write_text(source)
    module = ModuleType("test_registry_root")
    module.ROOT = root  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_registry_root", module)
    run_in_package("mmcv", "@root.register_module()\nclass Flip: ...", root=root)
    assert root.get("Flip").__module__ == "late_parts"


def test_a_library_without_locations_registers_all_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mmhuman3d").mkdir()
    (tmp_path / "mmhuman3d/__init__.py").write_text("")
    (tmp_path / "mmhuman3d/registry.py").write_text(
        "from trainwright.engine import HOOKS as ROOT, Registry\nHOOKS = Registry('hook', parent=ROOT, scope='mmhuman3d')\n"
    )
    (tmp_path / "mmhuman3d/utils.py").write_text(
        "def register_all_modules(init_default_scope=True):\n    assert not init_default_scope\n"
        "    from mmhuman3d.registry import HOOKS\n    HOOKS.register_module('Late', module=dict)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert HOOKS.get("mmhuman3d.Late") is dict
    finally:
        HOOKS.children.pop("mmhuman3d", None)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mmhuman3d"]:
            del sys.modules[name]


def test_repr_is_a_table(animals: Registry) -> None:
    animals.register_module(name="Cat", module=dict)
    assert "Registry of animal" in repr(animals)
    assert "builtins.dict" in repr(animals)


class TestAUsersNameThatTheLibraryHas:
    """The library's modules are imported when they are needed: which of the two comes first is an accident."""

    LOCATION = "from zoo.registry import ANIMALS\n\n@ANIMALS.register_module()\nclass Cat: ...\n"

    @pytest.fixture
    def animals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
        (tmp_path / "zoo").mkdir()
        (tmp_path / "zoo/__init__.py").write_text("")
        (tmp_path / "zoo/cats.py").write_text(self.LOCATION)
        (tmp_path / "zoo/registry.py").write_text(
            "from trainwright.engine.registry import Registry\nANIMALS = Registry('animal', scope='zoo', locations=['zoo.cats'])\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield importlib.import_module("zoo.registry").ANIMALS
        for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
            del sys.modules[name]

    @pytest.mark.parametrize("users_first", [True, False])
    def test_the_users_class_has_the_name_and_a_warning_names_both(self, animals: Registry, users_first: bool) -> None:
        if not users_first:
            assert animals.get("Cat").__module__ == "zoo.cats"

        class Cat: ...

        with pytest.warns(UserWarning, match="'Cat' is .*test_registry.*Cat .*zoo.cats.Cat.*force=True"):
            animals.register_module(module=Cat)
            assert "did you mean 'Cat'" in animals.suggest("Catt")  # imports all locations
        assert animals.get("Cat") is Cat

    @pytest.mark.parametrize("users_first", [True, False])
    def test_force_says_that_it_is_meant(
        self, animals: Registry, users_first: bool, recwarn: pytest.WarningsRecorder
    ) -> None:
        if not users_first:
            animals.load_all()

        class Cat: ...

        animals.register_module(force=True, module=Cat)
        animals.load_all()
        assert animals.get("Cat") is Cat and not recwarn.list

    def test_two_classes_of_users_still_need_force(self, animals: Registry) -> None:
        animals.register_module("Lion", module=int)
        with pytest.raises(KeyError, match="force=True"):
            animals.register_module("Lion", module=float)


@pytest.mark.long
def test_a_users_metric_named_as_ours_leaves_check_working() -> None:
    """A typo anywhere makes the suggestion import ours."""
    code = """
        from trainwright.engine import METRICS, BaseMetric, check
        @METRICS.register_module()
        class Accuracy(BaseMetric): ...
        cfg = dict(model=dict(type="LeNet"), val_evaluator=dict(type="Acuracy"), val_cfg=dict(), val_dataloader=dict(dataset=dict(type="MNIST", data_root="")))
        print(*check(cfg), sep="\\n")
        assert METRICS.get("Accuracy") is Accuracy
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert "did you mean 'Accuracy'" in done.stdout and "Traceback" not in done.stderr
    assert "the metric 'Accuracy' is now __main__.Accuracy" in done.stderr


@pytest.mark.long
def test_torchvisions_transforms_come_before_those_of_a_library_that_was_imported_first() -> None:
    code = """
        from torchvision.transforms import v2
        from trainwright.engine import TRANSFORMS, default_scope
        exec("@TRANSFORMS.register_module()\\nclass Normalize: ...", {"TRANSFORMS": TRANSFORMS, "__name__": "mmcv.transforms"})
        assert TRANSFORMS.get("Normalize") is v2.Normalize
        with default_scope("mmengine"):
            assert TRANSFORMS.get("Normalize").__module__ == "mmcv.transforms"
        """
    subprocess.run([sys.executable, "-W", "error::UserWarning:trainwright", "-c", textwrap.dedent(code)], check=True)


def test_locations_that_a_released_library_names_in_vain_are_skipped() -> None:
    root = Registry("sound", scope="sounds")
    root.register_module("bark")(object)
    child = Registry("sound", parent=root, scope="mmfewshot", locations=["mmfewshot.absent"])
    assert child.get("bark") is object and child.names() == ["bark"]
    own = Registry("sound", parent=root, scope="own_project", locations=["own_project.absent"])
    with pytest.raises(ModuleNotFoundError, match="own_project"):
        own.get("bark")
