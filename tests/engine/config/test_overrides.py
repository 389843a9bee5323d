"""Parsing command line options."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwright.engine.config.config import Config
from trainwright.engine.config.overrides import DictAction, parse_override, parse_overrides
from trainwright.engine.errors import ConfigError

on_any_machine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


class TestParseOverride:
    @pytest.mark.parametrize(
        "text, value",
        [
            ("1", 1),
            ("-3", -3),
            ("007", 7),
            ("1.5", 1.5),
            ("1e-3", 0.001),
            (".5", 0.5),
            ("inf", float("inf")),
            ("true", True),
            ("FALSE", False),
            ("None", None),
            ("none", "none"),
            ("abc", "abc"),
            ("", ""),
            ("a,b", ["a", "b"]),
            ("1,2,3", [1, 2, 3]),
            ("1,", [1]),
            ("a,,b", ["a", "", "b"]),
            ("[1, 2.5, x]", [1, 2.5, "x"]),
            ("(1,2)", (1, 2)),
            ("(1)", (1,)),
            ("[]", []),
            ("()", ()),
            ("{}", {}),
            ("[(1, 2, 3), [a, b], c]", [(1, 2, 3), ["a", "b"], "c"]),
            ("(1,2),[3]", [(1, 2), [3]]),
        ],
    )
    def test_as_mmengine(self, text: str, value: Any) -> None:
        parsed = parse_override(text)
        assert parsed == value and type(parsed) is type(value)

    @pytest.mark.parametrize(
        "text, value",
        [
            ("a b  c", "a b  c"),
            ("'1'", "1"),
            ('"None"', "None"),
            ("'a, b'", "a, b"),
            ("[a, 'b c', d e]", ["a", "b c", "d e"]),
            ("1_000", "1_000"),
            ("f(a,b)", "f(a,b)"),
            ("(a|b)c", "(a|b)c"),
            ("^(a|b)[0-9]+$", "^(a|b)[0-9]+$"),
            ("'(a'", "(a"),
            ("[']', \"(\"]", ["]", "("]),
            ("it's", "it's"),
            ("{a: 1}", {"a": 1}),
            ("{a: 1, 'b': [2, 3]}", {"a": 1, "b": [2, 3]}),
            ("{a: {b: (1, 2)}, c: None, 4: x}", {"a": {"b": (1, 2)}, "c": None, 4: "x"}),
            ("[{type: A, n: 1}, {type: B}]", [{"type": "A", "n": 1}, {"type": "B"}]),
            ("{path: s3://bucket/x}", {"path": "s3://bucket/x"}),
            ("dict(type='A', n=[1, dict(m=2)])", {"type": "A", "n": [1, {"m": 2}]}),
            ("dict()", {}),
            ("dictionary", "dictionary"),
        ],
    )
    def test_where_mmengine_goes_wrong(self, text: str, value: Any) -> None:
        assert parse_override(text) == value

    @pytest.mark.parametrize(
        "text, message",
        [
            ("(a", r"unclosed .*\("),
            ("a)", r"unmatched .*\)"),
            ("[1,(2]", r"unclosed .*\["),
            ("x[", r"unclosed .*\["),
            ('"a', 'unclosed quote "'),
            ("{a}", "expected ':' after the key 'a'"),
            ("dict(a)", "expected '=' after the key 'a'"),
        ],
    )
    def test_mistakes(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse_override(text)

    VALUES = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="'\"\\", exclude_categories=("C", "Z"))),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
        ),
        max_leaves=10,
    )

    @on_any_machine
    @given(VALUES)
    def test_reads_what_python_writes(self, value: Any) -> None:
        assert parse_override(repr(value)) == value

    @on_any_machine
    @given(st.text(max_size=20))
    def test_any_text_is_a_value_or_a_config_error(self, text: str) -> None:
        try:
            parse_override(text)
        except ConfigError as error:
            assert str(error.origin) == "--cfg-options"


class TestParseOverrides:
    def test_only_the_first_equals_sign_separates(self) -> None:
        assert parse_overrides(["a.b=c=d", " e = 1", "f="]) == {"a.b": "c=d", "e": 1, "f": ""}

    @pytest.mark.parametrize("option", ["abc", "=1", "a..b=1", ".a=1"])
    def test_an_option_needs_a_key(self, option: str) -> None:
        with pytest.raises(ConfigError, match="not an option"):
            parse_overrides([option])

    def test_the_error_names_the_key(self) -> None:
        with pytest.raises(ConfigError, match=r"^--cfg-options: model.name: '\(x': .*bracket"):
            parse_overrides(["model.name=(x"])


class TestDictAction:
    @staticmethod
    def parser() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        return parser

    def test_collects_and_accumulates(self) -> None:
        arguments = ["--cfg-options", "a.b=1", "c=[1,2]", "--cfg-options", "a.b=2", "d={x: y z}"]
        assert self.parser().parse_args(arguments).cfg_options == {"a.b": 2, "c": [1, 2], "d": {"x": "y z"}}
        assert self.parser().parse_args([]).cfg_options is None

    def test_a_default_is_not_changed(self) -> None:
        parser = argparse.ArgumentParser()
        default = {"a": 1}
        parser.add_argument("--o", nargs="+", action=DictAction, default=default)
        assert parser.parse_args(["--o", "b=2"]).o == {"a": 1, "b": 2}
        assert default == {"a": 1}

    def test_the_name_that_mmpretrains_tools_use(self) -> None:
        assert DictAction._parse_iterable("(1,[a,true])") == (1, ["a", True])

    def test_a_mistake_is_an_argument_error(self) -> None:
        with pytest.raises(argparse.ArgumentError, match="argument --cfg-options: 'abc'"):
            self.parser().parse_args(["--cfg-options", "abc"])


def test_options_and_configs_are_read_without_torch() -> None:
    code = (
        "import sys, trainwright.engine.config.overrides, trainwright.engine.config.config;"
        "print([name for name in ('torch', 'yaml', 'rich', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_parser_with_an_option_for_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "optimizer = dict(type='SGD', lr=0.1)\nsteps = [1, 2]\nis_long = True\nnothing = None\nname = '3'\n"
    )
    given = ["--optimizer.lr", "0.5", "--steps", "4", "5", "--no-is_long", "--nothing", "(1,2)", "--name", "7"]
    monkeypatch.setattr(sys, "argv", ["train.py", str(file), *given])
    parser, cfg = Config.auto_argparser("Train")
    assert cfg.optimizer.lr == 0.1
    options = vars(parser.parse_args())
    assert options == {
        "config": str(file), "optimizer.type": None, "optimizer.lr": 0.5, "steps": [4, 5], "is_long": False,
        "nothing": (1, 2), "name": "7",
    }  # fmt: skip
    with pytest.raises(SystemExit):
        parser.parse_args(["--optimizer.lr", "fast"])
