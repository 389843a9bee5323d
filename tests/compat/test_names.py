"""The names of MMEngine that OpenMMLab's libraries import, through the imports that they write."""

import subprocess
import sys

import pytest
from mmengine_names import NAMES

from trainwright.compat.finder import ROOMS

CODE = """\
import importlib, sys
sys.path[:0] = {paths!r}
from mmengine_names import NAMES
from trainwright.compat import install

install()
for module, names in NAMES.items():
    found = importlib.import_module(module)
    print(*(f"{{module}}.{{name}}" for name in names.split() if not hasattr(found, name)), end=" ")
import mmengine.hooks, mmengine.hooks.ema_hook, mmengine.runner.checkpoint, trainwright.hooks
assert mmengine.hooks.EMAHook is mmengine.hooks.ema_hook.EMAHook is trainwright.hooks.EMAHook
assert mmengine.__version__ == "0.10.7"
"""


def test_every_name_that_a_library_imports_is_there() -> None:
    paths = [path for path in sys.path if path.endswith("support")]
    done = subprocess.run([sys.executable, "-c", CODE.format(paths=paths)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", [name for name in NAMES if name != "mmengine"])
def test_every_module_that_a_library_imports_is_known(module: str) -> None:
    assert module.removeprefix("mmengine.") in ROOMS
