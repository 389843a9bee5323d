"""Dumping configs as text that loads to the same config."""

import math
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwright.engine.config import Config, ConfigDict
from trainwright.engine.errors import ConfigFileError

on_any_machine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\ufeff\ue000"), max_size=8) | st.sampled_from(
    [
        "{{ fileDirname }}",
        "{{$HOME:x}}",
        "{{ _base_.a }}",
        "{{{{",
        "1e-3",
        "null",
        "on",
        "2020-01-01",
        "- a",
        "a: b",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = st.sampled_from(["a", "type", "lr", "b_1", "a-b", "class", "dict", "None", "", "é", "1"])


def trees(containers: Any) -> st.SearchStrategy[Any]:
    return st.recursive(SCALARS, containers, max_leaves=12)


EXACT = trees(
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS | st.integers(), inner, max_size=4)
    )
)
JSON = trees(lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
TOP = st.sampled_from(["model", "lr", "a-b", "class", "dict", "float", "globals", "_private", "1"])


def same(one: Any, other: Any) -> bool:
    """Compare strictly: 1, True and 1.0 differ, and so do a list and a tuple."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


class TestRoundTrip:
    @on_any_machine
    @given(st.dictionaries(TOP, EXACT, max_size=4))
    def test_python(self, keys: dict[str, Any]) -> None:
        cfg = Config(keys)
        again = Config.fromstring(cfg.pretty_text, ".py")
        assert same(again.to_dict(), cfg.to_dict())
        assert again.pretty_text == cfg.pretty_text

    @on_any_machine
    @given(st.dictionaries(TOP, EXACT, max_size=4))
    def test_yaml(self, keys: dict[str, Any]) -> None:
        self.through_file(keys, "yaml")

    @on_any_machine
    @given(st.dictionaries(TOP, JSON, max_size=4))
    def test_json(self, keys: dict[str, Any]) -> None:
        self.through_file(keys, "json")

    @staticmethod
    def through_file(keys: dict[str, Any], suffix: str) -> None:
        cfg = Config(keys, filename=f"x.{suffix}")
        text = cfg.dump()
        assert text is not None
        assert same(Config.fromstring(text, f".{suffix}").to_dict(), cfg.to_dict())

    def test_special_values(self) -> None:
        values = {
            "sets": [{1, 2}, frozenset({"b", "a"}), set()],
            "floats": [math.inf, -math.inf, 1e-300],
            "bytes": b"\x00a",
            "single": (1,),
            "empty": [(), [], {}],
            "nested": {"a b": {0: {"class": 1}}},
            "dots": ...,
        }
        assert same(Config.fromstring(Config(values).pretty_text, ".py").to_dict(), values)
        nan = Config.fromstring(Config({"x": math.nan}).pretty_text, ".py").x
        assert math.isnan(nan)


class TestPrettyText:
    def test_layout(self) -> None:
        cfg = Config(
            {
                "model": {
                    "type": "ResNet",
                    "stages": [{"type": "Stage", "channels": [64, 128, 256], "kernel": (3, 3)} for _ in range(2)],
                    "norm_cfg": {"type": "BN", "requires_grad": True},
                },
                "lr": 0.1,
                "steps": list(range(1000, 1024)),
                "names": {"a-b": 1},
            }
        )
        assert cfg.pretty_text == (
            "lr = 0.1\n"
            "model = dict(\n"
            "    norm_cfg=dict(requires_grad=True, type='BN'),\n"
            "    stages=[\n"
            "        dict(channels=[64, 128, 256], kernel=(3, 3), type='Stage'),\n"
            "        dict(channels=[64, 128, 256], kernel=(3, 3), type='Stage'),\n"
            "    ],\n"
            "    type='ResNet',\n"
            ")\n"
            "names = {'a-b': 1}\n"
            "steps = [\n"
            f"    {', '.join(map(str, range(1000, 1016)))},\n"
            "    1016, 1017, 1018, 1019, 1020, 1021, 1022, 1023,\n"
            "]\n"
        )
        flat = Config(cfg._cfg_dict, format_python_code=False).pretty_text
        assert len(flat.splitlines()) == 4 and Config.fromstring(flat, ".py") == cfg

    def test_unsupported_values_are_written_as_text(self) -> None:
        import fractions

        class Thing:
            def __str__(self) -> str:
                return "a thing"

        cfg = Config({"a": fractions.Fraction, "b": Thing(), "c": PurePosixPath("x/y"), "d": len, "e": math.gcd})
        again = Config.fromstring(cfg.pretty_text, ".py")
        assert again == {
            "a": "fractions.Fraction",
            "b": "a thing",
            "c": "x/y",
            "d": "builtins.len",
            "e": "math.gcd",
        }

    def test_numbers_of_numpy_are_numbers(self) -> None:
        numpy = pytest.importorskip("numpy")
        cfg = Config({"a": numpy.float64(0.5), "b": numpy.int64(3), "c": numpy.float32(0.25)})
        assert cfg.pretty_text == "a = 0.5\nb = 3\nc = 0.25\n"


class TestDump:
    def test_to_files(self, in_tmp: Path) -> None:
        Path("c.yaml").write_text("b: {x: [1, 2]}\na: 1\n")
        cfg = Config.fromfile("c.yaml")
        assert cfg.dump() == "b:\n  x:\n  - 1\n  - 2\na: 1\n", "without a file: in the format of the config"
        for name in ("o.py", "o.yaml", "o.yml", "o.json"):
            assert cfg.dump(name) is None
            assert Config.fromfile(Path(name)) == cfg
        with pytest.raises(ConfigFileError, match="config format"):
            cfg.dump("o.txt")

    def test_json_turns_tuples_into_lists(self) -> None:
        text = Config(ConfigDict(a=(1, {2, 1})), filename="x.json").dump()
        assert text is not None and Config.fromstring(text, ".json") == {"a": [1, [1, 2]]}
