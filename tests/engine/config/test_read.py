"""Reading config files: inheritance, origins and mistakes in the text style; packages."""

import sys
from pathlib import Path

import pytest
from config_files import origins, write

from trainwright.engine import Config
from trainwright.engine.errors import ConfigError, ConfigFileError

BASE = """
norm = dict(type='BN')
model = dict(
    type='Net',
    backbone=dict(type='ResNet', depth=18, norm=norm),
    heads=[dict(type='A', n=1), dict(type='B')])
lr = 0.1
"""


class TestTextStyle:
    def test_child_is_merged_into_base(self, in_tmp: Path) -> None:
        write(
            {
                "_base_/model.py": BASE,
                "_base_/data.py": "data = dict(batch=4)\nlist_ = [1, 2]",
                "exp/child.py": """
                    _base_ = ['../_base_/model.py', '../_base_/data.py']
                    model = dict(backbone=dict(depth=50), heads=[dict(type='C')], neck=dict(type='N'))
                    data = dict(_delete_=True, size=2)
                    list_ = []
                """,
            }
        )
        cfg = Config.fromfile("exp/child.py")
        assert cfg.to_dict() == {
            "norm": {"type": "BN"},
            "model": {
                "type": "Net",
                "backbone": {"type": "ResNet", "depth": 50, "norm": {"type": "BN"}},
                "heads": [{"type": "C"}],
                "neck": {"type": "N"},
            },
            "lr": 0.1,
            "data": {"size": 2},
            "list_": [],
        }
        assert cfg.filename == "exp/child.py"
        files = [str(in_tmp / name) for name in ("_base_/model.py", "_base_/data.py", "exp/child.py")]
        assert [line for line in cfg.text.split("\n") if line in files] == files

    def test_four_levels(self, in_tmp: Path) -> None:
        write({"a0.py": "x = dict(v0=0, v=0)\n"})
        for level in range(1, 5):
            write({f"a{level}.py": f"_base_ = 'a{level - 1}.py'\nx = dict(v{level}={level}, v={level})\n"})
        cfg = Config.fromfile("a4.py")
        assert cfg.x == {"v0": 0, "v1": 1, "v2": 2, "v3": 3, "v4": 4, "v": 4}
        assert str(cfg.x.origin("v2")) == "a2.py:2" and str(cfg.origin("x")) == "a0.py:1"

    def test_every_key_knows_its_line(self, in_tmp: Path) -> None:
        write(
            {
                "base.py": BASE,
                "child.py": """
                    _base_ = 'base.py'
                    import os
                    model = dict(
                        backbone=dict(
                            depth=50),
                        heads=[
                            dict(type='C',
                                 n=3)])
                    model['extra'] = {'a-b': 1,
                                      **dict(c=2)}
                    for i in range(2):
                        model[f'k{i}'] = {j: dict(x=j) for j in range(2)}
                    def make(n):
                        return dict(
                            n=n)
                    made = make(3)
                    made.update(m=4)
                    copied = dict(made,
                        z=1)
                    plain = __builtins__['dict'](q=dict(r=1))
                """,
            }
        )
        found = origins(Config.fromfile("child.py"))
        assert found == {
            "norm": "base.py:1",
            "norm.type": "base.py:1",
            "model": "base.py:2",
            "model.type": "base.py:3",
            "model.backbone": "base.py:4",
            "model.backbone.type": "base.py:4",
            "model.backbone.depth": "child.py:5",
            "model.backbone.norm": "base.py:4",
            "model.backbone.norm.type": "base.py:1",
            "model.heads": "child.py:6",
            "model.heads.0.type": "child.py:7",
            "model.heads.0.n": "child.py:8",
            "model.extra": "child.py:9",
            "model.extra.a-b": "child.py:9",
            "model.extra.c": "child.py:9",
            **{f"model.k{i}": "child.py:12" for i in range(2)},
            **{f"model.k{i}.{j}": "child.py:12" for i in range(2) for j in range(2)},
            **{f"model.k{i}.{j}.x": "child.py:12" for i in range(2) for j in range(2)},
            "lr": "base.py:6",
            "i": "child.py:11",
            "made": "child.py:16",
            "made.n": "child.py:15",
            "made.m": "child.py:17",
            "copied": "child.py:18",
            "copied.n": "child.py:15",
            "copied.m": "child.py:17",
            "copied.z": "child.py:19",
            "plain": "child.py:20",
            "plain.q": "child.py:20",
            "plain.q.r": "child.py:20",
        }

    def test_a_value_used_twice_is_copied(self, in_tmp: Path) -> None:
        write({"c.py": "norm = dict(type='BN')\na = dict(norm=norm)\nl = [norm]\n"})
        cfg = Config.fromfile("c.py")
        cfg.norm.type = "GN"
        assert cfg.a.norm.type == cfg.l[0].type == "BN"

    def test_lists_are_shared_while_the_file_runs(self, in_tmp: Path) -> None:
        write({"c.py": "steps = [dict(t=1)]\ndata = dict(steps=steps)\nsteps.append(dict(t=2))\n"})
        assert Config.fromfile("c.py").data.steps == [{"t": 1}, {"t": 2}]

    def test_while_a_file_runs_its_dictionaries_are_plain_ones(self, in_tmp: Path) -> None:
        write(
            {
                "base.py": BASE,
                "c.py": """
                    _base_ = 'base.py'
                    a = dict(x=dict(p=1))
                    a.update(x=dict(
                        q=2))
                    b = a | {'y': 3}
                    b.setdefault('z', dict(w=1))
                    import copy
                    c = copy.deepcopy(b)
                    c['x']['q'] = 4
                    steps = [dict(n=1)]
                    _base_.model.steps = steps
                    steps[0]['n'] = 2
                    kind = type(a['x']).__mro__[1].__name__
                """,
            }
        )
        cfg = Config.fromfile("c.py")
        assert cfg.a == {"x": {"q": 2}}, "dict.update replaces"
        assert cfg.b == {"x": {"q": 2}, "y": 3, "z": {"w": 1}} and cfg.c.x.q == 4
        assert cfg.model.steps == [{"n": 1}], "a ConfigDict takes a copy"
        assert cfg.steps == [{"n": 2}] and cfg.kind == "dict"
        found = origins(cfg)
        lines = {
            "a.x": 3,
            "a.x.q": 4,
            "b.x.q": 4,
            "b.y": 5,
            "b.z.w": 6,
            "c.x": 3,
            "c.x.q": 9,
            "steps.0.n": 12,
        }
        assert {key: found[key] for key in lines} == {key: f"c.py:{line}" for key, line in lines.items()}

    def test_functions_modules_classes_and_dunder_names_are_not_keys(self, in_tmp: Path) -> None:
        write(
            {
                "c.py": """
                    import os, sys
                    from pathlib import Path
                    from math import pi
                    def f(): return size * 2
                    g = lambda: 1
                    class K: pass
                    __hidden = 1
                    _kept = 2
                    size = 3
                    double = f()
                    home = str(Path('x') / 'y')
                """
            }
        )
        cfg = Config.fromfile("c.py")
        assert cfg == {
            "pi": 3.141592653589793,
            "_kept": 2,
            "size": 3,
            "double": 6,
            "home": str(Path("x", "y")),
        }

    def test_the_base_can_be_used_by_name(self, in_tmp: Path) -> None:
        write(
            {
                "base.py": BASE,
                "child.py": """
                    _base_ = 'base.py'
                    half = _base_.lr / 2
                    other = {{ _base_.model.backbone }}
                    told = 'lr {{ _base_.lr }} of {{_base_.model.type}}'
                    whole = '{{ _base_.lr }}'
                    listed = [{{_base_.norm}}, 1]
                    model = dict(backbone=dict(depth=50))
                """,
            }
        )
        cfg = Config.fromfile("child.py")
        assert (cfg.half, cfg.told, cfg.whole) == (0.05, "lr 0.1 of Net", 0.1)
        assert cfg.other.depth == 18 and cfg.model.backbone.depth == 50
        assert cfg.listed == [{"type": "BN"}, 1]

    def test_a_file_name_of_the_standard_library_is_left_alone(self, in_tmp: Path) -> None:
        write({"c.py": "from collections import OrderedDict as O\nimport json\na = O(x=json.loads('[1]'))\n"})
        assert Config.fromfile("c.py") == {"a": {"x": [1]}}

    def test_reading_leaves_no_trace(self, in_tmp: Path) -> None:
        write({"base.py": "a = 1", "c.py": "_base_ = 'base.py'\nb = 2\n"})
        modules, path, files = set(sys.modules), list(sys.path), set(in_tmp.iterdir())
        Config.fromfile("c.py")
        assert (set(sys.modules), sys.path, set(in_tmp.iterdir())) == (modules, path, files)

    def test_deprecation(self, in_tmp: Path) -> None:
        write({"c.py": "a = 1\n_deprecation_ = dict(expected='new.py', reference='https://x.y')\n"})
        with pytest.warns(DeprecationWarning, match=r"use new.py instead; see https://x.y") as caught:
            cfg = Config.fromfile("c.py")
        assert cfg == {"a": 1}
        assert (caught[0].filename, caught[0].lineno) == (str(in_tmp / "c.py"), 2)


