"""Saving a run that stops early, and logging why it stopped."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.engine.checkpoints.files import find_latest_checkpoint
from trainwright.engine.distributed import continue_alone, is_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.ranks import failures
from trainwright.engine.ranks.consensus import Consensus
from trainwright.engine.run.custom_loops import Stopped

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner
    from trainwright.engine.run.train_loops import TrainLoop


def train_and_save(runner: "Runner", loop: "TrainLoop") -> None:
    """Train, and save the run if it stops early, also after an error that left its state consistent."""
    try:
        try:
            loop.run()
        except Stopped:
            runner.call_hook("after_train")
        consensus = Consensus(runner.state)  # a signal may have arrived in a loop that does not ask for it
        consensus.begin()
        consensus.end()
    except Exception as error:
        saves = getattr(loop, "save_after_error", False)
        if saves and runner.state.shared and runner.strategy.is_sharded:
            saves = False
            runner.logger.error(
                "Iteration %d was NOT saved: each process has only a part of the weights, and not all can take part.",
                runner.state.iter,
            )
        failures.report(error, saves)
        if saves:
            if runner.state.shared:  # the others have failed, or wait for this rank
                continue_alone(as_main=all(failures.has_lost(rank) for rank in range(runner.rank)))
            with failures.busy():
                save_if_stopped(runner)
            _report_stop(runner)
            if runner.rank > 0 and is_main_process():
                failures.say(f"saved the run after iteration {runner.iter}")
        raise
    save_if_stopped(runner)
    _report_stop(runner)
    _report_unused_losses(runner)


def save_if_stopped(runner: "Runner") -> None:
    """Save a stopped run, unless its state is already saved.

    If a hook saves checkpoints, it writes and later rotates this one; otherwise it is written to the work dir.
    """
    state = runner.state
    if state.stop_reason is None:
        return
    writer = runner.checkpoint_writer
    with suppress(CheckpointError):  # if this fails, the next save reports it
        writer.wait()
    if writer.is_saved:
        return
    meta = {"stopped": state.stop_reason}
    if any(hook.save_stopped(runner, meta) for hook in runner.hooks):
        return
    name = f"epoch_{state.epoch}.pth" if stopped_at_epoch(runner) else f"iter_{state.iter}.pth"
    try:
        writer.prepare()
        writer.write([Path(runner.work_dir, name)], meta=meta)
    except OSError as error:
        newest, _ = find_latest_checkpoint(runner.work_dir)
        lost = f"training since {newest} is lost" if newest else "there is no earlier checkpoint either"
        runner.logger.error("Iteration %d was NOT saved: %s; %s.", state.iter, error, lost)


def stopped_at_epoch(runner: "Runner") -> bool:
    """Return whether the run stopped between two epochs of an epoch-based loop."""
    return bool(getattr(runner.train_loop, "by_epoch", False)) and runner.state.inner_iter == 0


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


def _report_unused_losses(runner: "Runner") -> None:
    """Log losses without an update at the end of the training, of a model that calls its optimizers itself."""
    several = isinstance(runner.optim_wrapper, OptimWrapperDict) and runner.iter >= runner.max_iters
    for name, wrapper in runner.optim_wrapper.items() if several else ():
        if number := wrapper.num_waiting:
            runner.logger.warning(
                "The training ended within an accumulation window of optimizer %r: the last %d of its losses had no "
                "effect.", name, number,
            )  # fmt: skip
