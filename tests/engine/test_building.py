from pathlib import Path

import pytest
import torch

from trainwright.engine.building import build, import_object
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS, Registry


@pytest.fixture
def parts() -> Registry:
    registry = Registry("part", scope="test")

    @registry.register_module()
    class Wheel:
        def __init__(self, size: int) -> None:
            if size < 0:
                raise ValueError(f"no wheel has size {size}")
            self.size = size

    @registry.register_module()
    class Car:
        def __init__(self, wheels: list, spare: dict | None = None, color: str = "red") -> None:
            self.wheels = [registry.build(wheel) for wheel in wheels]
            self.spare = registry.build(spare)
            self.color = color

    return registry


def test_type_and_arguments(parts: Registry) -> None:
    assert build(dict(type="Wheel", size=3), parts).size == 3


def test_a_type_may_be_a_class() -> None:
    assert build(dict(type=torch.nn.Linear, in_features=2, out_features=3), MODELS).out_features == 3


def test_the_config_overrides_runtime_arguments_and_is_not_changed(parts: Registry) -> None:
    cfg = dict(type="Car", wheels=[], color="blue")
    assert build(cfg, parts, color="green").color == "blue"
    assert cfg == dict(type="Car", wheels=[], color="blue")


def test_objects_pass_through(parts: Registry) -> None:
    wheel = object()
    assert build(wheel, parts) is wheel
    assert build(None, parts) is None


def test_an_exception_keeps_its_type_and_names_every_level(parts: Registry) -> None:
    cfg = dict(type="Car", wheels=[dict(type="Wheel", size=1), dict(type="Wheel", size=-1)])
    with pytest.raises(ValueError, match="no wheel has size -1") as caught:
        build(cfg, parts, path="model")
    assert caught.value.__notes__ == ["while building model.wheels.1 (Wheel)", "while building model (Car)"]


def test_an_unknown_type_inside_is_named_by_its_path(parts: Registry) -> None:
    with pytest.raises(ConfigError, match=r"model\.spare\.type: 'Weel' is not registered as a part") as caught:
        build(dict(type="Car", wheels=[], spare=dict(type="Weel")), parts, path="model")
    assert "did you mean 'Wheel'?" in str(caught.value)


def test_a_config_without_type(parts: Registry) -> None:
    with pytest.raises(ConfigError, match="(?s)this part has no 'type'.*size"):
        build(dict(size=3), parts)


def test_a_type_of_the_wrong_kind(parts: Registry) -> None:
    with pytest.raises(ConfigError, match="'type' must be a name or a class, not 3"):
        build(dict(type=3), parts)


def test_objects_by_their_full_dotted_path(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = in_tmp / "tw_package"
    package.mkdir()
    (package / "__init__.py").write_text("from tw_package.named import named\n")
    (package / "named.py").write_text("def named(): ...\nclass Inside: ...\n")
    (package / "broken.py").write_text("import tw_nowhere\n")
    monkeypatch.syspath_prepend(in_tmp)
    assert callable(import_object("tw_package.named"))  # the function takes precedence over the module
    assert import_object("tw_package.named.Inside.__name__") == "Inside"
    assert import_object("tw_package").__name__ == "tw_package"
    for absent in ("tw_package.none", "tw_package.named.none", "tw_nowhere", "tw_nowhere.__class__"):
        assert import_object(absent) is None
    with pytest.raises(ModuleNotFoundError, match="tw_nowhere"):
        import_object("tw_package.broken.x")
