"""Files that CheckpointHook writes, keeps, links and publishes in real runs."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, Scripted, StopAt, files_in, log_of, make_runner, weights_of

from trainwright.engine.checkpoints.files import find_latest_checkpoint, save_checkpoint
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.runner import Runner
from trainwright.hooks import CheckpointHook, EarlyStoppingHook

BY_ITER = {"by_epoch": False, "max_iters": 6, "val_interval": 2}


def named(name: str, **options: Any) -> CheckpointHook:
    """Return a hook in addition to the default one."""
    hook = CheckpointHook(**options)
    hook.name = name
    return hook


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


def test_a_runner_that_saves_in_its_own_way(tmp_path: Path) -> None:
    class Own(Runner):
        def save_checkpoint(self, out_dir: Any, filename: str, **kwargs: Any) -> Path:
            assert kwargs["save_optimizer"] and kwargs["by_epoch"]
            path = Path(out_dir, filename)
            save_checkpoint({"own": self.epoch}, path)
            return path

    runner = make_runner(
        tmp_path, checkpoint={"interval": 1, "save_best": "acc", "max_keep_ckpts": 1}, metric=Scripted(acc=[2, 1, 0])
    )
    runner.__class__ = Own
    runner.train()
    assert files_in(tmp_path) == ["best_acc_epoch_1.pth", "epoch_3.pth"]
    assert load(tmp_path / "epoch_3.pth") == {"own": 2}
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_3.pth"


def test_a_hook_with_methods_of_mmengine(tmp_path: Path) -> None:
    class Own(CheckpointHook):
        def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Any) -> None:
            seen.append((step, meta))
            if step != 2:
                super()._save_checkpoint_with_step(runner, step, meta)

        def _save_best_checkpoint(self, runner: Runner, metrics: Any) -> None:
            super()._save_best_checkpoint(runner, {"acc": -metrics["acc"]})

        def after_run(self, runner: Runner) -> None:
            super().after_run(runner)
            seen.append((self.key_indicators, self.best_ckpt_path, self.best_ckpt_path_dict))

    seen: list[Any] = []
    checkpoint = {"type": Own, "interval": 1, "save_best": "acc", "save_last": False}
    make_runner(tmp_path, checkpoint=checkpoint, metric=Scripted(acc=[2, 1, 3])).train()
    assert files_in(tmp_path) == ["best_acc_epoch_2.pth", "epoch_1.pth", "epoch_3.pth"]
    best = str(tmp_path / "best_acc_epoch_2.pth")
    assert seen.pop() == (["acc"], best, {"acc": best})
    assert seen == [(epoch, {"epoch": epoch, "iter": 2 * epoch}) for epoch in (1, 2, 3)]


def test_a_hook_that_saves_as_that_of_mmengine_does(tmp_path: Path) -> None:
    class Own(CheckpointHook):
        def after_train_epoch(self, runner: Runner) -> None:
            path = self.file_backend.join_path(self.out_dir, "only.pth")
            seen.append((path, self.file_backend.isfile(path)))
            if seen[-1][1]:
                self.file_client.remove(path)
            runner.save_checkpoint(
                self.out_dir, "only.pth", self.file_client_args, save_optimizer=self.save_optimizer, by_epoch=True,
                backend_args=self.backend_args, **self.args,
            )  # fmt: skip

    seen: list[tuple[str, bool]] = []
    make_runner(tmp_path, checkpoint={"type": Own, "save_last": False}, train_cfg={"max_epochs": 2}).train()
    assert seen == [(str(tmp_path / "only.pth"), False), (str(tmp_path / "only.pth"), True)]
    assert files_in(tmp_path) == ["only.pth"]


def test_out_dir_gets_a_folder_for_each_run(tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    make_runner(tmp_path / "run", checkpoint={"interval": 1, "out_dir": str(out)}, train_cfg={"max_epochs": 1}).train()
    assert files_in(out / "run") == ["epoch_1.pth"]
    assert (tmp_path / "run" / "last_checkpoint").read_text() == str(out / "run" / "epoch_1.pth")


def test_the_folder_is_known_from_the_start_of_training_on(tmp_path: Path) -> None:
    for given, folder in ((None, tmp_path / "run"), (tmp_path / "out", tmp_path / "out" / "run")):
        hook = CheckpointHook(out_dir=given, save_last=False)
        for _ in range(2):
            make_runner(tmp_path / "run", hooks=[hook], train_cfg={"max_epochs": 1}).train()
            assert hook.out_dir == str(folder)
        hook.out_dir = given
        assert hook.out_dir == given


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
        metric=Scripted(acc=[2, 1]),
        train_cfg={"max_epochs": 1},
    ).train()
    assert (tmp_path / "best_acc_epoch_1.pth").read_bytes() == (tmp_path / "epoch_1.pth").read_bytes()


def test_a_run_resumed_from_the_best_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
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


def test_best_and_kept_checkpoints_of_an_mmengine_run_are_loaded(tmp_path: Path) -> None:
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


def test_a_missing_published_key_is_reported(tmp_path: Path) -> None:
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
        ({"save_best": "acc", "rule": "bigger"}, "'bigger'"),
        ({"save_best": ["acc", "acc"]}, "CheckpointHook: .*acc"),
        ({"save_best": ["acc", "auto"]}, "'auto'"),
        ({"save_best": ["acc", "loss", "mAP"], "rule": ["less", "greater"]}, "2 .*3"),
        ({"save_begin": -1}, "save_begin"),
        ({"filename_tmpl": "epoch.pth"}, "filename_tmpl: .*exactly one"),
        ({"backend_args": {"backend": "petrel"}}, "backend_args: .*petrel"),
        ({"file_client_args": {"backend": "petrel"}}, "file_client_args: .*petrel"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CheckpointHook(**options)


def test_local_backends_of_old_configs_are_accepted() -> None:
    CheckpointHook(backend_args={"backend": "local"}, file_client_args=None)


def test_the_checkpoint_of_a_stop_is_eventually_rotated_out(tmp_path: Path) -> None:
    options = {"interval": 2, "by_epoch": False, "max_keep_ckpts": 1}
    for stop in (3, 5):
        make_runner(
            tmp_path, [StopAt(stop)], checkpoint=options, train_cfg=BY_ITER | {"max_iters": 8}, resume=True
        ).train()
        assert f"iter_{stop}.pth" in files_in(tmp_path)
    make_runner(tmp_path, checkpoint=options, train_cfg=BY_ITER | {"max_iters": 8}, resume=True).train()
    assert files_in(tmp_path) == ["iter_8.pth"]


def test_a_hook_does_not_remove_what_another_one_keeps(tmp_path: Path) -> None:
    """One hook keeps every epoch, the other only the newest state."""
    rolling = {"interval": 1, "by_epoch": False, "max_keep_ckpts": 1}
    for epochs in (2, 3):
        keeper = dict(type="CheckpointHook", interval=1, name="keeper")
        make_runner(tmp_path, [keeper], checkpoint=rolling, train_cfg={"max_epochs": epochs}, resume=True).train()
    assert files_in(tmp_path) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "iter_6.pth"]


def train(work_dir: Path, checkpoint: Any, epochs: int = 3, hooks: Any = (), **options: Any) -> Runner:
    """Train, resuming if there is a checkpoint, and return the runner."""
    runner = make_runner(
        work_dir, hooks, checkpoint=checkpoint, train_cfg={"max_epochs": epochs}, resume=True, **options
    )
    runner.train()
    return runner


@pytest.mark.parametrize("tmpl", ["epoch_{}.pth", "net-{}.pth"])
def test_with_out_dir_checkpoints_of_stops_are_rotated_out_too(tmp_path: Path, tmpl: str) -> None:
    saver = {"interval": 1, "max_keep_ckpts": 1, "out_dir": str(tmp_path / "out"), "filename_tmpl": tmpl}
    work_dir = tmp_path / "run"
    for stop, file in ((1, "iter_1.pth"), (3, "iter_3.pth"), (4, tmpl.format(2)), (5, "iter_5.pth")):
        runner = train(work_dir, saver, hooks=[StopAt(stop)])
        assert runner.iter == stop
        assert files_in(tmp_path / "out" / "run") == [file]
        assert (work_dir / "last_checkpoint").read_text() == str(tmp_path / "out" / "run" / file)
    train(work_dir, saver)
    assert files_in(tmp_path / "out" / "run") == [tmpl.format(3)]
    assert files_in(work_dir) == []


class Failing(Points):
    """A dataset that cannot be read in the third iteration."""

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_the_checkpoint_of_an_error_is_saved_to_the_folder_of_the_hook(tmp_path: Path) -> None:
    loader = {"sampler": {"type": "DefaultSampler", "shuffle": False}}
    saver = {"interval": 1, "out_dir": str(tmp_path / "out"), "async_save": True}
    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path / "run", saver, dataset=Failing(8), batch_size=2, train_dataloader=loader)
    assert files_in(tmp_path / "out" / "run") == ["iter_2.pth"]
    assert "stopped" in load(tmp_path / "out" / "run" / "iter_2.pth")["meta"]


@pytest.mark.parametrize("on_save_error", ["warn", "raise"])
def test_a_stop_is_saved_in_the_work_dir_where_the_hook_cannot(tmp_path: Path, on_save_error: str) -> None:
    (tmp_path / "out").write_text("not a folder")
    runner = train(
        tmp_path / "run", {"out_dir": str(tmp_path / "out"), "on_save_error": on_save_error}, hooks=[StopAt(3)]
    )
    assert "the checkpoint of iteration 3 was NOT saved" in log_of(runner)
    assert files_in(tmp_path / "run") == ["iter_3.pth"]
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "iter_3.pth"


def test_a_stop_has_all_state_where_regular_files_have_not(tmp_path: Path) -> None:
    train(tmp_path, {"interval": 1, "save_optimizer": False}, hooks=[StopAt(3)])
    assert "optimizer" in load(tmp_path / "iter_3.pth")
    train(tmp_path, {"interval": 1, "save_optimizer": False})


def test_a_file_without_all_state_is_not_recorded_as_the_newest_if_there_are_complete_ones(tmp_path: Path) -> None:
    weights = named("weights", interval=1, save_optimizer=False, filename_tmpl="weights-{}.pth", save_last=False)
    train(tmp_path, {"interval": 2, "save_last": False}, hooks=[weights])
    assert files_in(tmp_path) == ["epoch_2.pth", "weights-1.pth", "weights-2.pth", "weights-3.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth"


def test_a_slow_background_save_does_not_overwrite_the_record_of_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(checkpoint: Any, path: Path) -> Path:
        if path.name.startswith("slow"):
            time.sleep(0.2)
        return save_checkpoint(checkpoint, path)

    monkeypatch.setattr("trainwright.engine.checkpoints.writer.save_checkpoint", slow)
    options: dict[str, Any] = {"by_epoch": False, "save_last": False}
    slow_saver = named("slow", interval=4, filename_tmpl="slow_{}.pth", async_save=True, **options)
    train(tmp_path, {"interval": 1, "filename_tmpl": "fast_{}.pth", **options}, hooks=[slow_saver])
    assert "slow_4.pth" in files_in(tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "fast_6.pth"


def test_two_hooks_with_the_same_names_keep_each_others_files(tmp_path: Path) -> None:
    """One hook keeps every second epoch, the other only the newest."""
    for epochs in (3, 5):
        keeper = named("keeper", interval=2, save_last=False)
        train(tmp_path, {"interval": 1, "max_keep_ckpts": 1}, epochs, hooks=[keeper])
    assert files_in(tmp_path) == ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth"]


PUBLISH: dict[str, Any] = {"interval": 1, "max_keep_ckpts": 1, "published_keys": ["meta", "state_dict"]}


def published(folder: Path) -> list[str]:
    return [path.stem.rpartition("-")[0] for path in sorted(folder.glob("*-*.pth"))]


def test_a_stop_publishes_nothing(tmp_path: Path) -> None:
    for stop in (2, 3, 5):
        train(tmp_path, PUBLISH, hooks=[StopAt(stop)])
        assert published(tmp_path) == []
    train(tmp_path, PUBLISH)
    train(tmp_path, PUBLISH)
    assert published(tmp_path) == ["epoch_3"]
    assert len(files_in(tmp_path)) == 2


@pytest.mark.parametrize("more", [{}, {"async_save": True}, {"save_best": "acc"}])
def test_an_early_stop_publishes_the_weights_of_the_end(tmp_path: Path, more: dict[str, Any]) -> None:
    for scores in ([3, 2, 1], []):
        early = EarlyStoppingHook("acc", patience=2)
        runner = train(tmp_path, PUBLISH | {"interval": 2} | more, 6, hooks=[early], metric=Scripted(acc=scores))
        assert runner.epoch == 3
        assert published(tmp_path) == [*(["best_acc_epoch_1"] if "save_best" in more else []), "epoch_3"]
    (file,) = tmp_path.glob("epoch_3-*.pth")
    torch.testing.assert_close(dict(load(file)["state_dict"]), weights_of(runner))


def test_the_best_comes_along_into_another_work_dir(tmp_path: Path) -> None:
    saver = PUBLISH | {"save_best": "acc", "max_keep_ckpts": 2}
    train(tmp_path / "a", saver, hooks=[StopAt(4)], metric=Scripted(acc=[3, 2]))
    runner = make_runner(
        tmp_path / "b",
        checkpoint=saver,
        metric=Scripted(acc=[2, 1]),
        resume=str(tmp_path / "a" / "epoch_2.pth"),
    )
    runner.train()
    best = tmp_path / "b" / "best_acc_epoch_1.pth"
    assert runner.message_hub.get_info("best_ckpt") == str(best)
    assert load(best)["meta"]["epoch"] == 1
    assert published(tmp_path / "b") == ["best_acc_epoch_1", "epoch_3"]


def test_a_best_file_that_is_gone_is_not_named(tmp_path: Path) -> None:
    saver = PUBLISH | {"save_best": "acc"}
    train(tmp_path, saver, hooks=[StopAt(4)], metric=Scripted(acc=[3, 2]))
    (tmp_path / "best_acc_epoch_1.pth").unlink()
    runner = train(tmp_path, saver, metric=Scripted(acc=[2, 1]))
    assert runner.message_hub.get_info("best_score") == 3
    assert runner.message_hub.get_info("best_ckpt") is None
    assert published(tmp_path) == ["epoch_3"]


def best_in(runner: Runner) -> dict[str, Any]:
    return {
        key: Path(value).name if isinstance(value, str) else value
        for key, value in runner.message_hub.runtime_info.items()
        if key.startswith("best")
    }


def test_a_metric_that_is_dropped_leaves_the_hub(tmp_path: Path) -> None:
    scores: dict[str, Any] = {"acc": [2, 1], "loss": [2, 1]}
    train(tmp_path, {"interval": 1, "save_best": ["acc", "loss"]}, 2, metric=Scripted(**scores))
    runner = train(tmp_path, {"interval": 1, "save_best": "acc"}, 3, metric=Scripted(acc=[2, 1]))
    assert best_in(runner) == {"best_score": 2, "best_ckpt": "best_acc_epoch_1.pth"}
    assert files_in(tmp_path, "best*") == ["best_acc_epoch_1.pth", "best_loss_epoch_2.pth"]
    runner = train(tmp_path, {"interval": 1}, 4, metric=Scripted(acc=[1, 1]))
    assert best_in(runner) == {}


@pytest.mark.parametrize("save_best", [["acc", "loss"], "auto"])
def test_auto_and_names_may_follow_each_other(tmp_path: Path, save_best: Any) -> None:
    first, second = (save_best, "auto") if save_best != "auto" else ("auto", ["acc", "loss"])
    train(tmp_path, {"interval": 1, "save_best": first}, 1, metric=Scripted(acc=[2], loss=[2]))
    runner = train(tmp_path, {"interval": 1, "save_best": second}, 2, metric=Scripted(acc=[1], loss=[1]))
    best = best_in(runner)
    assert best.get("best_score", best.get("best_score_acc")) == 2
    assert ("best_score_loss" in best) == (second != "auto")


def test_a_best_by_another_rule_is_not_compared(tmp_path: Path) -> None:
    saver = {"interval": 1, "save_best": "acc"}
    train(tmp_path, saver | {"rule": "less"}, 2, metric=Scripted(acc=[1, 2]))
    runner = train(tmp_path, saver, 3, metric=Scripted(acc=[-1, 0]))
    assert best_in(runner) == {"best_score": 0, "best_ckpt": "best_acc_epoch_3.pth"}
    assert "Keeping best_acc_epoch_1.pth" in log_of(runner)


def test_two_hooks_with_a_best_each_have_keys_of_their_own(tmp_path: Path) -> None:
    second = named("second", save_best="loss", save_last=False)
    runner = train(tmp_path, {"save_best": "acc"}, 2, hooks=[second], metric=Scripted(acc=[2, 1], loss=[2, 1]))
    expected = {
        "best_score_acc": 2, "best_ckpt_acc": "best_acc_epoch_1.pth",
        "best_score_loss": 1, "best_ckpt_loss": "best_loss_epoch_2.pth",
    }  # fmt: skip
    assert best_in(runner) == expected


def test_a_hook_that_is_added_does_not_take_the_best_of_another_metric(tmp_path: Path) -> None:
    train(tmp_path, {"interval": 1, "save_best": "acc"}, 1, metric=Scripted(acc=[-5], loss=[3]))
    second = named("second", save_best="loss", save_last=False)
    saver = {"interval": 1, "save_best": "acc"}
    train(tmp_path, saver, 2, hooks=[second], metric=Scripted(acc=[-6], loss=[2]))
    assert second.folder.best_scores == {"loss": 2}


def test_a_save_that_fails_leaves_the_file_of_another_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_the_third(checkpoint: Any, path: Path) -> Path:
        saves.append(path.name)
        if len(saves) == 3:
            raise OSError("the disk is full")
        return save_checkpoint(checkpoint, path)

    saves: list[str] = []
    monkeypatch.setattr("trainwright.engine.checkpoints.writer.save_checkpoint", fail_at_the_third)
    train(tmp_path, {"interval": 1}, 2, hooks=[named("a", interval=2, save_last=False), named("b", interval=2)])
    assert files_in(tmp_path) == ["epoch_1.pth", "epoch_2.pth"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {"by_epoch": False}, ["epoch_2.pth", "iter_8.pth"]),
        ({"filename_tmpl": "a-{}.pth"}, {"filename_tmpl": "b-{}.pth"}, ["b-3.pth", "b-4.pth"]),
        ({}, {"async_save": True}, ["epoch_3.pth", "epoch_4.pth"]),
        ({"max_keep_ckpts": -1}, {}, ["epoch_3.pth", "epoch_4.pth"]),
        ({}, {"max_keep_ckpts": -1}, ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "epoch_4.pth"]),
        ({}, {"interval": -1}, ["epoch_2.pth", "epoch_4.pth"]),
        ({}, {"interval": -1, "save_last": False}, ["epoch_1.pth", "epoch_2.pth"]),
    ],
    ids=str,
)
def test_settings_that_change_on_a_resume_take_effect(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], expected: list[str]
) -> None:
    options: dict[str, Any] = {"interval": 1, "max_keep_ckpts": 2}
    train(tmp_path, options | first, 2)
    if second.get("by_epoch") is False:
        second = second | {"interval": 8}
    runner = train(tmp_path, options | second, 4)
    assert runner.epoch == 4
    assert files_in(tmp_path) == expected
    found, _ = find_latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == expected[-1]
