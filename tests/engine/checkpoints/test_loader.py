"""Checkpoints by name."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainwright.engine import CheckpointError, CheckpointLoader, load_checkpoint_file
from trainwright.engine.checkpoints import loader

MMENGINES = Path(__file__).parents[2] / "data" / "mmengine_epoch_1.pth"


@pytest.fixture(autouse=True)
def fresh_schemes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Use copies of the registered schemes, an empty cache, and no network."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    yield


def test_a_scheme_of_ones_own(tmp_path: Path) -> None:
    @CheckpointLoader.register_scheme("store://")
    def load_from_store(filename: str, map_location: Any = None) -> Any:
        return {"name": filename, "map_location": map_location}

    assert load_checkpoint_file("store://a") == {"name": "store://a", "map_location": "cpu"}
    assert CheckpointLoader.load_checkpoint("store://a", map_location="meta")["map_location"] == "meta"
    CheckpointLoader.register_scheme([r"(\w+:)?store://special/"], lambda filename, map_location: {"special": filename})
    assert load_checkpoint_file("my:store://special/a") == {"special": "my:store://special/a"}
    assert load_checkpoint_file("store://special/a") == {"special": "store://special/a"}
    with pytest.raises(KeyError, match="store:// is already registered"):
        CheckpointLoader.register_scheme(["new://", "store://"], load_from_store)
    CheckpointLoader.register_scheme("store://", lambda filename, map_location: [], force=True)
    with pytest.raises(CheckpointError, match="store://a contains a list, not a checkpoint"):
        load_checkpoint_file("store://a")


def test_an_unknown_scheme_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        CheckpointError, match=r"none of http://, https://, .*, mmdet://, .*open-mmlab://.*register_scheme"
    ):
        load_checkpoint_file("nowhere://a")


def test_a_file_of_mmengine_from_the_web_is_loaded_safely_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = []

    def fetch(url: str, target: str, **options: Any) -> None:
        fetched.append(url)
        Path(target).write_bytes(MMENGINES.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    url = "https://example.org/models/epoch_1.pth?download=true"
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert load_checkpoint_file(url)["meta"]["epoch"] == 1
    assert fetched == [url]
    assert (tmp_path / "hub" / "checkpoints" / "epoch_1.pth").is_file()
    (tmp_path / "hub" / "checkpoints" / "exec.pth").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="it is a web page"):
        load_checkpoint_file("https://example.org/exec.pth")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "resnet50-0676ba61.pth"),
        ("ResNet50.IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
        ("resnet50.default", "resnet50-11ad3fa6.pth"),
        ("inception_v3_google", "inception_v3_google-0cc3c7bd.pth"),
        ("shufflenetv2_x0.5", "shufflenetv2_x0.5-f707e7126e.pth"),
    ],
)
def test_weights_of_torchvision_are_those_of_mmengine(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(CheckpointError, match=f"put the file at {tmp_path}/hub/checkpoints/{file} "):
        load_checkpoint_file(f"torchvision://{name}")
    loader.cached(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.ones(1)}, loader.cached(file))
    assert load_checkpoint_file(f"modelzoo://{name}")["weight"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50.imagenet1k_v3", "did you mean 'imagenet1k_v2' or 'imagenet1k_v1'"),
        ("mnasnet0_5.v9", "available: imagenet1k_v1, default"),
        ("resnet51", "torchvision has no weights for 'resnet51'"),
    ],
)
def test_unknown_weights_of_torchvision(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(f"torchvision://{name}")
