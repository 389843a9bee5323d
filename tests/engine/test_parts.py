"""The grammar of a config, and that it matches the keys that the engine reads."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from trainwright.engine import Registry, Runner, parts
from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import Key, Slot

ROOT = Path(__file__).parents[2]
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("engine", "hooks", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "parts.py"
}
TREES = {file: ast.parse(text) for file, text in SOURCES.items()}
SLOTS = {name: value for name, value in vars(parts).items() if isinstance(value, Slot)}
WHOLE_CONFIGS = {
    "tools/cli.py": {"cfg"}, "tools/browse.py": {"cfg"}, "tools/predict.py": {"cfg"}, "hooks/tta.py": {"cfg"},
    "engine/inference/inferencer.py": {"cfg"}, "engine/run/model_setup.py": {"cfg"}, "engine/checking.py": {"self.top"},
}  # fmt: skip
"""The names of whole configs in addition to ``runner.cfg`` and ``self.cfg``."""


def reads(tree: ast.AST, configs: set[str]) -> Iterator[str]:
    """Yield the keys that code reads from whole configs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            owner, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setting", "parts.setting"):
            yield ast.literal_eval(node.args[1])
            continue
        else:
            continue
        if isinstance(key, ast.Constant) and ast.unparse(owner) in configs:
            yield key.value


def constants(tree: ast.AST) -> set[str]:
    """Return the strings and the names of keyword arguments in code."""
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found | {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}


def builders(slot: str) -> list[str]:
    """Return the files that build through a slot."""
    return [file for file, text in SOURCES.items() if ".build(" in text and re.search(rf"\b{slot}\b", text)]


def test_every_key_that_is_read_from_a_config_is_listed_and_every_listed_key_is_read() -> None:
    arguments = set(inspect.signature(Runner).parameters)
    found = {
        key: file
        for file, tree in TREES.items()
        for key in reads(tree, {"self.cfg", "runner.cfg"} | WHOLE_CONFIGS.get(file, set()))
    }
    unlisted = {key: file for key, file in found.items() if key not in {*arguments, *parts.TOP_LEVEL_KEYS}}
    assert not unlisted, f"list in TOP_LEVEL_KEYS of engine/parts.py: {unlisted}"
    words = set[str]().union(*map(constants, TREES.values()))
    unread = {key for key in parts.TOP_LEVEL_KEYS if key not in found and key not in words}
    assert not unread, f"nothing reads these of TOP_LEVEL_KEYS: {unread}"
    assert not arguments & parts.TOP_LEVEL_KEYS.keys(), "arguments of the Runner are described there"


@pytest.mark.parametrize("name", SLOTS)
def test_every_argument_and_key_of_a_slot_is_used_by_its_builder(name: str) -> None:
    slot = SLOTS[name]
    words = set[str]().union(*(constants(TREES[file]) for file in builders(name)))
    unused = {*slot.runtime, *slot.keys} - words
    assert not unused, f"no file that builds through {name} has {unused}"


def test_every_setting_inside_an_argument_of_the_runner_is_read() -> None:
    words = set[str]().union(*map(constants, TREES.values())) | set(inspect.signature(Runner.set_randomness).parameters)
    for keys in parts.RUNNER_ARGUMENT_KEYS.values():
        assert keys.keys() <= words


def test_the_keys_of_a_data_loader_are_not_those_of_the_class() -> None:
    assert parts.DATALOADER_KEYS.keys() & inspect.signature(DataLoader).parameters.keys() == {
        "dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn",
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name, slot in SLOTS.items() if slot.default is not None])
def test_defaults_are_registered(name: str) -> None:
    assert SLOTS[name].registry.get(SLOTS[name].type_of({})) is not None


def test_every_key_has_a_meaning_of_one_sentence() -> None:
    tables = [parts.TOP_LEVEL_KEYS, parts.DATALOADER_KEYS, *parts.RUNNER_ARGUMENT_KEYS.values()]
    for keys in [*tables, *(slot.keys for slot in SLOTS.values())]:
        for name, key in keys.items():
            assert key.meaning[0].isupper() and key.meaning.endswith(".") and ". " not in key.meaning, name


@pytest.fixture
def slot() -> Slot:
    registry = Registry("wheel", scope="test")

    @registry.register_module()
    class Wheel:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.given = args, kwargs

    return Slot(
        ("car.wheel",), registry, "Wheel", ("place",), ("color",), {"turns": Key(int, 2, "The number of turns.")}
    )


def test_a_slot_adds_the_default_type_and_what_the_engine_knows(slot: Slot) -> None:
    cfg = dict(size=3, turns=1)
    assert slot.build(cfg, "front", color="red").given == (("front",), dict(size=3, color="red"))
    assert slot.build(dict(color="blue"), "back", color="red").given == (("back",), dict(color="blue"))
    assert cfg == dict(size=3, turns=1) and (slot.read(cfg, "turns"), slot.read({}, "turns")) == (1, 2)
    assert slot.build(None, "front") is None


def test_a_slot_rejects_undeclared_arguments(slot: Slot) -> None:
    with pytest.raises(TypeError, match="car.wheel: declare .*'size'.* in engine/parts.py"):
        slot.build({}, "front", size=3)
    with pytest.raises(TypeError, match="car.wheel"):
        slot.build({})
    with pytest.raises(KeyError):
        slot.read({}, "spins")


def test_messages_name_the_place(slot: Slot) -> None:
    with pytest.raises(ConfigError, match="car.wheel.type: 'Weel' is not registered"):
        slot.build(dict(type="Weel"), "front")


def test_parts_are_found_alone_in_lists_and_by_name() -> None:
    def found(given: Any) -> list[str]:
        return [path for path, _ in parts.PARAM_SCHEDULER.find(dict(param_scheduler=given))]

    step = dict(type="StepLR", step_size=1)
    assert found(step) == found(dict(step_size=1)) == ["param_scheduler"]
    assert found([step, None, step]) == ["param_scheduler.0", "param_scheduler.2"]
    assert found(dict(a=[step], b=step)) == ["param_scheduler.a.0", "param_scheduler.b"]
    assert found(None) == found({}) == []
    assert [path for path, _ in parts.DATASET.find(dict(val_dataloader=dict(dataset={})))] == ["val_dataloader.dataset"]
