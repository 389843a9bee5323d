"""The visualization backends."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, MissingExtraError
from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, force_init_env
from trainwright.engine.visualization.backends.local import LocalVisBackend
from trainwright.engine.visualization.backends.mlflow import MLflowVisBackend
from trainwright.engine.visualization.backends.tensorboard import TensorboardVisBackend
from trainwright.engine.visualization.backends.wandb import WandbVisBackend

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scalars_are_valid_json_with_any_value(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    backend = LocalVisBackend(str(tmp_path))
    backend.add_scalar("loss", torch.tensor(nan))
    backend.add_scalars({"a": np.float32(inf), "b": [nan, {"c": -inf}], "d": np.array([1.0, nan]), ("k",): nan}, step=1)
    backend.add_scalars({"loss": 1.5, "lr": np.float64(0.1), "tag": "NaN"}, step=2)
    backend.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (tmp_path / "scalars.json").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"loss": None, "step": 0},
        {"a": None, "b": [None, {"c": None}], "d": [1.0, None], "('k',)": None, "step": 1},
        {"loss": 1.5, "lr": 0.1, "tag": "NaN", "step": 2},
    ]


def test_all_are_registered() -> None:
    for name in ("LocalVisBackend", "TensorboardVisBackend", "WandbVisBackend", "MLflowVisBackend"):
        assert name in VISBACKENDS


def test_nothing_is_created_before_something_is_written(tmp_path: Path) -> None:
    for backend in (LocalVisBackend, TensorboardVisBackend, WandbVisBackend, MLflowVisBackend):
        backend(str(tmp_path / "vis_data")).close()
    assert list(tmp_path.iterdir()) == []


def test_local_scalars(tmp_path: Path) -> None:
    backend = LocalVisBackend(str(tmp_path))
    backend.add_scalar("acc", torch.tensor(0.5), step=3)
    assert json_lines(tmp_path / "scalars.json") == [{"acc": 0.5, "step": 3}]  # already flushed
    backend.add_scalars({"loss": np.float32(0.25), "names": ("a", "b"), "when": Path("x")}, step=4)
    backend.add_scalars({"loss": float("inf"), "step": 9}, step=4, file_path="run.json")
    assert json_lines(tmp_path / "scalars.json")[1:] == [
        {"loss": 0.25, "names": ["a", "b"], "when": "x", "step": 4},
        {"loss": None, "step": 9},
    ]
    assert json_lines(tmp_path / "run.json") == [{"loss": None, "step": 9}]
    with pytest.raises(ValueError, match=r"must differ from 'scalars.json'"):
        backend.add_scalars({}, file_path="scalars.json")
    with pytest.raises(ConfigError, match="must end in \\.json"):
        backend.add_scalars({}, file_path="run.txt")


def test_local_continues_after_close(tmp_path: Path) -> None:
    backend = LocalVisBackend(str(tmp_path))
    for step in range(2):
        backend.add_scalar("acc", 1, step)
        backend.close()
    assert [line["step"] for line in json_lines(tmp_path / "scalars.json")] == [0, 1]


def test_local_image_and_config(tmp_path: Path) -> None:
    backend = LocalVisBackend(str(tmp_path), img_save_dir="pictures", config_save_file="all.py")
    backend.add_image("val/cat", PICTURE, step=7)
    with Image.open(tmp_path / "pictures" / "val" / "cat_7.png") as image:
        np.testing.assert_array_equal(np.array(image), PICTURE)
    backend.add_image("integers", PICTURE.astype(np.int64))
    with Image.open(tmp_path / "pictures" / "integers_0.png") as image:
        np.testing.assert_array_equal(np.array(image), PICTURE)
    with pytest.raises(ValueError, match="uint8"):
        backend.add_image("integers", PICTURE.astype(np.int64) - 1)
    backend.add_config(Config({"lr": 0.1}))
    assert Config.fromfile(str(tmp_path / "all.py")).lr == 0.1
    assert backend.experiment is backend
    with pytest.raises(ValueError, match="uint8"):
        backend.add_image("float", PICTURE.astype(np.float32))


@pytest.mark.parametrize("argument", [{"config_save_file": "config.txt"}, {"scalar_save_file": "scalars.txt"}])
def test_local_refuses_other_endings(argument: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must end in"):
        LocalVisBackend("x", **argument)  # type: ignore[arg-type]


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backend = TensorboardVisBackend(str(tmp_path))
    backend.add_scalars({"loss": torch.tensor(0.5), "acc": 1, "name": "left out", "many": np.zeros(2)}, step=10)
    backend.add_scalar("loss", 0.25, step=20)
    backend.add_image("cat", PICTURE, step=1)
    backend.add_config(Config({"lr": 0.1}))
    assert type(backend.experiment).__name__ == "SummaryWriter"
    backend.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5), (20, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("acc")] == [(10, 1.0)]
    assert events.Tags()["scalars"] == ["loss", "acc"]
    assert events.Tags()["images"] == ["cat"]
    assert b"    lr = 0.1" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.parametrize(("backend", "extra"), [(WandbVisBackend, "wandb"), (MLflowVisBackend, "mlflow")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Any], extra: str
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setitem(backend.add_scalar.__globals__, "import_module", absent)
    with pytest.raises(MissingExtraError, match=rf"pip install 'trainwright\[{extra}\]'"):
        backend(str(tmp_path)).add_scalar("loss", 1.0)


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    options = {"mode": "offline", "project": "test", "settings": {"console": "off", "silent": True}}
    backend = WandbVisBackend(str(tmp_path), init_kwargs=options, define_metric_cfg={"acc": "max"})
    other = WandbVisBackend(str(tmp_path), init_kwargs=options)
    backend.add_config(Config({"lr": 0.1}))
    for step, acc in ((10, 0.5), (20, 0.75), (1, 0.25)):
        backend.add_scalars({"acc": torch.tensor(acc), "name": "left out"}, step=step)
    backend.add_image("cat", PICTURE, step=1)
    other.add_scalar("acc", 9.0)
    run = backend.experiment
    assert run.id != other.experiment.id
    assert run.config["lr"] == 0.1
    assert run.summary["acc"]["max"] == 0.75 and run.summary["step"] == 1
    run_id = run.id
    backend.close()
    backend.add_scalar("acc", 1.0, step=2)
    assert backend.experiment.id == run_id
    backend.close()
    other.close()
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) >= 2


def test_mlflow_in_a_local_store(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    root = tmp_path / "run" / "vis_data"
    backend = MLflowVisBackend(str(root), run_name="mine", tags={"team": "a"}, params={"p": 1})
    other = MLflowVisBackend(str(root))
    config = Config({"lr": 0.1, "model": {"type": "Net", "layers": [{"size": 3}]}})
    backend.add_config(config)
    for step, acc in ((10, 0.5), (20, 0.75), (1, 0.25)):
        backend.add_scalars({"acc/top1": torch.tensor(acc), "name": "left out"}, step=step)
    backend.add_image("val/cat", PICTURE, step=1)
    other.add_scalar("acc/top1", 9.0)
    (tmp_path / "run" / "run.log").write_text("hello")
    client = backend.experiment
    backend.close()
    other.close()

    run = client.get_run(backend.run_id)
    assert run.info.run_name == "mine" and run.info.status == "FINISHED" and run.data.tags["team"] == "a"
    assert run.data.params["lr"] == "0.1" and run.data.params["model.layers.0.size"] == "3"
    history = client.get_metric_history(backend.run_id, "acc/top1")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.25), (10, 0.5), (20, 0.75)]
    names = {artifact.path for artifact in client.list_artifacts(backend.run_id)}
    assert {"config.py", "run.log"} <= names
    assert backend.run_id != other.run_id
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        MLflowVisBackend(str(root), tracked_config_keys=["modle"]).add_config(config)


def test_own_backend(tmp_path: Path) -> None:
    class Mine(BaseVisBackend):
        opened = 0

        def _init_env(self) -> None:
            self.opened += 1

        @force_init_env
        def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
            self.last = (name, value, step)

    mine = Mine(str(tmp_path))
    mine.add_image("ignored", PICTURE)
    assert mine.opened == 0
    mine.add_scalar("a", 1)
    mine.add_scalar("a", 2, step=5)
    assert mine.opened == 1 and mine.last == ("a", 2, 5)
