"""Imports of MMEngine in all forms that Python has, and its names in strings and configs."""

from pathlib import Path

import pytest

from trainwright.compat.migration import migrate, migrate_config
from trainwright.tools.reference import mmengine_names_page

ROOM = "trainwright.compat.mmengine"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from mmengine.hooks import Hook", "from trainwright.engine import Hook"),
        ("from mmengine import Config, mkdir_or_exist", f"from trainwright.engine import Config\nfrom {ROOM}.utils import mkdir_or_exist"),
        ("from mmengine.runner.checkpoint import load_checkpoint as lc  # why", "from trainwright.engine import load_checkpoint as lc  # why"),
        ("from mmengine.hooks import (  # a\n    EMAHook,  # b\n    # c\n)", "from trainwright.hooks import (  # a\n    EMAHook,  # b\n    # c\n)"),
        (
            "from mmengine.hooks import (  # a\n    Hook,  # b\n    # c\n    EMAHook,\n)  # d",
            "# a\n# c\nfrom trainwright.engine import (\n    Hook,  # b\n)\nfrom trainwright.hooks import EMAHook  # d",
        ),
        ("from mmengine.model \\\n    import BaseModel, \\\n    BaseModule", "from trainwright.models \\\n    import BaseModel, \\\n    BaseModule"),
        ("from mmengine.logging import *\nprint_log(1)", "from trainwright.engine import print_log\nprint_log(1)"),
        ("from mmengine.logging import *", f"from {ROOM}.logging import *"),
        ("from mmengine import runner\nrunner.Runner", f"from {ROOM} import runner\nrunner.Runner"),
        ("from mmengine.runner import checkpoint as c\nc.save_checkpoint", f"from {ROOM} import runner as c\nc.save_checkpoint"),
        ("from mmengine.utils import dl_utils", f"from {ROOM} import dl_utils"),
        ("import mmengine\nx = mmengine.Config.fromfile('é'), mmengine.Config", "import trainwright.engine\nx = trainwright.engine.Config.fromfile('é'), trainwright.engine.Config"),
        ("import mmengine as me, os\nme.dump(1)", f"import {ROOM}.fileio\nimport os\n{ROOM}.fileio.dump(1)"),
        ("import mmengine.fileio as io\nio.load(x)", f"from {ROOM} import fileio as io\nio.load(x)"),
        ("import mmengine.runner.checkpoint\nmmengine.runner.checkpoint.save_checkpoint", f"import {ROOM}.runner\n{ROOM}.runner.save_checkpoint"),
        ("import mmengine\nimport mmengine.utils\nmmengine.utils.scandir", f"import {ROOM}.utils\n{ROOM}.utils.scandir"),
        ("import mmengine", "import trainwright.engine"),
        ("import mmengine\nmmengine.__version__", f"import {ROOM}.version\n{ROOM}.version.__version__"),
        ("try: import mmengine, os; x = mmengine.Config\nexcept ImportError: pass", "try: import trainwright.engine; import os; x = trainwright.engine.Config\nexcept ImportError: pass"),
        (
            "if TYPE_CHECKING:\n    from mmengine.runner import Runner, save_checkpoint\ndef f(x: 'Runner'):\n    import mmengine\n    return mmengine.Registry",
            f"if TYPE_CHECKING:\n    from trainwright.engine import Runner\n    from {ROOM}.runner import save_checkpoint\ndef f(x: 'Runner'):\n    import trainwright.engine\n    return trainwright.engine.Registry",
        ),
        ("from mmengine import runner\ndef f(runner):\n    runner.loops.x", f"from {ROOM} import runner\ndef f(runner):\n    runner.loops.x"),
        ("with read_base():\n    from .base import *\nhook = dict(type='mmengine.hooks.EMAHook')", "with read_base():\n    from .base import *\nhook = dict(type='trainwright.hooks.EMAHook')"),
        ("patch(r\"mmengine.runner.Runner.train\")\nimport_module('mmengine.runner')", f"patch(r\"trainwright.engine.Runner.train\")\nimport_module('{ROOM}.runner')"),
        ("from mmengine.runner.checkpoint import digit_version, MODELS", f"from {ROOM}.utils import digit_version\nfrom trainwright.engine import MODELS"),
        ("from mmengine.hooks import Hook, CheckpointHook\r\nx = 1\r\n", "from trainwright.engine import Hook\r\nfrom trainwright.hooks import CheckpointHook\r\nx = 1\r\n"),
        ("x = 1\x0c\nfrom mmengine.hooks import Hook", "x = 1\x0c\nfrom trainwright.engine import Hook"),
    ],
)  # fmt: skip
def test_imports_and_names_are_rewritten(old: str, new: str) -> None:
    migrated = migrate(old)
    assert migrated.text == new
    assert migrated.findings == []
    compile(new, "new", "exec")
    assert migrate(new).text == new


