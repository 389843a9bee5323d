"""Files that CheckpointHook writes, keeps, links and publishes in real runs."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Scripted, files_in, log_of, make_runner, weights_of

from trainwright.engine.errors import ConfigError
from trainwright.engine.hook import Hook
from trainwright.engine.runner import Runner
from trainwright.hooks import CheckpointHook

BY_ITER = {"by_epoch": False, "max_iters": 6, "val_interval": 2}


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_saves_every_interval_epochs_and_the_last(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 2}, train_cfg={"max_epochs": 5}).train()
    assert files_in(tmp_path) == ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_5.pth"
    meta = load(tmp_path / "epoch_4.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (4, 8)


def test_saves_by_iterations(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 4, "by_epoch": False}, train_cfg=BY_ITER).train()
    assert files_in(tmp_path) == ["iter_4.pth", "iter_6.pth"]
    assert load(tmp_path / "iter_4.pth")["meta"]["iter"] == 4


def test_last_can_be_left_out_and_saving_can_begin_later(tmp_path: Path) -> None:
    options = {"interval": 2, "save_begin": 1, "save_last": False}
    make_runner(tmp_path, checkpoint=options, train_cfg={"max_epochs": 6}).train()
    assert files_in(tmp_path) == ["epoch_1.pth", "epoch_3.pth", "epoch_5.pth"]


def test_optimizer_can_be_left_out(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 1, "save_optimizer": False}, train_cfg={"max_epochs": 1}).train()
    assert "optimizer" not in load(tmp_path / "epoch_1.pth")


def test_out_dir_gets_a_folder_for_each_run(tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    make_runner(tmp_path / "run", checkpoint={"interval": 1, "out_dir": str(out)}, train_cfg={"max_epochs": 1}).train()
    assert files_in(out / "run") == ["epoch_1.pth"]
    assert (tmp_path / "run" / "last_checkpoint").read_text() == str(out / "run" / "epoch_1.pth")


def test_filename_tmpl(tmp_path: Path) -> None:
    make_runner(
        tmp_path, checkpoint={"interval": 1, "filename_tmpl": "net-{}.pth"}, train_cfg={"max_epochs": 1}
    ).train()
    assert files_in(tmp_path) == ["net-1.pth"]


def test_keeps_the_newest_also_after_a_resume(tmp_path: Path) -> None:
    options = {"interval": 1, "max_keep_ckpts": 2}
    make_runner(tmp_path, checkpoint=options, train_cfg={"max_epochs": 3}).train()
    assert files_in(tmp_path) == ["epoch_2.pth", "epoch_3.pth"]
    make_runner(tmp_path, checkpoint=options, train_cfg={"max_epochs": 5}, resume=True).train()
    assert files_in(tmp_path) == ["epoch_4.pth", "epoch_5.pth"]


def test_keeping_fewer_takes_effect_at_the_resume(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 1, "max_keep_ckpts": 3}, train_cfg={"max_epochs": 3}).train()
    make_runner(
        tmp_path, checkpoint={"interval": 1, "max_keep_ckpts": 1}, train_cfg={"max_epochs": 3}, resume=True
    ).train()
    assert files_in(tmp_path) == ["epoch_3.pth"]


def test_a_moved_work_dir_is_still_tidied(tmp_path: Path) -> None:
    options = {"interval": 1, "max_keep_ckpts": 1, "save_best": "acc"}
    make_runner(tmp_path / "a", checkpoint=options, metric=Scripted(acc=[1, 2]), train_cfg={"max_epochs": 2}).train()
    (tmp_path / "a").rename(tmp_path / "b")
    metric = Scripted(acc=[3])
    make_runner(tmp_path / "b", checkpoint=options, metric=metric, train_cfg={"max_epochs": 3}, resume=True).train()
    assert files_in(tmp_path / "b") == ["best_acc_epoch_3.pth", "epoch_3.pth"]


def test_the_best_is_kept_and_the_one_before_goes(tmp_path: Path) -> None:
    metric = Scripted(accuracy__top1=[10, 30, 20, 40, 35])
    runner = make_runner(
        tmp_path,
        checkpoint={"interval": -1, "save_last": False, "save_best": "accuracy/top1"},
        metric=metric,
        train_cfg={"max_epochs": 5},
    )
    runner.train()
    assert files_in(tmp_path) == ["best_accuracy_top1_epoch_4.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "best_accuracy_top1_epoch_4.pth"
    assert runner.message_hub.get_info("best_score") == 40
    assert runner.message_hub.get_info("best_ckpt") == str(tmp_path / "best_accuracy_top1_epoch_4.pth")
    assert "The best checkpoint with 40.0000 accuracy/top1 at 4 epochs is saved to best_accuracy" in log_of(runner)


def test_less_is_better_for_a_loss_and_a_nan_is_never_best(tmp_path: Path) -> None:
    metric = Scripted(loss=[float("nan"), 3, 2])
    make_runner(tmp_path, checkpoint={"save_last": False, "save_best": "loss"}, metric=metric).train()
    assert files_in(tmp_path) == ["best_loss_epoch_3.pth"]


def test_several_metrics_have_their_own_best(tmp_path: Path) -> None:
    metric = Scripted(FID=[3, 1, 2], IS=[1, 2, 3])
    runner = make_runner(
        tmp_path,
        checkpoint={"save_last": False, "save_best": ["FID", "IS"], "rule": ["less", "greater"]},
        metric=metric,
    )
    runner.train()
    assert files_in(tmp_path) == ["best_FID_epoch_2.pth", "best_IS_epoch_3.pth"]
    assert runner.message_hub.get_info("best_score_FID") == 1
    assert runner.message_hub.get_info("best_score_IS") == 3


def test_auto_takes_the_first_metric(tmp_path: Path) -> None:
    make_runner(
        tmp_path,
        checkpoint={"save_last": False, "save_best": "auto"},
        metric=Scripted(acc=[1, 2, 0], loss=[1, 1, 0]),
    ).train()
    assert files_in(tmp_path) == ["best_acc_epoch_2.pth"]


def test_by_iterations_the_best_is_named_by_them(tmp_path: Path) -> None:
    metric = Scripted(acc=[1, 3, 2])
    make_runner(
        tmp_path,
        checkpoint={"by_epoch": False, "save_last": False, "save_best": "acc"},
        metric=metric,
        train_cfg=BY_ITER,
    ).train()
    assert files_in(tmp_path) == ["best_acc_iter_4.pth"]


@pytest.mark.skipif(os.name != "posix", reason="hard links")
def test_files_of_one_moment_are_written_once(tmp_path: Path) -> None:
    metric = Scripted(acc=[1, 2, 3], mIoU=[1, 2, 2])
    make_runner(tmp_path, checkpoint={"interval": 1, "save_best": ["acc", "mIoU"]}, metric=metric).train()
    assert files_in(tmp_path) == [
        "best_acc_epoch_3.pth",
        "best_mIoU_epoch_2.pth",
        "epoch_1.pth",
        "epoch_2.pth",
        "epoch_3.pth",
    ]
    assert (tmp_path / "best_acc_epoch_3.pth").samefile(tmp_path / "epoch_3.pth")
    assert (tmp_path / "best_mIoU_epoch_2.pth").samefile(tmp_path / "epoch_2.pth")
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_3.pth"


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise OSError("this disk has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    make_runner(
        tmp_path,
        checkpoint={"interval": 1, "save_best": "acc"},
        metric=Scripted(acc=[1]),
        train_cfg={"max_epochs": 1},
    ).train()
    assert (tmp_path / "best_acc_epoch_1.pth").read_bytes() == (tmp_path / "epoch_1.pth").read_bytes()


def test_a_run_resumed_from_the_best_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    scores = [1, 3, 2, 4]
    unbroken = make_runner(
        tmp_path / "a",
        checkpoint={"save_best": "acc"},
        metric=Scripted(acc=scores),
        train_cfg={"max_epochs": 4},
    )
    unbroken.train()
    make_runner(
        tmp_path / "b",
        checkpoint={"save_best": "acc", "save_last": False},
        metric=Scripted(acc=scores[:2]),
        train_cfg={"max_epochs": 2},
    ).train()
    resumed = make_runner(
        tmp_path / "b",
        checkpoint={"save_best": "acc"},
        metric=Scripted(acc=scores[2:]),
        train_cfg={"max_epochs": 4},
        load_from=str(tmp_path / "b" / "best_acc_epoch_2.pth"),
        resume=True,
    )
    resumed.train()
    assert files_in(tmp_path / "b") == files_in(tmp_path / "a") == ["best_acc_epoch_4.pth", "epoch_4.pth"]
    torch.testing.assert_close(weights_of(resumed), weights_of(unbroken), rtol=0, atol=0)


def test_a_resumed_run_knows_the_best_score(tmp_path: Path) -> None:
    options = {"interval": 1, "save_best": "acc"}
    make_runner(tmp_path, checkpoint=options, metric=Scripted(acc=[1, 5]), train_cfg={"max_epochs": 2}).train()
    make_runner(
        tmp_path, checkpoint=options, metric=Scripted(acc=[4]), train_cfg={"max_epochs": 3}, resume=True
    ).train()
    assert files_in(tmp_path, "best*") == ["best_acc_epoch_2.pth"]


def test_leftovers_of_a_killed_run_go_at_the_resume(tmp_path: Path) -> None:
    options = {"interval": 1, "save_best": "acc", "max_keep_ckpts": 1}
    make_runner(tmp_path, checkpoint=options, metric=Scripted(acc=[1, 2]), train_cfg={"max_epochs": 2}).train()
    (tmp_path / "best_acc_epoch_1.pth").touch()  # as if killed between writing the new one and removing this
    make_runner(tmp_path, checkpoint=options, metric=Scripted(), train_cfg={"max_epochs": 2}, resume=True).train()
    assert files_in(tmp_path) == ["best_acc_epoch_2.pth", "epoch_2.pth"]


def test_a_run_of_mmengine_is_taken_over(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint={"interval": 1}, metric=Scripted(acc=[5, 4]), train_cfg={"max_epochs": 2}).train()
    checkpoint = load(tmp_path / "epoch_2.pth")
    del checkpoint["trainwright"]
    checkpoint["message_hub"]["runtime_info"] |= {
        "best_score": 5, "best_ckpt": "/home/someone/best_acc_epoch_1.pth", "keep_ckpt_ids": [1, 2]
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "epoch_2.pth")
    (tmp_path / "best_acc_epoch_1.pth").touch()
    options = {"interval": 1, "save_best": "acc", "max_keep_ckpts": 2}
    metric = Scripted(acc=[4.5, 6])
    make_runner(tmp_path, checkpoint=options, metric=metric, train_cfg={"max_epochs": 4}, resume=True).train()
    assert files_in(tmp_path) == ["best_acc_epoch_4.pth", "epoch_3.pth", "epoch_4.pth"]


def test_publishes_the_last_and_the_best(tmp_path: Path) -> None:
    options = {"interval": 1, "save_best": "acc", "published_keys": ["meta", "state_dict"]}
    runner = make_runner(tmp_path, checkpoint=options, metric=Scripted(acc=[2, 1]), train_cfg={"max_epochs": 2})
    runner.train()
    published = sorted(tmp_path.glob("*-*.pth"))
    assert [path.stem.rpartition("-")[0] for path in published] == ["best_acc_epoch_1", "epoch_2"]
    for path in published:
        assert list(load(path)) == ["meta", "state_dict"]
        assert path.stem.rpartition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    torch.testing.assert_close(dict(load(published[1])["state_dict"]), weights_of(runner))


def test_a_published_key_that_is_missing_is_said(tmp_path: Path) -> None:
    options = {"interval": 1, "published_keys": ["state_dict", "ema_state_dict"]}
    runner = make_runner(tmp_path, checkpoint=options, train_cfg={"max_epochs": 1})
    runner.train()
    assert "epoch_1.pth has no ema_state_dict to publish" in log_of(runner)


def test_a_metric_that_is_missing_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        checkpoint={"save_best": "acuracy/top1", "rule": "greater"},
        metric=Scripted(accuracy__top1=[1]),
    )
    with pytest.raises(
        ConfigError, match=r"no 'acuracy/top1'\n.*did you mean 'accuracy/top1'\?\n.*available: accuracy/top1"
    ):
        runner.train()


def test_validation_alone_saves_nothing(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, checkpoint={"save_best": "acc"}, metric=Scripted(acc=[1]))
    assert runner.val() == {"acc": 1}
    assert files_in(tmp_path) == []


def test_the_hook_costs_nothing_at_the_points_it_does_not_need() -> None:
    assert "after_train_iter" not in CheckpointHook(by_epoch=True).get_triggered_stages()
    assert "after_train_epoch" not in CheckpointHook(by_epoch=False).get_triggered_stages()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_best": "acc", "rule": "bigger"}, "'bigger' is no rule"),
        ({"save_best": ["acc", "acc"]}, "named twice"),
        ({"save_best": ["acc", "auto"]}, "'auto' stands alone"),
        ({"save_best": ["acc", "loss", "mAP"], "rule": ["less", "greater"]}, "2 rules for 3 metrics"),
        ({"save_begin": -1}, "must not be less than 0"),
        ({"filename_tmpl": "epoch.pth"}, "must have one {}"),
        ({"backend_args": {"backend": "petrel"}}, "local paths only"),
        ({"file_client_args": {"backend": "petrel"}}, "local paths only"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CheckpointHook(**options)


def test_local_backends_of_old_configs_are_accepted() -> None:
    CheckpointHook(backend_args={"backend": "local"}, file_client_args=None)


class StopAt(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            runner.request_stop("a test")


def test_what_a_stop_leaves_goes_in_its_turn(tmp_path: Path) -> None:
    options = {"interval": 2, "by_epoch": False, "max_keep_ckpts": 1}
    for stop in (3, 5):
        make_runner(
            tmp_path, [StopAt(stop)], checkpoint=options, train_cfg=BY_ITER | {"max_iters": 8}, resume=True
        ).train()
        assert f"iter_{stop}.pth" in files_in(tmp_path)
    make_runner(tmp_path, checkpoint=options, train_cfg=BY_ITER | {"max_iters": 8}, resume=True).train()
    assert files_in(tmp_path) == ["iter_8.pth"]


def test_a_hook_does_not_remove_what_another_one_keeps(tmp_path: Path) -> None:
    """Every epoch is kept for ever, and beside them the newest state."""
    rolling = {"interval": 1, "by_epoch": False, "max_keep_ckpts": 1}
    for epochs in (2, 3):
        keeper = dict(type="CheckpointHook", interval=1, name="keeper")
        make_runner(tmp_path, [keeper], checkpoint=rolling, train_cfg={"max_epochs": epochs}, resume=True).train()
    assert files_in(tmp_path) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "iter_6.pth"]
