import gzip
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from trainwright.engine.checkpoints.files import (
    find_latest_checkpoint,
    get_state_dict,
    load_checkpoint_file,
    load_state_dict,
    save_checkpoint,
    verify,
    write_last_checkpoint,
)
from trainwright.engine.errors import CheckpointError
from trainwright.engine.registry import MODELS


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("touch exploded",)


def content(number: int = 1) -> dict:
    return {"meta": {"epoch": number}, "state_dict": {"weight": torch.full((100,), float(number))}}


def test_a_saved_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(content(), tmp_path / "new" / "epoch_1.pth")
    assert verify(path) is None
    loaded = load_checkpoint_file(path)
    assert loaded["meta"] == {"epoch": 1}
    assert torch.equal(loaded["state_dict"]["weight"], torch.ones(100))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["epoch_1.pth"]


def test_a_failed_save_keeps_the_old_file_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    path = save_checkpoint(content(1), tmp_path / "epoch_1.pth")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint({**content(2), "bad": lambda: 0}, path)
    assert load_checkpoint_file(path)["meta"]["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_1.pth"]


@pytest.mark.parametrize("kept", [0, 10, 200, 0.5, 0.99])
def test_a_truncated_file_is_detected(tmp_path: Path, kept: float) -> None:
    path = save_checkpoint(content(), tmp_path / "epoch_1.pth")
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    assert verify(path) is not None
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth cannot be read: .* (corrupt|empty)"):
        load_checkpoint_file(path)


class Model:
    """A class that an old checkpoint contains."""


