"""The checkpoints that a folder keeps, tested without a run."""

from pathlib import Path

import pytest

from trainwright.engine.checkpoints.folder import CheckpointFolder, best_name


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(max_keep=2)
    folder.path = tmp_path
    return folder


def names_in(folder: CheckpointFolder) -> list[str]:
    assert folder.path is not None
    return sorted(path.name for path in folder.path.iterdir())


def write(folder: CheckpointFolder, *names: str) -> None:
    for name in names:
        folder.file(name).touch()


def test_only_the_newest_are_kept(folder: CheckpointFolder) -> None:
    for epoch in range(1, 5):
        write(folder, f"epoch_{epoch}.pth")
        folder.add_regular(f"epoch_{epoch}.pth", 10 * epoch)
        folder.remove_obsolete()
    assert names_in(folder) == ["epoch_3.pth", "epoch_4.pth"]
    assert (folder.last, folder.last_at, folder.obsolete) == ("epoch_4.pth", 40, [])


def test_a_better_one_replaces_the_best(folder: CheckpointFolder) -> None:
    for score, regular in ((0.5, "epoch_1.pth"), (0.7, "epoch_3.pth")):
        name = best_name("acc/top1", regular)
        write(folder, name)
        folder.add_best("acc/top1", score, name)
    folder.remove_obsolete()
    assert names_in(folder) == ["best_acc_top1_epoch_3.pth"]
    assert folder.best_scores == {"acc/top1": 0.7}


def test_files_in_use_and_files_that_cannot_be_removed_stay_obsolete(folder: CheckpointFolder) -> None:
    for number in range(1, 5):
        folder.add_regular(f"{number}.pth", number)
    folder.file("1.pth").mkdir()  # unlink fails
    write(folder, "2.pth", "3.pth", "4.pth")
    folder.remove_obsolete(in_use={"2.pth"})
    assert list(folder.unremoved) == ["1.pth"]
    assert folder.obsolete == ["1.pth", "2.pth"]
    folder.file("1.pth").rmdir()
    folder.remove_obsolete()
    assert names_in(folder) == ["3.pth", "4.pth"]


def test_a_failed_write_is_undone(folder: CheckpointFolder) -> None:
    folder.add_regular("1.pth", 1)
    folder.add_best("acc", 0.5, "best_acc_1.pth")
    before = folder.state_dict()
    folder.remember()
    folder.add_regular("2.pth", 2)
    folder.add_regular("3.pth", 3)
    folder.add_best("acc", 0.9, "best_acc_3.pth")
    folder.undo()
    assert folder.state_dict() == before


def test_missing_best_checkpoints_are_linked_from_another_folder_or_forgotten(
    folder: CheckpointFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "best_acc_1.pth").write_text("weights")
    folder.add_regular("1.pth", 1)
    folder.add_best("acc", 0.5, "best_acc_1.pth")
    folder.add_best("loss", 0.1, "best_loss_1.pth")
    missing = folder.missing(elsewhere)
    assert missing == {"1.pth", "best_loss_1.pth"}
    folder.forget(missing)
    assert folder.file("best_acc_1.pth").read_text() == "weights"
    assert folder.names == {"best_acc_1.pth"}
    assert folder.best_scores == {"acc": 0.5, "loss": 0.1}
    assert folder.last is None


def test_a_state_cannot_name_files_elsewhere(folder: CheckpointFolder) -> None:
    folder.load_state_dict(
        {
            "best_scores": {"acc": 1.0, "loss": 0.1},
            "best_ckpts": {"acc": "../victim.pth", "loss": "best.pth"},
            "keep_ckpts": ["../victim.pth", "/victim.pth", "..", "epoch_1.pth"],
            "last_ckpt": "/victim.pth",
            "obsolete": ["../victim.pth", "a\\..\\victim.pth", "epoch_0.pth"],
        }
    )
    assert folder.names == {"best.pth", "epoch_1.pth"}
    assert folder.obsolete == ["epoch_0.pth"]
