"""Configs in the pure-Python style: inheritance by import, classes instead of names."""

import copy
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from config_files import write

from trainwright.engine.config import Config, ConfigDict, read_base
from trainwright.engine.config.lazy_object import LazyObject, resolve
from trainwright.engine.config.parse_python import PythonConfig
from trainwright.engine.errors import ConfigError, ConfigFileError

BASE = """
import email.policy
import xml.dom as dom
from fractions import Fraction
import tw_absent.deep as deep
import tw_absent.wide
from tw_absent import Net, Loss as L

model = dict(type=Net, loss=dict(type=L),
    layers=[deep.Conv, dict(type=tw_absent.wide.Pool)])
size = int(Fraction(7, 2))
def block(n):
    return dict(type=deep.Block, n=n)
"""


class TestDetection:
    @pytest.mark.parametrize(
        "text, pure",
        [
            ("a = 1", False),
            ("import os, sys\nfrom pathlib import Path", False),
            ("import json.decoder", False),
            ("from mmengine import Config", False),
            ("from mmengine.config import read_base", False),
            ("from trainwright.engine import ConfigDict, Config", False),
            ("from trainwright.models import LeNet", True),
            ("from trainwright.engine import Hook", True),
            ("import torch", True),
            ("import os, torch.nn as nn", True),
            ("if True:\n    import torch", True),
            ("def f():\n    import torch", True),
            ("from . import x", True),
            ("with read_base():\n    from .x import *", True),
            ("with config.read_base():\n    from .x import *", True),
            ("_base_ = 'x.py'\nimport torch", False),
            ("_base_: str = 'x.py'\nimport torch", False),
        ],
    )
    def test_by_imports(self, text: str, pure: bool) -> None:
        assert PythonConfig(text, "c.py").is_pure is pure

    def test_can_be_forced(self, in_tmp: Path) -> None:
        write({"c.py": "import colorsys\nfrom textwrap import dedent\nx = 1\n"})
        assert Config.fromfile("c.py", lazy_import=True) == Config.fromfile("c.py", lazy_import=False) == {"x": 1}