OTHER_FILES = {
    "random": (random.Random(0).randbytes(5000), "incomplete or corrupt"),
    "a byte": (b"\x80", "incomplete or corrupt"),
    "a pickle": (pickle.dumps({"state_dict": {}}), "incomplete or corrupt"),
    "compressed": (gzip.compress(b"weights"), "incomplete or corrupt"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(100), "incomplete or corrupt"),
    "a page": (b"\n<!DOCTYPE html><html>404</html>", "it is a web page: the download has failed"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "fetch the file itself with `git lfs pull`"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    content, expected = OTHER_FILES[kind]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights\.pth cannot be read: .*{expected}"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_in_a_file_is_named_also_in_the_format_before_pytorch_1_6(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": Model()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"was not loaded: it contains {__name__}\.Model, which could execute"):
        load_checkpoint_file(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint_file(path)


def test_a_flipped_bit_in_the_weights_is_detected(tmp_path: Path) -> None:
    path = save_checkpoint(content(), tmp_path / "epoch_1.pth")
    with zipfile.ZipFile(path) as archive:
        entry = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    position = data.index(torch.ones(100).numpy().tobytes())
    data[position + 7] ^= 1
    path.write_bytes(data)
    assert verify(path) == f"its entry {entry.filename} is corrupt"


def test_the_newest_intact_checkpoint_is_found(tmp_path: Path) -> None:
    assert find_latest_checkpoint(tmp_path) == (None, [])
    for number in (1, 2, 3):
        path = save_checkpoint(content(number), tmp_path / f"epoch_{number}.pth")
        os.utime(path, (number, number))
        write_last_checkpoint(tmp_path, path)
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_3.pth"
    assert find_latest_checkpoint(tmp_path) == (tmp_path / "epoch_3.pth", [])
    (tmp_path / "epoch_3.pth").write_bytes(b"PK half a file")
    found, skipped = find_latest_checkpoint(tmp_path)
    assert found == tmp_path / "epoch_2.pth"
    assert len(skipped) == 1
    assert "epoch_3.pth: it is incomplete or corrupt" in skipped[0]
    (tmp_path / "last_checkpoint").unlink()
    assert find_latest_checkpoint(tmp_path)[0] == tmp_path / "epoch_2.pth"


def test_a_moved_work_dir_is_found_and_so_is_one_of_mmengine(tmp_path: Path) -> None:
    old = tmp_path / "old"
    path = save_checkpoint(content(), old / "epoch_1.pth")
    write_last_checkpoint(old, path)
    old.rename(tmp_path / "new")
    assert find_latest_checkpoint(tmp_path / "new")[0] == tmp_path / "new" / "epoch_1.pth"
    (tmp_path / "new" / "last_checkpoint").write_text(str(path))  # MMEngine writes an absolute path
    assert find_latest_checkpoint(tmp_path / "new")[0] == tmp_path / "new" / "epoch_1.pth"


def test_a_file_with_code_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="(?s)system.*trusted=True"):
        load_checkpoint_file(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_trusted_files_may_contain_anything(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "path": Path("x")}, tmp_path / "file.pth")
    assert load_checkpoint_file(tmp_path / "file.pth", trusted=True)["path"] == Path("x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        load_checkpoint_file(tmp_path / "none.pth")


def test_a_bare_state_dict_and_one_in_a_checkpoint() -> None:
    weights = {"weight": torch.ones(1)}
    assert get_state_dict(weights) == get_state_dict({"state_dict": weights}) == get_state_dict({"model": weights})


def two_layers(classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, classes))


def test_mismatches_are_reported_and_the_rest_is_loaded() -> None:
    source, target = two_layers(10), two_layers(7)
    state = {
        **{f"module.{key}": value for key, value in source.state_dict().items()},
        "extra.a": torch.ones(1),
        "extra.b": torch.ones(1),
    }
    del state["module.0.bias"]
    report = load_state_dict(target, state)
    assert torch.equal(target[0].weight, source[0].weight)
    assert str(report).splitlines() == [
        "not loaded, shapes differ:",
        "  1.weight: (10, 4) in the file, (7, 4) in the model",
        "  1.bias: (10,) in the file, (7,) in the model",
        "in the file but not in the model:",
        "  extra: a, b",
        "in the model but not in the file:",
        "  0: bias",
    ]
    assert report.missing == {"1.weight", "1.bias", "0.bias"}
    with pytest.raises(CheckpointError, match="weights do not match"):
        load_state_dict(target, state, strict=True)


def test_a_file_without_any_matching_weight_is_rejected() -> None:
    with pytest.raises(CheckpointError, match="none of the weights"):
        load_state_dict(two_layers(2), {"backbone.conv.weight": torch.ones(1)})


def test_a_complete_match_has_no_report() -> None:
    source, target = two_layers(2), two_layers(2)
    assert load_state_dict(target, source.state_dict(), strict=True).report == ""
    assert torch.equal(target[1].bias, source[1].bias)


def test_a_file_of_mmengine_is_read_without_mmengine() -> None:
    """``mmengine_epoch_1.pth`` was written by MMEngine 0.10.7: one epoch of two iterations of a linear layer, with EMA."""
    checkpoint = load_checkpoint_file(Path(__file__).parents[2] / "data" / "mmengine_epoch_1.pth")
    assert checkpoint["meta"]["epoch"] == 1
    assert checkpoint["meta"]["iter"] == 2
    assert list(checkpoint["state_dict"]) == ["linear.weight", "linear.bias"]
    loss = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert loss.data[0].tolist() == pytest.approx([8.17866135, 1.95473957])


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("http://127.0.0.1:9/weights-1234.pth", "http://127.0.0.1:9/weights-1234.pth cannot be downloaded"),
        ("torchvision://resnet18", "torchvision://resnet18 \\(https://.*resnet18.*pth\\) cannot be downloaded"),
        ("torchvision://resnet19", "torchvision has no weights for 'resnet19'"),
    ],
)
def test_weights_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, named: str) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=named) as caught:
        load_checkpoint_file(source)
    if "resnet19" not in source:
        assert f"put the file at {tmp_path}/hub/checkpoints/" in str(caught.value)


def test_weights_of_torchvision_by_name_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="resnet18 .*'DEFAULT' .*put the file at .*resnet18") as caught:
        MODELS.build(dict(type="TorchvisionModel", name="resnet18", weights="DEFAULT"))
    assert "while building TorchvisionModel" in caught.value.__notes__
