"""Sharded checkpoints: the same contents as files, under every strategy and number of processes, and safe to load."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from strategy_runs import Samples, Scores, config, difference, train_all
from torch.distributed.tensor import DTensor

from trainwright.engine.checkpoints.dcp import read_metadata
from trainwright.engine.checkpoints.durable import remove_leftovers
from trainwright.engine.checkpoints.files import find_latest_checkpoint, load_checkpoint_file, verify
from trainwright.engine.checkpoints.folder_reader import fingerprint, load_folder
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.run.runner import Runner
from trainwright.hooks.checkpoint import CheckpointHook
from trainwright.tools.cli import main
from trainwright.tools.consolidate import consolidate

SHARDED = {"default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1, "sharded": True}}}
FSDP2 = {"type": "FSDP2", "wrap": "Block"}
TENSOR = {**FSDP2, "tensor_parallel": {"size": 2, "plan": {"blocks.*.fc1": "colwise", "blocks.*.fc2": "rowwise"}}}
LAYOUTS: dict[str, tuple[Any, int, int]] = {
    "one process": ("auto", 1, 1),
    "DDP 2": ("DDP", 2, 2),
    "DDP 4": ("DDP", 4, 4),
    "FSDP2 2": (FSDP2, 2, 2),
    "FSDP2 4": (FSDP2, 4, 4),
    "hybrid 2x2": ({**FSDP2, "replicate": 2}, 4, 4),
    "TP 2": (TENSOR, 2, 1),
    "TP 2 x FSDP2 2": (TENSOR, 4, 2),
}
"""Strategy, number of processes and of data ranks, by name."""
WHOLE: dict[str, Any] = {
    "optim_wrapper": {
        "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1},
        "accumulative_counts": 5,
        "clip_grad": {"max_norm": 1.0},
    },
    "custom_hooks": [
        {"type": "EMAHook", "momentum": 0.1},
        {"type": "NanGuardHook", "action": "rollback", "interval": 3, "snapshot_interval": 3},
    ],
}
VALIDATION = {
    "val_dataloader": {"dataset": Samples(16), "batch_size": 2, "collate_fn": {"type": "default_collate"}},
    "val_cfg": {},
    "val_evaluator": {"type": Scores},
}
PART = {"by_epoch": False, "interval": 7, "save_last": False}
STOPPED = {**WHOLE, "default_hooks": {"checkpoint": {**SHARDED["default_hooks"]["checkpoint"], **PART}}}
"""The same, with its only checkpoint in the middle of an accumulation window."""


def newest(folder: Path) -> dict[str, Any]:
    """Return the contents of the newest checkpoint, as whole tensors."""
    path, skipped = find_latest_checkpoint(folder)
    assert path is not None and not skipped
    return load_checkpoint_file(path)


def same(one: Any, other: Any) -> bool:
    """Return whether nested containers have the same values and the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that saved sharded checkpoints in one process."""
    folder = tmp_path_factory.mktemp("run")
    assert not train_all(folder, "auto", 1, 1, {"": SHARDED})
    return folder


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a sharded checkpoint."""
    return Path(shutil.copytree(run / "epoch_2.dist", tmp_path / "epoch_2.dist"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_has_the_contents_of_a_file(layout: str, tmp_path: Path) -> None:
    """Two hooks save the same iteration, in the middle of an accumulation window, one of them in the background."""
    file = {"type": "CheckpointHook", "out_dir": str(tmp_path / "files"), "name": "files"}
    hook = {**SHARDED["default_hooks"]["checkpoint"], "async_save": True}
    cases = {"run": {**WHOLE, "default_hooks": {"checkpoint": hook}, "custom_hooks": [*WHOLE["custom_hooks"], file]}}
    assert not train_all(tmp_path, *LAYOUTS[layout], cases)
    files, folders = (load_checkpoint_file(tmp_path / name) for name in ("files/run/epoch_2.pth", "run/epoch_2.dist"))
    for name in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert same(files.get(name), folders.get(name)), name
    ours, theirs = files["trainwright"], folders["trainwright"]
    assert ours["optimizer"]["accumulation"]["grads"] if "optimizer" in ours else True
    for name in ours.keys() - {"hooks"}:  # each hook knows only its own checkpoints
        assert same(ours[name], theirs[name]), name
    assert same(ours["hooks"]["NanGuardHook"], theirs["hooks"]["NanGuardHook"])


def resume_all(folder: Path, layout: str, sources: dict[str, Path], expected: Path) -> list[str]:
    """Resume a copy of the run in each source, and return those that end with other weights."""
    for name, source in sources.items():
        shutil.copytree(source, folder / name)
    cases = {name: {**WHOLE, **SHARDED, "resume": True} for name in sources}
    errors = train_all(folder, *LAYOUTS[layout], cases)
    for name in sources:
        if name not in errors:
            largest = difference(newest(expected), newest(folder / name), ["state_dict", "ema_state_dict"])
            print(f"{name:16} -> {layout:16} {largest:.1e}")
            if largest > 1e-6:
                errors[name] = f"{largest:.1e}"
    return [f"{name} -> {layout}: {error}" for name, error in errors.items()]


@pytest.mark.long
def test_a_run_is_resumed_under_another_strategy(tmp_path: Path) -> None:
    assert not train_all(tmp_path / "whole", "auto", 1, 1, {"": WHOLE})
    stopped = tmp_path / "stopped"
    assert not train_all(stopped, *LAYOUTS["FSDP2 2"], {"": STOPPED})
    assert (stopped / "iter_7.dist").is_dir()
    assert not resume_all(tmp_path / "resumed", "TP 2", {"run": stopped}, tmp_path / "whole")


@pytest.mark.slow
def test_runs_are_resumed_under_every_other_strategy(tmp_path: Path) -> None:
    assert not train_all(tmp_path / "whole", "auto", 1, 1, {"": WHOLE})
    for name, layout in LAYOUTS.items():
        assert not train_all(tmp_path / "stopped" / name, *layout, {"": STOPPED})
    sources = {name: tmp_path / "stopped" / name for name in LAYOUTS}
    wrong = [resume_all(tmp_path / name, name, sources, tmp_path / "whole") for name in LAYOUTS]
    assert not any(wrong), "\n".join(line for lines in wrong for line in lines)


def test_a_rank_reads_only_its_own_part(run: Path, tmp_path: Path) -> None:
    def load() -> list[tuple[str, list[int], bool]]:
        runner = Runner.from_cfg({**config(tmp_path, FSDP2, 2), "launcher": "pytorch"})
        found = load_folder(run / "epoch_2.dist", like=runner.model)
        whole = load_folder(run / "epoch_2.dist")["state_dict"]
        return [
            (name, list(value.to_local().shape), torch.equal(value.full_tensor(), whole[name]))
            for name, value in found["state_dict"].items()
            if isinstance(value, DTensor)
        ]

    first, second = run_ranks(2, load, tmp_path / "ranks")
    assert {name: shape for name, shape, _ in first}["head.weight"] == [3, 16]
    assert {name: shape for name, shape, _ in second}["head.weight"] == [2, 16]
    assert len(first) == 18 and all(equal for _, _, equal in first + second)


def test_a_folder_is_loaded_like_a_file(run: Path, tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path, load_from=str(run / "epoch_2.dist"), **VALIDATION))
    runner.val()
    weights = load_checkpoint_file(run / "epoch_2.dist")["state_dict"]
    assert same(dict(runner.model.state_dict()), weights)
    runner.load_checkpoint(run / "epoch_1.dist")
    assert not same(dict(runner.model.state_dict()), weights)
    runner.save_checkpoint(tmp_path, "now_{}.dist")
    assert verify(tmp_path / "now_0.dist") is None


def test_files_and_folders_are_converted_without_a_change(run: Path, tmp_path: Path) -> None:
    folder, file, back = run / "epoch_2.dist", tmp_path / "one.pth", tmp_path / "two.dist"
    assert main(["consolidate", str(folder), str(file)]) == 0
    assert main(["consolidate", str(file), str(back)]) == 0
    assert same(load_checkpoint_file(folder), torch.load(file, weights_only=True))
    assert same(load_checkpoint_file(back), torch.load(file, weights_only=True))
    assert verify(back) is None


def test_the_state_of_each_rank_is_converted_too(tmp_path: Path) -> None:
    states = [{"buffers": {}}, {"buffers": {}, "host_streams": torch.arange(3)}]
    given = {"state_dict": {"w": torch.ones(2)}, "trainwright": {"ranks": {"world_size": 2, "states": states}}}
    torch.save(given, tmp_path / "one.pth")
    consolidate(str(tmp_path / "one.pth"), str(tmp_path / "two.dist"))
    assert (tmp_path / "two.dist/rank_1.pth").is_file()
    assert same(load_checkpoint_file(tmp_path / "two.dist"), given)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("epoch_2.dist", "other.dist", "write a .pth file"),
        ("missing.pth", "other.pth", "does not end in .dist"),
        ("missing.pth", "other.dist", "checkpoint not found"),
        ("epoch_2.dist", "epoch_2.dist", "exists"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    source: str, target: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["consolidate", str(folder.parent / source), str(folder.parent / target)]) == 2
    assert message in capsys.readouterr().err


def test_second_names_rotation_and_publishing(tmp_path: Path) -> None:
    hook = {"max_keep_ckpts": 1, "save_best": "scores/sum", "published_keys": ["state_dict"]}
    cases = {"": {"default_hooks": {"checkpoint": {**SHARDED["default_hooks"]["checkpoint"], **hook}}, **VALIDATION}}
    assert not train_all(tmp_path, "auto", 1, 1, cases)
    folders = sorted(path.name for path in tmp_path.glob("*.dist"))
    best = next(name for name in folders if name.startswith("best_"))
    assert folders == [best, "epoch_2.dist"]
    assert verify(tmp_path / best) is None
    if best.endswith("epoch_2.dist"):
        assert (tmp_path / best / "run.pth").samefile(tmp_path / "epoch_2.dist/run.pth")
    published = {path.name.rpartition("-")[0]: path for path in tmp_path.glob("*-*.pth")}
    assert set(published) == {best.removesuffix(".dist"), "epoch_2"}
    weights = torch.load(published["epoch_2"], weights_only=True)["state_dict"]
    assert same(weights, load_checkpoint_file(tmp_path / "epoch_2.dist")["state_dict"])
    assert not list(tmp_path.glob(".*"))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda folder: (folder / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "short": (lambda folder: (folder / "run.pth").write_bytes(b"PK"), "run.pth has 2 bytes instead of"),
    "changed": (lambda folder: _change(folder / "__0_0.distcp"), "__0_0.distcp is corrupt"),
    "not finished": (lambda folder: (folder / "files.json").unlink(), "files.json is missing"),
    "no list": (lambda folder: (folder / "files.json").write_text("[1]"), "files.json is corrupt"),
    "elsewhere": (lambda folder: _list(folder, "../run.pth"), "not in the folder"),
}


def _change(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _list(folder: Path, name: str) -> None:
    (folder / "files.json").write_text(json.dumps({"files": {name: [1, 1]}}))


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_never_used(kind: str, folder: Path) -> None:
    damage, message = DAMAGE[kind]
    shutil.copytree(folder, folder.with_name("epoch_1.dist"))
    (folder.parent / "last_checkpoint").write_text("epoch_2.dist")
    damage(folder)
    assert message in (verify(folder) or "")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(folder)
    found, skipped = find_latest_checkpoint(folder.parent)
    assert found == folder.with_name("epoch_1.dist")
    assert len(skipped) == 1 and message in skipped[0]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", [".metadata", "run.pth"])
def test_nothing_in_a_folder_is_executed(name: str, folder: Path) -> None:
    """PyTorch's reader unpickles the metadata without restrictions."""
    marker = folder.parent / "executed"
    if name == "run.pth":
        torch.save(Evil(marker), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    files = {file.name: fingerprint(file) for file in folder.iterdir() if file.name != "files.json"}
    (folder / "files.json").write_text(json.dumps({"files": files}))
    assert verify(folder) is None
    with pytest.raises(CheckpointError, match="could execute code"):
        load_checkpoint_file(folder)
    assert not marker.exists()


def test_metadata_cannot_name_files_elsewhere(folder: Path) -> None:
    described = read_metadata(folder)
    for place in described.storage_data.values():
        object.__setattr__(place, "relative_path", "../secret")
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(CheckpointError, match="another folder"):
        read_metadata(folder)


def test_leftovers_of_killed_processes_are_removed(folder: Path) -> None:
    place = folder.parent
    (place / ".epoch_3.dist.0.999999999.tmp").mkdir()
    (place / ".epoch_3.dist.0.999999999.tmp/run.pth").touch()
    folder.rename(place / "replaced_epoch_2.dist")  # killed between two renames
    assert find_latest_checkpoint(place)[0] is None  # not a run
    (place / "last_checkpoint").write_text("epoch_2.dist")
    assert find_latest_checkpoint(place)[0] == place / "replaced_epoch_2.dist"
    assert remove_leftovers(place) == [".epoch_3.dist.0.999999999.tmp"]
    assert sorted(path.name for path in place.iterdir()) == ["epoch_2.dist", "last_checkpoint"]
    shutil.copytree(folder, place / "replaced_epoch_2.dist")
    assert remove_leftovers(place) == ["replaced_epoch_2.dist"]


@pytest.mark.parametrize(("name", "sharded"), [("epoch_{}.pth", True), ("epoch_{}.dist", False)])
def test_a_name_must_fit_the_format(name: str, sharded: bool) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.dist"):
        CheckpointHook(filename_tmpl=name, sharded=sharded)
