"""Saving a run that stops early, and logging why it stopped."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.engine.checkpoints.files import find_latest_checkpoint
from trainwright.engine.distributed import is_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.run.train_loops import EpochBasedTrainLoop

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner
    from trainwright.engine.run.train_loops import TrainLoop


def train_and_save(runner: "Runner", loop: "TrainLoop") -> None:
    """Train, and save the run if it stops early, also after an error that left its state consistent."""
    try:
        loop.run()
    except Exception:
        if getattr(loop, "save_after_error", False):
            if is_main_process():
                save_if_stopped(runner, alone=runner.distributed)
            _report_stop(runner)
        raise
    save_if_stopped(runner)
    _report_stop(runner)


def save_if_stopped(runner: "Runner", *, alone: bool = False) -> None:
    """Save a stopped run, unless its state is already saved.

    If a hook saves checkpoints, it writes and later rotates this one; otherwise it is written to the work dir.

    Args:
        runner: the run.
        alone: write what this rank knows to the work dir, without waiting for the other ranks.
    """
    state = runner.state
    if state.stop_reason is None:
        return
    writer = runner.checkpoint_writer
    with suppress(CheckpointError):  # if this fails, the next save reports it
        writer.wait(alone=alone)
    if writer.is_saved:
        return
    meta = {"stopped": state.stop_reason}
    if not alone and any(hook.save_stopped(runner, meta) for hook in runner.hooks):
        return
    name = f"epoch_{state.epoch}.pth" if stopped_at_epoch(runner) else f"iter_{state.iter}.pth"
    try:
        if not alone:
            writer.prepare()
        writer.write([Path(runner.work_dir, name)], meta=meta, alone=alone)
    except OSError as error:
        newest, _ = find_latest_checkpoint(runner.work_dir)
        lost = f"training since {newest} is lost" if newest else "there is no earlier checkpoint either"
        runner.logger.error("Iteration %d was NOT saved: %s; %s.", state.iter, error, lost)


def stopped_at_epoch(runner: "Runner") -> bool:
    """Return whether the run stopped between two epochs of an epoch-based loop."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop) and runner.state.inner_iter == 0


def _report_stop(runner: "Runner") -> None:
    """Log why a run stopped, and how to resume one that was interrupted."""
    state = runner.state
    if state.stop_reason is None:
        return
    if state.interrupted:
        runner.logger.warning(
            "Stopped after iteration %d (%s). To continue in %s, run the same command with --resume "
            "(in Python: resume='auto').",
            state.iter, state.stop_reason, runner.work_dir,
        )  # fmt: skip
    else:
        message = "Stopped early after iteration %d (%s): training is complete."
        runner.logger.info(message, state.iter, state.stop_reason)
