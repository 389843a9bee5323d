import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trainwright.engine.errors import UnknownTypeError
from trainwright.engine.registry import MODELS, OPTIMIZERS, ROOT_REGISTRIES, Registry


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