class TestReading:
    def test_inherits_and_overrides(self, in_tmp: Path) -> None:
        write(
            {
                "base/one.py": BASE,
                "exp/c.py": """
                    from mmengine.config import read_base
                    with read_base():
                        from ..base.one import *
                        from ..base.one import model as second, size as length
                    from tw_absent import Adam
                    model.update(dict(
                        loss=dict(weight=2)))
                    model.extra = block(3)
                    model.layers.append(dict(type=Net))
                    second.merge(dict(loss=dict(_delete_=True, type='Mine')))
                    optimizer = dict(type=Adam, lr=0.1)
                    size += 1
                """,
            }
        )
        cfg = Config.fromfile("exp/c.py")
        assert cfg.to_dict() == {
            "model": {
                "type": "tw_absent.Net",
                "loss": {"type": "tw_absent.Loss", "weight": 2},
                "layers": ["tw_absent.deep.Conv", {"type": "tw_absent.wide.Pool"}, {"type": "tw_absent.Net"}],
                "extra": {"type": "tw_absent.deep.Block", "n": 3},
            },
            "size": 4,
            "second": {
                "type": "tw_absent.Net",
                "loss": {"type": "Mine"},
                "layers": ["tw_absent.deep.Conv", {"type": "tw_absent.wide.Pool"}],
            },
            "length": 3,
            "optimizer": {"type": "tw_absent.Adam", "lr": 0.1},
        }
        model = cfg.model
        assert [str(model.origin(key)) for key in ("type", "loss", "layers", "extra")] == [
            *["base/one.py:8", "base/one.py:8", "base/one.py:9"],
            "exp/c.py:8",
        ]
        assert str(model.loss.origin("weight")) == "exp/c.py:7"
        assert str(model.extra.origin("n")) == "base/one.py:12"
        assert str(cfg.origin("size")) == "exp/c.py:12" and str(cfg.origin("length")) == "base/one.py:10"
        assert "from ..base.one import" in cfg.text and "import email.policy" in cfg.text

    def test_three_levels_and_helpers_travel(self, in_tmp: Path) -> None:
        write(
            {
                "a.py": BASE,
                "b.py": "with read_base():\n    from .a import *\nother = dict(type=Net)\n",
                "c.py": "with read_base():\n    from .b import *\nthird = dict(type=L, made=block(1))\n",
            }
        )
        cfg = Config.fromfile("c.py")
        assert list(cfg) == ["model", "size", "other", "third"]
        assert cfg.to_dict()["third"] == {
            "type": "tw_absent.Loss",
            "made": {"type": "tw_absent.deep.Block", "n": 1},
        }

    @pytest.mark.parametrize(
        "line",
        [
            "from mmengine.config import read_base",
            "from mmengine import read_base",
            "from trainwright.engine.config import read_base",
            "from trainwright.engine import read_base",
        ],
    )
    def test_read_base_is_never_run(self, in_tmp: Path, line: str) -> None:
        write({"a.py": "x = 1", "c.py": f"{line}\nwith read_base():\n    from .a import *\n"})
        assert Config.fromfile("c.py") == {"x": 1}

    def test_bases_of_packages(self, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(
            {
                "site/tw_pkg/__init__.py": "raise RuntimeError('a config imports nothing')",
                "site/tw_pkg/configs/sub/x.py": "x = 1",
                "c.py": "with read_base():\n    from tw_pkg.configs.sub.x import *\n",
            }
        )
        monkeypatch.syspath_prepend(str(in_tmp / "site"))
        assert Config.fromfile("c.py") == {"x": 1}
        assert "tw_pkg" not in sys.modules

    def test_nothing_is_imported(self, in_tmp: Path) -> None:
        write(
            {
                "c.py": """
                    import torch
                    import torch.nn as nn
                    x = dict(type=nn.Linear, f=torch.nn.functional.relu)
                """
            }
        )
        code = (
            "import sys; from trainwright.engine.config import Config; cfg = Config.fromfile('c.py');"
            "print(cfg.pretty_text.strip(), 'torch' in sys.modules);"
            "print(cfg.x.type.__name__, cfg.x.f.__name__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        expected = "x = dict(f='torch.nn.functional.relu', type='torch.nn.Linear') False\nLinear relu\n"
        assert done.stdout == expected

    def test_what_else_a_file_may_do(self, in_tmp: Path) -> None:
        write(
            {
                "note.txt": "hello",
                "c.py": """
                    from __future__ import annotations
                    from mmengine.config import Config, ConfigDict
                    import tw_absent
                    _base_: str
                    with open('note.txt') as file:
                        note = file.read()
                    del file
                    inner = Config(ConfigDict(a=1)).to_dict()
                    if note:
                        from tw_absent import chosen
                    net = dict(type=chosen)
                    alias = tw_absent.alias
                """,
            }
        )
        cfg = Config.fromfile("c.py")
        assert cfg.to_dict() == {
            "note": "hello",
            "inner": {"a": 1},
            "net": {"type": "tw_absent.chosen"},
            "alias": "tw_absent.alias",
        }

    def test_read_base_does_nothing_outside_of_a_config(self) -> None:
        with read_base():
            value = 1
        assert value == 1


class TestLazyObjects:
    @pytest.fixture
    def cfg(self) -> Config:
        text = """
            import fractions, tw_pure
            import decimal as dec
            x = dict(type=tw_lazy.Fraction, numerator=3, kinds=[tw_lazy.Fraction, 1], pair=(tw_lazy.gcd, 2))
        """
        text = textwrap.dedent(text).replace("tw_pure", "tw_lazy")
        return Config.fromstring(text, ".py")

    @pytest.fixture(autouse=True)
    def module(self, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(
            {
                "tw_lazy/__init__.py": "from fractions import Fraction\nfrom math import gcd\n",
                "tw_lazy/sub.py": "y = 5",
            }
        )
        monkeypatch.syspath_prepend(str(in_tmp))
        monkeypatch.delitem(sys.modules, "tw_lazy", raising=False)
        monkeypatch.delitem(sys.modules, "tw_lazy.sub", raising=False)

    def test_every_way_of_reading_gives_the_real_object(self, cfg: Config) -> None:
        from fractions import Fraction
        from math import gcd

        x = cfg.x
        assert "tw_lazy" not in sys.modules
        assert x.type is x["type"] is x.get("type") is Fraction
        assert dict(**x)["type"] is dict(x)["type"] is {**x}["type"] is Fraction
        assert dict(x.items())["type"] is next(iter(x.values())) is Fraction
        assert x.kinds == [Fraction, 1] and x.pair == (gcd, 2)
        assert x.setdefault("type", 3) is Fraction
        assert copy.deepcopy(x).pop("type") is Fraction
        assert x.pop("none", 7) == 7
        assert list(x) == ["type", "numerator", "kinds", "pair"]

    def test_copies_and_pickles_stay_lazy(self, cfg: Config) -> None:
        for other in (copy.deepcopy(cfg), copy.copy(cfg), pickle.loads(pickle.dumps(cfg))):
            assert type(dict.__getitem__(other.x, "type")) is LazyObject
            assert other == cfg and other.x.origin("type") == cfg.x.origin("type")
        assert "tw_lazy" not in sys.modules

    @pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
    def test_a_dump_has_names_and_loads_to_an_equal_config(self, cfg: Config, suffix: str) -> None:
        del cfg.x["pair"]
        cfg.dump(f"out{suffix}")
        again = Config.fromfile(f"out{suffix}")
        assert again.x.type == "tw_lazy.Fraction" and again.x.kinds == ["tw_lazy.Fraction", 1]
        assert again._cfg_dict == cfg._cfg_dict and again.to_dict() == cfg.to_dict()

    def test_equality_and_hash_follow_the_name(self) -> None:
        lazy = LazyObject("a.b")
        assert lazy == LazyObject("a").b == "a.b" and hash(lazy) == hash("a.b") and lazy != LazyObject("a.c")
        assert str(lazy) == repr(lazy) == "a.b"

    def test_resolves_as_python_imports(self) -> None:
        assert resolve(LazyObject("tw_lazy.sub.y")) == 5
        assert resolve(LazyObject("tw_lazy").sub.y) == 5
        assert resolve(LazyObject("tw_lazy.gcd.__name__")) == "gcd"

    @pytest.mark.parametrize(
        "name, message",
        [
            ("tw_nowhere.X", r"cannot import 'tw_nowhere.X': not found"),
            (
                "tw_lazy.Fractoin",
                r"cannot import 'tw_lazy.Fractoin': not found\n +did you mean 'Fraction'",
            ),
            (
                "tw_lazy.Fraction.none",
                r"cannot import 'tw_lazy.Fraction.none': not found",
            ),
            ("tw_broken.X", r"cannot import 'tw_broken.X': ZeroDivisionError: division by zero"),
        ],
    )
    def test_a_failing_import_names_the_line(self, name: str, message: str) -> None:
        write(
            {
                "tw_broken.py": "1/0",
                "c.py": f"import os\nfrom {name.rpartition('.')[0]} import {name.split('.')[-1]}\n",
            }
        )
        with Path("c.py").open("a") as file:
            file.write(f"a = dict(type={name.split('.')[-1]})\n")
        cfg = Config.fromfile("c.py")
        with pytest.raises(ConfigError, match=f"c.py:2: .*{message}"):
            _ = cfg.a.type

    def test_a_call_while_reading(self, in_tmp: Path) -> None:
        write({"c.py": "import tw_lazy\na = 1\nb = tw_lazy.Fraction(1)\n"})
        message = r"c.py:3: TypeError: tw_lazy.Fraction cannot be called in a config.*dict\(type=Fraction, ...\)"
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile("c.py")

    def test_builds(self) -> None:
        from trainwright.engine.registry import Registry

        cfg = Config.fromstring("import tw_lazy\nx = dict(type=tw_lazy.Fraction, numerator=3)\n", ".py")
        assert Registry("number", scope="tests").build(cfg.x) == 3

    def test_a_dictionary_with_lazy_objects_is_a_config_dict(self, cfg: Config) -> None:
        assert isinstance(cfg.x, ConfigDict) and isinstance(cfg.x.copy(), ConfigDict)
        cfg.merge_from_dict({"x.type": "Other"})
        assert cfg.x.type == "Other"


class TestMistakes:
    @pytest.mark.parametrize(
        "files, message",
        [
            ({"c.py": "with read_base():\n    from .nope import *\n"}, r"c.py:2: there is no file .*nope.py"),
            (
                {"c.py": "with read_base():\n    import x\n"},
                r"c.py:2: .* only .*`from ... import ...` of configs",
            ),
            ({"c.py": "with read_base():\n    from . import x\n"}, r"c.py:2: .* only .*`from"),
            (
                {"c.py": "with read_base():\n    from .a import modle\n", "a.py": "model=1"},
                r"c.py:2: .*no 'modle'\n.*'model'",
            ),
            (
                {"c.py": "with read_base():\n    from nowhere.x import *\n"},
                r"c.py:2: there is no package 'nowhere'",
            ),
            (
                {"c.py": "with read_base():\n    from json import *\n"},
                r"c.py:2: 'json' is a package, not a config",
            ),
            (
                {"c.py": "import torch\nfrom .a import *\n"},
                r"c.py:2: a relative import of 'a': .*`with read_base\(\):`",
            ),
            (
                {"c.py": "from torch import *\n"},
                r"c.py:1: `from torch import \*`: .*`with read_base\(\):`",
            ),
            (
                {"c.py": "def f():\n    with read_base():\n        from .a import x\n"},
                r"c.py:2: .*at the top level",
            ),
            ({"c.py": "with read_base():\n    from .c import *\n"}, r"c.py:2: a config inherits from itself"),
            ({"c.py": "import torch\nx = torch.a + 1\n"}, r"c.py:2: TypeError: unsupported operand"),
            (
                {"c.py": "with read_base():\n    from .a import *\n", "a.py": "\nx = 1/0\n"},
                r"^a.py:2: ZeroDivisionError",
            ),
        ],
    )
    def test_names_the_place(self, in_tmp: Path, files: dict[str, str], message: str) -> None:
        for name, text in files.items():
            Path(name).write_text(text)
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile("c.py")

    @pytest.mark.parametrize(
        "files, message",
        [
            (
                {"c.py": "with read_base():\n    from .a import *\n", "a.py": "_base_ = 'b.py'"},
                r"c.py:2: .*a.py assigns `_base_`",
            ),
            (
                {"c.py": "_base_ = 'a.py'\n", "a.py": "x = 1\nimport torch\n"},
                r"c.py:1: .*base .*pure-Python .*a.py:2",
            ),
            (
                {"c.py": "_base_ = 'a.py'\nwith read_base():\n    from .a import x\n", "a.py": "x=1"},
                r"c.py:2: .*`_base_` and `with read_base\(\):`",
            ),
        ],
    )
    def test_mixed_styles(self, in_tmp: Path, files: dict[str, str], message: str) -> None:
        for name, text in files.items():
            Path(name).write_text(text)
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile("c.py")
