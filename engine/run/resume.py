"""Where a run starts from, and where it leaves off."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.checkpoints import contents as snapshot
from trainwright.engine.checkpoints import files as checkpoints
from trainwright.engine.distributed import broadcast_parameters, is_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.parts import setting
from trainwright.engine.random_streams import kept_host_streams, mix, seed_all
from trainwright.engine.run.model_setup import initialize_model, unwrap
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing
from trainwright.engine.run.train_loops import EpochBasedTrainLoop

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner
    from trainwright.engine.run.train_loops import TrainLoop

_INITIALISATION = 2  # number of the random stream, beside those of training and evaluation steps


def give_weights(runner: "Runner") -> None:
    """Give the model its weights: those that the run starts with, and fresh ones for all that they leave out.

    Args:
        runner: the run, with its model and hooks built.

    Raises:
        CheckpointError: the checkpoint does not fit.
    """
    start, model = runner.start, unwrap(runner.model)
    if start.path is None:
        _initialize(runner)
    else:
        load_weights(runner, start.contents, start.path, strict=start.resumes, initialize=True)
    if start.resumes:
        snapshot.load_counters(runner, start.contents)
    if names := setting(runner.cfg, "activation_checkpointing"):
        turn_on_activation_checkpointing(model, names)


def restore(runner: "Runner") -> None:
    """Bring a run that resumes to the state in its checkpoint.

    Args:
        runner: the run, with all its parts built.

    Raises:
        CheckpointError: a part is missing, or does not fit.
    """
    start = runner.start
    try:
        snapshot.restore(runner, start.contents)
    except CheckpointError as error:
        raise CheckpointError(f"{start.path}: {error}") from error
    _report_changes(runner, start.contents)
    runner.logger.info("Resumed from %s: epoch %d, iteration %d", start.path, runner.epoch, runner.iter)
    with suppress(CheckpointError):  # a damaged note
        last = checkpoints.read_last_checkpoint(runner.work_dir)
        if last is not None and start.path is not None and last.absolute() == Path(start.path).absolute():
            runner.saved_counters = runner.state.state_dict()


def load_weights(
    runner: "Runner",
    checkpoint: dict[str, Any],
    filename: str,
    strict: bool = False,
    revise_keys: Sequence[tuple[str, str]] = checkpoints.REVISE_KEYS,
    initialize: bool = False,
) -> None:
    """Load the weights in a checkpoint into the model, after the hooks have seen it; what does not fit is reported.

    Args:
        runner: the run.
        checkpoint: what the file holds.
        filename: its name, for messages.
        strict: raise if anything does not fit.
        revise_keys: pairs of (regular expression, replacement) for the names.
        initialize: initialise what the checkpoint leaves out; otherwise it keeps its values.

    Raises:
        CheckpointError: something does not fit and ``strict`` is set, or nothing fits.
    """
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    _drop_average(runner, checkpoint)
    weights, model = checkpoints.get_state_dict(checkpoint), unwrap(runner.model)
    try:
        fit = checkpoints.load_state_dict(model, weights, strict=strict, revise_keys=revise_keys)
    except CheckpointError as error:
        raise CheckpointError(f"{filename}: {error}") from error
    if initialize:
        _initialize(runner, fit.missing)
        if fit.missing:  # some of the initialised modules had one of their tensors already
            checkpoints.load_state_dict(model, weights, revise_keys=revise_keys)
    if fit:
        runner.logger.warning("Not all weights of %s were loaded:\n%s", filename, fit)
    else:
        runner.logger.info("Loaded the weights of %s", filename)


def _initialize(runner: "Runner", missing: Collection[str] | None = None) -> None:
    """Initialise the model, or its tensors that are missing, with a random stream of its own."""
    with kept_host_streams():
        seed_all(mix(runner.seed, runner.rank_seed, _INITIALISATION))
        initialize_model(unwrap(runner.model), missing)
    if missing is None or missing:
        broadcast_parameters(unwrap(runner.model))


def _drop_average(runner: "Runner", checkpoint: dict[str, Any]) -> None:
    """Continue a run that averaged its weights, and no longer does, with the weights that were trained."""
    if runner.start.is_resumed(checkpoint) and (trained := checkpoint.pop("ema_state_dict", None)) is not None:
        prefix = "module."
        weights = {name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **weights}
        runner.logger.warning(
            "The checkpoint holds averaged weights, and no hook of this run averages them: the average is dropped, and "
            "the weights that were trained continue."
        )


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
    if state.stop_reason is None:
        return
    with suppress(CheckpointError):  # the save that follows meets what ended this one
        _finish_saving(runner)
    if runner.saved_counters == state.state_dict():
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
    runner.logger.warning(
        "Stopped after iteration %d (%s). To continue in %s, run the same command with --resume "
        "(in Python: resume='auto').",
        state.iter,
        state.stop_reason,
        runner.work_dir,
    )


def _report_changes(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    try:
        saved = snapshot.saved_config(checkpoint)
    except CheckpointError as error:
        runner.logger.warning("The config is not compared with that of the checkpoint: %s", error)
        return
    if saved and runner.cfg and (changes := snapshot.what_changed(saved, runner.cfg)):
        lines = "\n".join(f"  {line}" for line in changes)
        runner.logger.warning("The config is not the one of the checkpoint:\n%s", lines)
