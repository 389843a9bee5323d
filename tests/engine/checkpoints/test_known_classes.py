"""Classes of MMEngine and others in checkpoints. No such class is imported: files contain only their names."""

import argparse
import collections
import pathlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from trainwright.engine import (
    BaseDataElement,
    CheckpointError,
    HistoryBuffer,
    InstanceData,
    LabelData,
    MessageHub,
    PixelData,
    load_checkpoint_file,
)
from trainwright.engine.checkpoints.contents import safe_to_load


class Addict(dict[str, Any]):
    """Pickled as ``ConfigDict`` was until 2023: an empty object, then its items, then itself as its state."""

    def __getstate__(self) -> Any:
        return self

    def __setstate__(self, state: Any) -> None:
        self.update(state)


class Reduced(dict[str, Any]):
    """Pickled as ``ConfigDict`` is since."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (dict(self),), None, None, None, None


class Plain:
    def __init__(self, *args: Any, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a class known to pickle under the name that it has in another library."""
    names: list[str] = []

    def named(name: str, base: type) -> Any:
        module, _, attribute = name.rpartition(".")
        made = type(attribute, (base,), {"__module__": module, "__qualname__": attribute})
        for place in [module[:end] for end, sign in enumerate(f"{module}.") if sign == "."]:
            if place not in sys.modules:
                monkeypatch.setitem(sys.modules, place, ModuleType(place))
                names.append(place)
        monkeypatch.setattr(sys.modules[module], attribute, made, raising=False)
        return made

    yield named


def reread(value: Any, file: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool = False, **format: Any) -> Any:
    torch.save({"meta": value}, file, **format)
    monkeypatch.undo()  # from here on, nobody knows the classes
    return load_checkpoint_file(file, trusted=trusted)["meta"]


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
def test_classes_of_mmengine_become_ours(
    tmp_path: Path, foreign: Any, monkeypatch: pytest.MonkeyPatch, trusted: bool, old_format: bool
) -> None:
    history = foreign("mmengine.logging.history_buffer.HistoryBuffer", Plain)
    counts = {"_log_history": np.array([1.0, 2.0]), "_count_history": np.array([1, 3]), "max_length": 1000000}
    elements = {
        name: foreign(f"mmengine.structures.{module}.{name}", kind)
        for name, module, kind in (
            ("BaseDataElement", "base_data_element", BaseDataElement),
            ("InstanceData", "instance_data", InstanceData),
            ("LabelData", "label_data", LabelData),
            ("PixelData", "pixel_data", PixelData),
        )
    }
    value = {
        "history": history(**counts, _statistics_methods={"min": "min"}),
        "old": foreign("mmcv.utils.config.ConfigDict", Addict)(classes=("a", "b")),
        "new": foreign("mmengine.config.config.ConfigDict", Reduced)(classes=("a", "b")),
        "elements": [kind(metainfo={"size": (2, 3)}, data=torch.ones(1, 2, 3)) for kind in elements.values()],
        "other": foreign("mmdet.structures.Sampler", Plain)(state=3),
        "config": foreign("mmengine.config.config.Config", Plain)(text="x"),
    }
    read = reread(
        value, tmp_path / "x.pth", monkeypatch, trusted=trusted, _use_new_zipfile_serialization=not old_format
    )
    assert isinstance(read["history"], HistoryBuffer) and read["history"].mean() == 0.75
    assert read["old"] == read["new"] == {"classes": ("a", "b")}
    for element, kind in zip(read["elements"], (BaseDataElement, InstanceData, LabelData, PixelData)):
        assert type(element) is kind and element.size == (2, 3) and element.data.shape == (1, 2, 3)
    assert read["other"].state == 3 and read["config"].text == "x"
    hub = MessageHub("test")
    hub.load_state_dict({"log_scalars": {"a": read["history"]}, "runtime_info": {}, "resumed_keys": {}})
    assert hub.get_scalar("a").total_length == 2


ARRAYS = [
    *(np.arange(3).astype(code) for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
    *(np.zeros((0, 2)), np.array(["a", "bcd"]), np.array([b"a"]), np.array([("a", 1), None], dtype=object)),
    *(np.array([1j]), np.asfortranarray(np.ones((2, 3))), np.array(["2023-01-01"], dtype="datetime64[D]")),
]


def test_arrays_and_numbers_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [array[0] for array in ARRAYS if array.dtype != object and len(array)]
    read = reread({"arrays": ARRAYS, "numbers": numbers}, tmp_path / "x.pth", monkeypatch)
    for array, again in zip(ARRAYS, read["arrays"]):
        assert again.dtype == array.dtype and np.array_equal(again, array)
    for number, again in zip(numbers, read["numbers"]):
        assert type(again) is type(number) and np.array_equal(again, number)


@pytest.mark.parametrize("other", ["numpy.core", "numpy._core"])
def test_arrays_written_with_another_numpy(tmp_path: Path, other: str) -> None:
    torch.save({"meta": [np.arange(3), np.float64(2)]}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    here = b"numpy._core" if hasattr(np, "_core") else b"numpy.core"
    assert content.count(here + b".multiarray") == 2
    (tmp_path / "x.pth").write_bytes(content.replace(here, other.encode()))
    array, number = load_checkpoint_file(tmp_path / "x.pth")["meta"]
    assert array.tolist() == [0, 1, 2] and number == 2


def test_containers_paths_and_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {
        "containers": [frozenset({1}), range(3), slice(1, 2), b"", b"ab", {1, 2}, 1j, 2**100],
        "default": collections.defaultdict(list, a=[1]),
        "paths": [pathlib.PosixPath("/x/y"), pathlib.PureWindowsPath("c:/x")],
        "args": argparse.Namespace(lr=0.1),
    }
    read = reread(value, tmp_path / "x.pth", monkeypatch)
    assert read == value


def test_a_dangerous_name_beside_those_of_mmengine_is_the_one_that_is_named(
    tmp_path: Path, foreign: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('executed')",)

    value = [foreign("mmdet.structures.Sampler", Plain)(state=3), Harmful(), foreign("mm.Class", Plain)()]
    with pytest.raises(CheckpointError, match=r"it contains builtins\.exec, mm\.Class, which could execute code"):
        reread(value, tmp_path / "x.pth", monkeypatch)


def test_a_pickle_of_a_newer_protocol_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"meta": 1}, tmp_path / "x.pth", pickle_protocol=4)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="cannot be read: Unsupported operand 149"):
        load_checkpoint_file(tmp_path / "x.pth")


def test_what_numpy_has_in_class_information_is_saved_as_plain_data(tmp_path: Path) -> None:
    date = np.array([np.datetime64("2023-01-01"), ("a", np.float32(0.5))], dtype=object)
    meta = {"date": date, "scale": np.float64(2), "name": np.str_("cat"), "ids": np.arange(2)}
    torch.save(safe_to_load(meta), tmp_path / "x.pth")
    read = torch.load(tmp_path / "x.pth", weights_only=True)
    assert read == {"date": ["datetime.date(2023, 1, 1)", ("a", 0.5)], "scale": 2.0, "name": "cat", "ids": [0, 1]}
