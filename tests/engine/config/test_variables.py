"""Variables in config files."""

from pathlib import Path

import pytest
from config_files import write

from trainwright.engine import Config
from trainwright.engine.errors import ConfigFileError


class TestVariables:
    def test_predefined(self, in_tmp: Path) -> None:
        text = "a = '{{ fileDirname }}|{{fileBasename}}|{{ fileBasenameNoExtension}}|{{fileExtname }}'\n"
        write({"sub/my.cfg.py": text})
        assert Config.fromfile("sub/my.cfg.py").a == f"{in_tmp.as_posix()}/sub|my.cfg.py|my.cfg|.py"
        assert Config.fromfile("sub/my.cfg.py", use_predefined_variables=False).a == text[5:-2]

    def test_environment(self, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TW_SET", r"C:\data")
        monkeypatch.setenv("TW_NUM", "7")
        monkeypatch.delenv("TW_UNSET", raising=False)
        write(
            {
                "c.py": """
                    a = r'{{ $TW_SET:x }}/images'
                    b = {{'$TW_NUM:80'}}
                    c = {{$TW_UNSET:80}}
                    d = '{{$TW_UNSET:80}}'
                    e = '{{ $TW_UNSET:two words }}'
                """,
                "d.yaml": "a: {{$TW_NUM:1}}\n",
            }
        )
        cfg = Config.fromfile("c.py")
        assert cfg == {"a": r"C:\data/images", "b": 7, "c": 80, "d": "80", "e": "two words"}
        assert cfg.env_variables == {"TW_SET": r"C:\data", "TW_NUM": "7"}
        assert Config.fromfile("d.yaml").a == 7

    def test_environment_without_value_or_default(self, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TW_UNSET", raising=False)
        write({"c.py": "a = 1\nb = '{{ $TW_UNSET: }}'\n"})
        with pytest.raises(ConfigFileError, match=r"c.py:2: the environment variable TW_UNSET is not set"):
            Config.fromfile("c.py")

    @pytest.mark.parametrize("name", ["c.py", "c.yaml", "c.json"])
    def test_a_variable_that_the_base_lacks(self, in_tmp: Path, name: str) -> None:
        write(
            {
                "base.py": "model = dict(backbone=dict(depth=18))\n",
                "c.py": "_base_ = 'base.py'\na = {{ _base_.model.bakbone }}\n",
                "c.yaml": "_base_: base.py\na: {{ _base_.model.bakbone }}\n",
                "c.json": '{"_base_": "base.py",\n"a": {{ _base_.model.bakbone }}}\n',
            }
        )
        message = rf"{name}:2: the base config has no 'model.bakbone'.*\n.*did you mean 'backbone'\?"
        with pytest.raises(ConfigFileError, match=message):
            Config.fromfile(name)
