"""Saves checkpoints: regular ones, the best, the last, and a published one."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainwright.engine.checkpoints.disk_space import bytes_of, check_space, human_bytes
from trainwright.engine.checkpoints.files import (
    load_checkpoint_file,
    save_checkpoint,
    sync_folder,
    temporary_path,
)
from trainwright.engine.checkpoints.writer import HostCopier, Writer, collect, expected_bytes, remove_leftovers
from trainwright.engine.distributed import broadcast_object_list, is_main_process
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.evaluation.monitor import Monitor, check_rules, make_monitors, metrics_of, score_of
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.stop import save_if_stopped, stopped_at_epoch

if TYPE_CHECKING:
    from trainwright.engine.records.message_hub import MessageHub
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Saves checkpoints every few epochs or iterations, at the end, and when a metric is better than ever.

    Every file is complete: a run can be resumed from it, ``best_*`` included. A file is removed only after
    its successor is safe on the disk. Files of the same moment share their bytes (hard links where the disk
    has them).

    A disk that is full or fails does not end the run: a warning says what was not written, the last good
    files stay, and saving is tried again at the next interval.

    Cost per step: none by epochs, under 1 µs by iterations; a save waits for the device once.

    Args:
        interval: save every so many epochs or iterations; -1 for never.
        by_epoch: count epochs, not iterations.
        save_optimizer: put the optimizer's state into the files.
        save_param_scheduler: put the schedulers' state into the files.
        out_dir: where to; a folder named as ``work_dir`` is made in it. Default: ``work_dir``.
        max_keep_ckpts: how many regular checkpoints to keep, the newest; -1 for all. ``best_*`` are not
            counted.
        save_last: save at the end of the training, whatever the interval, also at an early stop. (A run that
            is interrupted is saved in any case: by the first of these hooks, as a regular checkpoint with all
            state.)
        save_best: metrics whose best checkpoint is kept: one, several, or ``"auto"`` for the first of the
            results.
        rule: ``"greater"`` or ``"less"`` for all of them, or one for each; by default, what the metric says of
            itself (``higher_is_better``), else the words in its name.
        greater_keys: parts of names of metrics whose greater scores are better, whatever the metric says.
        less_keys: parts of names of metrics whose lower scores are better, likewise.
        file_client_args: accepted for old configs; only the local disk is supported.
        filename_tmpl: name of the regular files with one ``{}`` for the number of epochs or iterations done.
            Default: ``epoch_{}.pth`` or ``iter_{}.pth``.
        backend_args: as ``file_client_args``.
        published_keys: at the end of the training, not where it is interrupted, write
            ``{name}-{first 8 digits of its SHA-256}.pth`` beside the last and the best files, with only these
            keys of them; ``["meta", "state_dict"]`` for the weights alone.
        save_begin: number of epochs or iterations after which the interval begins to count.
        async_save: write in the background: the training waits only while the state is copied to host memory
            (which holds it once more from then on), and for the save before.
        on_save_error: ``"warn"``, or ``"raise"`` to end the run when a checkpoint cannot be written.

    Raises:
        ConfigError: settings that are impossible; before the first step, a rule that cannot be inferred.
    """

    priority = "VERY_LOW"
    monitor_argument = "save_best"  # of which `check` finds out which scores are better

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
        async_save: bool = False,
        on_save_error: Literal["warn", "raise"] = "warn",
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
        if not _is_plain_name(self.filename_tmpl):
            hint = "name the folder in `out_dir`"
            raise ConfigError("CheckpointHook.filename_tmpl", f"{filename_tmpl!r} leads to another folder", hint)
        if on_save_error not in ("warn", "raise"):
            raise ConfigError("CheckpointHook.on_save_error", f"must be 'warn' or 'raise', not {on_save_error!r}")
        self.async_save = async_save
        self.on_save_error = on_save_error
        self.published_keys = _as_list(published_keys)
        self.save_begin = save_begin
        self.save_best = _as_list(save_best)
        self._rule = rule
        self._greater_keys = _as_list(greater_keys)
        self._less_keys = _as_list(less_keys)
        self._monitors: list[Monitor] | None = None
        check_rules(self.save_best, rule, owner="CheckpointHook")
        if "auto" in self.save_best and len(self.save_best) > 1:
            raise ConfigError("CheckpointHook.save_best", "'auto' stands alone", "name all metrics, or only 'auto'")
        self._folder: Path | None = None
        self._improved: dict[str, float] = {}
        self.best_scores: dict[str, float] = {}
        self.best_ckpts: dict[str, str] = {}
        self.keep_ckpts: list[str] = []
        self.last_ckpt: str | None = None
        self._last_at: int | None = None
        self._obsolete: list[str] = []
        self._rules: dict[str, str] = {}
        self._writer = Writer(async_save)
        self._copier = HostCopier() if async_save else None
        self._before: dict[str, Any] = {}
        self._counters: dict[str, int] = {}
        self._resumable = True
        self._failed = False
        self._unremoved: dict[Path, OSError] = {}

    def get_triggered_stages(self) -> list[str]:
        """Returns the points it acts at; by epochs, iterations are none of them."""
        stages = super().get_triggered_stages()
        return [stage for stage in stages if stage != ("after_train_iter" if self.by_epoch else "after_train_epoch")]

    def state_dict(self) -> dict[str, Any]:
        """Returns the best scores, and the names of the files within their folder, which may move."""
        return {
            "best_scores": dict(self.best_scores),
            "rules": self._known_rules(),
            "best_ckpts": dict(self.best_ckpts),
            "keep_ckpts": list(self.keep_ckpts),
            "last_ckpt": self.last_ckpt,
            "last_at": self._last_at,
            "obsolete": list(self._obsolete),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned. Names that lead out of the folder are left out."""
        self.best_ckpts = {metric: name for metric, name in state["best_ckpts"].items() if _is_plain_name(name)}
        self.best_scores = dict(state["best_scores"])
        self._rules = dict(state.get("rules", {}))
        self.keep_ckpts = [name for name in state["keep_ckpts"] if _is_plain_name(name)]
        last = state["last_ckpt"]
        self.last_ckpt = last if last is not None and _is_plain_name(last) else None
        self._last_at = state.get("last_at")
        self._obsolete = [name for name in state["obsolete"] if _is_plain_name(name)]

    def before_train(self, runner: "Runner") -> None:
        """Find the folder and what a resumed run has in it, and remove files that a run cut short meant to remove."""
        if "auto" not in self.save_best:
            self._monitors = self._make_monitors(runner, self.save_best)
        self._folder = folder = self._folder_of(runner)
        runner.logger.info(f"Checkpoints will be saved to {folder}.")
        if not (self.best_scores or self.keep_ckpts):
            self._adopt(runner.message_hub)
        self._forget_unwatched(runner)
        self._forget_missing(runner)
        self._tell_hub(runner)  # the folder may have moved, and metrics may have been dropped
        self._drop_surplus()
        if is_main_process():
            for name in remove_leftovers(folder):
                runner.logger.info(f"Removed {name}, which a run that was killed had not finished to write.")
            self._check_space(runner)
        self._remove_obsolete(runner)

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
            self._monitors = self._make_monitors(runner, [next(iter(metrics))])
            self._forget_unwatched(runner)
            self._tell_hub(runner)
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
        """Wait for the last save, and publish the last and the best checkpoints of a complete training."""
        if runner.state.complete:
            save_if_stopped(runner)
            if self.save_last and self._last_at != _progress(runner)[1]:
                self._save_regular(runner, name=self._name_of_stop(runner))
        self._settle(runner)
        if self._failed:
            newest = f"the newest checkpoint is {self.last_ckpt}" if self.last_ckpt else "there is no checkpoint"
            runner.logger.error("The end of the training is NOT saved: %s.", newest)
        if self.published_keys and not runner.state.interrupted and is_main_process():
            at_end = self.save_last and self._last_at == _progress(runner)[1]
            last = [self.last_ckpt] if at_end and self.last_ckpt else []
            for name in dict.fromkeys([*last, *self.best_ckpts.values()]):
                try:
                    self._publish(runner, name)
                except OSError as error:
                    self._report(runner, error, f"{name} could not be published")

    def after_run(self, runner: "Runner") -> None:
        """Waits for a save in progress, also where an exception ended the training."""
        self.finish_saving(runner)
        self._folder = None

    def save_stopped(self, runner: "Runner", meta: Mapping[str, Any]) -> bool:
        """Save the state of a stopped run as a regular checkpoint with all state.

        Args:
            runner: the run.
            meta: further entries of the checkpoint's ``meta``.

        Returns:
            Whether it is written; a warning says why not.
        """
        if self._folder is None:
            return False
        try:
            self._save_regular(runner, name=self._name_of_stop(runner), meta=meta)
            self._settle(runner)
        except CheckpointError as error:
            runner.logger.warning(f"{error}")
        return not self._failed

    def finish_saving(self, runner: "Runner") -> None:
        """Waits for a save in progress, and takes note of how it ended.

        Raises:
            CheckpointError: it failed, and ``on_save_error`` is ``"raise"``.
        """
        if self._folder is not None:
            self._settle(runner)

    def _save_regular(
        self, runner: "Runner", *, name: str | None = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Write a regular checkpoint; one with ``meta`` is that of a stop, and has all state."""
        self._begin(runner)
        name = name or self._regular_name(runner)
        if name in self.keep_ckpts:
            self.keep_ckpts.remove(name)
        self.keep_ckpts.append(name)
        self._drop_surplus()
        self.last_ckpt = name
        self._last_at = _progress(runner)[1]
        runner.message_hub.update_info("last_ckpt", str(self._path(name)))
        self._write(runner, [name], meta)

    def _save_best(self, runner: "Runner", scores: dict[str, float]) -> None:
        self._begin(runner)
        regular = self._regular_name(runner)
        names = []
        for metric, score in scores.items():
            name = _best_name(metric, regular)
            old = self.best_ckpts.get(metric)
            if old is not None and old != name:
                self._obsolete.append(old)
            self.best_scores[metric] = score
            self.best_ckpts[metric] = name
            names.append(name)
        self._tell_hub(runner)
        if self._last_at == _progress(runner)[1] and self.last_ckpt is not None:
            names.append(self.last_ckpt)  # of the same moment, but it does not know the new best yet
        self._write(runner, names)
        if self._failed:
            return
        epochs, iterations = _progress(runner)
        done = f"{epochs} epochs" if self.by_epoch else f"{iterations} iterations"
        for metric, score in scores.items():
            name = self.best_ckpts[metric]
            runner.logger.info(f"The best checkpoint with {score:0.4f} {metric} at {done} is saved to {name}.")

    def _begin(self, runner: "Runner") -> None:
        """Waits for the save before, and notes what is true if the one to come fails."""
        self._settle(runner)
        runner.call_hook("before_snapshot")
        self._before = self.state_dict()

    def _write(self, runner: "Runner", names: list[str], meta: Mapping[str, Any] | None = None) -> None:
        """Writes one checkpoint under several names, notes it as the newest, and removes what it replaces."""
        optimizer, schedulers = self.save_optimizer or meta is not None, self.save_param_scheduler or meta is not None
        self._resumable = optimizer and schedulers
        if not is_main_process():
            self._counters = runner.state.state_dict()
            self._obsolete = []
            return
        assert self._folder is not None
        checkpoint = collect(runner, optimizer=optimizer, schedulers=schedulers, meta=meta, copier=self._copier)
        self._counters = runner.state.state_dict()
        paths = [self._path(name) for name in names]
        obsolete = [self._path(name) for name in self._take_obsolete(runner)]
        known = {*self._before["keep_ckpts"], *self._before["best_ckpts"].values(), self._before["last_ckpt"]}
        known |= self._files_of_others(runner)
        new = [self._path(name) for name in names if name not in known]
        others_are_resumable = any(saver.save_optimizer and saver.save_param_scheduler for saver in _savers(runner))
        note = runner.last_checkpoint.next() if self._resumable or not others_are_resumable else None

        def job() -> None:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            check_space(paths[0].parent, bytes_of(checkpoint))
            try:
                save_checkpoint(checkpoint, paths[0])
                for path in paths[1:]:
                    _link(paths[0], path)
                if note is not None:
                    note(paths[-1])
            except OSError:
                for path in new:
                    path.unlink(missing_ok=True)  # nobody would know of it
                raise
            self._unremoved = _remove(obsolete)

        self._writer.submit(job)
        if not self.async_save:
            self._settle(runner)

    def _settle(self, runner: "Runner") -> None:
        """Waits for the save in progress, and takes note of how it ended."""
        if not self._counters:
            return
        counters, self._counters = self._counters, {}
        try:
            self._writer.wait()
        except OSError as error:
            self.load_state_dict(self._before)
            self._failed = True
            self._tell_hub(runner)
            last = str(self._path(self.last_ckpt)) if self.last_ckpt else None
            runner.message_hub.update_info("last_ckpt", last)
            self._report(runner, error, f"the checkpoint of iteration {counters['iter']} is NOT saved")
        else:
            self._failed = False
            self._note_unremoved(runner)
            if self._resumable:
                runner.saved_counters = counters

    def _report(self, runner: "Runner", error: OSError, what: str) -> None:
        text = f"{what}: {error}"
        if self.on_save_error == "raise":
            raise CheckpointError(text) from error
        newest = f"the newest good one is {self.last_ckpt}" if self.last_ckpt else "there is none yet"
        runner.logger.warning(f"{text}. Training goes on; {newest}. The next save is tried as usual.")

    def _check_space(self, runner: "Runner") -> None:
        """Says before the first step if the disk is too small for what is going to be saved."""
        assert self._folder is not None
        folder = next(path for path in (self._folder, *self._folder.absolute().parents) if path.is_dir())
        each, free = expected_bytes(runner), shutil.disk_usage(folder).free
        regular = self.max_keep_ckpts + 1 if self.max_keep_ckpts > 0 else self._number_of_saves(runner)
        there = len(self.keep_ckpts) + len(self.best_ckpts)
        needed = each * max(1, regular + len(self.save_best) - there)
        if free >= needed:
            return
        text = f"{self._folder} has {human_bytes(free)} free; a checkpoint takes about {human_bytes(each)}"
        if free < each:
            text += ": not even one fits"
            if self.on_save_error == "raise":
                raise CheckpointError(f"{text}: make room, or choose another `out_dir` or --work-dir")
        else:
            text += f", and this run will keep about {needed // each} of them"
        runner.logger.warning(f"{text}: make room, set max_keep_ckpts, or choose another `out_dir` or --work-dir")

    def _number_of_saves(self, runner: "Runner") -> int:
        if self.interval <= 0:
            return int(self.save_last)
        done, end = (runner.epoch, runner.max_epochs) if self.by_epoch else (runner.iter, runner.max_iters)
        return -(-(end - max(done, self.save_begin)) // self.interval)

    def _publish(self, runner: "Runner", name: str) -> None:
        """Writes a copy with only the published keys, its name ending in the digest of its bytes."""
        checkpoint = load_checkpoint_file(self._path(name))
        if absent := [key for key in self.published_keys if key not in checkpoint]:
            runner.logger.warning(f"{name} has no {', '.join(absent)} to publish, only {', '.join(checkpoint)}.")
        published = {key: value for key, value in checkpoint.items() if key in self.published_keys}
        temporary = save_checkpoint(published, temporary_path(self._path(name)))
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path(f"{Path(name).stem}-{digest[:8]}.pth")
        temporary.replace(target)
        sync_folder(target.parent)
        runner.logger.info(f"The checkpoint {name} is published to {target}.")

    def _make_monitors(self, runner: "Runner", metrics: list[str]) -> list[Monitor]:
        return make_monitors(
            metrics, self._rule, self._greater_keys, self._less_keys, owner="CheckpointHook",
            evaluated_by=metrics_of(runner),
        )  # fmt: skip

    def _regular_name(self, runner: "Runner") -> str:
        epochs, iterations = _progress(runner)
        return self.filename_tmpl.format(epochs if self.by_epoch else iterations)

    def _folder_of(self, runner: "Runner") -> Path:
        folder = Path(runner.work_dir)
        if self.out_dir is not None and Path(self.out_dir) != folder:
            folder = Path(self.out_dir) / folder.absolute().name
        return folder

    def _name_of_stop(self, runner: "Runner") -> str:
        """Return the name of a file that may be due in the middle of an epoch."""
        if self.by_epoch and not stopped_at_epoch(runner):
            return f"iter_{_progress(runner)[1]}.pth"
        return self._regular_name(runner)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    def _drop_surplus(self) -> None:
        if self.max_keep_ckpts > 0:
            self._obsolete += self.keep_ckpts[: -self.max_keep_ckpts]
            del self.keep_ckpts[: -self.max_keep_ckpts]

    def _take_obsolete(self, runner: "Runner") -> list[str]:
        """Returns the names of the files to remove, and forgets them; those still in use go another time."""
        in_use = self._files() | self._files_of_others(runner)
        obsolete = [name for name in self._obsolete if name not in in_use]
        self._obsolete = [name for name in self._obsolete if name in in_use]
        return obsolete

    def _remove_obsolete(self, runner: "Runner") -> None:
        obsolete = self._take_obsolete(runner)
        if is_main_process():
            self._unremoved = _remove([self._path(name) for name in obsolete])
            self._note_unremoved(runner)

    def _note_unremoved(self, runner: "Runner") -> None:
        """Says which old files could not be removed; that is tried again after the next save."""
        unremoved, self._unremoved = self._unremoved, {}
        for path, error in unremoved.items():
            self._obsolete.append(path.name)
            runner.logger.warning(f"The old checkpoint {path} could not be removed: {error}")

    def _adopt(self, hub: "MessageHub") -> None:
        """Takes over what MMEngine noted in a checkpoint that is resumed."""
        for metric in self.save_best:
            suffix = "" if len(self.save_best) == 1 else f"_{metric}"
            score, path = hub.get_info(f"best_score{suffix}"), hub.get_info(f"best_ckpt{suffix}")
            is_its_own = path is not None and Path(path).name.startswith(_best_name(metric, ""))
            if metric != "auto" and score is not None and is_its_own:
                self.best_scores[metric] = float(score)
                self.best_ckpts[metric] = Path(path).name
        if self.max_keep_ckpts > 0:
            self.keep_ckpts = [self.filename_tmpl.format(step) for step in hub.get_info("keep_ckpt_ids", [])]

    def _files(self) -> set[str]:
        """Return the names of the files that this hook keeps."""
        return {*self.keep_ckpts, *self.best_ckpts.values(), *([self.last_ckpt] if self.last_ckpt else [])}

    def _files_of_others(self, runner: "Runner") -> set[str]:
        """Return the names of the files that other hooks keep in the same folder."""
        others = (saver for saver in _savers(runner) if saver is not self)
        return {name for saver in others if saver._folder_of(runner) == self._folder for name in saver._files()}

    def _known_rules(self) -> dict[str, str]:
        return self._rules if self._monitors is None else {monitor.metric: monitor.rule for monitor in self._monitors}

    def _forget_unwatched(self, runner: "Runner") -> None:
        """Forget the best of metrics that are no longer watched, or by another rule; their files stay."""
        if self._monitors is None:  # "auto", before the first validation
            return
        rules = self._known_rules()
        for metric in list(self.best_scores):
            if metric in rules and self._rules.get(metric, rules[metric]) == rules[metric]:
                continue
            del self.best_scores[metric]
            if (name := self.best_ckpts.pop(metric, None)) is not None:
                runner.logger.info(f"{name} stays as it is: {metric} is no longer watched, or by another rule.")

    def _forget_missing(self, runner: "Runner") -> None:
        """Forget files that are not in the folder, as after a resume into another one.

        The best ones get a second name there if they lie beside the checkpoint that was resumed.
        """
        missing = [set[str]()]
        if is_main_process():
            resumed = Path(runner.start.path) if runner.start.resumes and runner.start.path else self._path("")
            for name in self.best_ckpts.values():
                source = resumed.with_name(name)
                if source.is_file() and not self._path(name).exists():
                    with suppress(OSError):  # it counts as missing
                        self._path(name).parent.mkdir(parents=True, exist_ok=True)
                        _link(source, self._path(name))
            missing = [{name for name in self._files() if not self._path(name).exists()}]
        broadcast_object_list(missing)
        self.keep_ckpts = [name for name in self.keep_ckpts if name not in missing[0]]
        self.best_ckpts = {metric: name for metric, name in self.best_ckpts.items() if name not in missing[0]}
        if self.last_ckpt in missing[0]:
            self.last_ckpt = self._last_at = None

    def _tell_hub(self, runner: "Runner") -> None:
        """Leave the best scores and paths of all these hooks where scripts written for MMEngine look for them."""
        hub, savers = runner.message_hub, _savers(runner)
        metrics = {metric for saver in savers for metric in (*saver._rules, *saver._known_rules())}
        for key in ("best_score", "best_ckpt"):
            for name in (key, *(f"{key}_{metric}" for metric in metrics)):
                if name in hub.runtime_info:
                    hub.pop_info(name)
        several = sum(max(len(saver.save_best), len(saver.best_scores)) for saver in savers) > 1
        for saver in savers:
            for metric, score in saver.best_scores.items():
                suffix = f"_{metric}" if several else ""
                hub.update_info(f"best_score{suffix}", score)
                if metric in saver.best_ckpts and saver._folder is not None:
                    hub.update_info(f"best_ckpt{suffix}", str(saver._path(saver.best_ckpts[metric])))


def _savers(runner: "Runner") -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _progress(runner: "Runner") -> tuple[int, int]:
    """Returns how many epochs and iterations are finished, those included that are not counted yet."""
    state = runner.state.state_dict()
    return state["epoch"], state["iter"]


def _best_name(metric: str, regular: str) -> str:
    return f"best_{metric}_{regular}".replace("/", "_").replace("\\", "_")


def _is_plain_name(name: str) -> bool:
    """Whether a file of this name lies in the folder that it is looked for in."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def _remove(paths: Sequence[Path]) -> dict[Path, OSError]:
    """Removes files, and returns those that could not be removed."""
    failed = {}
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failed[path] = error
    return failed


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, in one step; a copy where the disk has no hard links."""
    temporary = temporary_path(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
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
