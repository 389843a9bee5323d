"""Importing the modules in `custom_imports`."""

import sys
from pathlib import Path

import pytest
from config_files import write

from trainwright.engine import Config
from trainwright.engine.errors import ConfigError
from trainwright.tools.cli import main


class TestCustomImports:
    @pytest.fixture(autouse=True)
    def restore(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))

    def test_from_the_current_folder_and_that_of_the_config(self, in_tmp: Path) -> None:
        write(
            {
                "tw_here.py": "value = 1",
                "elsewhere/tw_there/__init__.py": "",
                "elsewhere/tw_there/deep.py": "value = 2",
                "elsewhere/base.py": "custom_imports = dict(imports=['tw_here', 'tw_there.deep'])",
                "c.py": "_base_ = 'elsewhere/base.py'\n",
            }
        )
        before = list(sys.path)
        Config.fromfile("c.py", import_custom_modules=False)
        assert sys.path == before and "tw_here" not in sys.modules
        Config.fromfile("c.py")
        assert sys.modules["tw_here"].value == 1 and sys.modules["tw_there.deep"].value == 2
        assert sys.path == [*before, str(in_tmp), str(in_tmp / "elsewhere")]
        Config.fromfile("c.py")
        assert len(sys.path) == len(before) + 2
        for name in ("tw_here", "tw_there.deep", "tw_there"):
            del sys.modules[name]

    def test_importable_modules_leave_sys_path_unchanged(self, in_tmp: Path) -> None:
        write({"c.py": "custom_imports = dict(imports='colorsys')\n"})
        before = list(sys.path)
        Config.fromfile("c.py")
        assert sys.path == before and "colorsys" in sys.modules

    @pytest.mark.parametrize(
        "line, message",
        [
            (
                "dict(imports=['tw_none.x'])",
                r"c.py:2: custom_imports.imports: there is no module 'tw_none.x'",
            ),
            (
                "dict(imports=['tw_needs'])",
                r"c.py:2: .*importing 'tw_needs' failed: No module named 'tw_no'",
            ),
            ("['tw_needs']", r"c.py:2: custom_imports: must be a dict"),
            ("dict(imports=[3])", r"c.py:2: custom_imports.imports: .*, not \[3\]"),
            ("dict(import_=['x'])", r"c.py:2: custom_imports: must be a dict"),
        ],
    )
    def test_mistakes(self, in_tmp: Path, line: str, message: str) -> None:
        write({"tw_needs.py": "import tw_no", "c.py": f"a = 1\ncustom_imports = {line}\n"})
        with pytest.raises(ConfigError, match=message):
            Config.fromfile("c.py")

    def test_allow_failed_imports(self, in_tmp: Path) -> None:
        write({"c.py": "custom_imports = dict(imports=['tw_none'], allow_failed_imports=True)\n"})
        with pytest.warns(UserWarning, match="tw_none failed to import"):
            Config.fromfile("c.py")

    def test_an_exception_in_a_module_keeps_its_type_and_gains_a_note(self, in_tmp: Path) -> None:
        write({"tw_bad.py": "1/0", "c.py": "custom_imports = dict(imports=['tw_bad'])\n"})
        with pytest.raises(ZeroDivisionError) as caught:
            Config.fromfile("c.py")
        assert caught.value.__notes__ == ["while importing 'tw_bad', custom_imports of c.py:1"]

    def test_a_child_imports_what_its_bases_import_too(self, in_tmp: Path) -> None:
        write(
            {
                "a/tw_a.py": "", "a/base.py": "custom_imports = dict(imports='tw_a', allow_failed_imports=False)",
                "b/tw_b.py": "", "b/base.yaml": "custom_imports: {imports: [tw_b]}",
                "tw_c.py": "",
                "c.py": "_base_ = ['a/base.py', 'b/base.yaml']\ncustom_imports = dict(imports=['tw_c', 'tw_a'])\n",
                "pure.py": "from mmengine.config import read_base\nwith read_base():\n    from .only import *\ncustom_imports = dict(imports=['tw_c'])\n",
                "only.py": "custom_imports = dict(imports=['tw_a'])\n",
                "new.py": "_base_ = 'c.py'\ncustom_imports = dict(imports=['tw_c'], _delete_=True)\n",
                "none.py": "_base_ = 'c.py'\ncustom_imports = None\n",
            }
        )  # fmt: skip
        cfg = Config.fromfile("c.py")
        assert cfg.custom_imports == dict(imports=["tw_a", "tw_b", "tw_c"], allow_failed_imports=False)
        assert str(cfg.custom_imports.origin("imports")) == "c.py:2"
        assert {"tw_a", "tw_b", "tw_c"} <= set(sys.modules)
        assert Config.fromfile("pure.py").custom_imports == dict(imports=["tw_a", "tw_c"])
        assert Config.fromfile("new.py").custom_imports == dict(imports=["tw_c"])
        assert Config.fromfile("none.py").custom_imports is None
        for name in ("tw_a", "tw_b", "tw_c"):
            del sys.modules[name]

    def test_options_of_the_command_line_import_too(self, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write({"tw_option.py": "", "c.py": "x = 1\n"})
        assert main(["print-config", "c.py", "--cfg-options", "custom_imports.imports=[tw_option]"]) == 0
        assert sys.modules.pop("tw_option")
