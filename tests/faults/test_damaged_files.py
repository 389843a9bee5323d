"""Truncated, overwritten and malicious files: which ones a resume uses, skips or rejects."""

import os
import random
import re
import shutil
import signal
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_faults import kill_at
from fault_runs import MAX_ITERS, Reference, Tally, files_of, train

from trainwright.engine.checkpoints.files import LAST, find_latest_checkpoint, load_checkpoint_file, verify

NEWEST = "iter_12.pth"
BEFORE = "best_loss_iter_10.pth"


@pytest.fixture(scope="module")
def killed(references: dict[bool, Reference], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an iteration-based run that was killed after saving iteration 12."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = train(references[False].config, folder, before=partial(kill_at, "open best_loss_iter_15.pth"))
    assert process.wait() == -signal.SIGKILL
    assert (folder / LAST).read_text() == NEWEST
    assert [name for name in files_of(folder) if not name.startswith(".")] == [BEFORE, NEWEST, "iter_8.pth"]
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    shutil.copy(f"{folder}.notes", f"{to}.notes")
    return to


def cut(place: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, place(file.stat().st_size))


def flip(place: Callable[[Path], int]) -> Callable[[Path], None]:
    def flip_one(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[place(file)] ^= 0x10
        file.write_bytes(data)

    return flip_one


def within(part: str) -> Callable[[Path], int]:
    """Return the middle of an entry of the archive."""

    def place(file: Path) -> int:
        with zipfile.ZipFile(file) as archive:
            info = next(info for info in archive.infolist() if info.filename.endswith(part))
            with archive.open(info) as opened:
                start = opened._orig_compress_start  # type: ignore[attr-defined]
        return int(start) + info.file_size // 2

    return place


def central_directory(file: Path) -> int:
    with zipfile.ZipFile(file) as archive:
        return archive.start_dir + 16  # the checksum of the first entry


def zeros_at_the_end(file: Path) -> None:
    """Zero the end of a file, as after a power failure before its last blocks were written."""
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": cut(lambda size: 0),
    "one byte": cut(lambda size: 1),
    "10 %": cut(lambda size: size // 10),
    "50 %": cut(lambda size: size // 2),
    "99 %": cut(lambda size: size * 99 // 100),
    "all but one byte": cut(lambda size: size - 1),
    "zeros at the end": zeros_at_the_end,
    "only zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)) and None,
    "a bit of the header": flip(lambda file: 1),
    "a bit of the pickle": flip(within("data.pkl")),
    "a bit of a tensor": flip(within("data/3")),
    "a bit of the central directory": flip(central_directory),
    "a bit of the end": flip(lambda file: file.stat().st_size - 20),
    "another kind of file": lambda file: file.write_text("<html>404</html>") and None,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_checkpoint_is_damaged(
    damage: str, killed: Path, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    DAMAGES[damage](work_dir / NEWEST)
    process = train(references[False].config, work_dir, resume=True)
    assert process.wait() == 0, process.printed
    assert re.search(rf"skipped .*/{NEWEST}: (it|its entry) .+", process.printed)
    assert re.search(rf"Resumed from .*{BEFORE}: epoch 0, iteration 10$", process.printed, re.M)
    tally.compare("a damaged file", work_dir, references[False].work_dir, most_lost=5)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (b"", "it does not name a file"),
        (b"\x00\xff\xfe\x80 garbage", "it cannot be read"),
        (b"iter_12.pth\x00", "it does not name a file"),
        (b"x" * 5000, "it does not name a file"),
        (b"iter_99.pth", "iter_99.pth: it does not exist"),
        (b"/nowhere/iter_99.pth", "iter_99.pth: it does not exist"),
        (b"../elsewhere/iter_12.pth", "it points outside its folder"),
    ],
)
def test_the_note_of_the_newest_is_damaged(
    note: bytes, reason: str, killed: Path, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    (work_dir / LAST).write_bytes(note)
    process = train(references[False].config, work_dir, resume=True)
    assert process.wait() == 0, process.printed
    assert re.search(rf"skipped .*{reason}", process.printed), process.printed
    assert re.search(rf"Resumed from .*{NEWEST}", process.printed)
    tally.compare("a damaged last_checkpoint", work_dir, references[False].work_dir, most_lost=3)


def test_no_checkpoint_is_whole(killed: Path, tmp_path: Path, references: dict[bool, Reference], tally: Tally) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    names = [name for name in files_of(work_dir) if not name.startswith(".")]
    for name in names:
        os.truncate(work_dir / name, 1000)
    process = train(references[False].config, work_dir, resume=True)
    assert process.wait() == 0, process.printed
    for name in names:
        assert re.search(rf"skipped .*{name}: it is incomplete or corrupt", process.printed)
    assert f"Nothing to resume in {work_dir}: starting from scratch" in process.printed
    tally.compare("a damaged file", work_dir, references[False].work_dir, faults=3, most_lost=MAX_ITERS)


@pytest.mark.parametrize("damage", [None, "50 %"])
def test_a_checkpoint_that_is_asked_for_must_be_whole(
    damage: str | None, killed: Path, tmp_path: Path, references: dict[bool, Reference]
) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    file = work_dir / "iter_8.pth"
    DAMAGES[damage or "gone"](file)
    process = train(references[False].config, work_dir, "--resume", str(file))
    assert process.wait() == 2, process.printed
    expected = f"{file} cannot be read: it is incomplete or corrupt" if damage else f"there is no file '{file}'"
    assert expected in process.printed
    assert "Traceback" not in process.printed


def test_a_flipped_bit_is_found_or_harmless(killed: Path, tmp_path: Path) -> None:
    """Corrupt bytes anywhere in the file: if it still counts as intact, its contents are unchanged."""
    whole = (killed / NEWEST).read_bytes()
    expected = repr(load_checkpoint_file(killed / NEWEST))
    chance = random.Random(0)
    file = tmp_path / "flipped.pth"
    found = 0
    with zipfile.ZipFile(killed / NEWEST) as archive:
        directory = archive.start_dir
    bits = [chance.randrange(len(whole) * 8) for _ in range(50)]
    bits += [chance.randrange(directory * 8, len(whole) * 8) for _ in range(100)]
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        if verify(file) is None:
            assert repr(load_checkpoint_file(file)) == expected
        else:
            found += 1
    assert found > 75


def test_the_newest_is_found_by_its_number_where_times_are_the_same(killed: Path, tmp_path: Path) -> None:
    """Test after a copy without modification times, and with custom checkpoint names."""
    names = ["net-4.pth", "net-8.pth", "net-12.pth"]
    for name in names:
        shutil.copy(killed / NEWEST, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    published = {"state_dict": load_checkpoint_file(killed / NEWEST)["state_dict"]}
    torch.save(published, tmp_path / "net-12-0123abcd.pth")
    assert find_latest_checkpoint(tmp_path) == (None, [])  # only checkpoints from elsewhere: not the folder of a run
    (tmp_path / LAST).touch()
    found, skipped = find_latest_checkpoint(tmp_path)
    assert found == tmp_path / "net-12.pth"
    assert skipped == [
        f"{tmp_path / LAST}: it does not name a file",
        f"{tmp_path / 'net-12-0123abcd.pth'}: it has no optimizer state",
    ]


def test_checkpoints_elsewhere_are_found_beside_the_damaged_one(killed: Path, tmp_path: Path) -> None:
    """With ``out_dir``, ``last_checkpoint`` refers to a file in another folder."""
    elsewhere = copy_of(killed, tmp_path / "elsewhere")
    os.truncate(elsewhere / NEWEST, 1000)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST).write_text(str(elsewhere / NEWEST))
    found, skipped = find_latest_checkpoint(tmp_path / "run")
    assert found == elsewhere / BEFORE
    assert len(skipped) == 1


class Code:
    """An object that creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_checkpoint_with_code_in_it_is_refused(
    explicit: bool, killed: Path, tmp_path: Path, references: dict[bool, Reference]
) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    checkpoint = load_checkpoint_file(work_dir / NEWEST)
    torch.save({**checkpoint, "evil": Code(tmp_path / "executed")}, work_dir / NEWEST)
    arguments = ["--resume", str(work_dir / NEWEST)] if explicit else ["--resume"]
    process = train(references[False].config, work_dir, *arguments)
    assert process.wait() == 2, process.printed
    assert re.search(rf"{NEWEST} was not loaded: it contains .*, which could execute code", process.printed)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_cannot_reach_files_outside_its_folder(
    killed: Path, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    work_dir = copy_of(killed, tmp_path / "run")
    victims = [tmp_path / "victim.pth", tmp_path / "other" / "victim.pth"]
    for victim in victims:
        victim.parent.mkdir(exist_ok=True)
        victim.write_text("precious")
    checkpoint = load_checkpoint_file(work_dir / NEWEST)
    names = ["../victim.pth", str(victims[1]), "../other/victim.pth"]
    state = checkpoint["trainwright"]["hooks"]["CheckpointHook"]
    state["keep_ckpts"] = [*names, *state["keep_ckpts"]]
    state["obsolete"] = [*names, *state["obsolete"]]
    state["last_ckpt"] = names[0]
    checkpoint["message_hub"]["runtime_info"]["last_ckpt"] = str(victims[0])
    torch.save(checkpoint, work_dir / NEWEST)
    process = train(references[False].config, work_dir, resume=True)
    assert process.wait() == 0, process.printed
    assert [victim.read_text() for victim in victims] == ["precious", "precious"]
    tally.compare("a malicious checkpoint", work_dir, references[False].work_dir, most_lost=3)


def test_a_note_that_leads_outside_is_not_written_through(
    killed: Path, tmp_path: Path, references: dict[bool, Reference], tally: Tally
) -> None:
    """Files elsewhere can be read, as ``out_dir`` requires; later saves go to the work dir."""
    elsewhere = tmp_path / "elsewhere" / NEWEST
    elsewhere.parent.mkdir()
    shutil.copy(killed / NEWEST, elsewhere)
    before = elsewhere.read_bytes()
    work_dir = copy_of(killed, tmp_path / "run")
    (work_dir / LAST).write_text(str(elsewhere))
    process = train(references[False].config, work_dir, resume=True)
    assert process.wait() == 0, process.printed
    assert f"Resumed from {elsewhere}" in process.printed
    assert elsewhere.read_bytes() == before
    assert files_of(elsewhere.parent) == [NEWEST]
    tally.compare("a last_checkpoint that leads outside", work_dir, references[False].work_dir, most_lost=3)


def test_a_config_in_yaml_cannot_run_code(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    config = tmp_path / "evil.yaml"
    for tag in ("!!python/object/apply:pathlib.Path.touch", "!!python/object/new:os.system", "!!python/name:os.system"):
        config.write_text(f"model: {tag} [{executed}]\n")
        process = train(config, tmp_path / "run")
        assert process.wait() == 2, process.printed
        assert "evil.yaml" in process.printed
        assert "Traceback" not in process.printed
        assert not executed.exists()
