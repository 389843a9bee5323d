"""Imports with and without ``install``, each in a process of its own, with packages written for the test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Process

from trainwright.compat import __main__
from trainwright.engine import MMLogger

OLD_MMCV = {
    "mmcv/__init__.py": "__version__ = '2.2.0'\n",
    "mmcv/ops/__init__.py": "from .. import _ext\n",
    "mmcv/ops/knn.py": "",
    "mmcv/ops/points_in_boxes.py": "",
    "mmcv/ops/furthest_point_sample.py": "class FurthestPointSampling: ...\n",
}
PICKY = """
import mmcv
assert mmcv.__version__ == '2.0.1', mmcv.__version__
from mmengine.registry import MODELS
"""


def run(folder: Path, code: str, files: dict[str, str], *words: str) -> str:
    """Run code, or ``python -m trainwright.compat`` with some words, in a process where nothing is installed."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def action() -> None:
        sys.meta_path[:] = [each for each in sys.meta_path if "trainwright" not in type(each).__module__]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mmengine", "mmcv", "mmdet")]:
            del sys.modules[name]
        MMLogger._instance_dict.clear()  # those of other tests, which write elsewhere
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        if words:
            sys.argv = ["compat", *words]
            __main__.main()
        else:
            exec(code, {"__name__": "__main__"})

    process = Process(action, folder / "printed")
    process.wait()
    printed = process.printed
    (folder / "printed").unlink()
    return printed


def test_global_access(tmp_path: Path) -> None:
    code = """
import trainwright.compat
trainwright.compat.install()
import torch
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope, VISUALIZERS, count_registered_modules
from mmengine.runner import LogProcessor, Runner
from mmengine.runner.runner import DefaultScope, Hook, Visualizer, get_device, print_log  # it only uses them
import mmengine
assert Visualizer is mmengine.visualization.Visualizer and get_device is mmengine.device.get_device
assert not hasattr(mmengine.runner, "print_log") and not hasattr(mmengine.runner.runner, "print_logs")
from mmengine.visualization import Visualizer

class Model(BaseModel):
    def forward(self, mode): ...

runner = Runner(Model(), "work", default_scope="mmengine", experiment_name="mine")
assert not type(runner._device_settings)({}, torch.device("cuda")).channels_last  # maps that can be viewed
assert type(runner.visualizer) is Visualizer is VISUALIZERS.get("Visualizer")
assert runner.default_scope == runner.default_scope.scope_name == "mmengine"
for cls, own in ((MessageHub, runner.message_hub), (MMLogger, runner.logger), (Visualizer, runner.visualizer)):
    assert cls.get_current_instance() is own is cls.get_instance(own.instance_name)
    assert cls.get_instance("other") is cls.get_current_instance() is not own
second = Runner(Model(), "work", default_scope="mmengine")
assert isinstance(second.log_processor, LogProcessor)
assert DefaultScope.get_current_instance().scope_name == "mmengine"
Runner(Model(), "work", default_scope="other")
assert DefaultScope.get_current_instance().scope_name == "other"
second = Runner(Model(), "work")
assert DefaultScope.get_current_instance().scope_name == second.default_scope.scope_name == "mmengine"
assert MessageHub.get_current_instance() is second.message_hub
VISUALIZERS.build(dict(type="Visualizer", name="newest"))
count_registered_modules("new/folder", verbose=False)
lazy = LazyObject("torch.optim", "SGD")
from mmengine.runner import FlexibleRunner
flexible = FlexibleRunner(Model(), strategy=dict(type="SingleDeviceStrategy"), compile=dict(backend="eager"))
assert flexible.cfg.strategy.type == "SingleDeviceStrategy" and flexible.launcher == "none"
assert flexible.cfg.compile.backend == "eager" and flexible.work_dir.endswith("work_dirs")
assert isinstance(lazy, LazyObject) and lazy.build() is torch.optim.SGD
assert LazyAttr("SGD", LazyObject(["torch.optim"])) == lazy
print("done")
"""
    assert run(tmp_path, code, {}).endswith("done\n")
    assert (tmp_path / "new" / "folder").is_dir()


def test_an_environment_where_nobody_calls_install_is_untouched(tmp_path: Path) -> None:
    code = """
import sys
before = list(sys.meta_path)
import trainwright.compat, trainwright.engine, trainwright.compat.mmengine.runner
assert sys.meta_path == before, sys.meta_path
import mmengine, mmdet
print(mmengine.__file__, mmdet.seen)
try:
    trainwright.compat.install()
except ImportError as error:
    print(error)
assert not [each for each in sys.meta_path if type(each).__module__.startswith('trainwright')]
"""
    real = {"mmengine/__init__.py": "", "mmcv/__init__.py": "__version__ = '2.2.0'", "mmdet/__init__.py": "import mmcv\nseen = mmcv.__version__"}  # fmt: skip
    first, second = run(tmp_path, code, real).splitlines()
    assert first == f"{tmp_path}/mmengine/__init__.py 2.2.0"
    assert f"already imported from {tmp_path}/mmengine/__init__.py" in second


