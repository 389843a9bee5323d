"""Saves checkpoints: regular ones, the best, the last, and a published one."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.checkpoint import (
    load_checkpoint_file,
    save_checkpoint,
    sync_folder,
    write_last_checkpoint,
)
from trainwright.engine.distributed import is_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.hook import DataBatch, Hook
from trainwright.engine.registry import HOOKS
from trainwright.hooks.monitoring import GREATER_KEYS, LESS_KEYS, Monitor, make_monitors, score_of

if TYPE_CHECKING:
    from trainwright.engine.message_hub import MessageHub
    from trainwright.engine.runner import Runner


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Saves checkpoints every few epochs or iterations, at the end, and when a metric is better than ever.

    Every file is complete: a run can be resumed from it, ``best_*`` included. A file is removed only after
    its successor is safe on the disk. Files of the same moment share their bytes (hard links where the disk
    has them).

    Cost per step: none by epochs, under 1 µs by iterations; a save waits for the device once.

    Args:
        interval: save every so many epochs or iterations; -1 for never.
        by_epoch: count epochs, not iterations.
        save_optimizer: put the optimizer's state into the files.
        save_param_scheduler: put the schedulers' state into the files.
        out_dir: where to; a folder named as ``work_dir`` is made in it. Default: ``work_dir``.
        max_keep_ckpts: how many regular checkpoints to keep, the newest; -1 for all. ``best_*`` are not
            counted.
        save_last: save at the end of the training, whatever the interval. (A run that is told to stop early
            is saved by the Runner in any case.)
        save_best: metrics whose best checkpoint is kept: one, several, or ``"auto"`` for the first of the
            results.
        rule: ``"greater"`` or ``"less"`` for all of them, or one for each; inferred from the names by
            default.
        greater_keys: parts of names of metrics whose greater scores are better.
        less_keys: parts of names of metrics whose lower scores are better.
        file_client_args: accepted for old configs; only the local disk is supported.
        filename_tmpl: name of the regular files with one ``{}`` for the number of epochs or iterations done.
            Default: ``epoch_{}.pth`` or ``iter_{}.pth``.
        backend_args: as ``file_client_args``.
        published_keys: after the training, write ``{name}-{first 8 digits of its SHA-256}.pth`` beside the
            last and the best files, with only these keys of them; ``["meta", "state_dict"]`` for the weights
            alone.
        save_begin: number of epochs or iterations after which the interval begins to count.

    Raises:
        ConfigError: settings that are impossible, or a rule that cannot be inferred.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | os.PathLike[str] | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: str | Sequence[str | None] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        file_client_args: dict[str, Any] | None = None,
        filename_tmpl: str | None = None,
        backend_args: dict[str, Any] | None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
    ) -> None:
        _refuse_remote("file_client_args", file_client_args)
        _refuse_remote("backend_args", backend_args)
        if save_begin < 0:
            raise ConfigError("CheckpointHook.save_begin", f"must not be less than 0, but is {save_begin}")
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self.out_dir = out_dir
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.filename_tmpl = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        if self.filename_tmpl.count("{}") != 1:
            raise ConfigError("CheckpointHook.filename_tmpl", f"{filename_tmpl!r} must have one {{}}")
        self.published_keys = _as_list(published_keys)
        self.save_begin = save_begin
        self.save_best = _as_list(save_best)
        self._rule = rule
        self._greater_keys = _as_list(greater_keys) or list(GREATER_KEYS)
        self._less_keys = _as_list(less_keys) or list(LESS_KEYS)
        self._monitors: list[Monitor] | None = None
        if "auto" not in self.save_best:
            self._monitors = self._make_monitors(self.save_best)
        elif len(self.save_best) > 1:
            raise ConfigError("CheckpointHook.save_best", "'auto' stands alone", "name all metrics, or only 'auto'")
        self._folder: Path | None = None
        self._improved: dict[str, float] = {}
        self._saved_at: tuple[int, int] | None = None
        self.best_scores: dict[str, float] = {}
        self.best_ckpts: dict[str, str] = {}
        self.keep_ckpts: list[str] = []
        self.last_ckpt: str | None = None
        self._obsolete: list[str] = []

    def get_triggered_stages(self) -> list[str]:
        """Returns the points it acts at; by epochs, iterations are none of them."""
        stages = super().get_triggered_stages()
        return [stage for stage in stages if stage != ("after_train_iter" if self.by_epoch else "after_train_epoch")]

    def state_dict(self) -> dict[str, Any]:
        """Returns the best scores, and the names of the files within their folder, which may move."""
        return {
            "best_scores": dict(self.best_scores),
            "best_ckpts": dict(self.best_ckpts),
            "keep_ckpts": list(self.keep_ckpts),
            "last_ckpt": self.last_ckpt,
            "obsolete": list(self._obsolete),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        self.best_scores = dict(state["best_scores"])
        self.best_ckpts = dict(state["best_ckpts"])
        self.keep_ckpts = list(state["keep_ckpts"])
        self.last_ckpt = state["last_ckpt"]
        self._obsolete = list(state["obsolete"])

    def before_train(self, runner: "Runner") -> None:
        """Finds the folder, and removes files that a run cut short meant to remove."""
        folder = Path(runner.work_dir)
        if self.out_dir is not None and Path(self.out_dir) != folder:
            folder = Path(self.out_dir) / folder.absolute().name
        self._folder = folder
        runner.logger.info(f"Checkpoints will be saved to {folder}.")
        if not (self.best_scores or self.keep_ckpts):
            self._adopt(runner.message_hub)
        self._drop_surplus()
        self._remove_obsolete()

    def after_train_epoch(self, runner: "Runner") -> None:
        """Saves, if this epoch is due."""
        last = self.save_last and self.is_last_train_epoch(runner)
        if last or self.every_n_epochs(runner, self.interval, self.save_begin):
            runner.logger.info(f"Saving checkpoint at {runner.epoch + 1} epochs")
            self._save_regular(runner)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Saves, if this iteration is due."""
        if self.is_due_after_iter(runner):
            runner.logger.info(f"Saving checkpoint at {runner.iter + 1} iterations")
            self._save_regular(runner)

    def is_due_after_iter(self, runner: "Runner") -> bool:
        """Whether a checkpoint is saved right after the iteration in progress."""
        if self.by_epoch:
            return False
        last = self.save_last and self.is_last_train_iter(runner)
        return last or self.every_n_train_iters(runner, self.interval, self.save_begin)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Compares the results with the best ones."""
        if not self.save_best or self._folder is None:
            return
        if not metrics:
            runner.logger.warning("The validation has no results, so no best checkpoint is saved.")
            return
        if self._monitors is None:
            self._monitors = self._make_monitors([next(iter(metrics))])
        for monitor in self._monitors:
            score = score_of(metrics, monitor.metric, owner="CheckpointHook.save_best")
            best = self.best_scores.get(monitor.metric, monitor.worst)
            if score is not None and monitor.is_better(score, best):
                self._improved[monitor.metric] = score

    def after_val(self, runner: "Runner") -> None:
        """Saves the best checkpoints; only now is the validation itself noted as done."""
        if self._improved:
            self._save_best(runner, self._improved)
            self._improved = {}

    def after_train(self, runner: "Runner") -> None:
        """Publishes the last and the best checkpoints."""
        if self.published_keys and is_main_process():
            last = [self.last_ckpt] if self.save_last and self.last_ckpt else []
            for name in dict.fromkeys([*last, *self.best_ckpts.values()]):
                self._publish(runner, name)
        self._folder = None

    def _save_regular(self, runner: "Runner") -> None:
        name = self._regular_name(runner)
        if name in self.keep_ckpts:
            self.keep_ckpts.remove(name)
        self.keep_ckpts.append(name)
        self._drop_surplus()
        self.last_ckpt = name
        runner.message_hub.update_info("last_ckpt", str(self._path(name)))
        self._write(runner, [name])

    def _save_best(self, runner: "Runner", scores: dict[str, float]) -> None:
        regular = self._regular_name(runner)
        names = []
        for metric, score in scores.items():
            name = f"best_{metric}_{regular}".replace("/", "_")
            old = self.best_ckpts.get(metric)
            if old is not None and old != name:
                self._obsolete.append(old)
            self.best_scores[metric] = score
            self.best_ckpts[metric] = name
            names.append(name)
        self._tell_hub(runner.message_hub)
        if self._saved_at == _progress(runner) and self.last_ckpt is not None:
            names.append(self.last_ckpt)  # of the same moment, but it does not know the new best yet
        self._write(runner, names)
        epochs, iterations = _progress(runner)
        done = f"{epochs} epochs" if self.by_epoch else f"{iterations} iterations"
        for metric, score in scores.items():
            name = self.best_ckpts[metric]
            runner.logger.info(f"The best checkpoint with {score:0.4f} {metric} at {done} is saved to {name}.")

    def _write(self, runner: "Runner", names: list[str]) -> None:
        """Writes one checkpoint under several names, notes it as the newest, and removes what it replaces."""
        assert self._folder is not None
        runner.save_checkpoint(
            str(self._folder),
            names[0],
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            by_epoch=self.by_epoch,
        )
        if is_main_process():
            for name in names[1:]:
                _link(self._path(names[0]), self._path(name))
            write_last_checkpoint(runner.work_dir, self._path(names[-1]).absolute())
        self._saved_at = _progress(runner)
        self._remove_obsolete()

    def _publish(self, runner: "Runner", name: str) -> None:
        """Writes a copy with only the published keys, its name ending in the digest of its bytes."""
        checkpoint = load_checkpoint_file(self._path(name))
        if absent := [key for key in self.published_keys if key not in checkpoint]:
            runner.logger.warning(f"{name} has no {', '.join(absent)} to publish, only {', '.join(checkpoint)}.")
        published = {key: value for key, value in checkpoint.items() if key in self.published_keys}
        temporary = save_checkpoint(published, self._path(f".{name}.publish"))
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path(f"{Path(name).stem}-{digest[:8]}.pth")
        temporary.replace(target)
        sync_folder(target.parent)
        runner.logger.info(f"The checkpoint {name} is published to {target}.")

    def _make_monitors(self, metrics: list[str]) -> list[Monitor]:
        return make_monitors(metrics, self._rule, self._greater_keys, self._less_keys, owner="CheckpointHook")

    def _regular_name(self, runner: "Runner") -> str:
        epochs, iterations = _progress(runner)
        return self.filename_tmpl.format(epochs if self.by_epoch else iterations)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    def _drop_surplus(self) -> None:
        if self.max_keep_ckpts > 0:
            self._obsolete += self.keep_ckpts[: -self.max_keep_ckpts]
            del self.keep_ckpts[: -self.max_keep_ckpts]

    def _remove_obsolete(self) -> None:
        in_use = {*self.keep_ckpts, *self.best_ckpts.values(), self.last_ckpt}
        for name in self._obsolete if is_main_process() else ():
            if name not in in_use:
                self._path(name).unlink(missing_ok=True)
        self._obsolete = []

    def _adopt(self, hub: "MessageHub") -> None:
        """Takes over what MMEngine noted in a checkpoint that is resumed."""
        for metric in self.save_best:
            suffix = "" if len(self.save_best) == 1 else f"_{metric}"
            score, path = hub.get_info(f"best_score{suffix}"), hub.get_info(f"best_ckpt{suffix}")
            if metric != "auto" and score is not None and path is not None:
                self.best_scores[metric] = float(score)
                self.best_ckpts[metric] = Path(path).name
        if self.max_keep_ckpts > 0:
            self.keep_ckpts = [self.filename_tmpl.format(step) for step in hub.get_info("keep_ckpt_ids", [])]

    def _tell_hub(self, hub: "MessageHub") -> None:
        """Leaves the best scores and paths where scripts written for MMEngine look for them."""
        for metric, name in self.best_ckpts.items():
            suffix = "" if len(self.save_best) == 1 else f"_{metric}"
            hub.update_info(f"best_score{suffix}", self.best_scores[metric])
            hub.update_info(f"best_ckpt{suffix}", str(self._path(name)))


def _progress(runner: "Runner") -> tuple[int, int]:
    """Returns how many epochs and iterations are finished, those included that are not counted yet."""
    state = runner.state.state_dict()
    return state["epoch"], state["iter"]


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, in one step; a copy where the disk has no hard links."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _refuse_remote(argument: str, value: dict[str, Any] | None) -> None:
    if value and value.get("backend", "local") not in ("local", "disk"):
        raise ConfigError(
            f"CheckpointHook.{argument}",
            f"checkpoints are written to local paths only, not with {value}",
            "mount the storage and name the folder in `out_dir`",
        )