class TestMistakes:
    @pytest.mark.parametrize(
        "files, message",
        [
            ({"bse.py": "", "x.py": ""}, r"there is no file .*base.py\n +did you mean 'bse.py'\?"),
            ({"base.py": "a = 1\nb = = 2\n"}, r"base.py:2: syntax error: invalid syntax\n +b = = 2"),
            ({"base.py": "a = 1\nb = dict(\n  c=1/0)\n"}, r"base.py:3: ZeroDivisionError: division by zero"),
            (
                {"base.py": "def f():\n    return x\na = f()\n"},
                r"base.py:2: NameError: name 'x' is not defined",
            ),
            ({"base.py": "return 3\n"}, r"base.py:1: syntax error: 'return' outside function"),
            ({"base.py": "_base_ = 'no.py'\n"}, r"base.py:1: there is no file .*no.py"),
            (
                {"base.py": "\n_base_ = [\n'x.yaml',\n'no.py']\n", "x.yaml": ""},
                r"base.py:4: there is no file",
            ),
            ({"base.py": "_base_ = 3\n"}, r"base.py:1: `_base_` must be a file name .*, not 3"),
            ({"base.py": "_base_ = name\n"}, r"base.py:1: NameError"),
            (
                {"base.py": "_base_ = 'x.txt'\n", "x.txt": ""},
                r"base.py:1: .*x.txt is not a config: .*\.py, \.yaml",
            ),
            ({"base.py": "_base_ = 'd'\n", "d/x": ""}, r"base.py:1: .*d is a folder"),
            (
                {"base.py": "_base_ = 'confgs/x.py'\n", "configs/x.py": ""},
                r"no folder .*confgs\n.*'configs'\?",
            ),
            ({"base.py": "_base_ = 'nope::x.py'\n"}, r"base.py:1: there is no package 'nope'"),
            (
                {"base.py": "_base_ = 'a.py'\n", "a.py": "_base_='base.py'"},
                r"a.py:1: .* inherits from itself: .*→",
            ),
            (
                {"base.py": "if True:\n    _base_ = 'a.py'\n"},
                r"base.py:2: `_base_` .*top level",
            ),
            ({"base.py": "_base_ = 'a.py'\n_base_ = 'b.py'\n"}, r"base.py:2: `_base_` .*once"),
            (
                {"base.py": "\na = {{ _base_.x }}\n"},
                r"base.py:2: {{ _base_.x }} .* config without `_base_`",
            ),
        ],
    )
    def test_names_the_place(self, in_tmp: Path, files: dict[str, str], message: str) -> None:
        for name, text in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile("base.py")

    def test_the_exception_of_a_file_is_chained(self, in_tmp: Path) -> None:
        write({"c.py": "a = [][0]\n"})
        with pytest.raises(ConfigFileError) as caught:
            Config.fromfile("c.py")
        assert isinstance(caught.value.__cause__, IndexError)

    def test_two_bases_with_the_same_key(self, in_tmp: Path) -> None:
        write({"a.py": "x = 1\ny = 2\n", "b.py": "z = 0\ny = 3\n", "c.py": "_base_ = ['a.py',\n'b.py']\n"})
        with pytest.raises(ConfigFileError, match=r"c.py:2: two bases set the same 1 key.*\n +y: a.py:2 and b.py:2"):
            Config.fromfile("c.py")

    def test_a_dictionary_over_a_value(self, in_tmp: Path) -> None:
        write({"a.py": "x = dict(lr=0.1)\n", "c.py": "_base_ = 'a.py'\nx = dict(\n  lr=dict(a=1))\n"})
        with pytest.raises(ConfigError, match=r"c.py:3: x.lr: a dict cannot be merged into 0.1\n.*_delete_=True"):
            Config.fromfile("c.py")

    def test_a_file_that_is_not_utf8(self, in_tmp: Path) -> None:
        Path("c.py").write_bytes(b"a = '\xff'\n")
        with pytest.raises(ConfigFileError, match="cannot be read"):
            Config.fromfile("c.py")

    def test_an_unknown_suffix(self, in_tmp: Path) -> None:
        Path("c.toml").write_text("")
        with pytest.raises(ConfigFileError, match=r"c.toml is not a config: .*\.py, \.yaml"):
            Config.fromfile("c.toml")


