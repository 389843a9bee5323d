"""YAML and JSON configs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from config_files import origins, write

from trainwright.engine import Config
from trainwright.engine.errors import ConfigFileError

BASE = """
norm = dict(type='BN')
model = dict(
    type='Net',
    backbone=dict(type='ResNet', depth=18, norm=norm),
    heads=[dict(type='A', n=1), dict(type='B')])
lr = 0.1
"""


class TestData:
    def test_yaml(self, in_tmp: Path) -> None:
        write(
            {
                "base.py": BASE,
                "c.yaml": """
                    _base_: [base.py]
                    model:
                      backbone: {depth: 50}
                      heads:
                        - type: C
                          n: 1e-3
                    copied: {{ _base_.model.backbone }}
                    name: "run {{ _base_.lr }} {{ fileBasenameNoExtension }}"
                    norm:
                      _delete_: true
                      day: 2020-01-01
                    defaults: &defaults
                      a: 1
                      b: 2
                    used:
                      <<: *defaults
                      b: 3
                    pair: !!python/tuple [1, 2]
                """,
            }
        )
        cfg = Config.fromfile("c.yaml")
        assert cfg.model.backbone == {"type": "ResNet", "depth": 50, "norm": {"type": "BN"}}
        assert cfg.copied.depth == 18
        assert cfg.name == "run 0.1 c"
        assert cfg.model.heads == [{"type": "C", "n": 0.001}]
        assert cfg.norm == {"day": "2020-01-01"}
        assert cfg.used == {"a": 1, "b": 3} and cfg.pair == (1, 2)
        found = origins(cfg)
        lines = {
            "model.backbone.depth": 3,
            "model.heads": 4,
            "model.heads.0.n": 6,
            "norm.day": 11,
            "used.b": 17,
        }
        assert {key: found[key] for key in lines} == {key: f"c.yaml:{line}" for key, line in lines.items()}
        assert found["model.type"] == "base.py:3" and found["copied.depth"] == "base.py:4"

    def test_json(self, in_tmp: Path) -> None:
        write(
            {
                "base.yaml": "model: {type: A, n: 1}\nlr: 1\n",
                "c.json": """
                    {
                      "_base_": "base.yaml",
                      "model": {"_delete_": true, "type": "B",
                                "list": [1, {"x": null}]},
                      "lr2": {{ _base_.lr }},
                      "lr3": "{{ _base_.lr }}",
                      "told": "a \\" {{ _base_.lr }} \\u00e9"
                    }
                """,
            }
        )
        cfg = Config.fromfile("c.json")
        assert cfg == {
            "model": {"type": "B", "list": [1, {"x": None}]},
            "lr": 1,
            "lr2": 1,
            "lr3": 1,
            "told": 'a " 1 é',
        }
        found = origins(cfg)
        assert [found[key] for key in ("model", "model.list", "model.list.1.x", "lr", "lr2")] == [
            "c.json:3",
            "c.json:4",
            "c.json:4",
            "base.yaml:2",
            "c.json:5",
        ]

    def test_json_reads_as_the_json_module(self, in_tmp: Path) -> None:
        value: dict[str, Any] = {
            "a": [1, 2.5, -1e-9, True, None, '\u00e9\n"\\/', {}, [], {"b": {"c": []}}],
            "": "empty",
            "\U0001f600": "\U0001f600",
            "long" * 500: math.inf,
        }
        for text in (
            json.dumps(value),
            json.dumps(value, indent="\t"),
            json.dumps(value, separators=(",", ":")),
        ):
            assert Config.fromstring(text, ".json") == value

    @pytest.mark.parametrize(
        "name, text, message",
        [
            ("a.yaml", "a: 1\nb: [1, 2\n", r"a.yaml:3: not valid YAML"),
            ("a.yaml", "a: 1\nb: 2\na: 3\n", r"a.yaml:3: duplicate key 'a', .*line 1"),
            ("a.yaml", "a: 1\nb: !!python/object/apply:os.system [ls]\n", r"a.yaml:2: not valid YAML: .*tag"),
            ("a.yaml", "- a\n- b\n", r"a.yaml: .* mapping"),
            ("a.json", '{"a": 1,\n "b" 2}', r"a.json:2: not valid JSON: .*':'"),
            ("a.json", '{"a": 1,\n "b": }', r"a.json:2: not valid JSON"),
            ("a.json", '{"a": 1,\n b: 2}', r"a.json:2: not valid JSON: .*double quotes"),
            ("a.json", '{"a": 1\n "b": 2}', r"a.json:2: not valid JSON: .*','"),
            ("a.json", '{"a": 1,\n "a": 2}', r"a.json:2: duplicate key 'a', .*line 1"),
            (
                "a.json",
                '{"a": {"b": {}, "c": "{\\"x\\": 1}"},\n "d": [{}],\n "a": 2}',
                r"a.json:3: duplicate key 'a', .*line 1",
            ),
            ("a.json", '{"a": "}",\n "a": 012}', r"a.json:2: not valid JSON"),
            ("a.json", '{"a": yes}', r"a.json:1: not valid JSON"),
            ("a.json", "[1]", r"a.json: .* mapping"),
        ],
    )
    def test_mistakes(self, in_tmp: Path, name: str, text: str, message: str) -> None:
        Path(name).write_text(text)
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile(name)

    def test_an_empty_yaml_file_is_an_empty_config(self, in_tmp: Path) -> None:
        write({"a.yaml": "# nothing\n"})
        assert len(Config.fromfile("a.yaml")) == 0
