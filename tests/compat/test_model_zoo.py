"""Published weights of OpenMMLab by name. They load without compat's installation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from trainwright.compat.model_zoo import mmengine_home, table
from trainwright.engine import CheckpointError, load_checkpoint_file

SERVER = "https://download.openmmlab.com/"


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "home"))
    yield


def write(path: Path, value: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"backbone.conv.weight": torch.full((1,), value), "head.fc.weight": torch.zeros(1)}
    torch.save({"state_dict": weights}, path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("open-mmlab://resnet50_v1c", "pretrain/third_party/resnet50_v1c-2cccc1ad.pth"),
        ("openmmlab://detectron2/resnet50_caffe", "pretrain/third_party/resnet50_msra-5891d200.pth"),
        ("open-mmlab://resnet50_caffe_bgr", "pretrain/third_party/resnet50_msra-5891d200.pth"),
        ("mmcls://vgg16", "mmclassification/v0/vgg/vgg16_batch256_imagenet_20210208-db26f1a5.pth"),
    ],
)
def test_offline_the_error_names_url_and_place(tmp_path: Path, name: str, path: str) -> None:
    place = tmp_path / "torch" / "hub" / "checkpoints" / Path(path).name
    with pytest.raises(CheckpointError, match=rf"{name} \({SERVER}{path}\) cannot be .*put the file at {place} "):
        load_checkpoint_file(name)


def test_a_file_is_found_in_the_caches_of_torch_and_mmengine(tmp_path: Path) -> None:
    file = "vgg16_batch256_imagenet_20210208-db26f1a5.pth"
    write(tmp_path / "home" / file, 1.0)
    weights = load_checkpoint_file("mmcls://vgg16")["state_dict"]
    assert weights == {"conv.weight": torch.ones(1)}  # of the backbone alone
    write(tmp_path / "torch" / "hub" / "checkpoints" / file, 2.0)
    assert load_checkpoint_file("mmcls://vgg16")["state_dict"]["conv.weight"] == 2.0


def test_names_of_ones_own_in_the_folder_of_mmengine(tmp_path: Path) -> None:
    write(tmp_path / "home" / "mine" / "net.pth", 3.0)
    (tmp_path / "home" / "open_mmlab.json").write_text(json.dumps({"mine": "mine/net.pth", "gone": "gone.pth"}))
    assert load_checkpoint_file("open-mmlab://mine")["state_dict"]["backbone.conv.weight"] == 3.0
    with pytest.raises(CheckpointError, match=f"checkpoint not found: {tmp_path}/home/gone.pth"):
        load_checkpoint_file("open-mmlab://gone")


def test_the_folder_of_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mmengine_home() == tmp_path / "home"
    monkeypatch.delenv("MMENGINE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mmengine_home() == tmp_path / "mmengine"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert mmengine_home() == Path("~/.cache/mmengine").expanduser()


def test_unknown_names() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'resnet50_v1c'"):
        load_checkpoint_file("open-mmlab://resnet50_v1d")
    with pytest.raises(CheckpointError, match="there are .* names"):
        load_checkpoint_file("mmcls://???")
    assert {scheme: len(names) for scheme, names in table().items()} == {"open-mmlab": 52, "mmcls": 57}


def test_weights_that_a_library_publishes_for_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = "mmpretrain"
    place = tmp_path / "site"
    mim = place / library / ".mim"
    mim.mkdir(parents=True)
    (place / library / "__init__.py").touch()
    entries = [
        {"Name": "a_1x", "Alias": "a", "Config": "configs/nets/a_1x_data.py", "Weights": f"{SERVER}v2/a-1234.pth"},
        {"Name": "b_1x", "Config": "configs/nets/b_1x.py"},
    ]
    (mim / "metafile.yml").write_text(yaml.dump({"Models": entries}))
    (mim / "model-index.yml").write_text(yaml.dump({"Import": ["metafile.yml"]}))
    monkeypatch.syspath_prepend(str(place))
    write(tmp_path / "torch" / "hub" / "checkpoints" / "a-1234.pth", 4.0)
    for name in ("a_1x", "a", "a_1x_data", "nets/a_1x_data.py"):
        assert load_checkpoint_file(f"{library}://{name}")["state_dict"]["backbone.conv.weight"] == 4.0
    with pytest.raises(CheckpointError, match="publishes no weights for b_1x"):
        load_checkpoint_file(f"{library}://b_1x")
    with pytest.raises(CheckpointError, match=r"://c_1x is not .*did you mean"):
        load_checkpoint_file(f"{library}://c_1x")
    (mim / "model-index.yml").unlink()
    with pytest.raises(CheckpointError, match="does not list models"):
        load_checkpoint_file(f"{library}://a")