class TestPackages:
    @pytest.fixture
    def package(self, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(
            {
                "site/foreign/__init__.py": "raise RuntimeError('a config imports nothing')",
                "site/foreign/.mim/configs/a/x.py": """
                    _base_ = '../base.py'
                    model = dict(backbone=dict(depth=2))
                    data = dict(items=[dict(type='T', sub=dict(type='S'))],
                                own=dict(type='O', _scope_='other'))
                """,
                "site/foreign/.mim/configs/base.py": """
                    model = dict(type='M', backbone=dict(type='B', depth=1))
                """,
                "site/foreign/configs/y.py": "y = 1",
                "c.py": "_base_ = 'foreign::a/x.py'\nmodel = dict(head=dict(type='Mine'))\n",
                "d.py": "_base_ = 'foreign::y.py'\n",
            }
        )
        monkeypatch.syspath_prepend(str(in_tmp / "site"))

    @pytest.mark.usefixtures("package")
    def test_scope_of_the_outermost_types(self) -> None:
        cfg = Config.fromfile("c.py")
        assert cfg.model == {
            "type": "M",
            "_scope_": "foreign",
            "backbone": {"type": "B", "depth": 2},
            "head": {"type": "Mine"},
        }
        assert cfg.data["items"] == [{"type": "T", "_scope_": "foreign", "sub": {"type": "S"}}]
        assert cfg.data.own._scope_ == "other"

    @pytest.mark.usefixtures("package")
    def test_folders(self) -> None:
        assert Config.fromfile("d.py") == {"y": 1}
        with pytest.raises(ConfigFileError, match=r"there is no file .*configs.*z.py"):
            Config.fromfile("foreign::z.py")

    def test_our_own_package(self, in_tmp: Path) -> None:
        import trainwright.configs

        folder = Path(next(iter(trainwright.configs.__path__)))
        shipped = next(iter(sorted(folder.glob("toy/*.py"))))
        cfg = Config.fromfile(f"trainwright::toy/{shipped.name}", import_custom_modules=False)
        assert cfg.filename == str(shipped)
        assert "_scope_" not in repr(cfg)
