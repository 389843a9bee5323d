from pathlib import Path

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


def test_a_module_that_fails_while_it_is_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_models.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        MODELS.get("broken_models.Net")


def test_built_in_parts_are_found_by_name_alone() -> None:
    assert MODELS.get("LeNet").__module__ == "trainwright.models.lenet"
    assert OPTIMIZERS.get("SGD") is torch.optim.SGD


def test_unknown_names_come_with_the_closest_ones() -> None:
    with pytest.raises(UnknownTypeError, match="(?s)'LeNett' is not registered as a model.*did you mean 'LeNet'"):
        MODELS.build(dict(type="LeNett"))
    with pytest.raises(KeyError):
        MODELS.build(dict(type="LeNett"))


def test_a_part_of_another_kind_is_named() -> None:
    with pytest.raises(UnknownTypeError, match="it is registered as a optimizer"):
        MODELS.build(dict(type="SGD"))


def test_build_func_is_inherited(animals: Registry) -> None:
    zoo = Registry("animal", build_func=lambda cfg, registry: (cfg, registry.scope), scope="z")
    child = Registry("animal", parent=zoo, scope="c")
    assert child.build("x") == ("x", "c")


def test_repr_is_a_table(animals: Registry) -> None:
    animals.register_module(name="Cat", module=dict)
    assert "Registry of animal" in repr(animals)
    assert "builtins.dict" in repr(animals)
