"""Save checkpoints: regular, best, last and published ones."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainwright.engine.checkpoints.disk_space import bytes_of, human_bytes
from trainwright.engine.checkpoints.durable import remove_leftovers, sync_folder, temporary_path
from trainwright.engine.checkpoints.files import load_checkpoint_file, save_checkpoint, write_last_checkpoint
from trainwright.engine.checkpoints.folder import CheckpointFolder, best_name, is_file_name
from trainwright.engine.checkpoints.folder_reader import SUFFIX
from trainwright.engine.checkpoints.folder_writer import check_shared
from trainwright.engine.distributed import broadcast_object_list, is_alone, is_main_process
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.evaluation.monitor import Monitor, check_rules, make_monitors, metrics_of, score_of
from trainwright.engine.fileio import LocalFiles
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.run.stop import save_if_stopped, stopped_at_epoch

if TYPE_CHECKING:
    from trainwright.engine.records.message_hub import MessageHub
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Save checkpoints at regular intervals, at the end of training, and whenever a metric improves.

    Training can be resumed from any of the checkpoints, including ``best_*``. A file is removed only after its
    replacement has been written safely. Checkpoints of the same iteration share their storage (as hard links,
    if the file system supports them).

    A disk error, such as a full disk, does not end the run: a warning reports the checkpoint that was not
    written, the last good files are kept, and the next save is tried as usual.

    Cost per step: none by epoch, less than 1 µs by iteration; each save waits for the device once.

    Args:
        interval: number of epochs or iterations between checkpoints; -1 for none.
        by_epoch: count epochs instead of iterations.
        save_optimizer: save the optimizer state.
        save_param_scheduler: save the state of the parameter schedulers.
        out_dir: folder to save to, in a subfolder named like ``work_dir``. Default: ``work_dir`` itself.
        max_keep_ckpts: number of regular checkpoints to keep, -1 for all; older ones are removed. ``best_*``
            files are not counted.
        save_last: also save at the end of training, regardless of the interval, including after an early stop.
            (An interrupted run is always saved: the first of these hooks saves a regular checkpoint with all
            state.)
        save_best: one or several metrics whose best checkpoint is kept, or ``"auto"`` for the first metric in the
            results.
        rule: ``"greater"`` or ``"less"`` for all metrics, or one rule per metric; by default, inferred from the
            ``higher_is_better`` attribute of the metric, or else from its name.
        greater_keys: parts of metric names for which greater is better; overrides ``higher_is_better`` of the metric.
        less_keys: parts of metric names for which less is better; overrides ``higher_is_better`` of the metric.
        file_client_args: accepted for compatibility; only the local disk is supported.
        filename_tmpl: file name of regular checkpoints, with one ``{}`` for the number of completed epochs or
            iterations. Default: ``epoch_{}.pth`` or ``iter_{}.pth``, ending in ``.dist`` if ``sharded``.
        backend_args: same as ``file_client_args``.
        published_keys: when the training is complete, write copies of the last and the best checkpoints with
            only these keys, as ``{name}-{first 8 digits of its SHA-256}.pth``; ``["meta", "state_dict"]`` for
            the weights only.
        save_begin: number of epochs or iterations after which the interval starts to count.
        async_save: write in the background. The training only waits for the previous save and for copying the
            state to host memory, where the copy stays allocated.
        on_save_error: ``"warn"``, or ``"raise"`` to end the run if a checkpoint cannot be written.
        sharded: write each checkpoint as a folder, to which every process writes its own part, instead of gathering
            it in one process. All processes need the same file system.
        mmengine_format: write files that MMEngine 0.10 can load and resume from too, at an epoch or, in iteration-based
            training, at any iteration. Resuming with Trainwright remains exact.

    Raises:
        ConfigError: a setting is invalid or, before the first step, a rule cannot be inferred.
    """

    priority = "VERY_LOW"
    file_backend = file_client = LocalFiles()  # for subclasses copied from MMEngine, like the next lines
    file_client_args = backend_args = None
    args: ClassVar[Mapping[str, Any]] = {}
    monitor_argument = "save_best"  # names the metrics whose rules `check` tries to infer

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
        sharded: bool = False,
        mmengine_format: bool = False,
    ) -> None:
        _reject_remote("file_client_args", file_client_args)
        _reject_remote("backend_args", backend_args)
        if save_begin < 0:
            raise ConfigError("CheckpointHook.save_begin", f"must not be negative, but is {save_begin}")
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self._out_dir, self._saves_to = out_dir, ""
        self.save_last = save_last
        self._suffix = SUFFIX if sharded else ".pth"
        self.filename_tmpl = filename_tmpl or f"{'epoch' if by_epoch else 'iter'}_{{}}{self._suffix}"
        if self.filename_tmpl.endswith(SUFFIX) != sharded:
            message = f"{self.filename_tmpl!r} must end in {SUFFIX} if the checkpoints are sharded, and only then"
            raise ConfigError("CheckpointHook.filename_tmpl", message, "remove it, or change `sharded`")
        if self.filename_tmpl.count("{}") != 1:
            raise ConfigError("CheckpointHook.filename_tmpl", f"{filename_tmpl!r} must contain exactly one {{}}")
        if not is_file_name(self.filename_tmpl):
            hint = "set the folder with `out_dir`"
            raise ConfigError("CheckpointHook.filename_tmpl", f"{filename_tmpl!r} is not a file name", hint)
        if on_save_error not in ("warn", "raise"):
            raise ConfigError("CheckpointHook.on_save_error", f"must be 'warn' or 'raise', not {on_save_error!r}")
        if mmengine_format and sharded:
            hint = "remove one of them; `trainwright consolidate` makes files of sharded checkpoints"
            raise ConfigError("CheckpointHook.mmengine_format", "MMEngine cannot read sharded checkpoints", hint)
        self.mmengine_format = mmengine_format
        self.async_save = async_save
        self.on_save_error = on_save_error
        self.published_keys = _as_list(published_keys)
        self.save_begin = save_begin
        self.save_best = _as_list(save_best)
        self._rule = rule
        self._greater_keys = _as_list(greater_keys)
        self._less_keys = _as_list(less_keys)
        self._monitors: list[Monitor] | None = None
        self._best_paths: dict[str, str] = {}
        check_rules(self.save_best, rule, owner="CheckpointHook")
        if "auto" in self.save_best and len(self.save_best) > 1:
            raise ConfigError(
                "CheckpointHook.save_best", "'auto' cannot be combined with metrics", "list the metrics, or only 'auto'"
            )
        self.folder = CheckpointFolder(max_keep_ckpts)
        self._new_best: dict[str, float] = {}
        self._rules: dict[str, str] = {}
        self._save_failed = False

    @property
    def out_dir(self) -> str | os.PathLike[str] | None:
        """The argument and, from the start of training on, the folder of the checkpoints."""
        return self._saves_to or self._out_dir

    @out_dir.setter
    def out_dir(self, value: str | os.PathLike[str] | None) -> None:
        self._out_dir, self._saves_to = value, ""

    @property
    def key_indicators(self) -> list[str]:
        """The metrics of the best checkpoints, by MMEngine's name."""
        return list(self._best_paths) or list(self.save_best)

    @property
    def best_ckpt_path_dict(self) -> dict[str, str]:
        """The path of the best checkpoint for each metric, by MMEngine's name."""
        return dict(self._best_paths)

    @property
    def best_ckpt_path(self) -> str | None:
        """The path of the best checkpoint for the first metric, None before there is one."""
        return next(iter(self._best_paths.values()), None)

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points: those of epochs or those of iterations."""
        stages = super().get_triggered_stages()
        return [stage for stage in stages if stage != ("after_train_iter" if self.by_epoch else "after_train_epoch")]

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores, and the file names relative to their folder, which may move."""
        return {**self.folder.state_dict(), "rules": self._known_rules()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state."""
        self.folder.load_state_dict(state)
        self._rules = dict(state.get("rules", {}))

    def before_train(self, runner: "Runner") -> None:
        """Set up the folder, and remove obsolete files that an interrupted run left behind."""
        if "auto" not in self.save_best:
            self._monitors = self._make_monitors(runner, self.save_best)
        folder = self.folder
        folder.path = self._folder_path(runner)
        self._saves_to = str(folder.path)
        runner.logger.info(f"Checkpoints will be saved to {folder.path}.")
        if self._suffix == SUFFIX:
            check_shared(folder.path)
        if is_main_process():
            for name in remove_leftovers(folder.path):
                runner.logger.info(f"Removed {name}, which a killed run left behind.")
        if not (folder.best_scores or folder.regular):
            self._load_mmengine_state(runner.message_hub)
        self._forget_stale_best(runner)
        missing = [set[str]()]
        if is_main_process():
            resumed = runner.start.path if runner.start.resumes else None
            missing = [folder.missing(None if resumed is None else Path(resumed).parent)]
        broadcast_object_list(missing)
        folder.forget(missing[0])
        self._update_hub(runner)  # the folder may have moved, and metrics may have been removed
        folder.drop_surplus()
        if is_main_process():
            self._check_space(runner, folder.path)
            folder.remove_obsolete(self._files_of_other_hooks(runner))
            self._report_unremoved(runner)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Save a checkpoint if this epoch is due."""
        last = self.save_last and self.is_last_train_epoch(runner)
        if last or self.every_n_epochs(runner, self.interval, self.save_begin):
            runner.logger.info(f"Saving checkpoint at {runner.epoch + 1} epochs")
            self._save_checkpoint(runner)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Save a checkpoint if this iteration is due."""
        last = self.save_last and self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval, self.save_begin):
            runner.logger.info(f"Saving checkpoint at {runner.iter + 1} iterations")
            self._save_checkpoint(runner)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Compare the scores with the best ones."""
        if not self.save_best or self.folder.path is None:
            return
        if not metrics:
            runner.logger.warning("The validation returned no metrics, so no best checkpoint is saved.")
            return
        if self._monitors is None:
            self._monitors = self._make_monitors(runner, [next(iter(metrics))])
            self._forget_stale_best(runner)
            self._update_hub(runner)
        self._save_best_checkpoint(runner, metrics)

    def _save_checkpoint(self, runner: "Runner") -> None:
        """Save a checkpoint that is due; subclasses written for MMEngine override this and the next two methods."""
        done = (runner.epoch if self.by_epoch else runner.iter) + 1
        self._save_checkpoint_with_step(runner, done, {"epoch": done, "iter": runner.iter})

    def _save_checkpoint_with_step(self, runner: "Runner", step: int, meta: Mapping[str, Any]) -> None:
        """Save the checkpoint of epoch or iteration ``step``; ``meta`` is unused, the counters of the run apply."""
        self._save_regular(runner)

    def _save_best_checkpoint(self, runner: "Runner", metrics: Mapping[str, Any]) -> None:
        """Compare the scores with the best ones; :meth:`after_val` saves a checkpoint if one is better."""
        for monitor in self._monitors or ():
            score = score_of(metrics, monitor.metric, owner="CheckpointHook.save_best")
            best = self.folder.best_scores.get(monitor.metric, monitor.worst)
            if score is not None and monitor.is_better(score, best):
                self._new_best[monitor.metric] = score

    def after_val(self, runner: "Runner") -> None:
        """Save the best checkpoints; not earlier, because only now is the validation counted as done."""
        if self._new_best:
            self._save_best(runner, self._new_best)
            self._new_best = {}

    def after_train(self, runner: "Runner") -> None:
        """Wait for the last save and, if the training is complete, publish the last and the best checkpoints."""
        folder = self.folder
        if runner.state.complete:
            save_if_stopped(runner)
            if self.save_last and folder.last_at != _progress(runner)[1]:
                self._save_regular(runner, name=self._stop_name(runner))
        runner.checkpoint_writer.wait()
        if self._save_failed:
            newest = f"the newest checkpoint is {folder.last}" if folder.last else "there is no checkpoint"
            runner.logger.error("The final state was NOT saved: %s.", newest)
        if self.published_keys and not runner.state.interrupted and is_main_process():
            at_end = self.save_last and folder.last_at == _progress(runner)[1]
            last = [folder.last] if at_end and folder.last else []
            for name in dict.fromkeys([*last, *folder.best.values()]):
                try:
                    self._publish(runner, name)
                except OSError as error:
                    self._report_error(runner, error, f"{name} could not be published")

    def after_run(self, runner: "Runner") -> None:
        """Wait for a save in progress, even if an exception ended the training."""
        runner.checkpoint_writer.wait(together=False)
        self.folder.path = None

    def save_stopped(self, runner: "Runner", meta: Mapping[str, Any]) -> bool:
        """Save a regular checkpoint with all state when a run is stopped.

        Args:
            runner: the runner.
            meta: additional entries for the ``meta`` of the checkpoint.

        Returns:
            Whether the checkpoint was written; if not, a warning gives the reason.
        """
        if self.folder.path is None:
            return False
        try:
            self._save_regular(runner, name=self._stop_name(runner), meta=meta)
            runner.checkpoint_writer.wait()
        except CheckpointError as error:
            runner.logger.warning(f"{error}")
            return False
        return not self._save_failed

    def _save_regular(
        self, runner: "Runner", *, name: str | None = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Write a regular checkpoint; ``meta`` is passed when a run is stopped, and implies saving all state."""
        runner.checkpoint_writer.prepare()
        self.folder.remember()
        name = name or self._regular_name(runner)
        self.folder.add_regular(name, _progress(runner)[1])
        runner.message_hub.update_info("last_ckpt", str(self.folder.file(name)))
        self._write(runner, [name], meta)

    def _save_best(self, runner: "Runner", scores: dict[str, float]) -> None:
        runner.checkpoint_writer.prepare()
        folder, regular = self.folder, self._regular_name(runner)
        folder.remember()
        names = [best_name(metric, regular) for metric in scores]
        for (metric, score), name in zip(scores.items(), names):
            folder.add_best(metric, score, name)
        self._update_hub(runner)
        rewritten = []
        if folder.last_at == _progress(runner)[1] and folder.last is not None:
            rewritten = [folder.last]  # same iteration, but its hook state lacks the new best scores
        self._write(runner, [*names, *rewritten])
        if self._save_failed:
            return
        epochs, iterations = _progress(runner)
        done = f"{epochs} epochs" if self.by_epoch else f"{iterations} iterations"
        for (metric, score), name in zip(scores.items(), names):
            runner.logger.info(f"The best checkpoint with {score:0.4f} {metric} at {done} is saved to {name}.")

    def _write(self, runner: "Runner", names: list[str], meta: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint under one or several names, and remove the files that it replaces."""
        optimizer, schedulers = self.save_optimizer or meta is not None, self.save_param_scheduler or meta is not None
        others_are_complete = any(
            hook.save_optimizer and hook.save_param_scheduler for hook in _checkpoint_hooks(runner)
        )
        iteration = _progress(runner)[1]
        newest = (optimizer and schedulers) or not others_are_complete
        then = partial(self.folder.remove_obsolete, self._files_of_other_hooks(runner))
        if runner.saves_in_its_own_way:
            for name in names:
                runner.save_checkpoint(
                    str(self.folder.path), name, save_optimizer=optimizer, save_param_scheduler=schedulers,
                    meta=None if meta is None else dict(meta), by_epoch=self.by_epoch,
                )  # fmt: skip
            if is_main_process():
                if newest:
                    write_last_checkpoint(runner.work_dir, self.folder.file(names[-1]))
                then()
            self._finish_write(runner, iteration, None)
        else:
            runner.checkpoint_writer.write(
                [self.folder.file(name) for name in names],
                optimizer=optimizer,
                schedulers=schedulers,
                meta=meta,
                newest=newest,
                background=self.async_save,
                mmengine_format=self.mmengine_format,
                then=then,
                done=lambda error: self._finish_write(runner, iteration, error),
            )
        if not is_main_process():
            self.folder.obsolete.clear()

    def _finish_write(self, runner: "Runner", iteration: int, error: OSError | None) -> None:
        folder = self.folder
        self._save_failed = error is not None
        if error is None:
            self._report_unremoved(runner)
            return
        folder.undo()
        self._update_hub(runner)
        runner.message_hub.update_info("last_ckpt", str(folder.file(folder.last)) if folder.last else None)
        self._report_error(runner, error, f"the checkpoint of iteration {iteration} was NOT saved")

    def _report_error(self, runner: "Runner", error: OSError, what: str) -> None:
        text = f"{what}: {error}"
        if self.on_save_error == "raise":
            raise CheckpointError(text) from error
        newest = f"the newest checkpoint is {self.folder.last}" if self.folder.last else "there is no checkpoint yet"
        runner.logger.warning(f"{text}. Training continues; {newest}. The next save will be tried as usual.")

    def _report_unremoved(self, runner: "Runner") -> None:
        for name, error in self.folder.unremoved.items():  # retried after the next save
            runner.logger.warning(f"Could not remove the old checkpoint {self.folder.file(name)}: {error}")
        self.folder.unremoved.clear()

    def _check_space(self, runner: "Runner", path: Path) -> None:
        """Warn or raise before the first step if there is not enough disk space for the expected checkpoints."""
        existing_folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(existing_folder).free
        modules = [unwrap(runner.model), *(module for hook in runner.hooks for module in hook.extra_modules())]
        size = bytes_of([runner.optim_wrapper.state_dict(), *(module.state_dict() for module in modules)])
        keep = self.folder.max_keep
        regular = keep + 1 if keep > 0 else self._remaining_saves(runner)
        already_written = len(self.folder.regular) + len(self.folder.best)
        needed = size * max(1, regular + len(self.save_best) - already_written)
        if free >= needed:
            return
        text = f"{path} has {human_bytes(free)} free; a checkpoint takes at least {human_bytes(size)}"
        if free < size:
            text += ", so not even one fits"
            if self.on_save_error == "raise":
                raise CheckpointError(f"{text}: free some space, or choose another `out_dir` or --work-dir")
        else:
            text += f", and this run will keep about {needed // size} of them"
        runner.logger.warning(f"{text}: free some space, set max_keep_ckpts, or choose another `out_dir` or --work-dir")

    def _remaining_saves(self, runner: "Runner") -> int:
        if self.interval <= 0:
            return int(self.save_last)
        done, end = (runner.epoch, runner.max_epochs) if self.by_epoch else (runner.iter, runner.max_iters)
        return -(-(end - max(done, self.save_begin)) // self.interval)

    def _publish(self, runner: "Runner", name: str) -> None:
        """Write a copy with only the published keys; its name ends with the first digits of its SHA-256."""
        checkpoint = load_checkpoint_file(self.folder.file(name))
        if missing := [key for key in self.published_keys if key not in checkpoint]:
            runner.logger.warning(
                f"{name} has no {', '.join(missing)} to publish; its keys are {', '.join(checkpoint)}."
            )
        published = {key: value for key, value in checkpoint.items() if key in self.published_keys}
        temporary = save_checkpoint(published, temporary_path(self.folder.file(name)))
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = self.folder.file(f"{Path(name).stem}-{digest[:8]}.pth")
        temporary.replace(target)
        sync_folder(target.parent)
        runner.logger.info(f"Published the checkpoint {name} to {target}.")

    def _make_monitors(self, runner: "Runner", metrics: list[str]) -> list[Monitor]:
        return make_monitors(
            metrics, self._rule, self._greater_keys, self._less_keys, owner="CheckpointHook",
            evaluated_by=metrics_of(runner),
        )  # fmt: skip

    def _regular_name(self, runner: "Runner") -> str:
        epochs, iterations = _progress(runner)
        return self.filename_tmpl.format(epochs if self.by_epoch else iterations)

    def _folder_path(self, runner: "Runner") -> Path:
        folder = Path(runner.work_dir)
        if self._out_dir is not None and Path(self._out_dir) != folder:
            folder = Path(self._out_dir) / folder.absolute().name
        return folder

    def _stop_name(self, runner: "Runner") -> str:
        """Return the file name for a stopped run, which may be in the middle of an epoch."""
        if self.by_epoch and not stopped_at_epoch(runner):
            name = f"iter_{_progress(runner)[1]}{self._suffix}"
        else:
            name = self._regular_name(runner)
        # a rank that has lost the others cannot write a folder
        return f"{name.removesuffix(SUFFIX)}.pth" if is_alone() and name.endswith(SUFFIX) else name

    def _load_mmengine_state(self, hub: "MessageHub") -> None:
        """Load the best scores and file names from the message hub of a checkpoint written by MMEngine."""
        for metric in self.save_best:
            suffix = "" if len(self.save_best) == 1 else f"_{metric}"
            score, path = hub.get_info(f"best_score{suffix}"), hub.get_info(f"best_ckpt{suffix}")
            is_of_metric = path is not None and Path(path).name.startswith(best_name(metric, ""))
            if metric != "auto" and score is not None and is_of_metric:
                self.folder.add_best(metric, float(score), Path(path).name)
        if self.folder.max_keep > 0:
            self.folder.regular = [self.filename_tmpl.format(step) for step in hub.get_info("keep_ckpt_ids", [])]

    def _files_of_other_hooks(self, runner: "Runner") -> set[str]:
        """Return the names of files in the same folder that belong to other checkpoint hooks."""
        others = (hook for hook in _checkpoint_hooks(runner) if hook is not self)
        return {name for hook in others if hook._folder_path(runner) == self.folder.path for name in hook.folder.names}

    def _known_rules(self) -> dict[str, str]:
        return self._rules if self._monitors is None else {monitor.metric: monitor.rule for monitor in self._monitors}

    def _forget_stale_best(self, runner: "Runner") -> None:
        """Forget best scores whose metric is no longer monitored or whose rule has changed, but keep the files."""
        if self._monitors is None:  # "auto", before the first validation
            return
        rules = self._known_rules()
        for metric in list(self.folder.best_scores):
            if metric in rules and self._rules.get(metric, rules[metric]) == rules[metric]:
                continue
            if (name := self.folder.forget_best(metric)) is not None:
                runner.logger.info(f"Keeping {name}: {metric} is no longer monitored, or its rule has changed.")

    def _update_hub(self, runner: "Runner") -> None:
        """Write the best scores and paths of all checkpoint hooks to the keys that MMEngine uses."""
        hub, hooks = runner.message_hub, _checkpoint_hooks(runner)
        if self.folder.path is not None:
            self._best_paths = {metric: str(self.folder.file(name)) for metric, name in self.folder.best.items()}
        metrics = {metric for hook in hooks for metric in (*hook._rules, *hook._known_rules())}
        for key in ("best_score", "best_ckpt"):
            for name in (key, *(f"{key}_{metric}" for metric in metrics)):
                if name in hub.runtime_info:
                    hub.pop_info(name)
        several = sum(max(len(hook.save_best), len(hook.folder.best_scores)) for hook in hooks) > 1
        for folder in (hook.folder for hook in hooks):
            for metric, score in folder.best_scores.items():
                suffix = f"_{metric}" if several else ""
                hub.update_info(f"best_score{suffix}", score)
                if metric in folder.best and folder.path is not None:
                    hub.update_info(f"best_ckpt{suffix}", str(folder.file(folder.best[metric])))


def _checkpoint_hooks(runner: "Runner") -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _progress(runner: "Runner") -> tuple[int, int]:
    """Return the number of completed epochs and iterations, including those not yet counted by the runner."""
    state = runner.state.state_dict()
    return state["epoch"], state["iter"]


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _reject_remote(argument: str, value: dict[str, Any] | None) -> None:
    if value and value.get("backend", "local") not in ("local", "disk"):
        raise ConfigError(
            f"CheckpointHook.{argument}",
            f"checkpoints can only be written to local paths, not with {value}",
            "mount the storage and set `out_dir` to the folder",
        )