@pytest.mark.parametrize(
    "text",
    [
        "dict(type='mmengine.EMAHook', _scope_='mmengine', default_scope='mmengine')",  # the registries know this scope
        "from .mmengine import x\nfrom mmengine_tools import y\nimport mine.mmengine",
        "'''Uses mmengine.Config.'''\n# from mmengine import Config",
        "get_logger('mmengine')",
    ],
)
def test_what_works_here_or_is_no_use_of_mmengine_stays(text: str) -> None:
    assert migrate(text) == (text, [], {})


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\nfrom mmengine.hooks import Hook, Nope", 2, "from mmengine.hooks import Nope"),
        ("import mmengine\n\nvars(mmengine)", 3, "the module itself"),
        ("import mmengine\n\nmmengine.nope.x", 3, "mmengine.nope.x"),
        ("\nx = 'mmengine.hooks.Nope'", 2, "mmengine.hooks.Nope"),
        ("\nx = f'mmengine.{name}'", 2, "at run time"),
        ("\nx = 'mmengine.hooks' '.EMAHook'", 2, "mmengine.hooks.EMAHook"),
        ("setup(\n    install_requires=['mmengine', 'torch'])", 2, "require trainwright"),
        ("setup(\n    install_requires=['torch', 'mmengine>=0.7,<1'])", 2, "require trainwright"),
        ("\nimport_module('mmengine')", 2, "the module itself"),
        ("x = 1; from mmengine.hooks import (  # why\n    Hook, EMAHook)", 1, "# why"),
    ],
)
def test_what_cannot_be_placed_is_reported_with_its_line(text: str, line: int, what: str) -> None:
    migrated = migrate(text)
    compile(migrated.text, "new", "exec")
    (finding,) = migrated.findings
    assert finding.line == line
    assert what in f"{finding.text}: {finding.remedy}"


def test_a_name_without_counterpart_is_still_imported_where_it_was() -> None:
    text = migrate("from mmengine.hooks import Hook, Nope").text
    assert text == "from trainwright.engine import Hook\nfrom mmengine.hooks import Nope"


def test_libraries_are_listed_and_stay() -> None:
    migrated = migrate("import os\nfrom mmdet.apis import init_detector\nimport mmcv, mmdet.utils")
    assert migrated.libraries == {"mmdet": 2, "mmcv": 3}
    assert "from mmdet.apis import init_detector" in migrated.text


def test_the_page_of_names_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "mmengine-names.md"
    assert page.read_text() == mmengine_names_page(), "run `python -m trainwright.tools.reference docs`"


def test_configs_in_yaml_and_json() -> None:
    text = "hook: {type: mmengine.hooks.EMAHook, scoped: mmengine.EMAHook}\nx: mmengine.nope.Nope\n- mmengine==0.10\n"
    migrated = migrate_config(text)
    assert migrated.text == text.replace("mmengine.hooks.EMAHook", "trainwright.hooks.EMAHook")
    assert [(finding.line, finding.text) for finding in migrated.findings] == [(2, "mmengine.nope.Nope"), (3, "- mmengine==0.10")]  # fmt: skip