def test_a_library_finds_our_objects_acceptable_versions_and_operators(tmp_path: Path) -> None:
    code = """
import pytest
import trainwright.compat
trainwright.compat.install()
trainwright.compat.install()
import mmdet, mmcv, mmengine, mmengine.runner.checkpoint as checkpoint
from mmengine.hooks.ema_hook import EMAHook
from mmengine.utils.dl_utils import collect_env
from mmengine import runner
from trainwright import engine, hooks
assert mmengine.__version__ == '0.10.7' and mmengine.Config is engine.Config
assert EMAHook is hooks.EMAHook is mmengine.hooks.EMAHook
assert checkpoint.load_checkpoint is engine.load_checkpoint
assert runner.Runner is mmengine.runner.runner.Runner is engine.Runner
assert mmdet.MODELS is engine.MODELS
assert callable(collect_env)
assert mmcv.__version__ == '2.2.0', 'only the library sees another one'
import mmcv.ops
assert mmcv.ops._ext.nms.__module__.startswith('trainwright.compat')
for wrong in ('mmengine.nope', 'mmengine.hooks.nope', 'mmengine.runner.runner.nope'):
    with pytest.raises(ModuleNotFoundError, match=wrong):
        __import__(wrong)
with pytest.raises(ImportError, match='Nope'):
    from mmengine.hooks import Nope
with pytest.raises(AttributeError, match='mmengine.runner'):
    mmengine.runner.torch
print('fine')
"""
    assert run(tmp_path, code, {**OLD_MMCV, "mmdet/__init__.py": PICKY}) == "fine\n"


def test_without_a_default_scope_a_library_finds_its_own_part_of_one_of_our_names(tmp_path: Path) -> None:
    code = """
import trainwright.compat
trainwright.compat.install()
from mmengine.registry import DATASETS, DefaultScope, Registry
own = Registry("dataset", parent=DATASETS, scope="mmpretrain")
own.register_module(name="ImageNet", module=dict)
print(own.build(dict(type="ImageNet", a=1)), DefaultScope.get_current_instance())
"""
    assert run(tmp_path, code, OLD_MMCV) == "{'a': 1} None\n"


def test_a_compiled_mmcv_keeps_its_operators(tmp_path: Path) -> None:
    code = """
import trainwright.compat
trainwright.compat.install()
import mmcv.ops
print(mmcv.ops._ext.own)
"""
    assert run(tmp_path, code, {**OLD_MMCV, "mmcv/_ext.py": "own = 'compiled'\n"}) == "compiled\n"


@pytest.mark.parametrize("words", [["script/s.py"], ["-m", "pack.mod"]])
def test_scripts_and_modules_run_as_python_runs_them(tmp_path: Path, words: list[str]) -> None:
    code = "import sys, mmengine\nprint(__name__, sys.argv[1:], mmengine.Config.__module__)\n"
    files = {
        "script/s.py": "import beside\n" + code,
        "script/beside.py": "",
        "pack/mod.py": code,
        "pack/__init__.py": "",
    }
    printed = run(tmp_path, "", files, "-m", "trainwright.compat", *words, "--fidelity", "-m", "x")
    assert printed == "__main__ ['--fidelity', '-m', 'x'] trainwright.engine\n"
    printed = run(tmp_path, "", files, "--local-rank=1", *words, "x")  # as torch.distributed.launch does
    assert printed == "__main__ ['--local-rank=1', 'x'] trainwright.engine\n"


def test_a_missing_script_is_an_error(tmp_path: Path) -> None:
    assert "there is no file 'nope.py'" in run(tmp_path, "", {}, "-m", "trainwright.compat", "nope.py")


def test_only_configs_that_use_a_library_install(tmp_path: Path) -> None:
    code = """
from trainwright.compat import finder, read_config
for name in ('plain.py', 'own.py'):
    read_config(name)
    assert not finder.is_installed(), name
read_config(%r)
assert finder.is_installed()
"""
    files = {
        "plain.py": "model = dict(type='ImageClassifier', note='mmdet.x')\n",
        "own.py": "custom_imports = dict(imports=['own_parts'])\n",
        "own_parts.py": "x = 1\n",
        "scope.py": "default_scope = 'mmdet'\n",
        "imports.py": "custom_imports = dict(imports=['parts'])\n",
        "parts.py": "from mmengine.registry import MODELS\n",
    }
    assert "since the config uses mmdet" in run(tmp_path, code % "scope.py", files)
    assert "since a module in custom_imports imports mmengine" in run(tmp_path, code % "imports.py", files)


def test_spawned_processes_have_what_their_parent_has_installed(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("""
from mmengine.dataset import Compose
from trainwright.engine.fidelity import reproduces_mmengine

def describe(queue):
    queue.put((Compose.__module__, reproduces_mmengine()))
""")
    (tmp_path / "main.py").write_text("""
from multiprocessing import get_context
from project import describe

if __name__ == "__main__":
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=describe, args=(queue,))
    process.start()
    print(queue.get(timeout=60))
    process.join()
""")
    words = [sys.executable, "-m", "trainwright.compat", "--fidelity", str(tmp_path / "main.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "('trainwright.datasets', True)\n"
