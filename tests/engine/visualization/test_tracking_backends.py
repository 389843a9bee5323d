"""The backends of ClearML, Neptune, DVCLive and Aim, with packages that record their calls."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from trainwright.engine import AimVisBackend, ClearMLVisBackend, Config, DVCLiveVisBackend, NeptuneVisBackend
from trainwright.engine.errors import MissingExtraError
from trainwright.engine.registry import VISBACKENDS

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
BACKENDS = {
    "clearml": ClearMLVisBackend, "neptune": NeptuneVisBackend, "dvclive": DVCLiveVisBackend, "aim": AimVisBackend,
}  # fmt: skip


class Recorder:
    """An object whose methods, items and attributes record their use by name in one list."""

    def __init__(self, calls: list[Any], path: str = "") -> None:
        self.__dict__.update(calls=calls, path=path, id="the id", hash="the hash")

    def __getattr__(self, name: str) -> "Recorder":
        return Recorder(self.calls, f"{self.path}.{name}")

    def __getitem__(self, name: str) -> "Recorder":
        return Recorder(self.calls, f"{self.path}[{name}]")

    def __setattr__(self, name: str, value: Any) -> None:
        self.calls.append((f"{self.path}.{name} =", value))

    def __setitem__(self, name: str, value: Any) -> None:
        self.calls.append((f"{self.path}[{name}] =", value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((self.path, *args, kwargs) if kwargs else (self.path, *args))
        return "the id" if self.path.endswith("fetch") else Recorder(self.calls, f"{self.path}()")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    recorded: list[Any] = []
    for name in (*BACKENDS, "neptune.types"):
        module: Any = ModuleType(name)
        recorder = Recorder(recorded, name.removeprefix("neptune."))
        module.__getattr__ = lambda attribute, recorder=recorder: getattr(recorder, attribute)
        monkeypatch.setitem(sys.modules, name, module)
    return recorded


def use(name: str, save_dir: Path, **options: Any) -> Any:
    """Write a config, two scalars and a picture, close, and write a scalar."""
    backend = BACKENDS[name](str(save_dir), **options)
    backend.add_config(Config({"lr": 0.1, "work_dir": str(save_dir.parent)}))
    backend.add_scalars({"acc": torch.tensor(0.5), "name": "left out"}, step=10, file_path="x.json")
    backend.add_image("cat", PICTURE, step=1)
    backend.close()
    backend.add_scalar("acc", np.float32(0.25), step=20)
    backend.close()
    backend.close()


def test_clearml(tmp_path: Path, calls: list[Any]) -> None:
    (tmp_path / "epoch_1.pth").touch()
    (tmp_path / "run.log").touch()
    use("clearml", tmp_path / "vis_data", init_kwargs={"project_name": "mine"})
    task, log = "clearml.Task.init()", "clearml.Task.init().get_logger()"
    assert calls[:2] == [("clearml.Task.init", {"project_name": "mine"}), (f"{task}.get_logger",)]
    assert (f"{task}.connect_configuration", {"lr": 0.1, "work_dir": str(tmp_path)}) in calls
    values = [call[1] for call in calls if call[0] == f"{log}.report_scalar"]
    assert values == [dict(title="acc", series="acc", value=v, iteration=i) for v, i in ((0.5, 10), (0.25, 20))]
    (picture,) = [call[1] for call in calls if call[0] == f"{log}.report_image"]
    assert picture["iteration"] == 1 and np.array_equal(picture["image"], PICTURE)
    assert (f"{task}.upload_artifact", "epoch_1.pth", str(tmp_path / "epoch_1.pth")) in calls
    assert ("clearml.Task.init", {"project_name": "mine", "continue_last_task": "the id"}) in calls
    assert [call for call in calls if call[0] == f"{task}.close"] == [(f"{task}.close",)] * 2
    assert not [call for call in calls if "run.log" in call]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, {"mode": "offline"}, {"mode": "offline"}),
        ({"init_kwargs": {"project": "a/b"}}, {"project": "a/b"}, {"project": "a/b", "with_id": "the id"}),
    ],
)
def test_neptune(tmp_path: Path, calls: list[Any], options: Any, first: Any, second: Any) -> None:
    use("neptune", tmp_path, **options)
    run = "neptune.init_run()"
    assert [call[1] for call in calls if call[0] == "neptune.init_run"] == [first, second]
    assert [call[1:] for call in calls if call[0] == f"{run}[acc].append"] == [
        (0.5, {"step": 10}),
        (0.25, {"step": 20}),
    ]
    assert next(call[1] for call in calls if call[0] == "types.File.from_content").startswith("lr = 0.1")
    (picture,) = [call[1] for call in calls if call[0] == "types.File.as_image"]
    assert picture.dtype == np.float32 and picture.max() == PICTURE.max() / np.float32(255)
    assert [call[-1] for call in calls if call[0] == f"{run}[images].append"] == [{"name": "cat", "step": 1}]
    assert [call for call in calls if call[0] == f"{run}.stop"] == [(f"{run}.stop",)] * 2


def test_dvclive(tmp_path: Path, calls: list[Any]) -> None:
    folder = tmp_path / "vis_data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "scalars.json").touch()
    use("dvclive", folder, init_kwargs={"save_dvc_exp": False})
    opened = {"dir": str(folder), "save_dvc_exp": False}
    assert [call[1] for call in calls if call[0] == "dvclive.Live"] == [opened, {**opened, "resume": True}]
    written = [call for call in calls if call[0] in ("dvclive.Live().step =", "dvclive.Live().log_metric")]
    assert written == [
        ("dvclive.Live().step =", 10), ("dvclive.Live().log_metric", "acc", 0.5),
        ("dvclive.Live().step =", 1),
        ("dvclive.Live().step =", 20), ("dvclive.Live().log_metric", "acc", 0.25),
    ]  # fmt: skip
    assert ("dvclive.Live().log_params", {"lr": 0.1, "work_dir": str(tmp_path)}) in calls
    assert [call[1] for call in calls if call[0] == "dvclive.Live().log_image"] == ["cat.png"]
    assert ("dvclive.Live().log_artifact", str(folder / "sub" / "scalars.json")) in calls
    assert calls[-1] == ("dvclive.Live().end",)


def test_aim(tmp_path: Path, calls: list[Any]) -> None:
    use("aim", tmp_path / "run" / "vis_data", init_kwargs={"repo": "here"})
    opened = {"experiment": "run_vis_data", "repo": "here"}
    assert [call[1] for call in calls if call[0] == "aim.Run"] == [opened, {**opened, "run_hash": "the hash"}]
    assert ("aim.Run()[hparams] =", {"lr": 0.1, "work_dir": str(tmp_path / "run")}) in calls
    tracked = [call[1] for call in calls if call[0] == "aim.Run().track"]
    assert tracked[0] == {"name": "acc", "value": 0.5, "step": 10}
    assert tracked[1]["name"] == "cat" and tracked[1]["step"] == 1
    assert tracked[2] == {"name": "acc", "value": 0.25, "step": 20}
    assert calls[-1] == ("aim.Run().close",)


@pytest.mark.parametrize("name", BACKENDS)
def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert BACKENDS[name].__name__ in VISBACKENDS
    monkeypatch.setitem(sys.modules, name, None)
    backend = BACKENDS[name](str(tmp_path / "vis_data"))
    backend.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MissingExtraError, match=rf"pip install 'trainwright\[{name}\]'"):
        backend.add_scalar("loss", 1.0)
