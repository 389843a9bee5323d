"""Where a run starts from, and where it leaves off."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine import checkpoint as checkpoints
from trainwright.engine import snapshot
from trainwright.engine.distributed import broadcast_parameters, is_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.loops import EpochBasedTrainLoop
from trainwright.engine.model_setup import unwrap
from trainwright.engine.model_surgery import turn_on_activation_checkpointing

if TYPE_CHECKING:
    from trainwright.engine.loops import TrainLoop
    from trainwright.engine.runner import Runner


def find(runner: "Runner", load_from: str | None, resume: bool) -> dict[str, Any] | None:
    """Reads the checkpoint that a run starts from, before anything that depends on its seed is built.

    Args:
        runner: the run.
        load_from: a checkpoint, or None for the newest in the work dir, if resuming.
        resume: go on from it; else its weights alone are taken.

    Returns:
        The checkpoint, with two more keys: ``filename`` and ``resume``; or None.

    Raises:
        CheckpointError: ``load_from`` is missing or damaged.
    """
    path: str | Path | None = load_from
    if resume and path is None:
        path, skipped = checkpoints.find_latest_checkpoint(runner.work_dir)
        for line in skipped:
            runner.logger.warning("passed over %s", line)
        if path is None:
            runner.logger.info("There is nothing to resume from in %s: the run starts anew.", runner.work_dir)
    if path is None:
        return None
    checkpoint = checkpoints.load_checkpoint_file(path)
    seed = checkpoint.get("meta", {}).get("seed")
    if resume and seed is not None and seed != runner.seed:
        runner.set_randomness(**{**runner.randomness, "seed": seed})
    return {**checkpoint, "filename": str(path), "resume": resume}


def give_weights(runner: "Runner", checkpoint: dict[str, Any] | None) -> None:
    """Gives the model its weights, those of the checkpoint or fresh ones, and a resumed training all the rest.

    Args:
        runner: the run, with its parts built.
        checkpoint: what :func:`find` returned.

    Raises:
        CheckpointError: the checkpoint does not fit.
    """
    model: Any = unwrap(runner.model)
    if checkpoint is None:
        if hasattr(model, "init_weights") and not runner.initialized:
            model.init_weights()
            broadcast_parameters(model)
    else:
        filename, resume = checkpoint.pop("filename"), checkpoint.pop("resume")
        runner.resuming = resume
        load_weights(runner, checkpoint, filename, strict=resume)
        runner.resuming = False
        runner.resumed_from = Path(filename) if resume else None
        if resume and runner.optim_wrapper is not None:
            snapshot.restore(runner, checkpoint)
            _report_changes(runner, checkpoint.get("meta", {}))
            runner.logger.info("Resumed from %s: epoch %d, iteration %d", filename, runner.epoch, runner.iter)
            with suppress(CheckpointError):  # a damaged note
                last = checkpoints.read_last_checkpoint(runner.work_dir)
                if last is not None and last.absolute() == Path(filename).absolute():
                    runner.saved_counters = runner.state.state_dict()
    if (names := runner.cfg.get("activation_checkpointing")) and not runner.initialized:
        turn_on_activation_checkpointing(model, names)
    runner.initialized = True


def load_weights(
    runner: "Runner",
    checkpoint: dict[str, Any],
    filename: str,
    strict: bool = False,
    revise_keys: Sequence[tuple[str, str]] = checkpoints.REVISE_KEYS,
) -> None:
    """Loads the weights in a checkpoint into the model, after the hooks have seen it; what does not fit is reported.

    Raises:
        CheckpointError: something does not fit and ``strict`` is set, or nothing fits.
    """
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    weights = checkpoints.get_state_dict(checkpoint)
    try:
        report = checkpoints.load_state_dict(unwrap(runner.model), weights, strict=strict, revise_keys=revise_keys)
    except CheckpointError as error:
        raise CheckpointError(f"{filename}: {error}") from error
    if report:
        runner.logger.warning("Not all weights of %s were loaded:\n%s", filename, report)
    else:
        runner.logger.info("Loaded the weights of %s", filename)


def run_and_save(runner: "Runner", loop: "TrainLoop") -> None:
    """Trains, and writes where the training stopped: also where an error ended it that left its state intact.

    Args:
        runner: the run.
        loop: its training loop.
    """
    try:
        loop.run()
    except Exception:
        if getattr(loop, "intact", False):
            with suppress(CheckpointError):  # the save that follows meets what ended this one
                _finish_saving(runner)
            save_if_stopped(runner)
            _report_stop(runner)
        raise
    save_if_stopped(runner)
    _report_stop(runner)


def save_if_stopped(runner: "Runner") -> None:
    """Save a stopped run, unless its state is saved already.

    The checkpoint goes where a hook saves, under the hook's rotation, or else to the work dir.
    """
    state = runner.state
    if state.stop_reason is None or runner.saved_counters == state.state_dict():
        return
    meta = {"stopped": state.stop_reason}
    if any(hook.save_stopped(runner, meta) for hook in runner.hooks):
        return
    by_epoch = stopped_at_epoch(runner)
    try:
        note = runner.last_checkpoint.next()
        name = "epoch_{}.pth" if by_epoch else "iter_{}.pth"
        path = runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=by_epoch)
        if is_main_process():
            note(path)
    except OSError as error:
        newest, _ = checkpoints.find_latest_checkpoint(runner.work_dir)
        lost = f"what was trained since {newest} is lost" if newest else "no checkpoint was written before either"
        runner.logger.error("Iteration %d is NOT saved: %s; %s.", state.iter, error, lost)


def stopped_at_epoch(runner: "Runner") -> bool:
    """Return whether the run stands at the end of an epoch, and so is counted in epochs."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop) and runner.state.inner_iter == 0


def _finish_saving(runner: "Runner") -> None:
    """Waits for saves that hooks have in progress in the background: they must not overtake a later one."""
    for hook in runner.hooks:
        finish_saving = getattr(hook, "finish_saving", None)
        if callable(finish_saving):
            finish_saving(runner)


def _report_stop(runner: "Runner") -> None:
    """Log why a run stopped, and how to resume one that was interrupted."""
    state = runner.state
    if state.stop_reason is None:
        return
    if not state.interrupted:
        runner.logger.info(
            "Stopped early after iteration %d (%s): the training is complete.", state.iter, state.stop_reason
        )
        return
    config = runner.cfg.filename or "CONFIG"
    command = f"trainwright train {config} --work-dir {runner.work_dir} --resume"
    runner.logger.warning("Stopped after iteration %d (%s). To go on: %s", state.iter, state.stop_reason, command)


def _report_changes(runner: "Runner", meta: Mapping[str, Any]) -> None:
    saved = meta.get("cfg")
    if isinstance(saved, str) and runner.cfg:
        changes = snapshot.what_changed(saved, runner.cfg)
        if changes:
            lines = "\n".join(f"  {line}" for line in changes)
            runner.logger.warning("The config is not the one of the checkpoint:\n%s", lines)
